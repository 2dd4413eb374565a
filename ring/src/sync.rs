//! The primitives that the threads of a process meet on, and their models for `loom`.
//!
//! [`crate::wake`] and [`crate::port`] are written against this module only, so that the code which the model checker explores
//! is the code which runs. In production: the atomics of `std`, crossbeam's `ArrayQueue`, an eventfd and a futex. Under
//! `--cfg loom`: loom's atomics, a queue that orders no more than it must, and the two kernel objects as monitors.

#[cfg(not(loom))]
pub(crate) use real::*;

#[cfg(loom)]
pub(crate) use model::*;

#[cfg(not(loom))]
mod real {
    pub(crate) use crossbeam::queue::ArrayQueue;
    pub(crate) use std::sync::Arc;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
    use std::time::Duration;

    /// A counter in the kernel that the ring reads and that any thread, or a signal handler, may increment.
    #[derive(Debug)]
    pub(crate) struct EventFd(OwnedFd);

    impl EventFd {
        pub(crate) fn new() -> std::io::Result<EventFd> {
            // Blocking on purpose: io_uring arms a poll for a read of a blocking eventfd, and fails that of a non-blocking
            // one with EAGAIN.
            // SAFETY: takes no pointer.
            let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
            if fd < 0 {
                return Err(std::io::Error::last_os_error());
            }
            // SAFETY: a new descriptor that nobody else owns.
            Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }))
        }

        /// Takes the count away; there is one.
        pub(crate) fn clear(&self) {
            let mut count = [0u8; 8];
            // SAFETY: writes eight bytes into a live array.
            let read = unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
            assert_eq!(read, 8, "an eventfd that is readable gave nothing: {}", std::io::Error::last_os_error());
        }

        pub(crate) fn signal(&self) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: writes eight bytes from a live array.
            let written = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
            assert_eq!(written, 8, "an eventfd refused an increment: {}", std::io::Error::last_os_error());
        }
    }

    impl AsRawFd for EventFd {
        fn as_raw_fd(&self) -> RawFd {
            self.0.as_raw_fd()
        }
    }

    /// A word that a thread can sleep on.
    #[derive(Debug)]
    pub(crate) struct FutexWord {
        pub(crate) value: AtomicU32,
    }

    impl FutexWord {
        pub(crate) fn new(value: u32) -> FutexWord {
            FutexWord { value: AtomicU32::new(value) }
        }

        /// Sleeps while the word holds `expected`, at most for `limit`; may wake for no reason.
        pub(crate) fn sleep_while(&self, expected: u32, limit: Duration) {
            let limit = libc::timespec {
                tv_sec: limit.as_secs().try_into().unwrap_or(libc::time_t::MAX),
                tv_nsec: limit.subsec_nanos().into(),
            };
            // SAFETY: the word and the time live through the call.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.value.as_ptr(),
                    libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                    expected,
                    &raw const limit,
                )
            };
            if result != 0 {
                let error = std::io::Error::last_os_error();
                let expected = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR | libc::ETIMEDOUT));
                assert!(expected, "futex wait: {error}");
            }
        }

        pub(crate) fn wake_one(&self) {
            // SAFETY: the word lives through the call; a wake reads nothing else.
            let result = unsafe {
                libc::syscall(libc::SYS_futex, self.value.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1)
            };
            assert!(result >= 0, "futex wake: {}", std::io::Error::last_os_error());
        }
    }
}

#[cfg(loom)]
mod model {
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

    use loom::cell::UnsafeCell;
    use loom::sync::{Condvar, Mutex};
    use std::mem::MaybeUninit;
    use std::time::Duration;

    /// An eventfd: a counter and those who wait for it to be more than nothing.
    #[derive(Debug)]
    pub(crate) struct EventFd {
        count: Mutex<u64>,
        changed: Condvar,
    }

    impl EventFd {
        pub(crate) fn new() -> std::io::Result<EventFd> {
            Ok(EventFd { count: Mutex::new(0), changed: Condvar::new() })
        }

        pub(crate) fn signal(&self) {
            *self.count.lock().unwrap() += 1;
            self.changed.notify_one();
        }

        /// The read that the reactor keeps in its ring.
        pub(crate) fn read(&self) -> u64 {
            let mut count = self.count.lock().unwrap();
            while *count == 0 {
                count = self.changed.wait(count).unwrap();
            }
            std::mem::take(&mut *count)
        }
    }

    /// A futex: comparing and going to sleep are one step with respect to a wake.
    #[derive(Debug)]
    pub(crate) struct FutexWord {
        pub(crate) value: AtomicU32,
        lock: Mutex<()>,
        woken: Condvar,
    }

    impl FutexWord {
        pub(crate) fn new(value: u32) -> FutexWord {
            FutexWord { value: AtomicU32::new(value), lock: Mutex::new(()), woken: Condvar::new() }
        }

        /// Without the limit: a sleeper that only a time-out could wake is a deadlock here, and loom reports it.
        pub(crate) fn sleep_while(&self, expected: u32, _limit: Duration) {
            let guard = self.lock.lock().unwrap();
            if self.value.load(Ordering::SeqCst) == expected {
                drop(self.woken.wait(guard).unwrap());
            }
        }

        pub(crate) fn wake_one(&self) {
            drop(self.lock.lock().unwrap());
            self.woken.notify_one();
        }
    }

    /// A bounded queue between two threads that orders a push before its pop and nothing else (crossbeam's orders more). The
    /// cells are loom's, so that an element which two threads hold at once is reported as the race that it would be.
    #[derive(Debug)]
    pub(crate) struct ArrayQueue<T> {
        cells: Vec<UnsafeCell<MaybeUninit<T>>>,
        head: AtomicUsize,
        tail: AtomicUsize,
    }

    // SAFETY: a cell is touched by the pusher before the release of `tail` and by the popper after its acquire only.
    unsafe impl<T: Send> Sync for ArrayQueue<T> {}
    // SAFETY: owns its elements.
    unsafe impl<T: Send> Send for ArrayQueue<T> {}

    impl<T> ArrayQueue<T> {
        pub(crate) fn new(capacity: usize) -> ArrayQueue<T> {
            let cells = (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
            ArrayQueue { cells, head: AtomicUsize::new(0), tail: AtomicUsize::new(0) }
        }

        pub(crate) fn push(&self, value: T) -> Result<(), T> {
            let tail = self.tail.load(Ordering::Relaxed);
            if tail - self.head.load(Ordering::Acquire) == self.cells.len() {
                return Err(value);
            }
            self.cells[tail % self.cells.len()].with_mut(|cell| {
                // SAFETY: empty, as the queue is not full; this thread is the only pusher.
                unsafe { (*cell).write(value) };
            });
            self.tail.store(tail + 1, Ordering::Release);
            Ok(())
        }

        pub(crate) fn pop(&self) -> Option<T> {
            let head = self.head.load(Ordering::Relaxed);
            if head == self.tail.load(Ordering::Acquire) {
                return None;
            }
            let value = self.cells[head % self.cells.len()].with_mut(|cell| {
                // SAFETY: filled, as head is behind tail; this thread is the only popper.
                unsafe { (*cell).assume_init_read() }
            });
            self.head.store(head + 1, Ordering::Release);
            Some(value)
        }
    }
}
