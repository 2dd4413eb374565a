//! Synod's client library: append entries to a group's log, read them back, ask a node how it fares.
//!
//! Three layers, each usable without the ones above it:
//!
//! * **Cores without I/O.** [`Core`] is a session that appends, [`ReadCore`] a reader. They take datagrams and the time
//!   as arguments and yield datagrams and events, so that a test or a simulator runs exactly the code of production.
//! * **Drivers.** [`Client`] and [`Reader`] put a UDP socket and a monotonic clock around a core. They have one thread:
//!   the caller's.
//! * **A blocking façade.** [`Appender`] waits for acknowledgements and turns events into results; [`status`] and
//!   [`check_tail`] are single questions, [`evidence()`] asks all members who chose a slot. [`Questions`] asks a group's state
//!   machine, [`Kv`] reads and writes the one that is a key-value map.
//!
//! # What a caller may rely on
//!
//! Entries of a session are sequenced in the order of [`Core::offer`], each at most once. Each offered entry ends in
//! exactly one of [`Event::Acked`] and [`Event::Unknown`], in the order offered. After an `Unknown` the session is
//! closed: whether the entry was sequenced is not known *here*. To find out, open a new session with the same client
//! id: [`Event::Opened`] says the last client sequence committed. See [`Core`] for the rule on resuming.
#![forbid(unsafe_code)]

mod appender;
mod client;
mod error;
mod evidence;
mod kv;
mod options;
mod query;
mod question;
mod read;
mod reader;
mod receipt;
mod reply;
mod retransmit;
mod route;
mod session;
mod socket;
mod train;
mod window;

#[cfg(test)]
mod loopback_tests;
#[cfg(test)]
mod testing;

pub use appender::{Ack, Appender};
pub use client::Client;
pub use error::{ClientError, Unavailable};
pub use evidence::{
    ChosenBy, Evidence, EvidenceOf, Held, HeldValue, MemberAnswer, NodeEvidence, Told, agree, disagreements, evidence,
};
pub use kv::{Kv, KvRead, KvReader, KvValue, KvWritten};
pub use options::{Options, OptionsError, ReadOptions};
pub use query::{StageTimes, Status, Tail, check_tail, status};
pub use question::{Answer, QuestionCore, QuestionCounters, Questions, Standing};
pub use read::{EntryRef, ReadCore, ReadCounters};
pub use reader::Reader;
pub use receipt::Receipt;
pub use session::{CloseReason, Core, Counters, Event, OfferError};
pub use synod_wire::client::MAX_QUESTION_BYTES;
pub use synod_wire::client::{Consistency, Counter, Durability, Refusal, Stage};
pub use synod_wire::guarantee::{self, Guarantee, Recency};
pub use synod_wire::kv::{MAX_KEY_BYTES, MAX_VALUE_BYTES, Outcome};
pub use synod_wire::mode::{Mode, ModeReason};
pub use synod_wire::{ClusterId, GroupId, NodeId, Sequence};
