//! Members compare what they made of the same slots: each tells the others a checksum of its state at its checkpoints. Where a
//! majority agrees on another one than this node has, this node's state is wrong (a machine that is not deterministic, memory
//! that flipped, another machine than the others run), and it halts. It says nothing of who voted for what: a state that went
//! astray was computed from what was chosen.
//!
//! Source: TigerBeetle and CockroachDB compare replicas so; FAULTS 44.

use crate::replica::Replica;
use crate::types::*;
use alloc::collections::BTreeMap;
use synod_wire::{Lsn, NodeId, NodeSet, Slot};

/// What is known of the checkpoints of late: this node's, and the last message of each peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct States {
    mine: StateMarks,
    theirs: BTreeMap<NodeId, StateMarks>,
}

impl Replica {
    /// This node's state at a slot has this checksum.
    pub(crate) fn on_checkpoint(&mut self, mark: StateMark) {
        self.states.mine.push(mark);
        let marks = self.states.mine;
        self.send(self.peers, Message::StateMarks { marks }, Lsn::ZERO);
        self.compare_states();
    }

    pub(crate) fn on_state_marks(&mut self, from: NodeId, marks: StateMarks) {
        self.states.theirs.insert(from, marks);
        self.compare_states();
    }

    fn compare_states(&mut self) {
        let majority = self.config.voters().len() / 2 + 1;
        for mine in self.states.mine.iter() {
            let others = self.states.theirs.iter().filter_map(|(node, marks)| Some((*node, marks.at(mine.slot)?)));
            let others: BTreeMap<NodeId, u32> = others.filter(|(_, crc)| *crc != mine.crc).collect();
            for crc in others.values() {
                let agree: NodeSet = others.iter().filter(|(_, other)| *other == crc).map(|(node, _)| *node).collect();
                if agree.len() >= majority {
                    return self.halt(Halt::Diverged { slot: mine.slot, mine: mine.crc, theirs: *crc, agree });
                }
            }
        }
    }
}

impl StateMarks {
    /// Adds one in place of the oldest.
    pub fn push(&mut self, mark: StateMark) {
        self.0.rotate_left(1);
        self.0[STATE_MARKS - 1] = mark;
    }

    /// Those that there are, the newest last.
    pub fn iter(self) -> impl Iterator<Item = StateMark> {
        self.0.into_iter().filter(|mark| mark.slot > Slot::ZERO)
    }

    fn at(self, slot: Slot) -> Option<u32> {
        self.iter().find(|mark| mark.slot == slot).map(|mark| mark.crc)
    }
}
