//! Handing what a worker has made to the host's thread, which never waits for it.
//!
//! A snapshot is filled, published by swapping a pointer, and not changed from then on. Whoever
//! reads keeps the one it has until it finds a newer one; should it look at the very moment of
//! the swap, it goes on with the one it has. The writer holds on to every snapshot it has made
//! and fills again those that nobody else holds: readers neither allocate nor free.

use super::sync::Arc;
use super::sync::AtomicU64;
use super::sync::Mutex;
use super::sync::Ordering::Acquire;
use super::sync::Ordering::Release;

/// The place of the newest snapshot.
#[derive(Debug)]
pub struct Published<T> {
    /// Grows with every swap; a reader that knows it need not touch the rest.
    version: AtomicU64,
    /// Held for the moment of a swap or a copy of the pointer.
    newest: Mutex<Arc<T>>,
}

impl<T> Published<T> {
    /// With a first snapshot.
    pub fn new(first: Arc<T>) -> Self {
        Self { version: AtomicU64::new(1), newest: Mutex::new(first) }
    }

    /// Puts another snapshot in place of the newest.
    pub fn publish(&self, snapshot: Arc<T>) {
        let mut newest = self.newest.lock();
        // dropped after the lock
        let _before = std::mem::replace(&mut *newest, snapshot);
        self.version.fetch_add(1, Release);
        drop(newest);
    }

    /// What a new reader begins with; waits for a swap that is under way.
    pub fn reader(&self) -> Held<T> {
        let newest = self.newest.lock();
        Held { version: self.version.load(Acquire), snapshot: Arc::clone(&newest) }
    }
}

/// What a reader holds.
#[derive(Debug)]
pub struct Held<T> {
    version: u64,
    snapshot: Arc<T>,
}

impl<T> Held<T> {
    /// Takes the newest snapshot if there is a newer one and it can be had without waiting; says
    /// whether it did.
    pub fn refresh(&mut self, from: &Published<T>) -> bool {
        if from.version.load(Acquire) == self.version {
            return false;
        }
        let Some(newest) = from.newest.try_lock() else { return false };
        self.version = from.version.load(Acquire);
        self.snapshot = Arc::clone(&newest);
        true
    }

    /// The snapshot.
    pub fn get(&self) -> &Arc<T> {
        &self.snapshot
    }
}

/// The writing side.
#[derive(Debug)]
pub struct Publisher<T> {
    place: Arc<Published<T>>,
    made: Vec<Arc<T>>,
}

impl<T> Publisher<T> {
    /// Publishes there.
    pub fn new(place: Arc<Published<T>>) -> Self {
        Self { place, made: Vec::new() }
    }

    /// Has `fill` bring a snapshot up to date, one that `make` makes or one published before,
    /// and publishes it.
    pub fn publish(&mut self, make: impl FnOnce() -> T, fill: impl FnOnce(&mut T)) {
        let free = self.made.iter_mut().position(|own| Arc::get_mut(own).is_some());
        let mut next = free.map_or_else(|| Arc::new(make()), |at| self.made.swap_remove(at));
        if let Some(snapshot) = Arc::get_mut(&mut next) {
            fill(snapshot);
        }
        self.place.publish(Arc::clone(&next));
        self.made.push(next);
    }
}
