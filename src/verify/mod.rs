//! `synod verify`: reads logs offline and checks that they tell one story.
//!
//! Within each log: checksums, dense Lsns, promises and votes that never regress, one value a slot and ballot, evidence
//! with a quorum, every slot known chosen held, no damage that was not repaired. Between the logs of a group: one value a
//! chosen slot, one a ballot, snapshots of the state that the values lead to, evidence that the named acceptors' logs bear out (in that ballot, if all logs are here), one founding, one configuration an
//! epoch, nobody behind what its peers counted. Over the chosen prefix: batches that parse, sequences without a gap.
//!
//! Memory is bounded (`facts::WINDOW_SLOTS`): longer logs are read once for each window of slots. Reads only. Called by
//! the command line and the demo.

mod compare;
mod evidence;
mod facts;
mod log;
mod replay;
mod report;
mod snapshots;

pub use evidence::{LogEvidence, SlotEvidence, evidence};
pub use report::{Begin, Fault, GroupSummary, LogSummary, MAX_PROBLEMS, Problem, Report};

use crate::shard::install::first_own_slot;
use compare::{Outcome, Side, Terms};
use facts::{Facts, Fingerprint, SlotFacts, Window};
use log::{Front, LogFacts, Pass};
use replay::Replay;
use report::Problems;
use snapshots::Snapshots;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use synod_wal::{Dir, Item, LogError, LogReader};
use synod_wire::{Sequence, Slot};

/// Logs that cannot be looked at at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A directory cannot be read.
    #[error("cannot read {dir:?}: {source}. Name a node's directory or a group's")]
    Directory {
        /// Which.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A directory holds no log.
    #[error("{0:?} holds no log: name a node's directory (with group-000 in it) or a group's (with .seg files)")]
    NoLog(PathBuf),
    /// A log cannot be read.
    #[error("{dir:?}: {source}")]
    Log {
        /// Which.
        dir: PathBuf,
        /// Why.
        source: LogError,
    },
    /// None of the logs is of that group.
    #[error("none of these logs is of group {0}")]
    NoGroup(u8),
    /// A slot is one cluster's.
    #[error("these logs are of several clusters: name those of one")]
    SeveralClusters,
}

/// Verifies the logs in `dirs`, which are nodes' directories or groups'.
pub fn verify(dirs: &[PathBuf]) -> Result<Report, VerifyError> {
    verify_in_windows(dirs, facts::WINDOW_SLOTS)
}

/// A group's logs: opened, and what was learnt of each.
#[derive(Default)]
struct Group {
    readers: Vec<LogReader>,
    files: Vec<Files>,
    logs: Vec<LogFacts>,
    snapshots: Vec<Snapshots>,
}

/// Logs by cluster and group.
type Groups = BTreeMap<(u32, u8), Group>;

/// Opens the logs in `dirs`.
fn open(dirs: &[PathBuf], problems: &mut Problems) -> Result<Groups, VerifyError> {
    let mut groups = Groups::new();
    for dir in dirs {
        for dir in log_dirs(dir)? {
            let reader =
                LogReader::open_offline(&dir).map_err(|source| VerifyError::Log { dir: dir.clone(), source })?;
            let identity = *reader.identity();
            let front = front(&dir, &reader).map_err(|source| VerifyError::Log { dir: dir.clone(), source })?;
            let group = groups.entry((identity.cluster.0, identity.group.0)).or_default();
            let log = LogFacts::new(&dir, identity, front);
            group.snapshots.push(Snapshots::of(&log, problems)?);
            group.logs.push(log);
            group.files.push(Files::of(&dir, reader.first_segment())?);
            group.readers.push(reader);
        }
    }
    Ok(groups)
}

/// Where the log begins, if its front was removed or a member's snapshot stands for its first slots; its newest snapshot tells which
/// slots are not there.
fn front(dir: &Path, reader: &LogReader) -> Result<Option<Front>, LogError> {
    if reader.first_segment() == 0 && first_own_slot(&Dir::from(dir), reader)? == Slot(1) {
        return Ok(None);
    }
    let snapshot = synod_wal::snapshot::list(dir)?.last().copied();
    Ok(Some(Front { segment: reader.first_segment(), lsn: reader.first_lsn(None)?, snapshot }))
}

/// The same with `window_slots` slots a pass: fewer take less memory and more passes.
pub fn verify_in_windows(dirs: &[PathBuf], window_slots: u64) -> Result<Report, VerifyError> {
    let mut problems = Problems::default();
    let mut summaries = Vec::new();
    for ((cluster, number), mut group) in open(dirs, &mut problems)? {
        summaries.push(group.verify(cluster, number, window_slots, &mut problems)?);
    }
    let Problems { kept, count } = problems;
    Ok(Report { ok: count == 0, groups: summaries, problems: kept, problems_count: count })
}

/// The directories with segments: `dir` itself, or the groups' below a node's.
fn log_dirs(dir: &Path) -> Result<Vec<PathBuf>, VerifyError> {
    let unreadable = |source| VerifyError::Directory { dir: dir.into(), source };
    let mut groups = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            return Ok(vec![dir.into()]);
        }
        let named = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("group-"));
        if named && path.is_dir() {
            groups.push(path);
        }
    }
    groups.sort();
    if groups.is_empty() { Err(VerifyError::NoLog(dir.into())) } else { Ok(groups) }
}

impl Group {
    fn verify(
        &mut self,
        cluster: u32,
        number: u8,
        window_slots: u64,
        problems: &mut Problems,
    ) -> Result<GroupSummary, VerifyError> {
        let walked = self.walk(window_slots, None, problems)?;
        let all = self.logs.iter().zip(walked.prefixes).zip(&self.snapshots);
        let logs = all.map(|((log, prefix), snapshots)| summary(log, prefix, snapshots)).collect();
        Ok(GroupSummary {
            cluster,
            group: number,
            logs,
            first_slot: walked.replay.first.0,
            chosen_prefix: walked.replay.prefix.0,
            chosen_above: walked.chosen_above,
            tail: walked.replay.tail().0,
            runs_without_effect: walked.replay.runs_without_effect,
        })
    }

    /// Compares the logs slot by slot and replays what is chosen: all of it, or until `upto` is sequenced.
    fn walk(
        &mut self,
        window_slots: u64,
        upto: Option<Sequence>,
        problems: &mut Problems,
    ) -> Result<Walked, VerifyError> {
        let mut replay = Replay::new();
        let mut prefixes = vec![Slot::ZERO; self.logs.len()];
        let mut chosen_above = 0;
        let mut window = Window::number(0, window_slots);
        'walk: loop {
            let facts = self.pass(window, problems)?;
            if window.first == Slot(1) {
                compare::whole_logs(&self.logs, problems);
                // Slots that no log reaches back to are a snapshot's.
                replay.skip(self.logs.iter().map(LogFacts::base).min().unwrap_or_default());
                prefixes = self.logs.iter().map(LogFacts::base).collect();
            }
            let last = self.logs.iter().map(|log| log.last_slot).max().unwrap_or_default();
            let sides = sides(&self.logs, &facts, &self.files);
            let terms = self.terms(&facts);
            for slot in (window.first.0..=window.last().min(last).0).map(Slot) {
                for (prefix, facts) in prefixes.iter_mut().zip(&facts) {
                    if prefix.next() == slot && facts.get(slot).chosen() {
                        *prefix = slot;
                    }
                }
                match compare::slot(&sides, slot, terms, problems) {
                    Outcome::Chosen(holder) if replay.prefix.next() == slot => {
                        let held = facts[holder].get(slot);
                        apply(&mut replay, slot, held, &sides[holder], &mut self.readers[holder], problems)?;
                        for (log, snapshots) in self.logs.iter().zip(&self.snapshots) {
                            snapshots.compare(log, slot, &|| replay.state(), problems);
                        }
                    }
                    Outcome::Chosen(_) => chosen_above += 1,
                    Outcome::Open => {}
                }
                if upto.is_some_and(|sequence| replay.tail() >= sequence) {
                    break 'walk;
                }
            }
            if window.last() >= last {
                break;
            }
            window = Window { first: window.last().next(), ..window };
        }
        Ok(Walked { replay, prefixes, chosen_above })
    }

    /// Reads every log once.
    fn pass(&mut self, window: Window, problems: &mut Problems) -> Result<Vec<Facts>, VerifyError> {
        let mut all = Vec::with_capacity(self.logs.len());
        for ((log, reader), files) in self.logs.iter_mut().zip(&mut self.readers).zip(&self.files) {
            let dir = log.dir.clone();
            let mut pass = Pass::new(log, window, problems, files);
            let scanned = reader.scan(reader.first_pos(), None, &mut |item| {
                match item {
                    Item::Record(place, frame) => pass.record(place, &frame),
                    Item::Trailer(_) => {}
                    Item::Damage(damage) => pass.damage(&damage),
                    Item::TornTail(tail) => pass.torn(&tail),
                }
                ControlFlow::Continue(())
            });
            scanned.map_err(|source| VerifyError::Log { dir, source })?;
            all.push(pass.finish());
        }
        Ok(all)
    }

    /// The votes that choose a value, and whose logs there should be, by the last configuration that any log names.
    fn terms(&self, facts: &[Facts]) -> Terms {
        let last =
            self.logs.iter().filter_map(|log| log.configurations.last_key_value()).max_by_key(|(epoch, _)| **epoch);
        let Some((_, membership)) = last else { return Terms { quorum: 0, complete: false } };
        let here = |node: &u8| self.logs.iter().any(|log| log.identity.node.0 == *node);
        let whole = self.logs.iter().all(LogFacts::is_whole) && !facts.iter().any(Facts::overflowed);
        let complete = whole && membership.members.iter().all(here);
        Terms { quorum: usize::from(membership.phase2), complete }
    }
}

/// What a walk over a group's logs found.
struct Walked {
    replay: Replay,
    /// Each log's own chosen prefix.
    prefixes: Vec<Slot>,
    chosen_above: u64,
}

/// Applies the value that one log holds.
fn apply(
    replay: &mut Replay,
    slot: Slot,
    held: SlotFacts,
    side: &Side<'_>,
    reader: &mut LogReader,
    problems: &mut Problems,
) -> Result<(), VerifyError> {
    let dir = &side.log.dir;
    let (_, payload) =
        reader.record_at(held.place()).map_err(|source| VerifyError::Log { dir: dir.clone(), source })?;
    assert_eq!(Fingerprint::of(&payload), held.value, "a record reads the same twice");
    if let Err(what) = replay.apply(slot, &payload) {
        side.add(problems, Fault::Malformed, slot, &held, what);
    }
    Ok(())
}

fn sides<'a>(logs: &'a [LogFacts], facts: &'a [Facts], files: &'a [Files]) -> Vec<Side<'a>> {
    let all = logs.iter().zip(facts).zip(files);
    all.map(|((log, facts), files)| Side { log, facts, files }).collect()
}

/// Which file a position of a log lies in, for the places of problems.
struct Files {
    dir: PathBuf,
    segment_bytes: u64,
}

impl Files {
    /// Of the log in `dir`: every segment file is as long as the first.
    fn of(dir: &Path, first_segment: u64) -> Result<Files, VerifyError> {
        let first = dir.join(format!("{first_segment:016x}.seg"));
        let unreadable = |source| VerifyError::Directory { dir: first.clone(), source };
        let segment_bytes = std::fs::metadata(&first).map_err(unreadable)?.len().max(1);
        Ok(Files { dir: dir.into(), segment_bytes })
    }

    fn at(&self, pos: u64) -> PathBuf {
        self.dir.join(format!("{:016x}.seg", pos / self.segment_bytes))
    }
}

fn summary(log: &LogFacts, prefix: Slot, snapshots: &Snapshots) -> LogSummary {
    LogSummary {
        dir: log.dir.clone(),
        node: log.identity.node.0,
        incarnation: log.identity.incarnation,
        records: log.records,
        begins_at: log.front.map(|front| Begin { segment: front.segment, lsn: front.lsn.map(|lsn| lsn.0) }),
        last_lsn: log.last_lsn.0,
        chosen_prefix: prefix.0,
        snapshots: snapshots.count(),
        repaired: log.repaired(),
        torn_tail: log.torn_tail,
        unsynced: log.unsynced,
    }
}
