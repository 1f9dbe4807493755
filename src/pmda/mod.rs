//! A safe face of libpcp_pmda: everything an agent written in Rust needs, nothing of BPF.
//!
//! An agent hands [`register`] a table of metrics and implements [`Agent`]. All calls from
//! the host process then arrive in `callbacks`, which catches panics, obeys the client's
//! instance profile and builds results with one allocation per metric.
//!
//! Terms are those of PMDA(3) and PCPIntro(1): domain, cluster, item, instance domain,
//! semantics, units, profile.

mod callbacks;
mod clients;
mod daemon;
mod error;
mod instances;
mod log;
mod metric;
mod names;
mod profile;
mod signals;
mod slots;
mod value_set;

use std::sync::Arc;

pub use callbacks::Dispatch;
pub use callbacks::panic_text;
pub use callbacks::register;
pub use clients::Client;
pub use daemon::daemon;
pub use daemon::program;
pub use error::PmErr;
pub use instances::Instance;
pub use instances::Instances;
pub use log::Level;
pub use log::config;
pub use log::defer;
pub use log::inside_pmcd;
pub use log::is_server;
pub use log::log;
pub use metric::Indom;
pub use metric::Metric;
pub use metric::Semantics;
pub use metric::Type;
pub use metric::Units;
pub use signals::with_signals_blocked;
pub use slots::Slots;
pub use value_set::Atom;
pub use value_set::ValueSet;

/// What answers for a domain's metrics. The host calls one method at a time, in its own
/// thread, and waits: none may block.
pub trait Agent {
    /// A fetch begins: all values until the next call belong to one answer.
    fn begin(&mut self);

    /// Puts the values of the metric at this position of the registered table into `out`.
    /// What is not put in has no value.
    fn values(&mut self, metric: usize, out: &mut ValueSet<'_>);

    /// Whether a client may see protected metrics.
    fn is_reader(&mut self, client: &Client) -> bool;

    /// The instances of the domain with this serial number now, `None` where there is no
    /// such domain.
    fn instances(&mut self, serial: u32) -> Option<Arc<Instances>>;

    /// Labels of one instance as a JSON object, `None` where it has none (pmLookupLabels(3)).
    fn labels(&mut self, serial: u32, instance: Instance<'_>) -> Option<String>;
}
