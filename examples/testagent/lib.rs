//! An agent for the tests, made of the plugin's own parts: modules that fail in the ways that
//! modules fail, and softirqs, which shows how a module is added. Never shipped.

#![allow(unsafe_code, clippy::panic)]

mod control;
mod failures;
mod older;

use std::sync::Arc;

use pmda_bpf::host::Host;
use pmda_bpf::pmda;
use pmda_bpf::pmda::Agent;
use pmda_bpf::pmda::Atom;
use pmda_bpf::pmda::Client;
use pmda_bpf::pmda::Dispatch;
use pmda_bpf::pmda::Instance;
use pmda_bpf::pmda::Instances;
use pmda_bpf::pmda::Metric;
use pmda_bpf::pmda::Semantics;
use pmda_bpf::pmda::Type;
use pmda_bpf::pmda::Units;
use pmda_bpf::pmda::ValueSet;

pmda_bpf::modules! {
    use 0 => pmda_bpf::modules::module::MODULE;
    use 1 => pmda_bpf::modules::runqlat::MODULE;
    use 200 => failures::ABSENT;
    use 201 => failures::REFUSED;
    use 202 => failures::SECOND;
    203 => softirqs,
}

static HOST: Host = Host::new(MODULES);

/// The modules above.
///
/// # Safety
/// As the plugin's `bpf_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn testagent_init(dispatch: *mut Dispatch) {
    // SAFETY: the caller's promise.
    unsafe { HOST.init(dispatch) }
}

static SWITCHED: Host = Host::new(pmda_bpf::modules::MODULES);

/// The plugin's own modules, which a test can switch and disturb, see [`control`].
///
/// # Safety
/// As the plugin's `bpf_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn switched_init(dispatch: *mut Dispatch) {
    // SAFETY: the caller's promise.
    unsafe { SWITCHED.init(dispatch) }
    control::listen(&SWITCHED);
}

static EMPTY: Host = Host::new(&[(0, &pmda_bpf::modules::module::MODULE), (100, &failures::EMPTY)]);

/// A program that does nothing where biolatency counts.
///
/// # Safety
/// As the plugin's `bpf_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn empty_init(dispatch: *mut Dispatch) {
    // SAFETY: the caller's promise.
    unsafe { EMPTY.init(dispatch) }
}

static OLDER: Host = Host::new(older::MODULES);

/// biolatency as on kernels before 6.5.
///
/// # Safety
/// As the plugin's `bpf_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn older_init(dispatch: *mut Dispatch) {
    // SAFETY: the caller's promise.
    unsafe { OLDER.init(dispatch) }
}

/// Numbers of instances of the metrics 0 to 3 of cluster 1 of [`scale_init`].
const SIZES: [i32; 4] = [63, 1_000, 10_000, 100_000];

/// Answers with many instances, with every type, and, when asked for metric 9, with a panic.
struct Scale {
    instances: Vec<Arc<Instances>>,
}

impl Agent for Scale {
    fn begin(&mut self) {}

    fn values(&mut self, metric: usize, out: &mut ValueSet<'_>) {
        let few = self.instances.first().map(Arc::as_ref);
        match (metric, self.instances.get(metric), few) {
            (_, Some(instances), _) => out.numbers(instances, |_, id| u64::from(id.unsigned_abs()) * 17),
            (4, _, Some(few)) => out.atoms(few, |_, id| (id % 2 == 0).then_some(Atom::U32(id.unsigned_abs()))),
            (5, _, Some(few)) => {
                let names: Vec<String> = few.iter().map(|one| "x".repeat(one.id.unsigned_abs() as usize)).collect();
                out.atoms(few, |at, _| names.get(at).map(|name| Atom::Str(name)));
            }
            (6, ..) => out.singular(Atom::Str("one\0two")),
            (7, ..) => out.singular(Atom::U32(7)),
            (8, ..) => panic!("a defect of metric 8"),
            _ => {}
        }
    }

    fn is_reader(&mut self, _client: &Client) -> bool {
        true
    }

    fn instances(&mut self, serial: u32) -> Option<Arc<Instances>> {
        self.instances.get(usize::try_from(serial).ok()?).cloned()
    }

    fn labels(&mut self, _serial: u32, instance: Instance<'_>) -> Option<String> {
        Some(format!(r#"{{"number":"{}"}}"#, instance.id))
    }
}

/// An agent without BPF: `scale.n63` and so on.
///
/// # Safety
/// As the plugin's `bpf_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn scale_init(dispatch: *mut Dispatch) {
    let instances = SIZES.map(|size| Arc::new(Instances::new((0..size).map(|id| (id, format!("i{id}"))))));
    let metric = |item, name: &str, ty, indom| Metric {
        cluster: 1,
        item,
        name: format!("scale.{name}"),
        ty,
        semantics: Semantics::Instant,
        units: Units::None,
        indom,
        oneline: name.to_owned(),
        help: name.to_owned(),
        protected: false,
    };
    let metrics = vec![
        metric(0, "n63", Type::U64, Some(0)),
        metric(1, "n1000", Type::U64, Some(1)),
        metric(2, "n10000", Type::U64, Some(2)),
        metric(3, "n100000", Type::U64, Some(3)),
        metric(4, "half", Type::U32, Some(0)),
        metric(5, "text", Type::String, Some(0)),
        metric(6, "one_text", Type::String, None),
        metric(7, "one", Type::U32, None),
        metric(8, "panic", Type::U64, None),
    ];
    let agent = Box::new(Scale { instances: instances.to_vec() });
    // SAFETY: the caller's promise.
    let _ = unsafe { pmda::register(dispatch, Some(c"scale"), agent, metrics, &[]) };
}
