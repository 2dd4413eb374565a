//! The check after every fault: what was acknowledged is in every node's log, once, where it was said to be, whole; and the
//! logs are the same.

use super::cluster::Cluster;
use super::load::{TAG_BYTES, Told, entry};
use std::collections::HashMap;
use std::time::Duration;
use synod_client::{ReadOptions, Reader};
use synod_wire::{GroupId, NodeId, Sequence};

/// An entry of a log: whose it is. Its bytes were checked when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The session.
    pub client_id: u128,
    /// The session's sequence.
    pub client_seq: u64,
    /// The leader's timestamp.
    pub timestamp_ns: u64,
}

/// Reads a node's whole log of a group and checks each entry's bytes, that sequences are dense from 1, and that
/// timestamps never run backwards.
pub fn read_log(cluster: &Cluster, node: NodeId, group: GroupId, told: &[Told]) -> Vec<Entry> {
    let longest: HashMap<u128, usize> = told.iter().map(|told| (told.client_id, told.max_bytes)).collect();
    let options = ReadOptions { deadline: Duration::from_secs(20), ..ReadOptions::default() };
    let address = cluster.config.client_address(node, group);
    let mut reader = Reader::new(cluster.config.cluster_id(), group, vec![address], options).expect("a reader");
    reader.read(Sequence(1), u64::MAX);
    let mut entries: Vec<Entry> = Vec::new();
    let mut expected = Vec::new();
    while let Some(found) = reader.next_entry().unwrap_or_else(|error| panic!("node {node} cannot be read: {error}")) {
        let sequence = entries.len() as u64 + 1;
        assert_eq!(found.sequence, Sequence(sequence), "node {node}: sequences are dense");
        let tag = found.payload.first_chunk::<TAG_BYTES>().expect("every entry starts with its tag");
        let client_id = u128::from_le_bytes(*tag.first_chunk().expect("16 of 24 bytes"));
        let client_seq = u64::from_le_bytes(*tag.last_chunk().expect("8 of 24 bytes"));
        let max_bytes = longest.get(&client_id).unwrap_or_else(|| panic!("node {node}, {sequence}: nobody's entry"));
        entry(client_id, client_seq, *max_bytes, &mut expected);
        assert!(found.payload == expected, "node {node}: the bytes of entry {sequence} are not those appended");
        let before = entries.last().map_or(0, |last| last.timestamp_ns);
        assert!(found.timestamp_ns >= before, "node {node}: the timestamp of entry {sequence} runs backwards");
        entries.push(Entry { client_id, client_seq, timestamp_ns: found.timestamp_ns });
    }
    entries
}

/// Checks a log against what the sessions were told: every acknowledged entry at its sequence with its timestamp; every
/// session's entries once and in order; nothing that was not offered.
pub fn check_log(log: &[Entry], told: &[Told]) {
    for told in told {
        for ack in told.acks.iter().flatten() {
            let index = ack.sequence.0 as usize - 1;
            let expected =
                Entry { client_id: told.client_id, client_seq: ack.client_seq, timestamp_ns: ack.timestamp_ns };
            assert_eq!(log.get(index), Some(&expected), "what was acknowledged as sequence {} is lost", ack.sequence);
        }
    }
    let mut last_seq: HashMap<u128, u64> = HashMap::new();
    for (index, entry) in log.iter().enumerate() {
        let last = last_seq.entry(entry.client_id).or_default();
        assert_eq!(entry.client_seq, *last + 1, "sequence {}: once each, first in first out", index + 1);
        *last = entry.client_seq;
    }
    for told in told {
        let last = last_seq.get(&told.client_id).copied().unwrap_or_default();
        assert!(last <= told.offered, "the log holds entries that were never offered");
    }
}

/// Waits until the nodes agree, reads the group's log from each, and checks it; how many entries it holds.
pub fn check_group(cluster: &Cluster, group: GroupId, told: &[Told]) -> u64 {
    cluster.await_converged(group);
    let mut first: Option<Vec<Entry>> = None;
    for node in cluster.members() {
        let log = read_log(cluster, node, group, told);
        match &first {
            None => {
                check_log(&log, told);
                first = Some(log);
            }
            Some(first) => assert!(*first == log, "node {node} holds another log than node {}", cluster.members()[0]),
        }
    }
    first.map_or(0, |log| log.len() as u64)
}

/// As [`check_group`], then ends the nodes and verifies their logs.
pub fn check_everything(cluster: &mut Cluster, group: GroupId, told: &[Told]) -> u64 {
    let entries = check_group(cluster, group, told);
    cluster.stop_all();
    let report = cluster.verify();
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(report["groups"][usize::from(group.0)]["tail"], entries, "verify counts the same entries: {report}");
    entries
}
