//! A host that refuses: what is called in a node's process between fork and exec, so that the node finds less than this host has.
//! Only async-signal-safe calls, and nothing is allocated: errors are made from the errno.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What a process does to itself before it is the program.
pub type Restriction = fn() -> io::Result<()>;

/// Debian's user and group of those who own nothing.
const NOBODY: libc::uid_t = 65_534;
/// RLIMIT_MEMLOCK as Linux sets it since 5.16.
const MEMLOCK_BYTES: libc::rlim_t = 8 << 20;

/// Where `struct seccomp_data` has the system call's number, and the lower half of its third argument.
const NUMBER: u32 = 0;
const THIRD_ARGUMENT: u32 = if cfg!(target_endian = "little") { 32 } else { 36 };

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn step(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

const fn errno(errno: i32) -> libc::sock_filter {
    step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32)
}

const ALLOW: libc::sock_filter = step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);

/// As a container's seccomp profile does: `io_uring_setup` is EPERM.
pub fn io_uring() -> io::Result<()> {
    filter(&[
        step(LOAD, 0, 0, NUMBER),
        step(IF_EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
        errno(libc::EPERM),
        ALLOW,
    ])
}

/// As a file system without direct reads and writes does: to open with O_DIRECT is EINVAL.
pub fn direct_io() -> io::Result<()> {
    filter(&[
        step(LOAD, 0, 0, NUMBER),
        step(IF_EQUAL, 0, 3, libc::SYS_openat as u32),
        step(LOAD, 0, 0, THIRD_ARGUMENT),
        step(IF_SET, 0, 1, libc::O_DIRECT as u32),
        errno(libc::EINVAL),
        ALLOW,
    ])
}

/// As `prctl` takes them.
const YES: libc::c_ulong = 1;
const NO: libc::c_ulong = 0;

fn filter(steps: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_ptr().cast_mut() };
    // SAFETY: takes no pointer. Without privileges a filter needs it.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, YES, NO, NO, NO) })?;
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: reads a live program of that many steps.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) })
}

/// As for anyone on a host: nobody's process, with the limits that there are without asking. Needs root, or changes the limits alone.
pub fn privileges() -> io::Result<()> {
    for (what, most) in [(libc::RLIMIT_MEMLOCK, MEMLOCK_BYTES), (libc::RLIMIT_RTPRIO, 0)] {
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: reads a live limit.
        check(unsafe { libc::setrlimit(what, &raw const limit) })?;
    }
    // The calls themselves: the C library's would look for this process's other threads.
    // SAFETY: take no pointer that is followed: there are no groups.
    unsafe {
        if libc::syscall(libc::SYS_geteuid) == 0 {
            check(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) as i32)?;
            check(libc::syscall(libc::SYS_setgid, NOBODY) as i32)?;
            check(libc::syscall(libc::SYS_setuid, NOBODY) as i32)?;
        }
    }
    Ok(())
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives nobody a directory with all that is in it, where this process may.
pub fn give_to_nobody(path: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("give a file away");
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("list a directory") {
            give_to_nobody(&entry.expect("an entry of a directory").path());
        }
    }
}

/// Whether anyone may come to this place.
pub fn is_reachable(path: &Path) -> bool {
    let open = |dir: &Path| dir.metadata().is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    path.ancestors().skip(1).all(open)
}
