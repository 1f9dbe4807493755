//! Where values come from: one way of reading per shape of data.

mod events;
mod mapped;
mod polled;
mod snapshot;

/// What the hand-over of snapshots is made of; its model in `tests/handover.rs` has others.
mod sync {
    pub use std::sync::Arc;
    pub use std::sync::atomic::AtomicU64;
    pub use std::sync::atomic::Ordering;

    pub use parking_lot::Mutex;
}

pub use events::Cell;
pub use events::Drain;
pub use events::EventLog;
pub use events::EventRows;
pub use mapped::Key;
pub use mapped::Mapped;
pub use mapped::Reader;
pub use polled::Poller;
pub use polled::Table;
pub use polled::TableRows;
pub use snapshot::Held;
pub use snapshot::Published;
pub use snapshot::Publisher;
