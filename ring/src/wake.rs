//! Waking a core from another thread.
//!
//! A core that is awake looks at one word whenever it looks at its completions, so that waking it costs no system call on either
//! side. One that goes to sleep says so in the same word; whoever then signals first writes to an eventfd, of which the core
//! keeps a read in its ring: a completion, which ends the sleep. May touch: that word and the eventfd. Called by: the reactor
//! ([`WakeState::has_reasons`], [`WakeState::may_sleep`], [`WakeState::awake`], [`WakeState::take`]), everybody else
//! ([`Waker::wake`], also from a signal handler).
//!
//! # Why no wake is lost
//! Both sides change the word by read-modify-writes only. A signal either comes before the core's [`WakeState::may_sleep`],
//! which then sees it and says no; or it comes after, and finds that the core sleeps. Of those that do, the first writes to the
//! eventfd; the others find its reason beside the mark, which the core takes away together with the reasons. A core that wakes
//! up for another cause takes the mark away alone: a signal that saw it has then left a count in the eventfd that ends a later
//! sleep too early, which is all that it does.

use crate::sync::{Arc, AtomicU32, EventFd, Ordering};

/// Somebody called [`Waker::wake`].
pub(crate) const WOKEN: u32 = 1;
/// The housekeeping thread put an answer into its queue.
pub(crate) const DONE: u32 = 2;
/// The log-writer thread put an answer into its queue.
pub(crate) const WRITTEN: u32 = 4;
/// The log-writer thread panicked.
pub(crate) const WRITER_GONE: u32 = 8;
/// No reason, but the mark of a core that sleeps in the kernel, or is about to.
const SLEEPS: u32 = 1 << 31;

#[derive(Debug)]
pub(crate) struct WakeState {
    word: AtomicU32,
    event: EventFd,
}

impl WakeState {
    pub(crate) fn new() -> std::io::Result<WakeState> {
        Ok(WakeState { word: AtomicU32::new(0), event: EventFd::new()? })
    }

    /// Wakes the core, for `reason`. What the caller wrote before is seen by who takes the reason.
    pub(crate) fn signal(&self, reason: u32) {
        if self.word.fetch_or(reason, Ordering::AcqRel) == SLEEPS {
            self.event.signal();
        }
    }

    /// On the core: whether there is something to take. Cheap, for each look at the completions.
    pub(crate) fn has_reasons(&self) -> bool {
        self.word.load(Ordering::Relaxed) & !SLEEPS != 0
    }

    /// On the core, before it sleeps: whether it may, as there is nothing to take. From now on signals write to the eventfd.
    pub(crate) fn may_sleep(&self) -> bool {
        self.word.fetch_or(SLEEPS, Ordering::AcqRel) == 0
    }

    /// On the core, after it slept: signals need not write to the eventfd any more.
    pub(crate) fn awake(&self) {
        self.word.fetch_and(!SLEEPS, Ordering::AcqRel);
    }

    /// On the core: all reasons since the last call.
    pub(crate) fn take(&self) -> u32 {
        self.word.swap(0, Ordering::AcqRel) & !SLEEPS
    }

    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Sleeps until there are reasons, as a reactor does that has nothing else in its ring.
    #[cfg(all(test, loom))]
    pub(crate) fn wait(&self) -> u32 {
        loop {
            if self.may_sleep() {
                self.event.read();
                self.awake();
            }
            match self.take() {
                0 => {}
                reasons => return reasons,
            }
        }
    }
}

/// Wakes a reactor out of its wait: its next poll returns [`crate::Event::Woken`]. Cheap to clone, usable from any thread and
/// from a signal handler, and harmless once the reactor is gone.
#[derive(Clone, Debug)]
pub struct Waker {
    state: Arc<WakeState>,
}

impl Waker {
    pub(crate) fn new(state: Arc<WakeState>) -> Waker {
        Waker { state }
    }

    /// Wakes the reactor, or keeps it from going to sleep. What the caller wrote before is seen by who handles the event.
    pub fn wake(&self) {
        self.state.signal(WOKEN);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    fn count(state: &WakeState) -> u64 {
        let mut bytes = [0u8; 8];
        // SAFETY: reads eight bytes into a live array; the caller made sure that the counter is not zero.
        let read = unsafe { libc::read(state.event().as_raw_fd(), bytes.as_mut_ptr().cast(), 8) };
        assert_eq!(read, 8);
        u64::from_ne_bytes(bytes)
    }

    #[test]
    fn wakes_of_a_sleeping_core_cost_one_write_and_keep_their_reasons() {
        let state = Arc::new(WakeState::new().unwrap());
        assert!(state.may_sleep());
        Waker::new(state.clone()).wake();
        state.signal(DONE);
        Waker::new(state.clone()).wake();
        assert_eq!(count(&state), 1);
        assert_eq!(state.take(), WOKEN | DONE);
        assert!(state.may_sleep());
        state.signal(WRITTEN);
        assert_eq!(count(&state), 1);
        assert_eq!(state.take(), WRITTEN);
        assert_eq!(state.take(), 0);
    }

    #[test]
    fn a_core_that_is_awake_is_woken_without_a_write_and_does_not_fall_asleep() {
        let state = WakeState::new().unwrap();
        assert!(state.may_sleep());
        state.awake();
        assert!(!state.has_reasons());
        state.signal(DONE);
        assert!(state.has_reasons());
        assert!(!state.may_sleep());
        assert_eq!(state.take(), DONE);
        // The one write that there is comes from here: a count of two would be an earlier one, too.
        assert!(state.may_sleep());
        state.signal(DONE);
        assert_eq!(count(&state), 1);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::thread;
    use std::sync::atomic::Ordering::Relaxed;

    /// Two threads publish a value each and wake; the core reads the eventfd, takes, and looks, until it saw both. A lost wake
    /// would leave it reading for ever, which loom reports as a deadlock.
    #[test]
    fn loom_no_wake_is_lost() {
        loom::model(|| {
            let state = Arc::new(WakeState::new().unwrap());
            let published = [Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0))];
            let threads: Vec<_> = published
                .iter()
                .zip([WOKEN, DONE])
                .map(|(value, reason)| {
                    let (value, state) = (value.clone(), state.clone());
                    thread::spawn(move || {
                        value.store(1, Relaxed);
                        state.signal(reason);
                    })
                })
                .collect();
            // The first sleep ends for another cause, with the eventfd not read.
            state.may_sleep();
            state.awake();
            let mut seen = 0;
            while seen != WOKEN | DONE {
                let reasons = state.wait();
                for (value, reason) in published.iter().zip([WOKEN, DONE]) {
                    if reasons & reason != 0 {
                        assert_eq!(value.load(Relaxed), 1, "the reason came before what it announces");
                    }
                }
                seen |= reasons;
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(state.take(), 0);
        });
    }
}
