//! What the demo found, as text or JSON.

use super::disk::Disk;
use crate::pipeline::Latency;
use crate::verify;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// What was sequenced.
#[derive(Clone, Debug, Serialize)]
pub struct InputReport {
    /// The file, or that it was generated.
    pub source: String,
    /// Whether the entries were generated rather than given.
    pub generated: bool,
    /// How often the input was gone through.
    pub passes: f64,
    /// The longest entry.
    pub longest_entry_bytes: usize,
    /// The batch that was chosen to hold it.
    pub max_batch_bytes: usize,
}

/// What the failover did.
#[derive(Clone, Debug, Serialize)]
pub struct Failover {
    /// The leader that was killed.
    pub killed_node: u8,
    /// Who led afterwards.
    pub new_leader: Option<u8>,
    /// Entries in flight when it was killed.
    pub in_flight: usize,
    /// The longest time without an acknowledgement.
    pub longest_gap_ms: f64,
}

/// The log of one node, read back.
#[derive(Clone, Debug, Serialize)]
pub struct ReadBack {
    /// The node.
    pub node: u8,
    /// Entries read.
    pub entries: u64,
    /// Whether each was the input's, byte for byte.
    pub identical: bool,
    /// What was wrong, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What the demo found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether all of it held.
    pub ok: bool,
    /// What was sequenced.
    pub input: InputReport,
    /// How many nodes.
    pub nodes: u8,
    /// Entries acknowledged.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long the load ran.
    pub seconds: f64,
    /// Entries a second over the whole load, the failover included.
    pub entries_per_second: f64,
    /// Entries in flight at once.
    pub outstanding: usize,
    /// Commit latency but for the time around the failover.
    pub steady_latency: Latency,
    /// The failover.
    pub failover: Failover,
    /// Each node's log, read back.
    pub read_back: Vec<ReadBack>,
    /// What `verify` found in the logs.
    pub verify: verify::Report,
    /// What an acknowledgement rests on.
    pub durability: &'static str,
    pub(super) disk: Disk,
    /// Cache flushes of the device during the load, if the kernel counts them.
    pub disk_flushes: Option<u64>,
    /// The kernel's release.
    pub kernel: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Where the logs were kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathBuf>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { input, steady_latency: steady, failover, disk, .. } = self;
        let label = if input.generated { "generated".into() } else { format!("{:.1} times", input.passes) };
        writeln!(f, "input        {}, {label}, longest entry {} bytes", input.source, input.longest_entry_bytes)?;
        writeln!(f, "cluster      {} nodes on loopback, batches up to {} bytes", self.nodes, input.max_batch_bytes)?;
        let mib = self.bytes as f64 / f64::from(1 << 20);
        writeln!(f, "entries      {} acknowledged ({mib:.1} MiB) in {:.2} s", self.entries, self.seconds)?;
        writeln!(f, "rate         {:.0} entries/s, the failover included", self.entries_per_second)?;
        writeln!(
            f,
            "latency      p50 {} us, p99 {} us, p99.9 {} us, max {} us: commit with {} entries outstanding, but for the failover",
            steady.p50_us, steady.p99_us, steady.p999_us, steady.max_us, self.outstanding
        )?;
        let leader = failover.new_leader.map_or("nobody".into(), |node| format!("node {node}"));
        writeln!(
            f,
            "failover     leader (node {}) killed with {} entries in flight; {leader} went on; longest gap {:.1} ms",
            failover.killed_node, failover.in_flight, failover.longest_gap_ms
        )?;
        for log in &self.read_back {
            let verdict = match &log.problem {
                None => "identical to the input, byte for byte".into(),
                Some(problem) => format!("NOT the input: {problem}"),
            };
            writeln!(f, "node {}       {} entries read back, {verdict}", log.node, log.entries)?;
        }
        writeln!(f, "durability   {}", self.durability)?;
        let flushes =
            self.disk_flushes.map_or(String::new(), |count| format!(", {count} device flushes during the load"));
        writeln!(f, "disk         {} on {}, {}{flushes}", disk.file_system, disk.device, disk.directory.display())?;
        writeln!(f, "kernel       {}, {} CPUs", self.kernel, self.cpus)?;
        for line in self.verify.to_string().lines() {
            writeln!(f, "verify       {line}")?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "kept         {}", kept.display())?;
        }
        f.write_str(if self.ok { "all of it held\n" } else { "NOT all of it held\n" })
    }
}
