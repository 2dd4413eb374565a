//! The log-writer threads: durable writes by `pwritev2(RWF_DSYNC)` on threads of the pipeline's own.
//!
//! An `io_uring` write with RWF_DSYNC ends in a kernel worker on the CPU of the disk's interrupt, and whoever spins or yields
//! there starves it. A thread of its own, best on that very CPU and in a real-time class, is scheduled before them: the robust
//! way where cores are contended; the ring is the lean one where they are not (tuning.md has both measured).
//!
//! Two bounded queues with room for every write that a reactor may have in flight lead there and back, see [`crate::port`]. The
//! thread never polls: it sleeps on a futex, or in the write. Errors and short writes come back as the kernel told them, and the
//! reactor treats them as it treats those of its ring. Called by: the reactors. May touch: the bytes of a write and its file,
//! both of which the thread keeps alive by itself.

use crate::arena::Mapping;
use crate::delay::Delay;
use crate::port::{HousePort, Port};
use crate::settings::{LogThread, WRITES_MAX};
use crate::wake::WRITER_GONE;
use crate::writes::Write;
use crate::{BlockFile, IoError};
use rustix::thread::CpuSet;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

/// The real-time priority that the thread asks for: above all that is in the normal class, below the kernel's own threads (50).
pub const LOG_THREAD_PRIORITY: i32 = 10;

/// A write to carry out.
struct Job {
    place: u8,
    file: Arc<dyn BlockFile>,
    offset: u64,
    address: *const u8,
    len: u32,
}

// SAFETY: the address points into the log arena, of which the thread holds a reference, to bytes that do not change until the
// write's completion was reaped (the rule of `Io`): any thread may read them.
unsafe impl Send for Job {}

/// How a write ended: bytes, or a negative errno, as in a completion of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) place: u8,
    pub(crate) result: i32,
}

/// What the kernel let the log-writer thread have; an errno where it refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogThreadGot {
    /// Its number in the kernel, as `chrt` and `taskset` take it.
    pub thread_id: i32,
    /// Whether it runs on the CPUs that it was to run on, if any were named.
    pub cpus: Result<(), i32>,
    /// Whether it is in the real-time class SCHED_FIFO, at [`LOG_THREAD_PRIORITY`].
    pub real_time: Result<(), i32>,
}

/// The reactor's end.
struct Writer {
    port: Port<Job, Done>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    got: LogThreadGot,
    running: usize,
    /// It panicked.
    gone: bool,
}

impl Writer {
    /// Starts the thread. It keeps the arena mapped for as long as it lives.
    fn start<J, D>(settings: LogThread, arena: Arc<Mapping>, beside: &Port<J, D>) -> Result<Writer, IoError> {
        let (port, house) = beside.beside(WRITES_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, told) = mpsc::sync_channel(1);
        let thread = Thread { house, stop: stop.clone(), delay: Delay::of_process(), _arena: arena };
        let spawned = std::thread::Builder::new().name("synod-log".into()).spawn(move || {
            let prepared = prepare(settings.cpus);
            // Nobody listens any more only if the reactor is gone; then the stop flag is set.
            let _listens = tell.send(prepared);
            thread.run();
        });
        let system = |source| IoError::System { call: "starting the log-writer thread", source };
        let handle = spawned.map_err(system)?;
        let got = told.recv().map_err(|_| system(std::io::Error::other("it ended at once")))?;
        Ok(Writer { port, stop, thread: Some(handle), got, running: 0, gone: false })
    }

    fn got(&self) -> LogThreadGot {
        self.got
    }

    /// Hands a write over. The table of writes bounds their number.
    fn write(&mut self, place: u8, write: Write, file: Arc<dyn BlockFile>) {
        self.running += 1;
        let job = Job { place, file, offset: write.offset, address: write.address, len: write.len };
        assert!(self.port.request(job).is_ok(), "more than WRITES_MAX log writes at the writer's");
    }

    /// The next write that ended.
    fn next_done(&mut self) -> Option<Done> {
        let done = self.port.next_done()?;
        self.running -= 1;
        Some(done)
    }

    /// Writes that are still to come back; an error if they never will.
    fn running(&self) -> Result<usize, IoError> {
        if self.gone && self.running > 0 { Err(gone()) } else { Ok(self.running) }
    }

    /// The thread told that it panics. Its writes never come back.
    fn is_gone(&mut self) -> IoError {
        self.gone = true;
        gone()
    }

    /// Ends the thread, which must have nothing to do, and waits for its end: then its files are closed.
    fn stop(&mut self) -> Result<(), IoError> {
        self.tell_to_stop();
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(gone()),
        }
    }

    fn tell_to_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.port.ring();
    }
}

/// The log-writer threads of a reactor.
pub(crate) struct Writers(Vec<Writer>);

impl Writers {
    /// So many of them. They ask for the same, and each keeps the arena mapped for as long as it lives.
    pub(crate) fn start<J, D>(
        count: usize,
        thread: LogThread,
        arena: &Arc<Mapping>,
        beside: &Port<J, D>,
    ) -> Result<Writers, IoError> {
        let started = (0..count).map(|_| Writer::start(thread, arena.clone(), beside));
        started.collect::<Result<_, _>>().map(Writers)
    }

    /// None at all.
    pub(crate) fn none() -> Writers {
        Writers(Vec::new())
    }

    pub(crate) fn got(&self) -> Option<LogThreadGot> {
        self.0.first().map(Writer::got)
    }

    /// Hands a write to the thread that has the fewest.
    pub(crate) fn write(&mut self, place: u8, write: Write, file: Arc<dyn BlockFile>) {
        let idlest = self.0.iter_mut().min_by_key(|writer| writer.running);
        idlest.expect("a route that there are threads for").write(place, write, file);
    }

    /// The next write that ended.
    pub(crate) fn next_done(&mut self) -> Option<Done> {
        self.0.iter_mut().find_map(Writer::next_done)
    }

    /// Writes that are still to come back; an error if they never will.
    pub(crate) fn running(&self) -> Result<usize, IoError> {
        self.0.iter().map(Writer::running).sum()
    }

    /// One of them told that it panics. Whichever it was: nothing is written any more.
    pub(crate) fn is_gone(&mut self) -> Result<(), IoError> {
        self.0.iter_mut().map(Writer::is_gone).last().map_or(Ok(()), Err)
    }

    /// Ends the threads, which must have nothing to do, and waits for their ends: then their files are closed.
    pub(crate) fn stop(&mut self) -> Result<(), IoError> {
        self.0.iter_mut().try_for_each(Writer::stop)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A thread that hangs in a write is left to itself: what it touches it keeps alive.
        self.tell_to_stop();
    }
}

fn gone() -> IoError {
    IoError::System { call: "the log-writer thread", source: std::io::Error::other("it panicked") }
}

struct Thread {
    house: HousePort<Job, Done>,
    stop: Arc<AtomicBool>,
    delay: Delay,
    _arena: Arc<Mapping>,
}

impl Thread {
    fn run(&self) {
        while let Some(job) = self.house.next(&self.stop) {
            self.delay.hold(&self.stop);
            let result = write_durably(&job);
            let Job { place, file, .. } = job;
            // Let go before the answer: with the last answer of a file, nobody but the reactor holds it.
            drop(file);
            self.house.done(Done { place, result });
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.house.signal(WRITER_GONE);
        }
    }
}

/// Moves the calling thread to its CPUs and into its class, as far as the kernel lets it.
fn prepare(cpus: Option<CpuSet>) -> LogThreadGot {
    let cpus = cpus
        .map_or(Ok(()), |cpus| rustix::thread::sched_setaffinity(None, &cpus).map_err(rustix::io::Errno::raw_os_error));
    let parameter = libc::sched_param { sched_priority: LOG_THREAD_PRIORITY };
    // SAFETY: reads one live parameter; 0 is the calling thread.
    let class = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) };
    let real_time = if class == 0 { Ok(()) } else { Err(last_errno()) };
    LogThreadGot { thread_id: rustix::thread::gettid().as_raw_nonzero().get(), cpus, real_time }
}

/// Writes, and returns when the bytes are on stable storage: one call where the file takes it, else a write and an `fdatasync`.
fn write_durably(job: &Job) -> i32 {
    let Some(file) = job.file.descriptor() else { return -libc::EBADF };
    let Ok(offset) = libc::off_t::try_from(job.offset) else { return -libc::EINVAL };
    let piece = libc::iovec { iov_base: job.address.cast_mut().cast(), iov_len: job.len as usize };
    let write = |flags| {
        // SAFETY: the bytes lie in the arena that this thread keeps mapped, and stay unchanged until the completion (see `Job`).
        let written = unsafe { libc::pwritev2(file.as_raw_fd(), &raw const piece, 1, offset, flags) };
        // No write is longer than 31 bits: its length came from 32, and the kernel caps at less.
        i32::try_from(written).ok().filter(|bytes| *bytes >= 0).unwrap_or_else(|| -last_errno())
    };
    let result = write(libc::RWF_DSYNC);
    if result != -libc::EOPNOTSUPP {
        return result;
    }
    let written = write(0);
    // SAFETY: takes no pointer.
    let sync = || unsafe { libc::fdatasync(file.as_raw_fd()) };
    if written < 0 || sync() == 0 {
        return written;
    }
    // Told like any other error, and never tried again. That nothing happened is not said of a sync, whatever it was.
    match last_errno() {
        libc::EINTR | libc::EAGAIN => -libc::EIO,
        errno => -errno,
    }
}

fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
