//! What a verification found: problems with their places, and what was looked at. Plain data, printed by the command
//! line as text or JSON.

use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// Problems that are kept; further ones are counted.
pub const MAX_PROBLEMS: usize = 1_000;

/// What sort of thing is wrong. The names are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Bytes that were whole once are not, and their repair is not recorded.
    Damage,
    /// An Lsn that does not follow its predecessor's.
    LsnGap,
    /// A promise below an earlier one, or a vote below a promise.
    PromiseRegressed,
    /// A vote in a slot below an earlier vote there.
    BallotRegressed,
    /// Two values in one slot and ballot.
    TwoValues,
    /// A chosen slot with different values.
    Conflict,
    /// A slot that a log knows chosen and holds no value of.
    MissingValue,
    /// Evidence that names too few acceptors, or one whose log does not hold the value.
    Evidence,
    /// A record's payload that its kind does not allow.
    Malformed,
    /// Logs that disagree about the members, the quorums or the founding.
    Configuration,
    /// A log that ends before what a peer counted from it.
    RolledBack,
    /// Two logs of one node.
    Duplicate,
    /// A snapshot that is not whole, or not of the state that the chosen values lead to.
    Snapshot,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Fault::Damage => "damage",
            Fault::LsnGap => "lsn gap",
            Fault::PromiseRegressed => "promise regressed",
            Fault::BallotRegressed => "ballot regressed",
            Fault::TwoValues => "two values in one ballot",
            Fault::Conflict => "conflict",
            Fault::MissingValue => "missing value",
            Fault::Evidence => "evidence",
            Fault::Malformed => "malformed",
            Fault::Configuration => "configuration",
            Fault::RolledBack => "rolled back",
            Fault::Duplicate => "duplicate",
            Fault::Snapshot => "snapshot",
        };
        f.write_str(name)
    }
}

/// One thing wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What sort.
    pub fault: Fault,
    /// The node whose log it is.
    pub node: u8,
    /// The group.
    pub group: u8,
    /// The segment file, or the log's directory where no one place is meant.
    pub file: PathBuf,
    /// The byte position in the log.
    pub pos: Option<u64>,
    /// The record.
    pub lsn: Option<u64>,
    /// The slot.
    pub slot: Option<u64>,
    /// In words.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        for (name, number) in [("position", self.pos), ("lsn", self.lsn), ("slot", self.slot)] {
            if let Some(number) = number {
                write!(f, ", {name} {number}")?;
            }
        }
        write!(f, ": {}: {}", self.fault, self.what)
    }
}

/// Collects problems up to a bound.
#[derive(Debug, Default)]
pub(super) struct Problems {
    pub(super) kept: Vec<Problem>,
    pub(super) count: u64,
}

impl Problems {
    pub(super) fn add(&mut self, problem: Problem) {
        self.count += 1;
        if self.kept.len() < MAX_PROBLEMS {
            self.kept.push(problem);
        }
    }
}

/// Where a log begins whose front was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Begin {
    /// The first segment.
    pub segment: u64,
    /// Its first record; none: damage hides it.
    pub lsn: Option<u64>,
}

impl fmt::Display for Begin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "begins at segment {:x}, ", self.segment)?;
        match self.lsn {
            Some(lsn) => write!(f, "lsn {lsn}")?,
            None => write!(f, "an lsn that is not readable")?,
        }
        write!(f, ": what was before was removed")
    }
}

/// One log that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogSummary {
    /// Its directory.
    pub dir: PathBuf,
    /// Its node.
    pub node: u8,
    /// The life of that node.
    pub incarnation: u64,
    /// Where it begins, if not with its first record.
    pub begins_at: Option<Begin>,
    /// Records read.
    pub records: u64,
    /// The last Lsn.
    pub last_lsn: u64,
    /// The slots up to here are held and known chosen.
    pub chosen_prefix: u64,
    /// Snapshots that could be read.
    pub snapshots: u64,
    /// Damaged places whose repair is recorded.
    pub repaired: u64,
    /// Whether the last flush was cut off, as a crash leaves it.
    pub torn_tail: bool,
    /// Its node ran under memory durability and did not end orderly: the last records may be missing.
    pub unsynced: bool,
}

/// One group whose logs were compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupSummary {
    /// The cluster.
    pub cluster: u32,
    /// The group.
    pub group: u8,
    /// Its logs.
    pub logs: Vec<LogSummary>,
    /// The first slot that all of some log's part of it is still there for: above 1 if the front of every log was removed. Then
    /// sequences are not counted, as those before are not known.
    pub first_slot: u64,
    /// The slots up to here are chosen, as these logs show together.
    pub chosen_prefix: u64,
    /// Slots above it that are chosen as well: a crash left a hole below, which the next leader fills.
    pub chosen_above: u64,
    /// The last sequence of the chosen prefix.
    pub tail: u64,
    /// Runs that came again, or out of order, and had no effect.
    pub runs_without_effect: u64,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// The groups.
    pub groups: Vec<GroupSummary>,
    /// The first [`MAX_PROBLEMS`] problems.
    pub problems: Vec<Problem>,
    /// How many there are.
    pub problems_count: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in &self.groups {
            let (first, last) = (group.first_slot, group.chosen_prefix);
            write!(f, "cluster {} group {}: slots {first} to {last} chosen, ", group.cluster, group.group)?;
            match first {
                1 => writeln!(f, "sequences 1 to {} without a gap", group.tail)?,
                _ => writeln!(f, "sequences not counted, as slots before were removed")?,
            }
            for log in &group.logs {
                let unsynced = if log.unsynced { ", not synced to its end (memory durability)" } else { "" };
                let torn = if log.torn_tail { ", torn tail (as a crash leaves it)" } else { "" };
                let repaired = if log.repaired > 0 { format!(", {} repaired", log.repaired) } else { String::new() };
                let snapshots = match log.snapshots {
                    0 => String::new(),
                    1 => ", a snapshot".to_owned(),
                    several => format!(", {several} snapshots"),
                };
                let begins = log.begins_at.map_or(String::new(), |begin| format!(", {begin}"));
                writeln!(
                    f,
                    "  node {}: {} records, last lsn {}, chosen up to slot {}{snapshots}{repaired}{torn}{unsynced}{begins}  {}",
                    log.node,
                    log.records,
                    log.last_lsn,
                    log.chosen_prefix,
                    log.dir.display()
                )?;
            }
        }
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        let hidden = self.problems_count - self.problems.len() as u64;
        if hidden > 0 {
            writeln!(f, "... and {hidden} more")?;
        }
        if self.ok {
            writeln!(f, "verified: no problem found")
        } else {
            writeln!(f, "NOT verified: {} problem(s)", self.problems_count)
        }
    }
}
