//! What operators ask of a group's members and are told: who they are, and changes of them.

use crate::configuration::{MAX_CONFIGURATION_BYTES, MAX_MEMBERS};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A change that a [`ChangeBody`] asks for.
pub mod change {
    /// A learner joins; or a member that lost its log does, under another life of it.
    pub const ADD: u8 = 1;
    /// A learner votes.
    pub const PROMOTE: u8 = 2;
    /// A member is none any more.
    pub const REMOVE: u8 = 3;
}

/// What became of a request.
pub mod outcome {
    /// The members, as the node that answers knows them.
    pub const TOLD: u8 = 0;
    /// The change is under way: it is made when the members' epoch has grown and a quorum of them knows.
    pub const BEGUN: u8 = 1;
    /// The node does not lead, or does not serve yet.
    pub const NOT_LEADER: u8 = 2;
    /// Another change is under way, or too few members know the last one.
    pub const PENDING: u8 = 3;
    /// The members are not those any more that the change is for.
    pub const STALE: u8 = 4;
    /// It is a member already.
    pub const ALREADY: u8 = 5;
    /// There is no such member.
    pub const NOT_A_MEMBER: u8 = 6;
    /// The learner lacks too much to vote, or does not answer.
    pub const NOT_CAUGHT_UP: u8 = 7;
    /// As many vote, or are members, as may.
    pub const TOO_MANY: u8 = 8;
    /// Nobody would vote.
    pub const LAST_VOTER: u8 = 9;
}

/// Asks the leader for a change.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct ChangeBody {
    /// Comes back.
    pub request_id: U64,
    /// The life of its log that joins.
    pub incarnation: U64,
    /// The configuration that is to be changed: of two requests for the same, one is made.
    pub epoch: U32,
    /// [`change`].
    pub change: u8,
    /// The node.
    pub node: u8,
    /// Where members reach one that joins: the port.
    pub peer_port: U16,
    /// And the address.
    pub peer_ip: [u8; 4],
    /// Where clients do: the address.
    pub client_ip: [u8; 4],
    /// And the port.
    pub client_port: U16,
    /// Zero.
    pub reserved: [u8; 6],
}

/// The answer. The configuration follows ([`crate::Configuration::parse`]), and a [`ProgressRow`] for each of its members.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct MembersReplyBody {
    /// As in the request.
    pub request_id: U64,
    /// How many slots a learner lacks that was refused a vote.
    pub behind: U64,
    /// What the node that answers has delivered.
    pub prefix: U64,
    /// The slot of the configuration.
    pub configured_at: U64,
    /// The life of the log of the node that answers.
    pub incarnation: U64,
    /// [`outcome`].
    pub outcome: u8,
    /// 1: it leads and serves, and the progress below is what it has heard.
    pub leads: u8,
    /// 1: a quorum of the members durably knows this configuration.
    pub settled: u8,
    /// 1: a change is under way.
    pub changing: u8,
    /// 1: it waits to be added: no member knows this life of its log.
    pub waits: u8,
    /// Zero.
    pub reserved: u8,
    /// 1: a leader is known.
    pub has_leader: u8,
    /// Which.
    pub leader: u8,
    /// Bytes of the configuration.
    pub configuration_bytes: U16,
}

/// How far a member is, as the leader has heard.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct ProgressRow {
    /// What it has delivered; 0: nothing was heard of it.
    pub prefix: U64,
    /// How long ago it was heard, milliseconds; `u32::MAX`: never.
    pub heard_ms_ago: U32,
    /// Zero.
    pub reserved: [u8; 4],
}

/// Bytes of the longest answer.
pub const MAX_MEMBERS_REPLY_BYTES: usize =
    size_of::<MembersReplyBody>() + MAX_CONFIGURATION_BYTES + MAX_MEMBERS * size_of::<ProgressRow>();

const _: () = assert!(MAX_MEMBERS_REPLY_BYTES <= crate::batch::MIN_BATCH_BYTES);
