//! Snapshots beside a log: each must be whole, and hold the state that the chosen values lead to. What an embedded machine
//! made of them is not looked at: which machine it was, no log says.

use super::VerifyError;
use super::log::LogFacts;
use super::report::{Fault, Problems};
use std::collections::BTreeMap;
use synod_wal::{Dir, Expect, snapshot};
use synod_wire::Slot;
use synod_wire::snapshot::{Malformed, Rest, State, parts};

/// The snapshots of one log: by slot, what follows the fixed part of the state.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    states: BTreeMap<Slot, StateBytes>,
}

#[derive(Debug)]
struct StateBytes {
    bytes: Vec<u8>,
    /// Whether a machine's bytes end it.
    embedded: bool,
}

impl Snapshots {
    /// Reads those beside a log; one that cannot be read is a problem.
    pub(super) fn of(log: &LogFacts, problems: &mut Problems) -> Result<Snapshots, VerifyError> {
        let dir = Dir::from(&log.dir);
        let unreadable = |source| VerifyError::Log { dir: log.dir.clone(), source };
        let identity = &log.identity;
        let expect = Expect { cluster: identity.cluster, group: identity.group, node: identity.node };
        let mut snapshots = Snapshots::default();
        for slot in snapshot::list(&dir).map_err(unreadable)? {
            let read = snapshot::read(&dir, &expect, slot).map_err(|error| error.to_string());
            match read.and_then(|read| state_of(&read.body, slot).map_err(|what| what.to_string())) {
                Ok(state) => drop(snapshots.states.insert(slot, state)),
                Err(what) => add(log, slot, what, problems),
            }
        }
        Ok(snapshots)
    }

    pub(super) fn count(&self) -> u64 {
        self.states.len() as u64
    }

    /// Compares the snapshot of `slot`, if there is one, with the sequencer's state after it.
    pub(super) fn compare(
        &self,
        log: &LogFacts,
        slot: Slot,
        sequencer: &dyn Fn() -> Option<Vec<u8>>,
        problems: &mut Problems,
    ) {
        let Some(state) = self.states.get(&slot) else { return };
        let Some(expected) = sequencer() else { return };
        let same = if state.embedded { state.bytes.starts_with(&expected) } else { state.bytes == expected };
        if !same {
            add(log, slot, "its state is not the one that the chosen values lead to".to_owned(), problems);
        }
    }
}

fn add(log: &LogFacts, slot: Slot, what: String, problems: &mut Problems) {
    let mut problem = log.problem(Fault::Snapshot, what);
    problem.file = snapshot::path(&log.dir, slot);
    problem.slot = Some(slot.0);
    problems.add(problem);
}

/// What follows the configuration in the state of a snapshot's body.
fn state_of(body: &[u8], slot: Slot) -> Result<StateBytes, Malformed> {
    let (state, facts) = parts(body)?;
    synod_wire::snapshot::facts(facts)?;
    let mut rest = Rest(state);
    let head: &State = rest.take()?;
    if head.slot.get() != slot.0 {
        return Err(Malformed("it is of another slot than its name says"));
    }
    rest.bytes(head.configuration_bytes.get().into())?;
    Ok(StateBytes { bytes: rest.0.to_vec(), embedded: head.embedded != 0 })
}
