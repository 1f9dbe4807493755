//! The agent of one interface: finds the module a metric belongs to and has its source answer.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::catalog::IndomKind;
use crate::catalog::Origin;
use crate::pmda::Agent;
use crate::pmda::Instance;
use crate::pmda::Instances;
use crate::pmda::Slots;
use crate::pmda::ValueSet;
use crate::source::Reader;
use crate::status;
use crate::status::State;

/// What one interface needs of its own: its copies of the rows and its instances. The loaded
/// modules belong to the process.
pub struct BpfAgent {
    catalog: Catalog,
    states: &'static [State],
    /// One per module, `None` where it has no rows.
    readers: Vec<Option<Reader>>,
    /// Whether the reader has copied its rows for this request.
    fresh: Vec<bool>,
    /// By serial number, with the reader's generation that they hold for.
    instances: BTreeMap<u32, (u64, Arc<Instances>)>,
    /// By serial number of the keys' domain.
    slots: BTreeMap<u32, Slots>,
}

impl BpfAgent {
    /// An agent for these modules on the interface of this domain.
    #[must_use]
    pub fn new(domain: u32, catalog: Catalog, states: &'static [State]) -> Self {
        let readers: Vec<Option<Reader>> = states
            .iter()
            .map(|state| match state {
                State::Running(mapped) => Some(Reader::new(Arc::clone(mapped))),
                _ => None,
            })
            .collect();
        // several domains share keys, whose numbers are read once
        let keyed: BTreeSet<u32> =
            catalog.indoms.values().filter_map(|entry| Some(entry.kind.keys()?.serial)).collect();
        let slots = keyed.into_iter().map(|serial| (serial, Slots::load(domain, serial))).collect();
        Self { fresh: vec![false; readers.len()], catalog, states, readers, instances: BTreeMap::new(), slots }
    }

    /// The instances of a domain; with `refresh` those of this moment, else those of the copy.
    fn find(&mut self, serial: u32, refresh: bool) -> Option<(IndomKind, Arc<Instances>)> {
        let entry = self.catalog.indoms.get(&serial)?;
        let reader = self.readers.get_mut(entry.module).and_then(Option::as_mut);
        let (generation, keys) = match (reader, entry.kind.keys()) {
            (Some(reader), Some(keys)) => {
                if refresh {
                    if let Some(slots) = self.slots.get_mut(&keys.serial) {
                        reader.find_keys(&mut |name| slots.slot(name));
                        slots.store();
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

    fn refresh(&mut self, module: usize) {
        let Some(fresh) = self.fresh.get_mut(module) else { return };
        if std::mem::replace(fresh, true) {
            return;
        }
        let Some(Some(reader)) = self.readers.get_mut(module) else { return };
        match self.catalog.keys(module).and_then(|keys| self.slots.get_mut(&keys.serial)) {
            Some(slots) => {
                reader.refresh(&mut |name| slots.slot(name));
                slots.store();
            }
            None => reader.refresh(&mut |_| None),
        }
    }
}

impl Agent for BpfAgent {
    fn begin(&mut self) {
        self.fresh.fill(false);
    }

    fn values(&mut self, metric: usize, out: &mut ValueSet<'_>) {
        let Some(entry) = self.catalog.metrics.get(metric) else { return };
        let (module, origin, serial) = (entry.module, entry.origin, entry.metric.indom);
        match self.states.get(module).and_then(State::refusal) {
            Some(Some(error)) => return out.error(error),
            Some(None) => return,
            None => {}
        }
        self.refresh(module);
        let domain = serial.and_then(|serial| self.find(serial, false));
        match origin {
            Origin::Status(fact) => {
                if let Some((_, instances)) = domain {
                    status::values(fact, self.states, &instances, out);
                }
            }
            _ => {
                if let Some(Some(reader)) = self.readers.get_mut(module) {
                    reader.values(origin, domain.as_ref().map(|(kind, instances)| (*kind, instances.as_ref())), out);
                }
            }
        }
    }

    fn instances(&mut self, serial: u32) -> Option<Arc<Instances>> {
        self.find(serial, true).map(|(_, instances)| instances)
    }

    fn labels(&mut self, serial: u32, instance: Instance<'_>) -> Option<String> {
        let entry = self.catalog.indoms.get(&serial)?;
        let reader = self.readers.get(entry.module).and_then(Option::as_ref);
        entry.kind.labels(instance.id, |slot| {
            let keys = reader?.keys();
            let key = keys.get(keys.binary_search_by_key(&slot, |key| key.slot).ok()?)?;
            Some((key.name.clone(), key.stacked))
        })
    }
}
