//! A model of the hand-over of snapshots: every order in which a writer and two readers can run.

#![allow(clippy::unwrap_used, missing_docs, dead_code, unreachable_pub)]

#[path = "../src/source/snapshot.rs"]
mod snapshot;

/// The same names as in `src/source/mod.rs`, made of what the model can order.
mod sync {
    pub use loom::sync::Arc;
    pub use loom::sync::MutexGuard;
    pub use loom::sync::atomic::AtomicU64;
    pub use loom::sync::atomic::Ordering;

    #[derive(Debug)]
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }

        pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }
}

use loom::sync::Arc;
use loom::thread;
use snapshot::Published;
use snapshot::Publisher;

/// Two halves that a writer changes one after the other.
type Pair = (u64, u64);

/// Nobody sees a snapshot half filled, or an older one after a newer one; and who looks when
/// the writer has done sees the last.
#[test]
fn snapshots_are_whole_and_in_order() {
    loom::model(|| {
        let place = Arc::new(Published::new(Arc::new((0, 0))));
        let writer = {
            let place = Arc::clone(&place);
            thread::spawn(move || {
                let mut publisher = Publisher::<Pair>::new(place);
                for n in 1..=3 {
                    publisher.publish(Pair::default, |pair| {
                        pair.0 = n;
                        pair.1 = n;
                    });
                }
                publisher
            })
        };
        let mut held = place.reader();
        let mut last = held.get().0;
        for _ in 0..2 {
            held.refresh(&place);
            let pair = **held.get();
            assert_eq!(pair.0, pair.1, "half filled");
            assert!(pair.0 >= last, "an older one after a newer one");
            last = pair.0;
        }
        let publisher = writer.join().unwrap();
        held.refresh(&place);
        assert_eq!(**held.get(), (3, 3));
        drop(publisher);
    });
}

/// A snapshot that a reader holds is never filled again.
#[test]
fn what_is_held_does_not_change() {
    loom::model(|| {
        let place = Arc::new(Published::new(Arc::new((0, 0))));
        let mut publisher = Publisher::<Pair>::new(Arc::clone(&place));
        publisher.publish(Pair::default, |pair| *pair = (1, 1));
        let reader = {
            let place = Arc::clone(&place);
            thread::spawn(move || {
                let held = place.reader();
                let before = **held.get();
                thread::yield_now();
                assert_eq!(before, **held.get());
                assert_eq!(before.0, before.1);
            })
        };
        for n in 2..=3 {
            publisher.publish(Pair::default, |pair| {
                pair.0 = n;
                pair.1 = n;
            });
        }
        reader.join().unwrap();
    });
}
