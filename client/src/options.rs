//! What a caller may set, and the bounds that it must keep. Plain data: read by the cores when they are made.

use std::time::Duration;
use synod_wire::batch::{self, ENTRY_PREFIX_BYTES, RUN_HEADER_BYTES, open};
use synod_wire::client::Consistency;
use synod_wire::frame::{ALIGN, HEADER_BYTES};

/// The smallest datagram that still carries a useful entry: a header, and as much again thrice.
const MIN_DATAGRAM_BYTES: usize = 4 * ALIGN;
/// The largest multiple of [`ALIGN`] that a UDP datagram over IPv4 carries (65,507 bytes).
const MAX_DATAGRAM_BYTES: usize = 65_472;
/// Sixteen times what one core sequences in the longest round trip that is sensible (1 s at 64k entries/s).
const MAX_WINDOW_ENTRIES: usize = 1 << 20;
const MAX_WINDOW_BYTES: usize = 1 << 30;

/// How a session behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Entries held at once: offered and not yet reported by an event. The server's credit bounds those in flight.
    pub window_entries: usize,
    /// Bytes of entries held at once; allocated when the session is made.
    pub window_bytes: usize,
    /// From offer to acknowledgement; past it the outcome of an entry is unknown and the session closes.
    pub deadline: Duration,
    /// The first retransmission timeout, before a round trip was measured.
    pub retransmit_initial_us: u64,
    /// The timeout adapts to the measured round trips, but never below this.
    pub retransmit_min_us: u64,
    /// ... and never above this, however often it doubled.
    pub retransmit_max_us: u64,
    /// The largest datagram to send. 1,472 is what Ethernet carries unfragmented, and 23 times 64.
    pub max_datagram_bytes: usize,
    /// Drivers only: how long to poll and yield before blocking in `ppoll`. Zero blocks at once.
    pub spin: Duration,
    /// Ask for a receipt of every append: [`crate::Event::Receipt`].
    pub receipts: bool,
    /// Which session to open.
    pub resume: Resume,
    /// For a client that comes back and wants to know what became of its entries: it begins with the last ones that its session
    /// has decided on, as many as the server grants credit (all of them, if they are fewer), and is told what each was told, or
    /// would have been, the first time. See [`crate::Core`], "Resuming".
    pub repeat_decided: bool,
    /// Seeds the jitter of pauses, so that clients do not come back in step. Mixed with the client id.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            window_entries: 1024,
            window_bytes: 1 << 20,
            deadline: Duration::from_secs(5),
            retransmit_initial_us: 25_000,
            retransmit_min_us: 10_000,
            retransmit_max_us: 250_000,
            max_datagram_bytes: 1_472,
            spin: Duration::ZERO,
            receipts: false,
            resume: Resume::OrCreate,
            repeat_decided: false,
            seed: 0,
        }
    }
}

/// Which session of a client to open. Sessions are evicted, the least recently used first, when too many are open or after a long
/// rest (`synod::sequencer`), and what an evicted one had appended is forgotten: only a client that names its session by its
/// number is told of that, instead of getting an empty new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// The client's session if it has one, else a new one: for a client that starts, or that does not repeat itself.
    #[default]
    OrCreate,
    /// The client's session, whatever its number. If it has none, [`crate::Event::SessionLost`].
    Existing,
    /// The session that was told this number ([`crate::Event::Opened`]). If it is gone, [`crate::Event::SessionLost`]: for a
    /// client that comes back and would repeat what it does not find committed.
    Session(u64),
}

impl Resume {
    /// As a run that opens a session says it.
    pub(crate) fn to_wire(self) -> u64 {
        match self {
            Resume::OrCreate => open::OR_CREATE,
            Resume::Existing => open::EXISTING,
            Resume::Session(number) => number,
        }
    }
}

impl Options {
    /// Checks every bound. The constructors call it.
    pub fn validate(&self) -> Result<(), OptionsError> {
        check("window_entries", self.window_entries as u64, 1, MAX_WINDOW_ENTRIES as u64)?;
        check_datagram(self.max_datagram_bytes)?;
        let least = self.max_datagram_bytes as u64;
        check("window_bytes", self.window_bytes as u64, least, MAX_WINDOW_BYTES as u64)?;
        check("deadline (us)", as_u64(self.deadline.as_micros()), 1, DAY_US)?;
        if let Resume::Session(number) = self.resume {
            check("resume (session number)", number, open::OR_CREATE + 1, open::EXISTING - 1)?;
        }
        check_retransmit(self.retransmit_initial_us, self.retransmit_min_us, self.retransmit_max_us)
    }

    /// The largest payload of a frame within the largest datagram; frames are padded to [`ALIGN`].
    pub(crate) fn max_payload_bytes(&self) -> usize {
        self.max_datagram_bytes / ALIGN * ALIGN - HEADER_BYTES
    }

    /// The longest entry to accept before the server has told its own limit: what fits a batch as large as our payload,
    /// as a server with the same datagram size has it.
    pub(crate) fn max_entry_bytes(&self) -> usize {
        batch::max_entry_bytes(self.max_payload_bytes())
    }
}

/// The longest entry that fits a run of `max_run_bytes`.
pub(crate) fn entry_limit_of_run(max_run_bytes: usize) -> usize {
    max_run_bytes.saturating_sub(RUN_HEADER_BYTES + ENTRY_PREFIX_BYTES)
}

/// How a reader behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// How long a read may stay without progress before it fails.
    pub deadline: Duration,
    /// Datagrams asked for at once: what the socket's receive buffer must hold. Twice as many are buffered.
    pub max_datagrams: u16,
    /// The first time-out of a request, before a round trip was measured.
    pub retransmit_initial_us: u64,
    /// The timeout adapts to the measured round trips, but never below this.
    pub retransmit_min_us: u64,
    /// ... and never above this, however often it doubled.
    pub retransmit_max_us: u64,
    /// How recent the state must be that a read shows: each request of a read asks for it. Entries never change, so this
    /// decides where a read ends, not what it returns.
    pub consistency: Consistency,
    /// Drivers only: how long to poll and yield before blocking in `ppoll`. Zero blocks at once.
    pub spin: Duration,
    /// Seeds the jitter of pauses.
    pub seed: u64,
}

impl Default for ReadOptions {
    fn default() -> ReadOptions {
        ReadOptions {
            deadline: Duration::from_secs(5),
            max_datagrams: 32,
            retransmit_initial_us: 25_000,
            retransmit_min_us: 10_000,
            retransmit_max_us: 250_000,
            consistency: Consistency::Local,
            spin: Duration::ZERO,
            seed: 0,
        }
    }
}

impl ReadOptions {
    /// Checks every bound. The constructors call it.
    pub fn validate(&self) -> Result<(), OptionsError> {
        check("deadline (us)", as_u64(self.deadline.as_micros()), 1, DAY_US)?;
        check("max_datagrams", u64::from(self.max_datagrams), 1, 1024)?;
        check_retransmit(self.retransmit_initial_us, self.retransmit_min_us, self.retransmit_max_us)
    }
}

/// An option, or the list of members, is out of bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A number out of its range.
    #[error("client option {name} is {value}, but must lie between {least} and {most}")]
    Range {
        /// The option.
        name: &'static str,
        /// What it is.
        value: u64,
        /// The least allowed.
        least: u64,
        /// The most allowed.
        most: u64,
    },
    /// No member to talk to.
    #[error("the list of members is empty: name at least one node's client address")]
    NoMembers,
    /// More members than a cluster can have.
    #[error("{0} members are listed, but a cluster has at most 64")]
    TooManyMembers(usize),
    /// Zero stands for "no session" in the wire format.
    #[error("client id 0 is reserved: choose a random 128-bit number and keep it to resume")]
    ZeroClientId,
}

const DAY_US: u64 = 86_400_000_000;

/// At least one member, at most as many as a cluster can have.
pub(crate) fn check_members(members: usize) -> Result<(), OptionsError> {
    match members {
        0 => Err(OptionsError::NoMembers),
        1..=64 => Ok(()),
        more => Err(OptionsError::TooManyMembers(more)),
    }
}

fn as_u64(wide: u128) -> u64 {
    u64::try_from(wide).unwrap_or(u64::MAX)
}

/// A duration in nanoseconds, saturating: used for deadlines only.
pub(crate) fn nanos(duration: Duration) -> u64 {
    as_u64(duration.as_nanos())
}

fn check_datagram(bytes: usize) -> Result<(), OptionsError> {
    check("max_datagram_bytes", bytes as u64, MIN_DATAGRAM_BYTES as u64, MAX_DATAGRAM_BYTES as u64)
}

fn check_retransmit(initial_us: u64, min_us: u64, max_us: u64) -> Result<(), OptionsError> {
    check("retransmit_max_us", max_us, 1, DAY_US)?;
    check("retransmit_min_us", min_us, 1, max_us)?;
    check("retransmit_initial_us", initial_us, min_us, max_us)
}

fn check(name: &'static str, value: u64, least: u64, most: u64) -> Result<(), OptionsError> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(OptionsError::Range { name, value, least, most }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_fill_an_ethernet_frame() {
        Options::default().validate().unwrap();
        ReadOptions::default().validate().unwrap();
        assert_eq!(Options::default().max_payload_bytes(), 1_408);
        assert_eq!(Options::default().max_entry_bytes(), 1_350);
    }

    #[test]
    fn each_bound_is_checked_and_named() {
        type Breaks = fn(&mut Options);
        let broken: [(&str, Breaks); 7] = [
            ("window_entries", |o| o.window_entries = 0),
            ("window_bytes", |o| o.window_bytes = 100),
            ("max_datagram_bytes", |o| o.max_datagram_bytes = 65_507),
            ("deadline", |o| o.deadline = Duration::ZERO),
            ("retransmit_min_us", |o| o.retransmit_min_us = o.retransmit_max_us + 1),
            ("resume", |o| o.resume = Resume::Session(0)),
            ("retransmit_initial_us", |o| o.retransmit_initial_us = o.retransmit_min_us - 1),
        ];
        for (name, breaks) in broken {
            let mut options = Options::default();
            breaks(&mut options);
            let error = options.validate().unwrap_err().to_string();
            assert!(error.contains(name), "{error} should name {name}");
        }
    }
}
