//! Synod's client library: append entries to a group's log, read them back, ask a node how it fares.
//!
//! Three layers, each usable without the ones above it:
//!
//! * **Cores without I/O.** [`Core`] is a session that appends, [`ReadCore`] a reader,
//!   [`SubscribeCore`] a subscriber that is sent what is committed. They take datagrams and the time
//!   as arguments and yield datagrams and events, so that a test or a simulator runs exactly the code of production.
//! * **Drivers.** [`Client`], [`Reader`] and [`Subscription`] put a UDP socket and a monotonic clock around a core. They have one thread:
//!   the caller's.
//! * **A blocking façade.** [`Appender`] waits for acknowledgements and turns events into results; [`status`] and
//!   [`check_tail`] are single questions, [`evidence()`] asks all members who chose a slot, [`transfer_leader`] a leader to hand over. [`Questions`] asks a group's state
//!   machine, [`Kv`] reads and writes the one that is a key-value map.
//!
//! # What a caller may rely on
//!
//! Entries of a session are sequenced in the order of [`Core::offer`], each at most once. Each offered entry ends in
//! exactly one of [`Event::Acked`], [`Event::NotAppended`] and [`Event::Unknown`], in the order offered.
//!
//! *Deadlines.* Every entry has one, counted from its offer ([`Options::deadline`]), and so has every call that waits. Past it
//! the outcome is `Unknown`, explicitly: the session is closed, and whether the entry was sequenced, or will be, is not known
//! *here*. To find out, open the session again, by client id and number ([`Resume::Session`]): [`Event::Opened`] says the
//! last client sequence committed, and [`last_committed`] asks for that alone; with [`Options::repeat_decided`] the last of those
//! entries are offered again, and end in the events that tell their outcomes. See [`Core`] for the rule on resuming.
//!
//! *Sessions* are part of the replicated state, which keeps 1,024 of them: opening one more evicts the least recently used, and
//! one that rested for seven days by the log's time goes too. Who comes back to an evicted session by its number is told so
//! ([`Event::SessionLost`]), and nothing is appended twice.
//!
//! *Conditions.* [`Core::offer_if`] appends only if the log ends where the caller thinks it does, or if no higher fencing token
//! was seen ([`Condition`]). The outcome is decided in the total order and stored under the entry's client sequence: whoever
//! asks again, and whichever node answers, it is the same.
#![forbid(unsafe_code)]

mod appender;
mod client;
mod committed;
mod condition;
mod error;
mod evidence;
mod held;
mod kv;
mod line;
mod members;
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
mod subscribe;
mod subscription;
mod train;
mod transfer;
mod trim;
mod window;

#[cfg(test)]
mod loopback_tests;
#[cfg(test)]
mod testing;

pub use appender::{Ack, Appender};
pub use client::Client;
pub use committed::{Committed, last_committed};
pub use condition::{Condition, Unmet};
pub use error::{ClientError, Unavailable};
pub use evidence::{
    ChosenBy, Evidence, EvidenceOf, Held, HeldValue, MemberAnswer, NodeEvidence, Told, agree, disagreements, evidence,
};
pub use held::EntryRef;
pub use kv::{Kv, KvRead, KvReader, KvValue, KvWritten};
pub use members::{ChangeOutcome, MemberChange, Members, Progress, change_members, members};
pub use options::{Options, OptionsError, ReadOptions, Resume};
pub use query::{Picture, StageTimes, Status, Tail, check_tail, status, statuses};
pub use question::{Answer, QuestionCore, QuestionCounters, Questions, Standing};
pub use read::{ReadCore, ReadCounters};
pub use reader::Reader;
pub use receipt::Receipt;
pub use session::{CloseReason, Core, Counters, Event, OfferError};
pub use subscribe::{SubscribeCore, SubscribeCounters};
pub use subscription::Subscription;
pub use synod_wire::client::MAX_QUESTION_BYTES;
pub use synod_wire::client::{Consistency, Counter, Durability, Refusal, Stage};
pub use synod_wire::guarantee::{self, Guarantee, Recency};
pub use synod_wire::kv::{MAX_KEY_BYTES, MAX_VALUE_BYTES, Outcome};
pub use synod_wire::mode::{Mode, ModeReason};
pub use synod_wire::stream::StreamEnd;
pub use synod_wire::trim::TrimLimit;
pub use synod_wire::{ClusterId, Configuration, Epoch, GroupId, Member, NodeId, Sequence};
pub use transfer::{Transfer, TransferOutcome, TransferStep, transfer_leader};
pub use trim::{TrimCore, Trimmed, trim};
