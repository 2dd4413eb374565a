//! The ring and the one system call of a turn.
//!
//! Wraps `io_uring::IoUring` for what that crate does not keep for us: a registered ring descriptor, and entering with the
//! flags of our choice. Called by: the reactor. May touch: the ring.

use crate::IoError;
use crate::clock;
use io_uring::cqueue::Entry as Completion;
use io_uring::squeue::Entry as Submission;
use io_uring::{EnterFlags, IoUring, Submitter};
use std::os::fd::AsRawFd;

/// From `linux/io_uring.h`.
const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;

/// Entries of the kernel in a row that took none of the queued submissions, for want of memory, before that is an error.
const STALLS_MAX: u32 = 1_000;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RingUpdate {
    offset: u32,
    reserved: u32,
    fd: u64,
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct WaitArgument {
    signals: u64,
    signals_bytes: u32,
    min_wait_us: u32,
    timeout: *const libc::timespec,
}

/// The longest that one entry waits. The kernel adds the time-out to its clock: nothing is asked of its arithmetic near the end
/// of 64 bits, where "no deadline" lies.
const WAIT_MAX_NS: u64 = 3_600_000_000_000;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

pub(super) struct Ring {
    ring: IoUring,
    /// The ring's index in the thread's table of registered rings.
    registered: Option<u32>,
    stalls: u32,
    pub(super) enters: u64,
    pub(super) blocks: u64,
}

impl Ring {
    /// Registers the ring's descriptor with this thread. A kernel that refuses costs a file look-up for each entry, no more.
    pub(super) fn new(ring: IoUring) -> Ring {
        let mut update = RingUpdate { offset: u32::MAX, reserved: 0, fd: ring.as_raw_fd() as u64 };
        // SAFETY: reads and writes one live update.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                ring.as_raw_fd(),
                REGISTER_RING_FDS,
                &raw mut update,
                1 as libc::c_uint,
            )
        };
        let registered = (done == 1).then_some(update.offset);
        Ring { ring, registered, stalls: 0, enters: 0, blocks: 0 }
    }

    pub(super) fn is_registered(&self) -> bool {
        self.registered.is_some()
    }

    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.ring.submitter()
    }

    pub(super) fn sq_entries(&self) -> u32 {
        self.ring.params().sq_entries()
    }

    /// Queues a submission.
    ///
    /// # Safety
    /// What the entry points to must stay valid, and for reads unchanged, for as long as the kernel may use it.
    pub(super) unsafe fn push(&mut self, entry: &Submission) -> Result<(), Full> {
        // SAFETY: as the caller promised.
        unsafe { self.ring.submission().push(entry) }.map_err(|_| Full)
    }

    /// Submissions that the kernel has not taken yet.
    pub(super) fn queued(&mut self) -> u32 {
        self.ring.submission().len() as u32
    }

    pub(super) fn is_full(&mut self) -> bool {
        self.ring.submission().is_full()
    }

    pub(super) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Takes the next completion out.
    pub(super) fn next(&mut self) -> Option<Completion> {
        self.ring.completion().next()
    }

    /// Whether entering the kernel would do something: submit, run the completions' second half, flush an overflow.
    pub(super) fn wants_enter(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Submits all that is queued and runs completions.
    pub(super) fn enter(&mut self) -> Result<(), IoError> {
        self.call(0, EnterFlags::GETEVENTS, std::ptr::null(), 0)
    }

    /// The same, then waits for a completion, for `timeout_ns` at most. May return early, without one.
    pub(super) fn enter_and_wait(&mut self, timeout_ns: u64) -> Result<(), IoError> {
        self.blocks += 1;
        let timeout = clock::timespec(timeout_ns.min(WAIT_MAX_NS));
        let argument = WaitArgument { signals: 0, signals_bytes: 0, min_wait_us: 0, timeout: &raw const timeout };
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        self.call(1, flags, (&raw const argument).cast(), size_of::<WaitArgument>())
    }

    fn call(
        &mut self,
        want: u32,
        flags: EnterFlags,
        argument: *const libc::c_void,
        argument_bytes: usize,
    ) -> Result<(), IoError> {
        let queued = self.queued();
        let (fd, flags) = match self.registered {
            Some(index) => (index as i32, flags | EnterFlags::REGISTERED_RING),
            None => (self.ring.as_raw_fd(), flags),
        };
        self.enters += 1;
        // SAFETY: the queued submissions are valid as `push` was promised; the argument is null or lives through the call.
        let result = unsafe {
            libc::syscall(libc::SYS_io_uring_enter, fd, queued, want, flags.bits(), argument, argument_bytes)
        };
        let error = (result < 0).then(std::io::Error::last_os_error);
        let took_some = queued == 0 || self.queued() < queued;
        self.judge(error, took_some)
    }

    /// Tells what only postpones (a signal, a time-out, no memory just now, completions to take first) from what is broken.
    fn judge(&mut self, error: Option<std::io::Error>, took_some: bool) -> Result<(), IoError> {
        self.stalls = if took_some { 0 } else { self.stalls + 1 };
        let stalled = self.stalls >= STALLS_MAX;
        let Some(source) = error.or_else(|| stalled.then(|| std::io::Error::from_raw_os_error(libc::EAGAIN))) else {
            return Ok(());
        };
        let postpones = matches!(
            source.raw_os_error(),
            Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY | libc::ENOMEM)
        );
        if postpones && !stalled {
            return Ok(());
        }
        Err(IoError::System { call: "io_uring_enter", source })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let Some(index) = self.registered else { return };
        // The thread's table holds the ring open: without this it would live as long as the thread.
        let mut update = RingUpdate { offset: index, reserved: 0, fd: 0 };
        // SAFETY: reads one live update.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.ring.as_raw_fd(),
                UNREGISTER_RING_FDS,
                &raw mut update,
                1 as libc::c_uint,
            )
        };
        assert_eq!(done, 1, "a registered ring could not be unregistered: {}", std::io::Error::last_os_error());
    }
}
