//! What a group does without, as its host refuses it: io_uring, locked memory, and the like. None of it changes what an acknowledgement
//! means; all of it costs time. Said once, when the group starts (a line each with the reason and the mend), and shown by the metrics
//! and the status page for as long as it runs. Called by: the node. Touches nothing.

use std::fmt;
use synod_ring::Reactor;

/// Something that a host may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Lack {
    /// io_uring.
    Uring = 1,
    /// A log arena that stays in memory.
    LockedMemory = 2,
    /// A log-writer thread in the real-time class.
    RealTime = 4,
    /// Polling the network cards' queues.
    BusyPoll = 8,
    /// Taking several datagrams in one piece.
    ReceiveOffload = 16,
    /// Writing around the page cache.
    DirectIo = 32,
}

impl Lack {
    /// Every one.
    pub const ALL: [Lack; 6] =
        [Lack::Uring, Lack::LockedMemory, Lack::RealTime, Lack::BusyPoll, Lack::ReceiveOffload, Lack::DirectIo];

    /// As the metrics and the log write it.
    pub fn name(self) -> &'static str {
        match self {
            Lack::Uring => "io_uring",
            Lack::LockedMemory => "locked_memory",
            Lack::RealTime => "real_time",
            Lack::BusyPoll => "busy_poll",
            Lack::ReceiveOffload => "receive_offload",
            Lack::DirectIo => "direct_io",
        }
    }

    /// What comes of it, and how to mend it.
    fn told(self) -> &'static str {
        match self {
            Lack::Uring => {
                "the host refuses io_uring: a turn costs three or four system calls instead of one. Allow it, or write \
                 cpu.io = \"syscall\" to be content"
            }
            Lack::LockedMemory => {
                "the log arena is not locked in memory: each write through io_uring pins its pages anew, and a host short of \
                 memory may swap it out. Raise `ulimit -l` (LimitMEMLOCK= in systemd) beyond wal.arena_bytes"
            }
            Lack::RealTime => {
                "the log-writer thread runs in the normal class; CAP_SYS_NICE or `ulimit -r 10` lets it run before others"
            }
            Lack::BusyPoll => {
                "nobody polls the network cards' queues, as net.napi_busy_poll_us asks for: that takes io_uring and Linux 6.9"
            }
            Lack::ReceiveOffload => "datagrams come one by one: the kernel refused net.receive_offload",
            Lack::DirectIo => {
                "the file system refuses O_DIRECT: the log is written through the page cache and synced, which costs a copy and \
                 the pages of others. Put it on a local ext4 or XFS file system"
            }
        }
    }
}

/// What one group lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacks(pub u64);

impl Lacks {
    /// Notes one, and says so. `error`: what the host said.
    pub fn note(&mut self, group: u8, lack: Lack, error: &dyn fmt::Display) {
        self.0 |= lack as u64;
        tracing::warn!(group, without = lack.name(), %error, "{}", lack.told());
    }

    /// Notes what a reactor was not let have.
    pub fn note_reactor(&mut self, group: u8, io: &impl Reactor) {
        let real_time = io.log_thread().map_or(Ok(()), |got| got.real_time);
        for (lack, had) in [
            (Lack::LockedMemory, io.log_locked()),
            (Lack::RealTime, real_time),
            (Lack::BusyPoll, io.napi_busy_poll()),
            (Lack::ReceiveOffload, io.receive_offload()),
        ] {
            if let Err(errno) = had {
                self.note(group, lack, &std::io::Error::from_raw_os_error(errno));
            }
        }
    }

    /// Those of them that are lacked.
    pub fn list(self) -> impl Iterator<Item = Lack> {
        Lack::ALL.into_iter().filter(move |lack| self.has(*lack))
    }

    /// Whether it is lacked.
    pub fn has(self, lack: Lack) -> bool {
        self.0 & lack as u64 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_bit_a_name_and_a_mend_of_its_own() {
        let mut all = Lacks::default();
        for (count, lack) in Lack::ALL.into_iter().enumerate() {
            assert!(!all.has(lack), "{lack:?} shares a bit");
            all.note(0, lack, &"refused");
            assert_eq!(all.list().count(), count + 1);
            assert!(Lack::ALL.iter().filter(|other| other.name() == lack.name()).count() == 1);
        }
    }
}
