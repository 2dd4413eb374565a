//! Which reactor a host gets: io_uring's wherever it can be had, else that on plain system calls.
//!
//! The choice is made here and nowhere else, before any reactor is made, by asking the kernel for all that the ring needs. Called by:
//! the node, once a process. May touch: a ring of its own, closed at once.

use crate::buffers::ReceiveMemory;
use crate::port::Port;
use crate::uring::{Features, probe_with};
use crate::wake::Waker;
use crate::writer::LogThreadGot;
use crate::{Arena, Io, IoError, Settings};
use std::net::SocketAddrV4;

/// What the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Want {
    /// io_uring where it can be had.
    #[default]
    Auto,
    /// io_uring, or nothing.
    Uring,
    /// Plain system calls.
    Syscall,
}

/// How this process enters the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// By io_uring: [`crate::UringIo`].
    Uring,
    /// By plain system calls: [`crate::SyscallIo`].
    Syscall,
}

impl Backend {
    /// Its name, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Uring => "uring",
            Backend::Syscall => "syscall",
        }
    }
}

/// What was chosen, and why.
#[derive(Debug)]
pub struct Choice {
    /// The reactor.
    pub backend: Backend,
    /// What the kernel offers, where the ring was chosen.
    pub features: Option<Features>,
    /// Why there is no ring, where there was to be one if it can be had.
    pub refused: Option<IoError>,
}

impl Want {
    /// Asks the kernel for a ring with so many submissions, and chooses.
    pub fn choose(self, sq_entries: u32) -> Result<Choice, IoError> {
        let without = |refused| Choice { backend: Backend::Syscall, features: None, refused };
        let with = |features| Choice { backend: Backend::Uring, features: Some(features), refused: None };
        match self {
            Want::Syscall => Ok(without(None)),
            Want::Uring => probe_with(sq_entries).map(with),
            Want::Auto => match probe_with(sq_entries) {
                Err(refused @ IoError::Unsupported { .. }) => Ok(without(Some(refused))),
                probed => probed.map(with),
            },
        }
    }
}

/// A reactor of this crate: how one is made and ended, and what the kernel let it have.
pub trait Reactor: Io + Sized {
    /// Makes a reactor, to be used by this thread. That takes long only where the arenas do not have all their pages yet
    /// ([`Arena::populate`]).
    ///
    /// # Panics
    /// If the memory to receive into was made with other settings.
    fn new(
        settings: Settings,
        receive: ReceiveMemory,
        log_arena: &Arena,
        send_arena: &Arena,
        port: Port<Self::Job, Self::Done>,
    ) -> Result<Self, IoError>;

    /// Wakes this reactor from other threads.
    fn waker(&self) -> Waker;

    /// Where members' datagrams come in: the address asked for, with the port that the kernel chose if that was 0.
    fn peers_address(&self) -> SocketAddrV4;

    /// Where clients' datagrams come in, likewise.
    fn clients_address(&self) -> SocketAddrV4;

    /// Whether waits poll the network cards' queues as asked; the errno if they do not. Fine if that was not asked.
    fn napi_busy_poll(&self) -> Result<(), i32>;

    /// Whether the kernel hands datagrams out several at once as asked; the errno if it does not. Fine if that was not asked.
    fn receive_offload(&self) -> Result<(), i32>;

    /// Whether the kernel keeps the log arena in memory; the errno if it does not.
    fn log_locked(&self) -> Result<(), i32>;

    /// What the kernel let the log-writer threads have, if there are any: they all ask for the same.
    fn log_thread(&self) -> Option<LogThreadGot>;

    /// Ends the reactor, as dropping it does, and says whether everything ended. What was queued is still submitted; log writes
    /// are waited for, so that whatever was asked for is on the disk, or is known not to be.
    fn close(self) -> Result<(), IoError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_had_where_the_kernel_offers_it() {
        // This host does; that a refusal ends in the other one is a test with processes of their own.
        for (want, expected) in
            [(Want::Auto, Backend::Uring), (Want::Uring, Backend::Uring), (Want::Syscall, Backend::Syscall)]
        {
            let choice = want.choose(64).unwrap();
            assert_eq!((choice.backend, choice.features.is_some()), (expected, expected == Backend::Uring));
            assert!(choice.refused.is_none());
        }
    }
}
