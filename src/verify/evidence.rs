//! `synod evidence` without nodes: what each log says of one slot. A sequence is found by replaying what is chosen. Called by
//! the command line.

use super::log::LogFacts;
use super::report::Problems;
use super::{Group, VerifyError, facts, open};
use crate::shard::SlotRecords;
use std::ops::ControlFlow;
use std::path::PathBuf;
use synod_client::{ChosenBy, EvidenceOf, Held, HeldValue, NodeEvidence};
use synod_wal::Item;
use synod_wire::{Epoch, NodeId, NodeSet, Quorums, Slot};

/// What the logs say of one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotEvidence {
    /// The slot; none: the sequence asked for is not in what these logs show chosen.
    pub slot: Option<Slot>,
    /// Each log's word.
    pub logs: Vec<LogEvidence>,
}

/// What one log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEvidence {
    /// Its directory.
    pub dir: PathBuf,
    /// Its node.
    pub node: NodeId,
    /// What it says, unless there is no slot to speak of, or what it had was removed.
    pub told: Option<NodeEvidence>,
    /// Damage took what it said, and no later record says it again.
    pub damaged: bool,
}

/// Reads what the logs in `dirs` say of a slot of a group.
pub fn evidence(dirs: &[PathBuf], group: u8, of: EvidenceOf) -> Result<SlotEvidence, VerifyError> {
    // What is wrong with the logs is for `verify` to tell.
    let mut problems = Problems::default();
    let mut groups: Vec<Group> = open(dirs, &mut problems)?
        .into_iter()
        .filter(|((_, number), _)| *number == group)
        .map(|(_, logs)| logs)
        .collect();
    let mut logs = groups.pop().ok_or(VerifyError::NoGroup(group))?;
    if !groups.is_empty() {
        return Err(VerifyError::SeveralClusters);
    }
    let slot = match of {
        EvidenceOf::Slot(slot) => Some(slot),
        EvidenceOf::Sequence(sequence) => {
            let walked = logs.walk(facts::WINDOW_SLOTS, Some(sequence), &mut problems)?;
            (walked.replay.tail() >= sequence).then_some(walked.replay.prefix)
        }
    };
    let Some(slot) = slot else {
        let silent =
            |log: &LogFacts| LogEvidence { dir: log.dir.clone(), node: log.identity.node, told: None, damaged: false };
        return Ok(SlotEvidence { slot: None, logs: logs.logs.iter().map(silent).collect() });
    };
    // The configurations are read with the first window.
    logs.pass(facts::Window::number(0, 1), &mut problems)?;
    let records = logs.records_of(slot)?;
    let told = logs.logs.iter().zip(records).map(|(log, records)| told(log, &records)).collect();
    Ok(SlotEvidence { slot: Some(slot), logs: told })
}

impl Group {
    /// What each log has of one slot.
    fn records_of(&mut self, slot: Slot) -> Result<Vec<SlotRecords>, VerifyError> {
        let mut all = Vec::with_capacity(self.logs.len());
        for (log, reader) in self.logs.iter().zip(&mut self.readers) {
            let mut records = SlotRecords::new(slot);
            let scanned = reader.scan(reader.first_pos(), None, &mut |item| {
                match item {
                    Item::Record(_, frame) => records.record(&frame.header, frame.payload, frame.payload_crc),
                    Item::Damage(damage) => records.damage(&damage),
                    Item::Trailer(_) | Item::TornTail(_) => {}
                }
                ControlFlow::Continue(())
            });
            scanned.map_err(|source| VerifyError::Log { dir: log.dir.clone(), source })?;
            all.push(records);
        }
        Ok(all)
    }
}

/// The same as a running node would tell it.
fn told(log: &LogFacts, records: &SlotRecords) -> LogEvidence {
    let governs = log.configurations.iter().rev().find(|(_, membership)| membership.above < records.slot);
    let epoch = governs.map_or(Epoch(0), |(epoch, _)| Epoch(*epoch));
    let membership = governs.map(|(_, membership)| membership);
    let quorums = membership.map_or(Quorums { phase1: 0, phase2: 0 }, |membership| Quorums {
        phase1: membership.phase1.into(),
        phase2: membership.phase2.into(),
    });
    let members: NodeSet =
        membership.iter().flat_map(|membership| &membership.members).map(|node| NodeId(*node)).collect();
    let held = records.value.map(|value| HeldValue {
        how: if value.learnt { Held::Learnt } else { Held::Accepted },
        ballot: value.ballot,
        lsn: value.lsn,
        checksum: value.payload_crc,
        bytes: value.payload_bytes,
    });
    let evidence = NodeEvidence {
        node: log.identity.node,
        slot: records.slot,
        epoch,
        quorums,
        members,
        held,
        chosen: records.chosen.map(|chosen| ChosenBy { ballot: chosen.ballot, acceptors: chosen.acceptors }),
        known_chosen: records.is_chosen(),
    };
    let (dir, node) = (log.dir.clone(), log.identity.node);
    // A damaged log that holds nothing more has nothing to say, rather than "nothing accepted"; nor has one without its front.
    let removed = records.value.is_none() && records.slot <= log.base();
    let told = (!records.damaged && !removed).then_some(evidence);
    LogEvidence { dir, node, told, damaged: records.damaged }
}
