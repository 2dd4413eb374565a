//! Whether what was acknowledged is in the log: each entry carries its number, the acknowledgements are kept, and the log
//! that a node serves afterwards is held against them. Pure, but for [`read_back`], which asks the nodes. Called by the
//! scenarios.

use crate::cluster::Cluster;
use crate::interrupt;
use anyhow::{Context, ensure};
use serde::Serialize;
use std::time::{Duration, Instant};
use synod_client::{ReadOptions, Reader};
use synod_wire::{NodeId, Sequence};

/// The shortest entry that can be told from all others: a mark of its writer, and its number.
pub(crate) const MIN_ENTRY_BYTES: usize = 16;

/// Consecutive numbers at consecutive places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placed {
    number: u64,
    sequence: u64,
    entries: u64,
}

/// What one writer was told.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    mark: u64,
    placed: Vec<Placed>,
    acknowledged: u64,
    /// When acknowledgements came, if that is wanted: one instant for each that came alone.
    at: Option<Vec<Instant>>,
}

impl Journal {
    /// Of the writer with this mark; `timed` if [`Journal::longest_gap`] will be asked.
    pub(crate) fn new(mark: u64, timed: bool) -> Journal {
        Journal { mark, placed: Vec::new(), acknowledged: 0, at: timed.then(Vec::new) }
    }

    /// Writes entry `number` (from 1).
    ///
    /// # Panics
    /// If `entry` is shorter than [`MIN_ENTRY_BYTES`].
    pub(crate) fn fill(&self, number: u64, entry: &mut [u8]) {
        let (head, rest) = entry.split_at_mut(MIN_ENTRY_BYTES);
        head[..8].copy_from_slice(&self.mark.to_le_bytes());
        head[8..].copy_from_slice(&number.to_le_bytes());
        rest.fill(number as u8);
    }

    /// Entries `number..number + entries` have their places from `sequence`.
    pub(crate) fn acknowledged(&mut self, number: u64, sequence: u64, entries: u64, now: Instant) {
        self.acknowledged += entries;
        if let Some(at) = &mut self.at {
            at.push(now);
        }
        let last = self
            .placed
            .last_mut()
            .filter(|last| last.number + last.entries == number && last.sequence + last.entries == sequence);
        match last {
            Some(last) => last.entries += entries,
            None => self.placed.push(Placed { number, sequence, entries }),
        }
    }

    /// The longest time without an acknowledgement that touches `from..until`, its part before `from` included, what comes
    /// after `until` not.
    pub(crate) fn longest_gap(&self, from: Instant, until: Instant) -> Duration {
        let at = self.at.as_deref().expect("a journal that was made for it");
        let first = at.partition_point(|at| *at <= from);
        let mut last = if first > 0 { at[first - 1] } else { from };
        let mut longest = Duration::ZERO;
        for now in &at[first..] {
            if *now >= until {
                break;
            }
            longest = longest.max(now.saturating_duration_since(last));
            last = *now;
        }
        longest.max(until.saturating_duration_since(last))
    }

    /// The place that the writer was told for `number`.
    fn place(&self, number: u64) -> Option<u64> {
        let after = self.placed.partition_point(|placed| placed.number <= number);
        let placed = self.placed[..after].last()?;
        (number < placed.number + placed.entries).then(|| placed.sequence + (number - placed.number))
    }
}

/// A log held against a journal, entry by entry.
#[derive(Debug)]
struct Audit<'a> {
    journal: &'a Journal,
    /// One bit for each number that was found.
    found: Vec<u64>,
    verdict: Verdict,
}

/// What became of the entries of one writer in the log of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// The node that served the log.
    pub(crate) node: u8,
    /// Entries whose place the writer was told.
    pub(crate) acknowledged: u64,
    /// Acknowledged, and not in the log.
    pub(crate) lost: u64,
    /// In the log once more than once.
    pub(crate) duplicated: u64,
    /// In the log at another place than acknowledged.
    pub(crate) misplaced: u64,
    /// In the log with other bytes than were written.
    pub(crate) altered: u64,
    /// In the log behind a later one of the same writer.
    pub(crate) out_of_order: u64,
    /// In the log and not acknowledged: the writer ended before it was told.
    pub(crate) unacknowledged: u64,
    /// Entries of other writers.
    pub(crate) others: u64,
}

impl Verdict {
    /// An error unless every promise was kept.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let Verdict { lost, duplicated, misplaced, altered, out_of_order, .. } = *self;
        ensure!(
            lost + duplicated + misplaced + altered + out_of_order == 0,
            "the log of node {} does not hold what was acknowledged: {self:?}",
            self.node
        );
        Ok(())
    }
}

impl<'a> Audit<'a> {
    fn new(journal: &'a Journal, node: NodeId) -> Audit<'a> {
        let verdict = Verdict { node: node.0, acknowledged: journal.acknowledged, ..Verdict::default() };
        Audit { journal, found: Vec::new(), verdict }
    }

    /// The entry at `sequence`. Entries come in order of sequence.
    fn take(&mut self, sequence: u64, payload: &[u8]) {
        let Some((head, rest)) = payload.split_at_checked(MIN_ENTRY_BYTES) else {
            self.verdict.others += 1;
            return;
        };
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (mark, number) = (word(0), word(8));
        if mark != self.journal.mark {
            self.verdict.others += 1;
            return;
        }
        let place = self.journal.place(number);
        self.verdict.altered += u64::from(rest.iter().any(|byte| *byte != number as u8));
        if self.is_known(number) {
            self.verdict.duplicated += 1;
            return;
        }
        match place {
            None => self.verdict.unacknowledged += 1,
            Some(place) => self.verdict.misplaced += u64::from(place != sequence),
        }
        self.verdict.out_of_order += u64::from(self.is_behind(number));
        self.mark(number);
    }

    fn is_known(&self, number: u64) -> bool {
        self.found.get((number / 64) as usize).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Whether a later one was found already.
    fn is_behind(&self, number: u64) -> bool {
        let word = (number / 64) as usize;
        let above = |at: usize, found: u64| if at == word { found >> (number % 64) } else { found };
        // Numbers come in order, so what lies above is in the last word or nowhere.
        let last = self.found.len().saturating_sub(1).max(word);
        self.found.get(last).is_some_and(|found| above(last, *found) != 0)
    }

    fn mark(&mut self, number: u64) {
        let word = (number / 64) as usize;
        // A number that no entry can have would ask for all memory; `unacknowledged` has counted it.
        let most = self.journal.acknowledged as usize / 64 + MOST_UNACKNOWLEDGED / 64 + 1;
        if word < most && word >= self.found.len() {
            self.found.resize(word + 1, 0);
        }
        if let Some(found) = self.found.get_mut(word) {
            *found |= 1 << (number % 64);
        }
    }

    fn end(mut self) -> Verdict {
        let numbers = self.journal.placed.iter().flat_map(|placed| placed.number..placed.number + placed.entries);
        self.verdict.lost = numbers.filter(|number| !self.is_known(*number)).count() as u64;
        self.verdict
    }
}

/// Entries that a writer may have in flight when it ends.
const MOST_UNACKNOWLEDGED: usize = 1 << 20;
/// Datagrams that a reader asks for at once.
const READ_DATAGRAMS: u16 = 128;
/// How long a read may stay without progress.
const READ_PATIENCE: Duration = Duration::from_secs(10);

/// Reads the whole log of each member and holds it against `journal`. All members must be up and in step.
pub(crate) fn read_back(cluster: &Cluster, journal: &Journal) -> anyhow::Result<Vec<Verdict>> {
    cluster.members.iter().map(|(node, _)| read_back_from(cluster, *node, journal)).collect()
}

fn read_back_from(cluster: &Cluster, node: NodeId, journal: &Journal) -> anyhow::Result<Verdict> {
    let (_, address) = cluster.members.iter().find(|(member, _)| *member == node).context("no such member")?;
    let options = ReadOptions { deadline: READ_PATIENCE, max_datagrams: READ_DATAGRAMS, ..ReadOptions::default() };
    let mut reader = Reader::new(cluster.id, cluster.group, vec![*address], options)?;
    reader.read(Sequence(1), u64::MAX);
    let mut audit = Audit::new(journal, node);
    let mut expected = 1;
    while let Some(entry) = reader.next_entry().with_context(|| format!("cannot read the log of node {node}"))? {
        ensure!(entry.sequence.0 == expected, "node {node} served {} where {expected} was due", entry.sequence);
        audit.take(entry.sequence.0, entry.payload);
        expected += 1;
        if expected % 4_096 == 0 {
            interrupt::check()?;
        }
    }
    Ok(audit.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: u64 = 0xfeed;

    /// A journal of runs (number, sequence, entries), acknowledged a millisecond apart.
    fn journal(runs: &[(u64, u64, u64)]) -> (Journal, Instant) {
        let start = Instant::now();
        let mut journal = Journal::new(MARK, true);
        for (i, (number, sequence, entries)) in runs.iter().enumerate() {
            journal.acknowledged(*number, *sequence, *entries, start + Duration::from_millis(i as u64));
        }
        (journal, start)
    }

    /// The verdict over a log of these numbers, from sequence 1 on.
    fn audit(journal: &Journal, numbers: &[u64]) -> Verdict {
        let mut audit = Audit::new(journal, NodeId(0));
        let mut entry = [0; 24];
        for (sequence, number) in (1..).zip(numbers) {
            journal.fill(*number, &mut entry);
            audit.take(sequence, &entry);
        }
        audit.end()
    }

    #[test]
    fn a_log_that_holds_everything_once_passes() {
        let (journal, _) = journal(&[(1, 1, 2), (3, 3, 1)]);
        assert_eq!(journal.placed.len(), 1, "consecutive runs are one");
        let verdict = audit(&journal, &[1, 2, 3, 4]);
        assert_eq!(verdict, Verdict { acknowledged: 3, unacknowledged: 1, ..Verdict::default() });
        verdict.check().unwrap();
    }

    #[test]
    fn a_lost_entry_is_counted_and_what_follows_is_misplaced() {
        let (journal, _) = journal(&[(1, 1, 4)]);
        let verdict = audit(&journal, &[1, 3, 4]);
        assert_eq!((verdict.lost, verdict.misplaced, verdict.duplicated), (1, 2, 0));
        verdict.check().unwrap_err();
        assert_eq!(audit(&journal, &[]).lost, 4);
    }

    #[test]
    fn a_second_copy_is_a_duplicate_and_not_a_misplaced_entry() {
        let (journal, _) = journal(&[(1, 1, 3)]);
        let verdict = audit(&journal, &[1, 2, 3, 2]);
        assert_eq!((verdict.duplicated, verdict.misplaced, verdict.lost, verdict.out_of_order), (1, 0, 0, 0));
        verdict.check().unwrap_err();
    }

    #[test]
    fn order_bytes_and_foreign_entries_are_looked_at() {
        let (mut journal, _) = journal(&[(1, 1, 1)]);
        assert_eq!(audit(&journal, &[1, 200, 100]).out_of_order, 1);
        let mut entry = [0; 24];
        journal.fill(1, &mut entry);
        entry[20] ^= 1;
        let mut audit = Audit::new(&journal, NodeId(0));
        audit.take(1, &entry);
        audit.take(2, b"short");
        let verdict = audit.end();
        assert_eq!((verdict.altered, verdict.others, verdict.lost), (1, 1, 0));
        journal.mark = 1;
        let mut audit = Audit::new(&journal, NodeId(0));
        audit.take(1, &entry);
        assert_eq!((audit.verdict.others, audit.end().lost), (1, 1));
    }

    #[test]
    fn a_number_beyond_all_reason_takes_no_memory() {
        let (journal, _) = journal(&[(1, 1, 1)]);
        let mut audit = Audit::new(&journal, NodeId(0));
        let mut entry = [0; 24];
        journal.fill(u64::MAX, &mut entry);
        audit.take(1, &entry);
        assert!(audit.found.is_empty());
        assert_eq!(audit.end().unacknowledged, 1);
    }

    #[test]
    fn the_longest_gap_is_the_one_that_touches_the_window() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut journal = Journal::new(MARK, true);
        for (number, ms) in (1..).zip([0, 500, 510, 520, 600, 605]) {
            journal.acknowledged(number, number, 1, at(ms));
        }
        let gap = |from, until| journal.longest_gap(at(from), at(until)).as_millis();
        assert_eq!(gap(511, 700), 95, "what is awaited at the end counts up to it");
        assert_eq!(gap(511, 605), 80, "a gap that ends in the window");
        assert_eq!(gap(515, 590), 70, "a gap that starts in it and ends behind it counts as far as it reaches");
        assert_eq!(gap(100, 505), 500, "a gap that started before it");
        assert_eq!(gap(700, 800), 195, "nothing came in it at all");
    }
}
