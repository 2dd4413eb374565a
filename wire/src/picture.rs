//! What a node adds to its status for those who draw it: where its log begins, how far the leader has heard its members, and how
//! long commits took. It follows the stages of a status reply, where the group's largest datagram has room for it.

use crate::configuration::MAX_MEMBERS;
use crate::{NodeId, NodeSet, Slot};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Buckets of [`PictureBody::commits`]: two an octave, from 8 µs to 4.3 s.
pub const COMMIT_BUCKETS: usize = 40;

/// The end of a bucket, nanoseconds: it counts what took less, and not less than the end of the one before. The last has none.
pub const fn commit_bucket_end_ns(bucket: usize) -> u64 {
    match bucket {
        0..39 => (2 + bucket as u64 % 2) << (12 + bucket / 2),
        _ => u64::MAX,
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct PictureBody {
    /// The first slot that its log has.
    pub first_slot: U64,
    /// The last slot of its newest snapshot; 0: none is known.
    pub snapshot_slot: U64,
    /// Who votes in the configuration that governs, as a [`NodeSet`].
    pub voters: U64,
    /// The 99.9th percentile of what clients waited for, nanoseconds; `u32::MAX`: that or more.
    pub p999_ns: U32,
    /// Members needed for phase 1.
    pub phase1: u8,
    /// Members needed for phase 2.
    pub phase2: u8,
    /// Members of the configuration.
    pub members: u8,
    /// Zero.
    pub reserved: u8,
    /// Their numbers, in ascending order; zero behind the last.
    pub nodes: [u8; MAX_MEMBERS],
    /// Zero.
    pub padding: [u8; 7],
    /// On a leader, in the same order: the slot up to which a member is known to have delivered everything, and 1; 0: it is not known.
    pub delivered: [U64; MAX_MEMBERS],
    /// Slots by how long they took from the client's datagram to the acknowledgement, since the node started: see
    /// [`commit_bucket_end_ns`].
    pub commits: [U64; COMMIT_BUCKETS],
}

impl PictureBody {
    /// Reads one; `None`: its counts contradict each other, or the format.
    pub fn parse(bytes: &[u8]) -> Option<PictureBody> {
        let body = PictureBody::read_from_bytes(bytes).ok()?;
        let nodes = body.nodes.get(..usize::from(body.members))?;
        let known = nodes.iter().all(|node| *node < NodeId::LIMIT) && nodes.is_sorted_by(|a, b| a < b);
        let all: NodeSet = nodes.iter().map(|node| NodeId(*node)).collect();
        (known && body.voters.get() & !all.0 == 0).then_some(body)
    }

    /// The members with what is known of each.
    pub fn positions(&self) -> impl Iterator<Item = (NodeId, Option<Slot>)> + '_ {
        let nodes = self.nodes.iter().take(usize::from(self.members));
        nodes.zip(&self.delivered).map(|(node, slot)| (NodeId(*node), slot.get().checked_sub(1).map(Slot)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn buckets_follow_one_another_and_end_where_the_text_says() {
        let ends: [u64; COMMIT_BUCKETS] = core::array::from_fn(commit_bucket_end_ns);
        assert!(ends.is_sorted_by(|a, b| a < b));
        assert_eq!((ends[0], ends[1], ends[2], ends[38], ends[39]), (8_192, 12_288, 16_384, 2 << 31, u64::MAX));
    }

    #[test]
    fn what_contradicts_itself_is_no_picture() {
        let mut body = PictureBody { members: 2, voters: U64::new(0b101), ..PictureBody::new_zeroed() };
        body.nodes[..2].copy_from_slice(&[0, 2]);
        body.delivered[1] = U64::new(8);
        let parsed = PictureBody::parse(body.as_bytes()).expect("it is in order");
        let mut positions = parsed.positions();
        assert_eq!(positions.next(), Some((NodeId(0), None)));
        assert_eq!(positions.next(), Some((NodeId(2), Some(Slot(7)))));
        assert_eq!(positions.next(), None);
        for wrong in [
            PictureBody { members: MAX_MEMBERS as u8 + 1, ..body },
            PictureBody { voters: U64::new(0b10), ..body },
            PictureBody { nodes: [2, 0, 0, 0, 0, 0, 0, 0, 0], ..body },
            PictureBody { nodes: [0, 64, 0, 0, 0, 0, 0, 0, 0], ..body },
        ] {
            assert_eq!(PictureBody::parse(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(PictureBody::parse(&body.as_bytes()[1..]), None);
    }
}
