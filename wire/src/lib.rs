//! Bytes that outlive a process: identifiers, frames, messages and records.
//!
//! Every structure is little-endian, laid out with `zerocopy`, and versioned by [`frame::VERSION`]. Parsing is total:
//! any byte string yields a value or a typed [`frame::FrameError`], never a panic. A datagram is one or more frames,
//! each starting at a multiple of [`frame::ALIGN`]; a record on disk is one frame of the same layout, so the bytes
//! that a leader logs are the bytes that it sends.
#![cfg_attr(not(feature = "checksum"), no_std)]
#![deny(unsafe_code)] // but for one call in `crc`

pub mod batch;
pub mod client;
pub mod configuration;
#[cfg(feature = "checksum")]
mod crc;
pub mod evidence;
pub mod frame;
pub mod guarantee;
pub mod ids;
pub mod kv;
pub mod members;
pub mod mode;
pub mod mutant;
mod numbered;
pub mod peer;
pub mod picture;
pub mod record;
pub mod snapshot;
pub mod stream;
pub mod transfer;
pub mod trim;

pub use configuration::{Configuration, Member};
pub use ids::{Ballot, ClusterId, Epoch, GroupId, Lsn, NodeId, NodeSet, Quorums, Sequence, Slot};
