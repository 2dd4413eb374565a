//! Runs the chosen values through the sequencer, as every replica did: each value is a batch, and the sequences of a
//! group come out dense. Called by [`super`] in slot order.

use crate::sequencer::{Sequencer, Verdict};
use synod_wire::batch::Batch;
use synod_wire::{Sequence, Slot};

/// The state machine over the chosen prefix.
#[derive(Debug)]
pub(super) struct Replay {
    /// None: the group's first slots are not in any log, so sequences cannot be counted.
    machine: Option<Sequencer>,
    /// The first slot that is replayed.
    pub(super) first: Slot,
    pub(super) prefix: Slot,
    pub(super) runs_without_effect: u64,
}

impl Replay {
    pub(super) fn new() -> Replay {
        Replay { machine: Some(Sequencer::new()), first: Slot(1), prefix: Slot::ZERO, runs_without_effect: 0 }
    }

    pub(super) fn tail(&self) -> Sequence {
        self.machine.as_ref().map_or(Sequence::ZERO, Sequencer::tail)
    }

    /// Slots up to `base` are in no log: from there on values are only parsed.
    pub(super) fn skip(&mut self, base: Slot) {
        if base > Slot::ZERO {
            (self.machine, self.first, self.prefix) = (None, base.next(), base);
        }
    }

    /// The sequencer's state, as a snapshot has it, if all slots are here.
    pub(super) fn state(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        self.machine.as_ref()?.snapshot(&mut out);
        Some(out)
    }

    /// Applies the value of the next slot; in words what is wrong with it.
    pub(super) fn apply(&mut self, slot: Slot, payload: &[u8]) -> Result<(), String> {
        assert_eq!(slot, self.prefix.next(), "slots are replayed in order");
        self.prefix = slot;
        let batch = Batch::parse(payload).map_err(|error| format!("the chosen value is no batch: {error:?}"))?;
        let Some(machine) = &mut self.machine else { return Ok(()) };
        let mut expected = machine.tail();
        let (mut gap, mut idle) = (None, 0);
        machine.apply(slot, &batch, &mut |_, _, verdict| match verdict {
            Verdict::Decided { answer, .. } => match answer.first_sequence() {
                Some(first_sequence) => {
                    if first_sequence != expected.next() {
                        gap = Some((expected, first_sequence));
                    }
                    expected = Sequence(first_sequence.0 + answer.entries - 1);
                }
                // A refused condition.
                None => idle += 1,
            },
            Verdict::Opened { .. } | Verdict::Trimmed { .. } => {}
            Verdict::Duplicate | Verdict::Gap { .. } | Verdict::UnknownSession => idle += 1,
        });
        self.runs_without_effect += idle;
        match gap {
            Some((before, after)) => Err(format!("sequence {after} follows {before}")),
            None => Ok(()),
        }
    }
}
