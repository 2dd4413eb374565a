//! What the kernel must offer, asked before anything is built on it, and told in words that help when it is missing.
//!
//! Called by: `start`, through [`probe`], and by the reactor's construction. May touch: a ring of its own, closed at once.

use crate::IoError;
use io_uring::types::Napi;
use io_uring::{IoUring, Probe, opcode};

/// What the kernel offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// As `uname -r` says.
    pub kernel: String,
    /// Submissions without the indirection array (6.6).
    pub no_sqarray: bool,
    /// The ring's descriptor is registered, so that entering the kernel looks up no file (5.18).
    pub registered_ring: bool,
}

/// Entries of the ring that only asks.
const PROBE_ENTRIES: u32 = 8;

const KERNEL_MEND: &str = "Boot Linux 6.1 or later";

/// Asks the kernel whether a reactor can run, and which newer features it would use.
pub fn probe() -> Result<Features, IoError> {
    probe_with(PROBE_ENTRIES)
}

/// The same with a ring of this size: newer kernels count its memory as locked, and an old limit (64 KiB) has no room for it.
pub(crate) fn probe_with(sq_entries: u32) -> Result<Features, IoError> {
    let (ring, no_sqarray) = open(sq_entries, sq_entries * 2)?;
    check_features(&ring)?;
    check_opcodes(&ring)?;
    // A seccomp profile may allow the one call and refuse the other.
    ring.submitter().submit_and_wait(0).map_err(|error| refused("io_uring_enter", &error))?;
    let registered_ring = super::enter::Ring::new(ring).is_registered();
    Ok(Features { kernel: kernel_release(), no_sqarray, registered_ring })
}

/// A ring with the flags that a reactor needs, and with the newer ones if the kernel takes them.
pub(super) fn open(sq_entries: u32, cq_entries: u32) -> Result<(IoUring, bool), IoError> {
    let mut builder = IoUring::builder();
    builder
        .setup_cqsize(cq_entries)
        .setup_clamp()
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    let plain = builder.clone();
    match builder.setup_no_sqarray().build(sq_entries) {
        Ok(ring) => Ok((ring, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            plain.build(sq_entries).map(|ring| (ring, false)).map_err(|error| refused("io_uring_setup", &error))
        }
        Err(error) => Err(refused("io_uring_setup", &error)),
    }
}

pub(super) fn check_features(ring: &IoUring) -> Result<(), IoError> {
    let parameters = ring.params();
    let needed = [
        ("IORING_FEAT_NODROP", parameters.is_feature_nodrop()),
        ("IORING_FEAT_EXT_ARG", parameters.is_feature_ext_arg()),
        ("IORING_FEAT_CQE_SKIP", parameters.is_feature_skip_cqe_on_success()),
        ("IORING_FEAT_FAST_POLL", parameters.is_feature_fast_poll()),
    ];
    match needed.iter().find(|(_, offered)| !offered) {
        Some((name, _)) => Err(missing(name)),
        None => Ok(()),
    }
}

pub(super) fn check_opcodes(ring: &IoUring) -> Result<(), IoError> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| refused("io_uring_register(PROBE)", &error))?;
    let needed = [
        ("IORING_OP_SEND", opcode::Send::CODE),
        ("IORING_OP_SENDMSG", opcode::SendMsg::CODE),
        ("IORING_OP_RECV", opcode::RecvMulti::CODE),
        ("IORING_OP_RECVMSG", opcode::RecvMsgMulti::CODE),
        ("IORING_OP_WRITE_FIXED", opcode::WriteFixed::CODE),
        ("IORING_OP_WRITE", opcode::Write::CODE),
        ("IORING_OP_READ", opcode::Read::CODE),
        ("IORING_OP_ASYNC_CANCEL", opcode::AsyncCancel2::CODE),
    ];
    match needed.iter().find(|(_, code)| !probe.is_supported(*code)) {
        Some((name, _)) => Err(missing(name)),
        None => Ok(()),
    }
}

/// Lets waits in the kernel poll the network cards' queues for a while (Linux 6.9). Nothing depends on it: a refusal is told.
pub(super) fn busy_poll(ring: &super::enter::Ring, for_us: u32) -> Result<(), i32> {
    if for_us == 0 {
        return Ok(());
    }
    let mut napi = Napi::new().set_busy_poll_timeout(for_us);
    let registered = ring.submitter().register_napi(&mut napi);
    registered.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
}

fn missing(what: &str) -> IoError {
    IoError::Unsupported {
        reason: format!("kernel {} does not offer {what}", kernel_release()),
        mend: KERNEL_MEND.to_string(),
    }
}

/// As `uname -r` says.
fn kernel_release() -> String {
    // SAFETY: all bytes zero is a valid utsname.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: writes into a live local.
    let result = unsafe { libc::uname(&mut name) };
    assert_eq!(result, 0, "uname: {}", std::io::Error::last_os_error());
    name.release.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).map(char::from).collect()
}

/// A call of the set-up that this kernel refused.
pub(super) fn refused(call: &'static str, error: &std::io::Error) -> IoError {
    setup_error(call, error, &kernel_release())
}

/// What an errno of setting up or registering means, and what to do about it.
fn setup_error(call: &'static str, error: &std::io::Error, kernel: &str) -> IoError {
    let (why, mend) = match error.raw_os_error() {
        Some(libc::EPERM) => (
            "this process may not use io_uring",
            "Set `sysctl kernel.io_uring_disabled=0`; in a container, also allow io_uring_setup, io_uring_enter and \
             io_uring_register in its seccomp profile",
        ),
        Some(libc::ENOSYS) => ("the kernel has no io_uring, or hides it", KERNEL_MEND),
        Some(libc::EINVAL) => ("the kernel lacks a feature (DEFER_TASKRUN, buffer rings: Linux 6.1)", KERNEL_MEND),
        Some(libc::ENOMEM) => (
            "no memory, or too little that may be locked",
            "Raise `ulimit -l` (LimitMEMLOCK= in systemd) beyond the log arena, or make the arenas smaller",
        ),
        Some(libc::EMFILE | libc::ENFILE) => ("too many open files", "Raise `ulimit -n` (LimitNOFILE= in systemd)"),
        _ => ("the kernel refused", "This is not expected; report it together with the kernel's release"),
    };
    IoError::Unsupported { reason: format!("{call}: {error}: {why} (kernel {kernel})"), mend: mend.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(errno: i32) -> String {
        setup_error("io_uring_setup", &std::io::Error::from_raw_os_error(errno), "5.15.0").to_string()
    }

    #[test]
    fn each_refusal_names_its_cure() {
        assert!(text(libc::EPERM).contains("kernel.io_uring_disabled"));
        assert!(text(libc::EPERM).contains("seccomp"));
        assert!(text(libc::ENOSYS).contains("6.1 or later"));
        assert!(text(libc::EINVAL).contains("6.1 or later"));
        assert!(text(libc::EINVAL).contains("5.15.0"));
        assert!(text(libc::ENOMEM).contains("ulimit -l"));
        assert!(text(libc::EMFILE).contains("ulimit -n"));
        assert!(text(libc::EIO).starts_with("io_uring cannot be used: io_uring_setup: Input/output error"));
    }

    #[test]
    fn this_host_can_run_a_reactor() {
        let features = probe().unwrap();
        assert_eq!(features.kernel, std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim());
        assert!(features.registered_ring, "6.1 and later always have that");
    }
}
