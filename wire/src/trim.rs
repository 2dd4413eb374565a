//! Bodies of a request to trim and its answer: the leader puts it into the log, and answers when it is applied.

use crate::guarantee::GuaranteeBytes;
use crate::numbered::numbered;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Asks for the entries below a sequence to be given up. The same request may come again: what is trimmed stays trimmed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct TrimBody {
    /// The client's number for it.
    pub request_id: U64,
    /// The first sequence that is to be kept, from 1.
    pub before: U64,
}

impl TrimBody {
    /// A body as it may come; `None`: it names no sequence.
    pub fn parse(payload: &[u8]) -> Option<TrimBody> {
        TrimBody::read_from_bytes(payload).ok().filter(|body| body.before.get() > 0)
    }
}

/// It is applied.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct TrimReplyBody {
    /// The request's.
    pub request_id: U64,
    /// What was asked for.
    pub before: U64,
    /// The first sequence that can be read now.
    pub first: U64,
    /// [`TrimLimit`].
    pub limit: u8,
    /// The node that holds it back, where a member does.
    pub node: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// What the answer promises.
    pub guarantee: GuaranteeBytes,
}

numbered! {
    /// Why less was trimmed than was asked for. The numbers are part of the format.
    TrimLimit {
        /// It was not: all of it is trimmed.
        Nothing = 1, "NOTHING";
        /// The log ends there.
        Tail = 2, "TAIL";
        /// A member that is heard does not have the next entries yet.
        Member = 3, "MEMBER";
        /// A subscriber of the leader has not been sent the next entries yet.
        Subscriber = 4, "SUBSCRIBER";
    }
}
