//! The clocks, as plain nanoseconds. Called by the reactor: once after each reaping, and while it waits; and by who gives way.

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec into a live local.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(result, 0, "clock_gettime: {}", std::io::Error::last_os_error());
    let seconds = u64::try_from(time.tv_sec).expect("a clock before its epoch");
    let nanoseconds = u64::try_from(time.tv_nsec).expect("a clock within a second");
    seconds * 1_000_000_000 + nanoseconds
}

/// Nanoseconds of a clock that only goes forward. Answered in user space (vDSO).
pub(crate) fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds that this thread has run for. A system call.
pub(crate) fn thread_ran_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Nanoseconds since the Unix epoch. As the first.
pub(crate) fn wall_ns() -> u64 {
    read(libc::CLOCK_REALTIME)
}

/// The kernel's form of a span of time.
pub(crate) fn timespec(ns: u64) -> libc::timespec {
    libc::timespec { tv_sec: (ns / 1_000_000_000) as libc::time_t, tv_nsec: (ns % 1_000_000_000) as libc::c_long }
}
