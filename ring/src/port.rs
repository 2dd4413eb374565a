//! The way between a core and a housekeeping thread, or its log-writer thread: two bounded lock-free queues, a doorbell towards the thread, a wake
//! towards the core.
//!
//! A core asks ([`crate::Io::request`]) and never waits: with [`Port::capacity`] jobs outstanding it gets its job back, and
//! counts that. The thread sleeps on its [`Doorbell`], which several ports may share, so that one thread serves several cores.
//! May touch: queues, one futex word, one eventfd. Called by: the reactor ([`Port`]), the housekeeping thread ([`HousePort`]).
//!
//! # Bounds
//! A job is outstanding from [`Port::request`] until its answer left the done queue; the core alone counts them, at most
//! `capacity`. Queued jobs, jobs in the thread's hands and answers together are never more, so neither queue can be full when
//! it is pushed to: that is asserted, not handled. It follows that a thread answers each job exactly once.

use crate::IoError;
use crate::sync::{Arc, ArrayQueue, AtomicBool, FutexWord, Ordering};
use crate::wake::{DONE, WRITTEN, WakeState};
use std::time::Duration;

/// How long [`HousePort::next`] sleeps at most before it looks at its stop flag, for those who set the flag and cannot ring.
pub const STOP_CHECK: Duration = Duration::from_millis(100);

/// The thread runs, and nobody rang since it last looked.
const AWAKE: u32 = 0;
/// Somebody rang.
const RUNG: u32 = 1;
/// The thread sleeps, or is about to, and must be woken.
const ASLEEP: u32 = 2;

/// What a housekeeping thread sleeps on. One thread waits, any may ring.
///
/// Ringing costs a system call only if the thread sleeps. A ring between the thread's last look at its queues and its sleep
/// turns the sleep into a look: the word changes by read-modify-writes only, and the futex compares before it sleeps.
#[derive(Clone, Debug)]
pub struct Doorbell {
    word: Arc<FutexWord>,
}

impl Default for Doorbell {
    fn default() -> Doorbell {
        Doorbell::new()
    }
}

impl Doorbell {
    /// A doorbell that nobody rang yet.
    pub fn new() -> Doorbell {
        Doorbell { word: Arc::new(FutexWord::new(AWAKE)) }
    }

    /// Wakes the thread, or keeps it from going to sleep. Never waits. Fit for a signal handler.
    pub fn ring(&self) {
        if self.word.value.swap(RUNG, Ordering::AcqRel) == ASLEEP {
            self.word.wake_one();
        }
    }

    /// Sleeps until somebody rang since the last call, at most for `limit`; says whether somebody did.
    ///
    /// # Panics
    /// If two threads wait on one doorbell.
    pub fn wait(&self, limit: Duration) -> bool {
        match self.word.value.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => self.word.sleep_while(ASLEEP, limit),
            Err(found) => assert_eq!(found, RUNG, "two threads wait on one doorbell"),
        }
        self.word.value.swap(AWAKE, Ordering::AcqRel) == RUNG
    }
}

#[derive(Debug)]
struct Queues<J, D> {
    jobs: ArrayQueue<J>,
    done: ArrayQueue<D>,
    wake: Arc<WakeState>,
    /// What an answer wakes the core for.
    reason: u32,
    doorbell: Doorbell,
}

/// The core's end: moves into its reactor.
#[derive(Debug)]
pub struct Port<J, D> {
    queues: Arc<Queues<J, D>>,
    capacity: usize,
    outstanding: usize,
}

/// The housekeeping thread's end.
#[derive(Debug)]
pub struct HousePort<J, D> {
    queues: Arc<Queues<J, D>>,
}

/// The two ends of a port.
pub type Ends<J, D> = (Port<J, D>, HousePort<J, D>);

/// Connects a core with a housekeeping thread of its own, with room for `capacity` outstanding jobs.
///
/// # Panics
/// If `capacity` is 0.
pub fn port<J, D>(capacity: usize) -> Result<Ends<J, D>, IoError> {
    port_at(capacity, &Doorbell::new())
}

/// Like [`port`], for a thread that serves several ports and sleeps on one `doorbell`.
///
/// # Panics
/// If `capacity` is 0.
pub fn port_at<J, D>(capacity: usize, doorbell: &Doorbell) -> Result<Ends<J, D>, IoError> {
    let wake = WakeState::new().map_err(|source| IoError::System { call: "eventfd", source })?;
    Ok(connect(capacity, doorbell, Arc::new(wake), DONE))
}

fn connect<J, D>(capacity: usize, doorbell: &Doorbell, wake: Arc<WakeState>, reason: u32) -> Ends<J, D> {
    assert!(capacity > 0, "a port without room for a job");
    let queues = Arc::new(Queues {
        jobs: ArrayQueue::new(capacity),
        done: ArrayQueue::new(capacity),
        wake,
        reason,
        doorbell: doorbell.clone(),
    });
    (Port { queues: queues.clone(), capacity, outstanding: 0 }, HousePort { queues })
}

impl<J, D> Port<J, D> {
    /// Jobs that may be outstanding at once.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Hands a job over, or back if `capacity` are outstanding.
    pub(crate) fn request(&mut self, job: J) -> Result<(), J> {
        if self.outstanding == self.capacity {
            return Err(job);
        }
        self.outstanding += 1;
        assert!(self.queues.jobs.push(job).is_ok(), "the job queue is full with {} outstanding", self.outstanding);
        self.queues.doorbell.ring();
        Ok(())
    }

    /// The next answer.
    pub(crate) fn next_done(&mut self) -> Option<D> {
        let done = self.queues.done.pop()?;
        assert!(self.outstanding > 0, "an answer to no job");
        self.outstanding -= 1;
        Some(done)
    }

    pub(crate) fn wake(&self) -> &Arc<WakeState> {
        &self.queues.wake
    }

    /// Wakes the thread, for a reason that is no job.
    pub(crate) fn ring(&self) {
        self.queues.doorbell.ring();
    }

    /// A second port of this core, to the log-writer thread: its answers wake the same core, for a reason of their own.
    pub(crate) fn beside<J2, D2>(&self, capacity: usize) -> Ends<J2, D2> {
        connect(capacity, &Doorbell::new(), self.queues.wake.clone(), WRITTEN)
    }
}

impl<J, D> HousePort<J, D> {
    /// The next job, or nothing.
    pub fn try_next(&self) -> Option<J> {
        self.queues.jobs.pop()
    }

    /// Waits for the next job; nothing once `stop` is set, whatever is queued. Ring [`HousePort::doorbell`] after setting it;
    /// without a ring it is noticed within [`STOP_CHECK`]. For a thread that serves this port alone; one that serves several
    /// drains each with [`HousePort::try_next`] and waits on their common doorbell.
    pub fn next(&self, stop: &AtomicBool) -> Option<J> {
        loop {
            if stop.load(Ordering::Acquire) {
                return None;
            }
            if let Some(job) = self.try_next() {
                return Some(job);
            }
            self.queues.doorbell.wait(STOP_CHECK);
        }
    }

    /// Answers a job and wakes its core. Exactly once for each job.
    ///
    /// # Panics
    /// If more answers are given than jobs were taken.
    pub fn done(&self, done: D) {
        assert!(self.queues.done.push(done).is_ok(), "more answers than jobs");
        self.queues.wake.signal(self.queues.reason);
    }

    /// Wakes the core, for a reason that is no answer.
    pub(crate) fn signal(&self, reason: u32) {
        self.queues.wake.signal(reason);
    }

    /// What this end's thread sleeps on.
    pub fn doorbell(&self) -> &Doorbell {
        &self.queues.doorbell
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_core_gets_its_job_back_when_all_are_outstanding() {
        let (mut core, house) = port::<u32, u32>(2).unwrap();
        assert_eq!(core.request(1), Ok(()));
        assert_eq!(core.request(2), Ok(()));
        assert_eq!(core.request(3), Err(3));
        let job = house.try_next().unwrap();
        assert_eq!(core.request(3), Err(3), "a job in the thread's hands is outstanding");
        house.done(job * 10);
        assert_eq!(core.request(3), Err(3), "an answer that nobody took is outstanding");
        assert_eq!(core.next_done(), Some(10));
        assert_eq!(core.request(3), Ok(()));
    }

    #[test]
    fn a_ring_before_the_wait_is_not_lost_and_counts_once() {
        let doorbell = Doorbell::new();
        doorbell.ring();
        doorbell.ring();
        assert!(doorbell.wait(Duration::from_secs(60)));
        let begun = Instant::now();
        assert!(!doorbell.wait(Duration::from_millis(5)));
        assert!(begun.elapsed() >= Duration::from_millis(5));
    }

    #[test]
    fn one_thread_serves_two_ports() {
        let doorbell = Doorbell::new();
        let (mut first, first_house) = port_at::<u32, u32>(1, &doorbell).unwrap();
        let (mut second, second_house) = port_at::<u32, u32>(1, &doorbell).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut served = 0;
                while served < 200 {
                    for house in [&first_house, &second_house] {
                        if let Some(job) = house.try_next() {
                            house.done(job + 1);
                            served += 1;
                        }
                    }
                    if served < 200 {
                        doorbell.wait(Duration::from_secs(60));
                    }
                }
            });
            for job in 0..100 {
                for core in [&mut first, &mut second] {
                    core.request(job).unwrap();
                }
                for core in [&mut first, &mut second] {
                    let done = std::iter::repeat_with(|| core.next_done()).find_map(|done| {
                        std::thread::yield_now();
                        done
                    });
                    assert_eq!(done, Some(job + 1));
                }
            }
        });
    }

    #[test]
    fn a_stop_flag_is_seen_without_a_ring() {
        let (_core, house) = port::<u32, u32>(1).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| house.next(&stop));
            stop.store(true, Ordering::Release);
            assert_eq!(waiting.join().unwrap(), None);
        });
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::thread;

    /// Jobs of one core to a sleeping thread and their answers back, with fewer places than jobs: nothing is lost, doubled or
    /// held by two at once, the counter holds, and both sides always wake (else: deadlock).
    #[test]
    fn loom_jobs_and_answers_change_hands() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            const JOBS: usize = 2;
            let (mut core, house) = port::<Box<usize>, Box<usize>>(1).unwrap();
            let thread = thread::spawn(move || {
                let stop = AtomicBool::new(false);
                for _ in 0..JOBS {
                    let job = house.next(&stop).unwrap();
                    house.done(Box::new(*job + 10));
                }
            });
            let mut asked = 0;
            let mut answered = 0;
            while answered < JOBS {
                while asked < JOBS && core.request(Box::new(asked)).is_ok() {
                    asked += 1;
                }
                assert_eq!(core.wake().wait(), DONE);
                while let Some(done) = core.next_done() {
                    assert_eq!(*done, answered + 10);
                    answered += 1;
                }
            }
            thread.join().unwrap();
        });
    }

    /// A stop flag followed by a ring always ends the wait.
    #[test]
    fn loom_a_stop_with_a_ring_is_seen() {
        loom::model(|| {
            let (_core, house) = port::<u32, u32>(1).unwrap();
            let stop = Arc::new(AtomicBool::new(false));
            let doorbell = house.doorbell().clone();
            let waiting = {
                let stop = stop.clone();
                thread::spawn(move || house.next(&stop))
            };
            stop.store(true, Ordering::Release);
            doorbell.ring();
            assert_eq!(waiting.join().unwrap(), None);
        });
    }

    /// Two cores ring one doorbell: the thread, which looks at both ports before it sleeps, misses neither.
    #[test]
    fn loom_a_shared_doorbell_loses_no_ring() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let doorbell = Doorbell::new();
            let ports = [port_at::<u32, u32>(1, &doorbell).unwrap(), port_at::<u32, u32>(1, &doorbell).unwrap()];
            let mut houses = Vec::new();
            let mut cores = Vec::new();
            for (mut core, house) in ports {
                houses.push(house);
                cores.push(thread::spawn(move || core.request(7).unwrap()));
            }
            let mut taken = 0;
            while taken < 2 {
                taken += houses.iter().filter(|house| house.try_next().is_some()).count();
                if taken < 2 {
                    doorbell.wait(STOP_CHECK);
                }
            }
            cores.into_iter().for_each(|core| core.join().unwrap());
        });
    }
}
