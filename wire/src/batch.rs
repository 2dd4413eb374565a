//! A slot's value: a batch of runs, each run the entries of one client datagram, copied as they came.
//!
//! `BatchHeader, (RunHeader, Condition?, (length u16, bytes)*)*`. A run's entries carry consecutive client sequences from
//! `first_seq`. A batch without runs is a no-op. A [`Condition`] stands in runs of kind [`RunKind::ConditionalAppend`]
//! alone, so that others pay nothing for it. A run of kind [`RunKind::Trim`] is a header alone, of no client.

use crate::Sequence;
use crate::frame::FrameError;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Starts every batch: 16 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct BatchHeader {
    /// The leader's wall clock when it sealed the batch, nanoseconds since the Unix epoch. Apply takes the maximum of
    /// this and the last one, so that timestamps never run backwards.
    pub timestamp_ns: U64,
    /// Runs that follow.
    pub runs: U16,
    /// Zero.
    pub reserved: [u8; 6],
}

/// Starts every run: 40 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct RunHeader {
    /// The client that the session belongs to.
    pub client_id: U128,
    /// The client's sequence of the first entry, from 1.
    pub first_seq: U64,
    /// Entries that follow.
    pub entries: U16,
    /// [`RunKind`].
    pub kind: u8,
    /// Zero.
    pub reserved: u8,
    /// Bytes of what follows: the condition, if there is one, and the entries with their length prefixes.
    pub bytes: U32,
    /// The session's number, which its opening was given; in a run that opens one: a number of [`open`].
    pub session: U64,
}

/// What [`RunHeader::session`] says in a run that opens a session. Any number between these: the session of that number, if it
/// is still there; none is opened.
pub mod open {
    /// The client's session; a new one if it has none.
    pub const OR_CREATE: u64 = 0;
    /// The client's session, whatever its number; none is opened.
    pub const EXISTING: u64 = u64::MAX;
}

/// When the entries of a run are to be appended. Evaluated when the run is applied, in the total order.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Condition {
    /// Only if this is the last sequence given; [`Condition::ANY_TAIL`] where it does not matter. A run that asks for it holds
    /// one entry.
    pub match_sequence: U64,
    /// Only if no higher token than this was seen in the group, which has seen it then; 0: no token.
    pub fence: U64,
}

impl Condition {
    /// The tail does not matter. No log ever has this tail.
    pub const ANY_TAIL: u64 = u64::MAX;
    /// Always: what a run without a condition has.
    pub const NONE: Condition = Condition { match_sequence: U64::new(Condition::ANY_TAIL), fence: U64::ZERO };

    /// The last sequence that is asked for.
    pub fn matches(&self) -> Option<u64> {
        Some(self.match_sequence.get()).filter(|sequence| *sequence != Condition::ANY_TAIL)
    }

    /// The fencing token.
    pub fn token(&self) -> Option<u64> {
        Some(self.fence.get()).filter(|token| *token != 0)
    }

    /// Whether it asks for nothing.
    pub fn is_none(&self) -> bool {
        *self == Condition::NONE
    }
}

/// What a run asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RunKind {
    /// Sequence the entries.
    Append = 0,
    /// Open the session; no entries.
    OpenSession = 1,
    /// Sequence the entries if a [`Condition`], which stands before them, holds.
    ConditionalAppend = 2,
    /// Give up the entries below the sequence in [`RunHeader::first_seq`]; no client, no session, no entries.
    Trim = 3,
    /// Who votes from the next slot on: a [`crate::Configuration`], of no session, alone in its batch.
    Configuration = 4,
}

/// Bytes of a [`BatchHeader`].
pub const BATCH_HEADER_BYTES: usize = size_of::<BatchHeader>();
/// Bytes of a [`RunHeader`].
pub const RUN_HEADER_BYTES: usize = size_of::<RunHeader>();
/// Bytes of a [`Condition`].
pub const CONDITION_BYTES: usize = size_of::<Condition>();
/// Bytes before each entry.
pub const ENTRY_PREFIX_BYTES: usize = 2;

/// The smallest limit that a configuration may set for batches: every message and reply of fixed length, and one part of a
/// promise, fits a datagram of this payload.
pub const MIN_BATCH_BYTES: usize = 640;

/// The longest entry that fits a batch of `max_batch_bytes`; one with a condition is [`CONDITION_BYTES`] shorter.
pub const fn max_entry_bytes(max_batch_bytes: usize) -> usize {
    max_batch_bytes - BATCH_HEADER_BYTES - RUN_HEADER_BYTES - ENTRY_PREFIX_BYTES
}

/// A run, borrowed; its entries were checked to be complete.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Its header.
    pub header: RunHeader,
    condition: Condition,
    entries: &'a [u8],
    configuration: &'a [u8],
}

/// The condition and the entries behind the header of a run.
fn split_condition(kind: u8, body: &[u8]) -> Option<(Condition, &[u8])> {
    if kind != RunKind::ConditionalAppend as u8 {
        return Some((Condition::NONE, body));
    }
    Condition::read_from_prefix(body).ok()
}

impl<'a> Run<'a> {
    /// Parses the run at the start of `bytes` and returns what follows it. Checks lengths, counts and kind.
    pub fn parse(bytes: &'a [u8]) -> Result<(Run<'a>, &'a [u8]), FrameError> {
        let (header, rest) = RunHeader::read_from_prefix(bytes).map_err(|_| FrameError::Truncated)?;
        let length = header.bytes.get() as usize;
        if length > rest.len() {
            return Err(FrameError::Truncated);
        }
        let (body, rest) = rest.split_at(length);
        if header.kind == RunKind::Configuration as u8 {
            return Run::parse_configuration(header, body).map(|run| (run, rest));
        }
        let open = header.kind == RunKind::OpenSession as u8;
        let conditional = header.kind == RunKind::ConditionalAppend as u8;
        let trim = header.kind == RunKind::Trim as u8;
        if !open && !conditional && !trim && header.kind != RunKind::Append as u8 {
            return Err(FrameError::Body);
        }
        let (condition, entries) = split_condition(header.kind, body).ok_or(FrameError::Truncated)?;
        let run = Run { header, condition, entries, configuration: &[] };
        let mut left = entries;
        let mut count = 0u32;
        while !left.is_empty() {
            let (entry, tail) = split_entry(left).ok_or(FrameError::Truncated)?;
            if entry.is_empty() {
                return Err(FrameError::Body);
            }
            left = tail;
            count += 1;
        }
        let none_expected = open && (count != 0 || header.first_seq.get() != 0);
        let of_nobody = header.client_id.get() == 0 && header.session.get() == 0;
        let bad_trim = trim && (count != 0 || header.first_seq.get() == 0 || !of_nobody);
        let bad_seq = !open && !trim && (count == 0 || header.first_seq.get() == 0 || header.session.get() == 0);
        // Of several entries the second would ask for a tail that the first has moved.
        let bad_condition = conditional && (condition.is_none() || condition.matches().is_some() && count != 1);
        let past_end = header.first_seq.get().checked_add(u64::from(count)).is_none();
        if count != u32::from(header.entries.get()) || none_expected || bad_seq || bad_trim || bad_condition || past_end
        {
            return Err(FrameError::Body);
        }
        Ok((run, rest))
    }

    fn parse_configuration(header: RunHeader, configuration: &'a [u8]) -> Result<Run<'a>, FrameError> {
        let bare = RunHeader { kind: header.kind, bytes: header.bytes, ..RunHeader::new_zeroed() };
        if header != bare {
            return Err(FrameError::Body);
        }
        crate::Configuration::parse(configuration)?;
        Ok(Run { header, condition: Condition::NONE, entries: &[], configuration })
    }

    /// The configuration that it brings, if that is what it is.
    pub fn configuration(&self) -> Option<Result<crate::Configuration, FrameError>> {
        let is_one = self.header.kind == RunKind::Configuration as u8;
        is_one.then(|| crate::Configuration::parse(self.configuration))
    }

    /// The client whose session the run belongs to.
    pub fn client_id(&self) -> u128 {
        self.header.client_id.get()
    }

    /// The number of that session; in a run that opens one, what [`open`] says.
    pub fn session(&self) -> u64 {
        self.header.session.get()
    }

    /// When the entries are to be appended; [`Condition::NONE`] for most runs.
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// The client sequence of the first entry.
    pub fn first_seq(&self) -> u64 {
        self.header.first_seq.get()
    }

    /// How many entries.
    pub fn len(&self) -> u64 {
        u64::from(self.header.entries.get())
    }

    /// Whether the run opens a session or trims, and so has no entries.
    pub fn is_empty(&self) -> bool {
        self.header.entries.get() == 0
    }

    /// Whether the run opens a session.
    pub fn opens_session(&self) -> bool {
        self.header.kind == RunKind::OpenSession as u8
    }

    /// The first sequence that is to be kept, if the run trims.
    pub fn trims_before(&self) -> Option<Sequence> {
        (self.header.kind == RunKind::Trim as u8).then(|| Sequence(self.first_seq()))
    }

    /// The entries in order.
    pub fn entries(&self) -> Entries<'a> {
        Entries { rest: self.entries }
    }
}

fn split_entry(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = U16::read_from_prefix(bytes).ok()?;
    rest.split_at_checked(usize::from(length.get()))
}

/// Iterates the payloads of a run's entries.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (entry, rest) = split_entry(self.rest)?;
        self.rest = rest;
        Some(entry)
    }
}

/// A batch, parsed whole: every run was checked.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Its header.
    pub header: BatchHeader,
    runs: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Parses a payload of kind `Accept`, `Learnt` or `Value`.
    pub fn parse(bytes: &'a [u8]) -> Result<Batch<'a>, FrameError> {
        let (header, runs) = BatchHeader::read_from_prefix(bytes).map_err(|_| FrameError::Truncated)?;
        let mut rest = runs;
        let mut configures = false;
        for _ in 0..header.runs.get() {
            let (run, after) = Run::parse(rest)?;
            configures |= run.header.kind == RunKind::Configuration as u8;
            rest = after;
        }
        if !rest.is_empty() || configures && header.runs.get() != 1 {
            return Err(FrameError::Body);
        }
        Ok(Batch { header, runs })
    }

    /// The runs in order.
    pub fn runs(&self) -> Runs<'a> {
        Runs { rest: self.runs }
    }

    /// The configuration that it holds; `None`: it holds none, or one that cannot be read.
    pub fn configuration(&self) -> Option<crate::Configuration> {
        self.runs().next()?.configuration()?.ok()
    }

    /// Whether the batch holds nothing.
    pub fn is_noop(&self) -> bool {
        self.header.runs.get() == 0
    }
}

/// Iterates the runs of a checked batch.
#[derive(Clone, Debug)]
pub struct Runs<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Runs<'a> {
    type Item = Run<'a>;

    fn next(&mut self) -> Option<Run<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (header, rest) = RunHeader::read_from_prefix(self.rest).ok()?;
        let (body, rest) = rest.split_at_checked(header.bytes.get() as usize)?;
        self.rest = rest;
        if header.kind == RunKind::Configuration as u8 {
            return Some(Run { header, condition: Condition::NONE, entries: &[], configuration: body });
        }
        let (condition, entries) = split_condition(header.kind, body)?;
        Some(Run { header, condition, entries, configuration: &[] })
    }
}

/// Writes a batch header into the first bytes of `out`.
pub fn write_batch_header(out: &mut [u8], timestamp_ns: u64, runs: u16) {
    let header = BatchHeader { timestamp_ns: U64::new(timestamp_ns), runs: U16::new(runs), reserved: [0; 6] };
    out[..BATCH_HEADER_BYTES].copy_from_slice(header.as_bytes());
}

/// Bytes of the longest batch that holds a configuration.
pub const MAX_CONFIGURATION_BATCH_BYTES: usize =
    BATCH_HEADER_BYTES + RUN_HEADER_BYTES + crate::configuration::MAX_CONFIGURATION_BYTES;

/// Writes the batch that holds a configuration; gives its bytes.
///
/// # Panics
/// If `out` is shorter than [`MAX_CONFIGURATION_BATCH_BYTES`].
pub fn write_configuration(out: &mut [u8], timestamp_ns: u64, configuration: &crate::Configuration) -> usize {
    write_batch_header(out, timestamp_ns, 1);
    let body = BATCH_HEADER_BYTES + RUN_HEADER_BYTES;
    let bytes = configuration.encode(&mut out[body..]);
    let kind = RunKind::Configuration as u8;
    let header = RunHeader { kind, bytes: U32::new(bytes as u32), ..RunHeader::new_zeroed() };
    out[BATCH_HEADER_BYTES..body].copy_from_slice(header.as_bytes());
    body + bytes
}

/// Builds one run in a buffer: what a client sends as the payload of [`crate::frame::Kind::Append`].
#[derive(Debug)]
pub struct RunBuilder<'a> {
    out: &'a mut [u8],
    client_id: u128,
    session: u64,
    first_seq: u64,
    conditional: bool,
    entries: u16,
    used: usize,
}

impl<'a> RunBuilder<'a> {
    /// An empty run in `out`, which has at least [`RUN_HEADER_BYTES`].
    pub fn new(out: &'a mut [u8], client_id: u128, session: u64, first_seq: u64) -> RunBuilder<'a> {
        RunBuilder { out, client_id, session, first_seq, conditional: false, entries: 0, used: RUN_HEADER_BYTES }
    }

    /// The same for entries that are appended on a condition: [`RunBuilder::finish`] is told
    /// [`RunKind::ConditionalAppend`]. `out` has at least [`CONDITION_BYTES`] more.
    pub fn conditional(
        out: &'a mut [u8],
        client_id: u128,
        session: u64,
        first_seq: u64,
        condition: &Condition,
    ) -> Self {
        let used = RUN_HEADER_BYTES + CONDITION_BYTES;
        out[RUN_HEADER_BYTES..used].copy_from_slice(condition.as_bytes());
        RunBuilder { out, client_id, session, first_seq, conditional: true, entries: 0, used }
    }

    /// Adds an entry; false if it does not fit (or is empty), and then nothing changed.
    pub fn push(&mut self, entry: &[u8]) -> bool {
        let end = self.used + ENTRY_PREFIX_BYTES + entry.len();
        if entry.is_empty() || entry.len() > usize::from(u16::MAX) || end > self.out.len() || self.entries == u16::MAX {
            return false;
        }
        self.out[self.used..self.used + 2].copy_from_slice(&(entry.len() as u16).to_le_bytes());
        self.out[self.used + 2..end].copy_from_slice(entry);
        self.used = end;
        self.entries += 1;
        true
    }

    /// Writes the header; returns the run's bytes and its entries.
    ///
    /// # Panics
    /// If the run has a condition and `kind` takes none, or the reverse.
    pub fn finish(self, kind: RunKind) -> (usize, u16) {
        assert_eq!(kind == RunKind::ConditionalAppend, self.conditional, "a run of kind {kind:?}");
        let header = RunHeader {
            client_id: U128::new(self.client_id),
            first_seq: U64::new(self.first_seq),
            entries: U16::new(self.entries),
            kind: kind as u8,
            reserved: 0,
            bytes: U32::new((self.used - RUN_HEADER_BYTES) as u32),
            session: U64::new(self.session),
        };
        self.out[..RUN_HEADER_BYTES].copy_from_slice(header.as_bytes());
        (self.used, self.entries)
    }
}

/// Writes a run that trims, which is a header alone, into the first bytes of `out`; returns its bytes.
pub fn write_trim(out: &mut [u8], before: Sequence) -> usize {
    RunBuilder::new(out, 0, 0, before.0).finish(RunKind::Trim).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_three_runs_comes_back_as_it_went_in() {
        let mut bytes = vec![0; 512];
        let mut at = BATCH_HEADER_BYTES;
        let mut run = RunBuilder::new(&mut bytes[at..], 7, 3, 5);
        assert!(run.push(b"alpha") && run.push(b"b"));
        at += run.finish(RunKind::Append).0;
        at += RunBuilder::new(&mut bytes[at..], 9, open::OR_CREATE, 0).finish(RunKind::OpenSession).0;
        let condition = Condition { match_sequence: U64::new(0), fence: U64::new(4) };
        let mut run = RunBuilder::conditional(&mut bytes[at..], 7, 3, 7, &condition);
        assert!(run.push(b"c"));
        at += run.finish(RunKind::ConditionalAppend).0;
        write_batch_header(&mut bytes, 42, 3);
        let batch = Batch::parse(&bytes[..at]).unwrap();
        let runs: Vec<_> = batch.runs().collect();
        assert_eq!((runs[0].client_id(), runs[0].session(), runs[0].first_seq(), runs[0].len()), (7, 3, 5, 2));
        assert_eq!(runs[0].entries().collect::<Vec<_>>(), [&b"alpha"[..], b"b"]);
        assert!(runs[1].opens_session() && runs[1].is_empty() && !batch.is_noop());
        assert_eq!(runs[2].entries().collect::<Vec<_>>(), [b"c"]);
        assert_eq!((runs[2].condition().matches(), runs[2].condition().token()), (Some(0), Some(4)));
        assert!(runs[0].condition().is_none() && runs[1].condition().is_none());
        for cut in 0..at {
            assert!(Batch::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_configuration_stands_alone_in_its_batch() {
        use crate::{Configuration, NodeId, Quorums};
        let founding = Configuration::founding(&[NodeId(1), NodeId(2)], Quorums::majority(2));
        let mut bytes = [0; MAX_CONFIGURATION_BATCH_BYTES + RUN_HEADER_BYTES];
        let used = write_configuration(&mut bytes, 9, &founding);
        assert_eq!(Batch::parse(&bytes[..used]).unwrap().configuration(), Some(founding));
        let longer = used + RunBuilder::new(&mut bytes[used..], 9, open::OR_CREATE, 0).finish(RunKind::OpenSession).0;
        write_batch_header(&mut bytes, 9, 2);
        assert_eq!(Batch::parse(&bytes[..longer]).unwrap_err(), FrameError::Body, "with another run");
        write_batch_header(&mut bytes, 9, 1);
        bytes[BATCH_HEADER_BYTES] = 1;
        assert_eq!(Batch::parse(&bytes[..used]).unwrap_err(), FrameError::Body, "of a client");
    }

    /// The verdict on a run of `entries` entries with a condition.
    fn conditional(match_sequence: u64, fence: u64, entries: usize) -> Result<(), FrameError> {
        let mut bytes = vec![0; 128];
        let condition = Condition { match_sequence: U64::new(match_sequence), fence: U64::new(fence) };
        let mut run = RunBuilder::conditional(&mut bytes, 1, 1, 1, &condition);
        (0..entries).for_each(|_| assert!(run.push(b"x")));
        let used = run.finish(RunKind::ConditionalAppend).0;
        Run::parse(&bytes[..used]).map(|_| ())
    }

    #[test]
    fn conditions_ask_for_something_and_a_tail_for_one_entry() {
        assert_eq!(conditional(9, 0, 1), Ok(()));
        assert_eq!(conditional(Condition::ANY_TAIL, 1, 3), Ok(()));
        assert_eq!(conditional(Condition::ANY_TAIL, 0, 1), Err(FrameError::Body), "no condition at all");
        assert_eq!(conditional(9, 1, 2), Err(FrameError::Body), "two entries behind one tail");
        assert_eq!(conditional(9, 1, 0), Err(FrameError::Body), "no entry");
    }

    #[test]
    fn a_trim_is_of_nobody_and_holds_nothing() {
        let mut bytes = vec![0; 128];
        let used = write_trim(&mut bytes, Sequence(9));
        let (run, rest) = Run::parse(&bytes[..used]).unwrap();
        assert_eq!((run.trims_before(), run.len(), run.opens_session()), (Some(Sequence(9)), 0, false));
        assert!(rest.is_empty() && run.is_empty());
        for (client, session, first_seq, entry) in
            [(1, 0, 9, false), (0, 1, 9, false), (0, 0, 0, false), (0, 0, 9, true)]
        {
            let mut run = RunBuilder::new(&mut bytes, client, session, first_seq);
            assert!(!entry || run.push(b"x"));
            let used = run.finish(RunKind::Trim).0;
            assert_eq!(Run::parse(&bytes[..used]).unwrap_err(), FrameError::Body);
        }
        let mut run = RunBuilder::new(&mut bytes, 7, 1, 1);
        assert!(run.push(b"x"));
        let used = run.finish(RunKind::Append).0;
        assert_eq!(Run::parse(&bytes[..used]).unwrap().0.trims_before(), None);
    }

    #[test]
    fn empty_entries_overflowing_sequences_and_appends_of_no_session_are_refused() {
        let mut bytes = vec![0; 64];
        let mut run = RunBuilder::new(&mut bytes, 1, 1, u64::MAX);
        assert!(!run.push(b"") && run.push(b"x"));
        let used = run.finish(RunKind::Append).0;
        assert_eq!(Run::parse(&bytes[..used]).unwrap_err(), FrameError::Body);
        let mut run = RunBuilder::new(&mut bytes, 1, 0, 1);
        assert!(run.push(b"x"));
        let used = run.finish(RunKind::Append).0;
        assert_eq!(Run::parse(&bytes[..used]).unwrap_err(), FrameError::Body);
    }
}
