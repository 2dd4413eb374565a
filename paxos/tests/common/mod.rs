//! What the tests of the core share: a node with a simulated log around a [`synod_paxos::Replica`], and the checkers.
//!
//! The harness keeps the values (strings), carries records to a log that loses its unsynced end in a crash, parks what
//! waits for the log, and runs the invariants and every checker after every step.
#![allow(dead_code, reason = "each test crate uses a part of this module")]

pub(crate) mod chaos;
pub(crate) mod checks;
pub(crate) mod cluster;
pub(crate) mod disk;
pub(crate) mod membership;
pub(crate) mod node;
pub(crate) mod random;
pub(crate) mod script;

use std::rc::Rc;
use synod_paxos::Settings;
use synod_wire::configuration::MAX_CONFIGURATION_BYTES;
use synod_wire::{Ballot, Configuration, NodeId, Quorums};

/// A slot's value. The core never sees it.
pub(crate) type Value = Rc<str>;

/// The value that brings a configuration.
pub(crate) fn configuration_value(configuration: &Configuration) -> Value {
    let mut bytes = [0; MAX_CONFIGURATION_BYTES];
    let used = configuration.encode(&mut bytes);
    let hex: String = bytes[..used].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{CONFIGURES}{hex}").into()
}

/// The configuration that a value brings.
pub(crate) fn configuration_of(value: &Value) -> Option<Configuration> {
    let hex = value.strip_prefix(CONFIGURES)?;
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    Some(Configuration::parse(&bytes).expect("a configuration"))
}

const CONFIGURES: &str = "configuration ";

/// The value of a no-op.
pub(crate) const NOOP: &str = "-";

/// One millisecond in the core's unit of time.
pub(crate) const MS: u64 = 1_000_000;

/// Settings of `me` in a group of the nodes 1..=`nodes` with majorities: heartbeats every 20 ms, elections after 150 to 300.
pub(crate) fn settings(me: u8, nodes: u8) -> Settings {
    Settings {
        me: NodeId(me),
        members: (1..=nodes).map(NodeId).collect(),
        joins: false,
        quorums: Quorums::majority(nodes.into()),
        incarnation: founding_incarnation(me),
        window_slots: 64,
        heartbeat_ns: 20 * MS,
        election_min_ns: 150 * MS,
        election_max_ns: 300 * MS,
        retransmit_ns: 10 * MS,
        commit_linger_ns: MS / 2,
        fetch_slots: 16,
        seed: me.into(),
        lease: None,
    }
}

/// The configuration that a group of the nodes 1..=`nodes` begins with.
pub(crate) fn founding(nodes: u8, quorums: Quorums) -> Configuration {
    let members: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
    Configuration::founding(&members, quorums)
}

/// The incarnation that a node founds the group with.
pub(crate) fn founding_incarnation(node: u8) -> u64 {
    100 + u64::from(node)
}

/// The ballot `round.node`.
pub(crate) fn ballot(round: u64, node: u8) -> Ballot {
    Ballot { round, node: NodeId(node) }
}
