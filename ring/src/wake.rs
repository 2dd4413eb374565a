//! Waking a core from another thread.
//!
//! The core keeps a read of an eventfd in its ring, so that a wake is one more completion, in whichever way it waits. Several
//! wakes that come before the core looked are one: only the first writes to the eventfd. May touch: one atomic word and the
//! eventfd. Called by: the reactor ([`WakeState::take`]), everybody else ([`Waker::wake`], also from a signal handler).
//!
//! # Why no wake is lost
//! `reasons` is non-zero from a first signal until the core takes it, and each such period has exactly one write of the
//! eventfd, which the core reads before it takes. Both sides change `reasons` by read-modify-writes, so a signal either comes
//! before a take, which then sees it and all that its thread wrote before, or after it, and then it writes the eventfd again.

use crate::sync::{Arc, AtomicU32, EventFd, Ordering};

/// Somebody called [`Waker::wake`].
pub(crate) const WOKEN: u32 = 1;
/// The housekeeping thread put an answer into its queue.
pub(crate) const DONE: u32 = 2;

#[derive(Debug)]
pub(crate) struct WakeState {
    reasons: AtomicU32,
    event: EventFd,
}

impl WakeState {
    pub(crate) fn new() -> std::io::Result<WakeState> {
        Ok(WakeState { reasons: AtomicU32::new(0), event: EventFd::new()? })
    }

    /// Wakes the core, for `reason`.
    pub(crate) fn signal(&self, reason: u32) {
        if self.reasons.fetch_or(reason, Ordering::AcqRel) == 0 {
            self.event.signal();
        }
    }

    /// On the core, after the eventfd was read: all reasons since the last call.
    pub(crate) fn take(&self) -> u32 {
        self.reasons.swap(0, Ordering::AcqRel)
    }

    pub(crate) fn event(&self) -> &EventFd {
        &self.event
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
    fn wakes_before_a_look_cost_one_write_and_keep_their_reasons() {
        let state = Arc::new(WakeState::new().unwrap());
        Waker::new(state.clone()).wake();
        state.signal(DONE);
        Waker::new(state.clone()).wake();
        assert_eq!(count(&state), 1);
        assert_eq!(state.take(), WOKEN | DONE);
        state.signal(DONE);
        assert_eq!(count(&state), 1);
        assert_eq!(state.take(), DONE);
        assert_eq!(state.take(), 0);
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
            let mut seen = 0;
            while seen != WOKEN | DONE {
                state.event().read();
                let reasons = state.take();
                assert_ne!(reasons, 0, "the eventfd was written without a reason");
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
