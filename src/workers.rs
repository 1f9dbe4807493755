//! Threads of our own, beside that of the host: what blocks or takes long is done there.
//!
//! A worker owns a duty. It sleeps until a job is given to it, a descriptor of the duty becomes
//! readable or the duty's next deadline comes. A panic costs the job or the turn, not the
//! worker; a worker that panics again and again gives up and says so.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::eventfd::EfdFlags;
use nix::sys::eventfd::EventFd;
use once_cell::sync::OnceCell;
use parking_lot::Mutex;

use crate::pmda::Level;
use crate::pmda::log;
use crate::pmda::panic_text;
use crate::pmda::with_signals_blocked;

/// Panics after which a worker gives up, none of them longer than this after the one before.
const PANICS: u32 = 5;
const CALM: Duration = Duration::from_secs(60);
/// A pause after an error that should not be, so that it is not met at full speed.
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// A worker that has been at one thing for so long is stuck.
const STUCK: Duration = Duration::from_secs(10);

/// What a worker does.
pub trait Duty: Send + 'static {
    /// Does what is due, and says when the next thing will be, `None` where only a job or a
    /// descriptor can make something due.
    fn turn(&mut self) -> Option<Instant>;

    /// Descriptors that call for a turn when they are readable.
    fn waits_for(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}

type Job<D> = Box<dyn FnOnce(&mut D) + Send>;

/// A running thread.
pub struct Worker<D> {
    shared: Arc<Shared<D>>,
    pulse: Arc<Pulse>,
}

struct Shared<D> {
    jobs: Mutex<VecDeque<Job<D>>>,
    wake: OwnedFd,
}

/// Whether a worker is well.
#[derive(Debug)]
pub struct Pulse {
    name: &'static str,
    epoch: Instant,
    /// Milliseconds after `epoch` at which it began what it is at, 0 while it waits.
    busy_since: AtomicU64,
    gave_up: OnceCell<String>,
}

impl Pulse {
    fn begin(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.busy_since.store(now.max(1), Relaxed);
    }

    fn rest(&self) {
        self.busy_since.store(0, Relaxed);
    }

    /// How long it has been at one thing.
    #[must_use]
    pub fn busy(&self) -> Duration {
        match self.busy_since.load(Relaxed) {
            0 => Duration::ZERO,
            since => self.epoch.elapsed().saturating_sub(Duration::from_millis(since)),
        }
    }

    /// What is wrong with it, `None` where it is well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        if let Some(why) = self.gave_up.get() {
            return Some(format!("worker {} has given up: {why}", self.name));
        }
        let busy = self.busy();
        (busy > STUCK).then(|| format!("worker {} is stuck for {} s", self.name, busy.as_secs()))
    }
}

impl<D: Duty> Worker<D> {
    /// Starts a thread of this name with all signals blocked, which are the host's. `keep`
    /// moves the descriptor that wakes it; `at_birth` has been run in it when this returns.
    ///
    /// # Errors
    /// When the process can have no further thread or descriptor.
    pub fn start(
        name: &'static str,
        duty: D,
        keep: impl FnOnce(BorrowedFd<'_>) -> io::Result<OwnedFd>,
        at_birth: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let shared = Arc::new(Shared { jobs: Mutex::new(VecDeque::new()), wake: keep(wake.as_fd())? });
        let pulse =
            Arc::new(Pulse { name, epoch: Instant::now(), busy_since: AtomicU64::new(0), gave_up: OnceCell::new() });
        let (own, own_pulse) = (Arc::clone(&shared), Arc::clone(&pulse));
        let (born, birth) = mpsc::channel();
        with_signals_blocked(|| {
            thread::Builder::new().name(name.to_owned()).spawn(move || {
                at_birth();
                let _ = born.send(());
                work(&own, &own_pulse, duty);
            })
        })?;
        // what was to be done before the process changes has been done
        let _ = birth.recv();
        Ok(Self { shared, pulse })
    }

    /// Has the worker do this, behind what it was given before.
    pub fn run(&self, job: impl FnOnce(&mut D) + Send + 'static) {
        self.shared.jobs.lock().push_back(Box::new(job));
        // a full counter is readable all the same
        let _ = nix::unistd::write(&self.shared.wake, &1u64.to_ne_bytes());
    }

    /// Whether it is well.
    #[must_use]
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }
}

fn work<D: Duty>(shared: &Shared<D>, pulse: &Pulse, mut duty: D) {
    let (mut panics, mut last) = (0, Instant::now());
    let mut guard = |what: &str, body: &mut dyn FnMut()| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            panics = if last.elapsed() > CALM { 1 } else { panics + 1 };
            last = Instant::now();
            let why = panic_text(panic.as_ref()).to_owned();
            log(Level::Error, &format!("{}: {what} panicked: {why}", pulse.name));
            if panics >= PANICS {
                let _ = pulse.gave_up.set(why);
            }
        }
    };
    loop {
        pulse.begin();
        loop {
            let job = shared.jobs.lock().pop_front();
            let Some(job) = job else { break };
            let mut job = Some(job);
            guard("a job", &mut || {
                if let Some(job) = job.take() {
                    job(&mut duty);
                }
            });
        }
        let mut deadline = None;
        guard("its turn", &mut || deadline = duty.turn());
        pulse.rest();
        if pulse.gave_up.get().is_some() {
            break;
        }
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            // rounded up: woken too early it would turn for nothing
            let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut waits: Vec<PollFd<'_>> =
            [shared.wake.as_fd()].into_iter().chain(duty.waits_for()).map(readable).collect();
        if poll(&mut waits, timeout).is_err_and(|error| error != Errno::EINTR) {
            thread::sleep(AFTER_ERROR);
        }
        let _ = nix::unistd::read(&shared.wake, &mut [0; size_of::<u64>()]);
    }
    log(Level::Error, &format!("{}: gives up after {PANICS} panics", pulse.name));
}

/// What is to be done again and again, by key, and when next.
#[derive(Debug)]
pub struct Timetable<K> {
    periods: BTreeMap<K, Duration>,
    heap: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K: Ord + Clone> Default for Timetable<K> {
    fn default() -> Self {
        Self { periods: BTreeMap::new(), heap: BinaryHeap::new() }
    }
}

impl<K: Ord + Clone> Timetable<K> {
    /// Enters something that is due now and then every `period`.
    pub fn enter(&mut self, key: K, period: Duration, now: Instant) {
        if self.periods.insert(key.clone(), period).is_none() {
            self.heap.push(Reverse((now, key)));
        }
    }

    /// Takes it out.
    pub fn remove(&mut self, key: &K) {
        self.periods.remove(key);
        self.heap.retain(|Reverse((_, own))| own != key);
    }

    /// One thing that is due, if any is. What was missed is not made up for.
    pub fn due(&mut self, now: Instant) -> Option<K> {
        let Reverse((when, key)) = self.heap.peek()?.clone();
        if when > now {
            return None;
        }
        self.heap.pop();
        if let Some(period) = self.periods.get(&key) {
            self.heap.push(Reverse((now + *period, key.clone())));
        }
        Some(key)
    }

    /// When the next thing is due.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((when, _))| *when)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(mpsc::Sender<u32>, u32);

    impl Duty for Count {
        fn turn(&mut self) -> Option<Instant> {
            assert!(self.1 != 13, "thirteen");
            let _ = self.0.send(self.1);
            None
        }
    }

    fn counting() -> (Worker<Count>, mpsc::Receiver<u32>) {
        let (sender, receiver) = mpsc::channel();
        let keep = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
        (Worker::start("test", Count(sender, 0), keep, || {}).unwrap(), receiver)
    }

    fn wait_for(receiver: &mpsc::Receiver<u32>, value: u32) {
        while receiver.recv_timeout(Duration::from_secs(60)).unwrap() != value {}
    }

    #[test]
    fn jobs_are_done_in_order_and_a_panic_costs_one() {
        let (worker, receiver) = counting();
        worker.run(|count| count.1 = 1);
        worker.run(|_| panic!("on purpose"));
        worker.run(|count| count.1 += 1);
        wait_for(&receiver, 2);
        assert_eq!(worker.pulse().trouble(), None);
        worker.run(|count| count.1 = 13);
        worker.run(|count| count.1 = 14);
        wait_for(&receiver, 14);
    }

    #[test]
    fn whoever_panics_again_and_again_gives_up() {
        let (worker, receiver) = counting();
        (0..PANICS).for_each(|_| worker.run(|_| panic!("on purpose")));
        while receiver.recv_timeout(Duration::from_secs(60)).is_ok() {}
        assert_eq!(worker.pulse().trouble().unwrap(), "worker test has given up: on purpose");
    }

    #[test]
    fn things_come_due_in_order() {
        let (mut table, start) = (Timetable::default(), Instant::now());
        let second = Duration::from_secs(1);
        table.enter("b", second * 3, start);
        table.enter("a", second, start);
        let due = |table: &mut Timetable<&'static str>, seconds| {
            let mut all = Vec::new();
            while let Some(key) = table.due(start + second * seconds) {
                all.push(key);
            }
            all
        };
        assert_eq!(due(&mut table, 0), ["a", "b"]);
        assert_eq!(due(&mut table, 1), ["a"]);
        assert_eq!(due(&mut table, 3), ["a", "b"]);
        assert_eq!(table.next(), Some(start + second * 4));
        table.remove(&"a");
        assert_eq!(due(&mut table, 9), ["b"]);
    }
}
