//! Entries that are their own sequences, of a thousand bytes, and `synod append` and `read` for them.

use super::cluster::Cluster;
use std::fmt::Write;
use std::process::Output;
use synod_client::NodeId;

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 1_000;

fn payload(sequence: u64) -> String {
    format!("{sequence:0ENTRY_BYTES$}")
}

/// `synod` with this command, the cluster's configuration, and the rest.
pub fn synod(cluster: &Cluster, command: &[&str], rest: &[&str]) -> Output {
    let config = cluster.config_file().display().to_string();
    cluster.synod(&[command, &["--config", &config], rest].concat())
}

/// Appends the entries of these sequences.
pub fn append(cluster: &Cluster, first: u64, count: u64) {
    let mut lines = String::new();
    (first..first + count).for_each(|sequence| writeln!(lines, "{}", payload(sequence)).expect("memory"));
    let file = cluster.dir().join("entries");
    std::fs::write(&file, lines).expect("a file of entries");
    let input = file.display().to_string();
    let output = synod(cluster, &["append"], &["--quiet", "--input", &input]);
    assert!(output.status.success(), "{output:?}");
}

/// Reads entries, from one node or whoever has them, and holds them to what was appended.
pub fn read(cluster: &Cluster, node: Option<NodeId>, from: u64, count: u64) {
    let (from_text, count_text) = (from.to_string(), count.to_string());
    let node = node.map(|node| node.to_string());
    let mut arguments = vec!["--from", &from_text, "--count", &count_text];
    arguments.extend(node.iter().flat_map(|node| ["--node", node]));
    let output = synod(cluster, &["read"], &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("digits");
    assert!(text.lines().eq((from..from + count).map(payload)), "node {node:?} from {from}");
}
