//! What a run, or many, came by: faults by kind, kinds of messages, changes of roles, paths of recovery. The command line
//! prints what was never seen.

use crate::fault::Fault;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use synod_paxos::Role;
use synod_wire::frame::Kind;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// How often each fault happened.
    pub faults: BTreeMap<Fault, u64>,
    /// How many frames of each kind were sent.
    pub kinds: BTreeMap<u8, u64>,
    /// How often each change of role was seen.
    pub roles: BTreeMap<String, u64>,
    /// How often each marked place was reached.
    pub marks: BTreeMap<String, u64>,
}

/// How many frames of each kind were sent: counted at every datagram, so in place.
#[derive(Clone, Debug)]
pub(crate) struct FramesSent([u64; 256]);

impl Default for FramesSent {
    fn default() -> FramesSent {
        FramesSent([0; 256])
    }
}

impl FramesSent {
    pub(crate) fn kind(&mut self, kind: Kind) {
        self.0[usize::from(kind as u8)] += 1;
    }

    /// The first frame of a datagram to or from a client.
    pub(crate) fn message(&mut self, datagram: &[u8]) {
        if let Some(kind) = datagram.get(17) {
            self.0[usize::from(*kind)] += 1;
        }
    }

    /// Those that were sent at all.
    pub(crate) fn counts(&self) -> BTreeMap<u8, u64> {
        (0..=u8::MAX).zip(self.0).filter(|(_, count)| *count > 0).collect()
    }
}

impl Coverage {
    pub(crate) fn fault(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    pub(crate) fn role(&mut self, from: Role, to: Role) {
        *self.roles.entry(format!("{from:?} -> {to:?}")).or_default() += 1;
    }

    pub(crate) fn mark(&mut self, mark: &str) {
        match self.marks.get_mut(mark) {
            Some(count) => *count += 1,
            None => drop(self.marks.insert(mark.to_owned(), 1)),
        }
    }

    /// Adds another run's.
    pub fn absorb(&mut self, other: &Coverage) {
        fn add<K: Clone + Ord>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
            for (key, count) in from {
                *to.entry(key.clone()).or_default() += count;
            }
        }
        add(&mut self.faults, &other.faults);
        add(&mut self.kinds, &other.kinds);
        add(&mut self.roles, &other.roles);
        add(&mut self.marks, &other.marks);
    }
}
