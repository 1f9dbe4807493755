//! The agent of one interface: finds the module a metric belongs to and has its source answer.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::Catalog;
use crate::catalog::Column;
use crate::catalog::IndomKind;
use crate::catalog::Origin;
use crate::pmda::Agent;
use crate::pmda::Atom;
use crate::pmda::Client;
use crate::pmda::Instance;
use crate::pmda::Instances;
use crate::pmda::Level;
use crate::pmda::Slots;
use crate::pmda::ValueSet;
use crate::pmda::log;
use crate::readers::Readers;
use crate::source::EventRows;
use crate::source::Held;
use crate::source::Reader;
use crate::source::TableRows;
use crate::status;
use crate::status::Slot;
use crate::status::State;
use crate::workers::Pulse;

/// What one interface needs of its own: what it holds of the modules, which belong to the
/// process, and its instances.
pub struct BpfAgent {
    catalog: Catalog,
    slots: Arc<[Slot]>,
    readers: Arc<Readers>,
    /// Of the worker that loads.
    loader: Option<Arc<Pulse>>,
    /// In the order of the modules.
    modules: Vec<Module>,
    /// By serial number, with the reader's generation that they hold for.
    instances: BTreeMap<u32, (u64, Arc<Instances>)>,
    /// By serial number of the keys' domain.
    numbers: BTreeMap<u32, Slots>,
    /// Somebody has been refused and told why.
    has_refused: bool,
}

/// What is held of a module.
struct Module {
    state: Held<State>,
    rows: Option<Reader>,
    events: Option<Held<EventRows>>,
    processes: Option<Held<TableRows>>,
    /// The columns of its events.
    columns: Vec<Column>,
    /// The newest state and snapshots have been taken for this request.
    is_fresh: bool,
    /// The rows have been copied for this request.
    has_rows: bool,
}

impl BpfAgent {
    /// An agent for these modules on the interface of this domain.
    #[must_use]
    pub fn new(
        domain: u32,
        catalog: Catalog,
        slots: Arc<[Slot]>,
        readers: Arc<Readers>,
        loader: Option<Arc<Pulse>>,
    ) -> Self {
        let modules = slots
            .iter()
            .enumerate()
            .map(|(at, slot)| Module {
                state: slot.state.reader(),
                rows: None,
                events: slot.events.as_ref().map(|place| place.reader()),
                processes: slot.processes.as_ref().map(|place| place.reader()),
                columns: catalog.columns(at),
                is_fresh: false,
                has_rows: false,
            })
            .collect();
        // several domains share keys, whose numbers are read once
        let keyed: BTreeSet<u32> =
            catalog.indoms.values().filter_map(|entry| Some(entry.kind.keys()?.serial)).collect();
        let numbers = keyed.into_iter().map(|serial| (serial, Slots::load(domain, serial))).collect();
        Self { catalog, slots, readers, loader, modules, instances: BTreeMap::new(), numbers, has_refused: false }
    }

    /// Takes what is newest of a module, once per request.
    fn refresh(&mut self, at: usize) {
        let (Some(slot), Some(own)) = (self.slots.get(at), self.modules.get_mut(at)) else { return };
        if std::mem::replace(&mut own.is_fresh, true) {
            return;
        }
        own.state.refresh(&slot.state);
        if let (Some(held), Some(place)) = (&mut own.events, &slot.events) {
            held.refresh(place);
        }
        if let (Some(held), Some(place)) = (&mut own.processes, &slot.processes) {
            held.refresh(place);
        }
        let mapped = own.state.get().running().map(|live| &live.mapped);
        let same = match (&own.rows, mapped) {
            (Some(reader), Some(mapped)) => Arc::ptr_eq(reader.source(), mapped),
            (reader, mapped) => reader.is_none() && mapped.is_none(),
        };
        if !same {
            own.rows = mapped.map(|mapped| Reader::new(Arc::clone(mapped)));
            self.instances.clear();
        }
    }

    /// Copies a module's rows, once per request.
    fn copy_rows(&mut self, at: usize) {
        let keys = self.catalog.keys(at);
        let Some(own) = self.modules.get_mut(at) else { return };
        if std::mem::replace(&mut own.has_rows, true) {
            return;
        }
        let Some(reader) = &mut own.rows else { return };
        match keys.and_then(|keys| self.numbers.get_mut(&keys.serial)) {
            Some(numbers) => {
                reader.refresh(&mut |name| numbers.slot(name));
                numbers.store();
            }
            None => reader.refresh(&mut |_| None),
        }
    }

    /// The instances of a domain; with `look` those of this moment, else those of the copy.
    fn find(&mut self, serial: u32, look: bool) -> Option<(IndomKind, Arc<Instances>)> {
        let entry = self.catalog.indoms.get(&serial)?;
        let own = self.modules.get_mut(entry.module)?;
        match entry.kind {
            IndomKind::Rows => return Some((entry.kind, Arc::clone(own.events.as_ref()?.get().instances()))),
            IndomKind::Processes => return Some((entry.kind, Arc::clone(own.processes.as_ref()?.get().instances()))),
            _ => {}
        }
        let (generation, keys) = match (own.rows.as_mut(), entry.kind.keys()) {
            (Some(reader), Some(keys)) => {
                if look {
                    if let Some(numbers) = self.numbers.get_mut(&keys.serial) {
                        reader.find_keys(&mut |name| numbers.slot(name));
                        numbers.store();
                    }
                }
                (reader.generation(), reader.keys())
            }
            _ => (0, &[][..]),
        };
        match self.instances.get(&serial) {
            Some((known, instances)) if *known == generation => return Some((entry.kind, Arc::clone(instances))),
            _ => {}
        }
        let keys: Vec<(i32, String)> = keys.iter().map(|key| (key.slot, key.name.clone())).collect();
        let instances = Arc::new(entry.kind.instances(self.catalog.modules, &keys));
        self.instances.insert(serial, (generation, Arc::clone(&instances)));
        Some((entry.kind, instances))
    }

    /// A fact about every module.
    fn facts(&mut self, fact: crate::catalog::Fact, serial: Option<u32>, out: &mut ValueSet<'_>) {
        (0..self.modules.len()).for_each(|at| self.refresh(at));
        let Some((_, instances)) = serial.and_then(|serial| self.find(serial, false)) else { return };
        let modules: Vec<_> = self.modules.iter().map(|own| (Arc::clone(own.state.get()), own.age())).collect();
        let trouble = self.loader.as_ref().and_then(|loader| loader.trouble());
        status::values(fact, &modules, trouble.as_deref(), &instances, out);
    }
}

impl Module {
    /// How old its values are, `None` where it has none.
    fn age(&self) -> Option<Duration> {
        let live = self.state.get().running()?;
        match &self.processes {
            Some(rows) => rows.get().age(),
            None => Some(live.worker.as_ref().map_or(Duration::ZERO, |worker| worker.busy())),
        }
    }
}

impl Agent for BpfAgent {
    fn begin(&mut self) {
        for own in &mut self.modules {
            (own.is_fresh, own.has_rows) = (false, false);
        }
    }

    fn values(&mut self, metric: usize, out: &mut ValueSet<'_>) {
        let Some(entry) = self.catalog.metrics.get(metric) else { return };
        let (at, origin, serial) = (entry.module, entry.origin, entry.metric.indom);
        if let Origin::Status(fact) = origin {
            return self.facts(fact, serial, out);
        }
        self.refresh(at);
        match self.modules.get(at).and_then(|own| own.state.get().refusal()) {
            Some(Some(error)) => return out.error(error),
            Some(None) => return,
            None => {}
        }
        match origin {
            Origin::Status(_) => {}
            Origin::Column(column) => {
                let Some(own) = self.modules.get(at) else { return };
                let position = own.columns.iter().position(|known| *known == column);
                if let (Some(events), Some(position)) = (&own.events, position) {
                    events.get().values(position, out);
                }
            }
            Origin::Lost => {
                let live = self.modules.get(at).and_then(|own| own.state.get().running());
                // as a 32-bit counter does
                #[allow(clippy::cast_possible_truncation, reason = "a counter of PM_TYPE_U32 wraps")]
                if let Some(live) = live {
                    out.singular(Atom::U32(live.lost() as u32));
                }
            }
            Origin::Process(field) => {
                let Some(own) = self.modules.get(at) else { return };
                let layout = own.rows.as_ref().and_then(|reader| reader.source().loaded().processes.as_ref());
                let field = layout.and_then(|(_, layout)| layout.field(field));
                if let (Some(processes), Some(field)) = (&own.processes, field) {
                    processes.get().values(field, out);
                }
            }
            _ => {
                self.copy_rows(at);
                let domain = serial.and_then(|serial| self.find(serial, false));
                if let Some(reader) = self.modules.get_mut(at).and_then(|own| own.rows.as_mut()) {
                    reader.values(origin, domain.as_ref().map(|(kind, instances)| (*kind, instances.as_ref())), out);
                }
            }
        }
    }

    fn is_reader(&mut self, client: &Client) -> bool {
        let admitted = self.readers.admit(client);
        if !admitted && !std::mem::replace(&mut self.has_refused, true) {
            let who = client.uid.map_or_else(|| "a remote client".to_owned(), |uid| format!("user {uid}"));
            log(
                Level::Warning,
                &format!(
                    "arguments, paths and typed lines were asked for by {who} and refused; option readers in section \
                     [pmda] of bpf.conf opens them, for pmlogger and pmproxy with user:pcp, who then show them to \
                     anybody who reads their archives or asks them"
                ),
            );
        }
        admitted
    }

    fn instances(&mut self, serial: u32) -> Option<Arc<Instances>> {
        let at = self.catalog.indoms.get(&serial)?.module;
        if let Some(own) = self.modules.get_mut(at) {
            own.is_fresh = false;
        }
        self.refresh(at);
        self.find(serial, true).map(|(_, instances)| instances)
    }

    fn labels(&mut self, serial: u32, instance: Instance<'_>) -> Option<String> {
        let entry = self.catalog.indoms.get(&serial)?;
        let reader = self.modules.get(entry.module).and_then(|own| own.rows.as_ref());
        entry.kind.labels(instance.id, |slot| {
            let keys = reader?.keys();
            let key = keys.get(keys.binary_search_by_key(&slot, |key| key.slot).ok()?)?;
            Some((key.name.clone(), key.stacked))
        })
    }
}
