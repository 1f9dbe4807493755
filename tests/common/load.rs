//! Work for the scheduler.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

/// Threads that spin and threads that sleep and wake, more than there are CPUs, so that tasks
/// wait for times of every order. Ends with the value.
pub struct Scheduling {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Scheduling {
    pub fn start(spinners: usize, sleepers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |work: fn(usize), index: usize| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    work(index);
                }
            })
        };
        let spin = |_| (0..10_000).for_each(|n| _ = std::hint::black_box(n));
        let sleep = |index: usize| thread::sleep(Duration::from_micros(200 + 137 * index as u64));
        let mut threads: Vec<_> = (0..spinners).map(|index| spawn(spin, index)).collect();
        threads.extend((0..sleepers).map(|index| spawn(sleep, index)));
        Self { stop, threads }
    }
}

impl Drop for Scheduling {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
