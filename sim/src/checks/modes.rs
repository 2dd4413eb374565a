//! A node answers what its mode allows, labels it as its mode demands, and changes its mode only as the table allows.
//!
//! Source: SEMANTICS, "Modes of a replica, per group" (from the chapter's mode matrix): each row's proposals, reads and what
//! the client is told; "Evidence": what is not proven is never silently taken for fresh.

use super::{Checked, violated};
use synod::shard::mode::{Change, Modes as Told, may_be_fresh};
use synod_wire::client::{AckHeader, AckRun, ReadReplyBody, Refusal, RefusalBody, SessionBody, StatusBody};
use synod_wire::evidence::EvidenceReplyBody;
use synod_wire::frame::{Frame, Kind, parse};
use synod_wire::guarantee::{Guarantee, Visibility};
use synod_wire::mode::{Mode, ModeReason};
use synod_wire::stream::{StreamEndBody, StreamHead};
use zerocopy::FromBytes;

const ANSWERS: &str = "answers are those of the mode";
const CHANGES: &str = "modes change as they may";

/// The changes that the table allows. FLOOR is reached from everywhere and left by an operator only.
const ALLOWED: &[(Mode, Mode)] = &[
    (Mode::Target, Mode::Election),
    (Mode::Target, Mode::Degraded),
    (Mode::Election, Mode::Target),
    (Mode::Election, Mode::Degraded),
    (Mode::Election, Mode::Recovery),
    (Mode::Degraded, Mode::Recovery),
    (Mode::Recovery, Mode::Target),
    (Mode::Recovery, Mode::Election),
    (Mode::Target, Mode::Floor),
    (Mode::Election, Mode::Floor),
    (Mode::Degraded, Mode::Floor),
    (Mode::Recovery, Mode::Floor),
];

/// What was seen of each node's modes.
#[derive(Clone, Debug)]
pub(crate) struct Modes {
    before: Vec<(Mode, u64)>,
}

impl Modes {
    pub(crate) fn new(nodes: usize) -> Modes {
        Modes { before: vec![(Mode::Recovery, 0); nodes] }
    }

    /// A process starts in RECOVERY.
    pub(crate) fn restarted(&mut self, node: usize, modes: &Told) -> Checked {
        self.before[node] = (modes.mode(), modes.changes());
        if modes.mode() == Mode::Recovery && modes.changes() == 0 {
            return Ok(());
        }
        violated(CHANGES, format!("n{node} starts in {}", modes.mode().name()))
    }

    /// A node has taken a turn; the changes in it.
    pub(crate) fn turned(&mut self, node: usize, modes: &Told) -> Result<Vec<Change>, super::Violation> {
        let (mut mode, seen) = self.before[node];
        let changes: Vec<Change> = modes.changes_after(seen).collect();
        for change in &changes {
            let floor = matches!(
                change.reason,
                ModeReason::DiskRolledBack | ModeReason::FormattedAnew | ModeReason::BeyondRepair | ModeReason::Removed
            );
            let (from, to) = (change.from, change.to);
            if from != mode || !ALLOWED.contains(&(from, to)) || floor != (to == Mode::Floor) {
                let detail = format!(
                    "n{node}: {} -> {} ({}) from {}",
                    from.name(),
                    to.name(),
                    change.reason.name(),
                    mode.name()
                );
                return violated(CHANGES, detail);
            }
            mode = to;
        }
        if mode != modes.mode() {
            return violated(CHANGES, format!("n{node} is in {} after {}", modes.mode().name(), mode.name()));
        }
        self.before[node] = (mode, modes.changes());
        Ok(changes)
    }

    /// A datagram to a client leaves `node` in this turn, in the mode before it or the one after.
    pub(crate) fn told(&self, node: usize, modes: &Told, datagram: &[u8]) -> Checked {
        let Ok(frame) = parse(datagram) else { return violated(ANSWERS, format!("n{node} sends what is no frame")) };
        let named = named_mode(&frame);
        let (before, after) = (self.before[node].0, modes.mode());
        if named.is_some_and(|named| named != before && named != after) {
            return violated(ANSWERS, format!("n{node} names {named:?} in {before:?}, then {after:?}"));
        }
        // Acknowledgements name none: one who serves in this turn may send them.
        let mode = named.unwrap_or(if before == Mode::Target { before } else { after });
        match wrong(mode, &frame) {
            None => Ok(()),
            Some(why) => violated(ANSWERS, format!("n{node} in {}: {why}", mode.name())),
        }
    }
}

fn named_mode(frame: &Frame<'_>) -> Option<Mode> {
    let byte = match frame.header.kind {
        Kind::ReadReply | Kind::QueryReply => ReadReplyBody::read_from_prefix(frame.payload).ok()?.0.mode,
        Kind::StreamData => ReadReplyBody::read_from_prefix(stream_body(frame.payload)?).ok()?.0.mode,
        Kind::StreamEnd => StreamEndBody::read_from_prefix(frame.payload).ok()?.0.mode,
        Kind::Rejected => RefusalBody::read_from_prefix(frame.payload).ok()?.0.mode,
        Kind::EvidenceReply => EvidenceReplyBody::read_from_prefix(frame.payload).ok()?.0.mode,
        Kind::StatusReply => StatusBody::read_from_prefix(frame.payload).ok()?.0.mode,
        _ => return None,
    };
    Mode::from_u8(byte)
}

/// What a stream's datagram has behind its head.
fn stream_body(payload: &[u8]) -> Option<&[u8]> {
    payload.get(size_of::<StreamHead>()..)
}

/// What is wrong with an answer of this mode.
fn wrong(mode: Mode, frame: &Frame<'_>) -> Option<String> {
    let payload = frame.payload;
    match frame.header.kind {
        Kind::Appended => {
            let (head, rest) = AckHeader::read_from_prefix(payload).ok()?;
            let (runs, _) = <[AckRun]>::ref_from_prefix_with_elems(rest, usize::from(head.runs.get())).ok()?;
            let unproven = runs.iter().any(|run| run.guarantee.decode() != Some(Guarantee::COMMITTED));
            (mode != Mode::Target || unproven).then(|| "an acknowledgement".to_owned())
        }
        Kind::SessionOpened => {
            let (body, _) = SessionBody::read_from_prefix(payload).ok()?;
            let unproven = body.guarantee.decode() != Some(Guarantee::COMMITTED);
            (mode != Mode::Target || unproven).then(|| "an opened session".to_owned())
        }
        Kind::Rejected => {
            let (body, _) = RefusalBody::read_from_prefix(payload).ok()?;
            let Some(refusal) = Refusal::from_u8(body.refusal) else { return Some("a refusal without a name".into()) };
            let shows = body.guarantee.decode().is_none_or(|guarantee| guarantee.visibility != Visibility::None);
            let cause = refusal != Refusal::ManualIntervention
                || ModeReason::from_u8(body.detail.get() as u8)
                    .is_some_and(|reason| reason as u64 == body.detail.get());
            let leases_off = refusal == Refusal::NoLease && body.detail.get() == 0;
            let hint = body.retry_after_us.get() > 0 || !again(refusal) || leases_off;
            (!may_refuse(mode, refusal) || shows || !hint || !cause).then(|| format!("the refusal {}", refusal.name()))
        }
        Kind::ReadReply | Kind::QueryReply | Kind::StreamData => {
            let payload = if frame.header.kind == Kind::StreamData { stream_body(payload)? } else { payload };
            let (body, _) = ReadReplyBody::read_from_prefix(payload).ok()?;
            let label = body.guarantee.decode().unwrap_or(Guarantee::NONE);
            let fresh = !label.recency.is_fresh() || may_be_fresh(mode);
            let allowed = label.visibility == Visibility::Committed && may_read(mode) && fresh;
            (!allowed).then(|| format!("a read labelled {label}"))
        }
        _ => None,
    }
}

/// What each row of the table says to those that it turns away; what a serving leader says besides.
fn may_refuse(mode: Mode, refusal: Refusal) -> bool {
    // Before any mode: no node takes what is too long, or what its state machine is not for.
    let always = matches!(refusal, Refusal::TooLarge | Refusal::BadQuestion);
    let of_mode = match mode {
        Mode::Target => {
            !matches!(refusal, Refusal::QuorumUnavailable | Refusal::Recovering | Refusal::ManualIntervention)
        }
        Mode::Election => refusal == Refusal::NoLeader,
        Mode::Degraded => refusal == Refusal::QuorumUnavailable,
        Mode::Recovery => refusal == Refusal::Recovering,
        Mode::Floor => refusal == Refusal::ManualIntervention,
    };
    // What was trimmed is no mode's affair, where reads are answered at all.
    let trimmed = refusal == Refusal::Trimmed;
    always || trimmed && may_read(mode) || of_mode && !trimmed
}

/// Whether the same request may succeed later.
fn again(refusal: Refusal) -> bool {
    !matches!(
        refusal,
        Refusal::TooLarge | Refusal::SessionEvicted | Refusal::ResendFrom | Refusal::BadQuestion | Refusal::Trimmed
    )
}

/// Whether reads are answered. How recent they say they are takes evidence in every mode, which `fresh.rs` holds them to.
fn may_read(mode: Mode) -> bool {
    mode != Mode::Recovery
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_row_refuses_with_its_own_name() {
        let named = [
            (Mode::Election, Refusal::NoLeader),
            (Mode::Degraded, Refusal::QuorumUnavailable),
            (Mode::Recovery, Refusal::Recovering),
            (Mode::Floor, Refusal::ManualIntervention),
        ];
        for (mode, refusal) in named {
            let allowed: HashSet<Refusal> = Refusal::ALL.into_iter().filter(|r| may_refuse(mode, *r)).collect();
            let trimmed = Some(Refusal::Trimmed).filter(|_| may_read(mode));
            let named = [Refusal::TooLarge, Refusal::BadQuestion, refusal];
            assert_eq!(allowed, named.into_iter().chain(trimmed).collect());
        }
        assert!(!may_refuse(Mode::Target, Refusal::Recovering) && may_refuse(Mode::Target, Refusal::Busy));
    }

    #[test]
    fn recovery_shows_nothing() {
        assert!(Mode::ALL.iter().all(|mode| may_read(*mode) == (*mode != Mode::Recovery)));
    }

    #[test]
    fn changes_that_the_table_lacks_are_found() {
        assert!(!ALLOWED.contains(&(Mode::Degraded, Mode::Target)), "not without catching up");
        assert!(!ALLOWED.iter().any(|(from, _)| *from == Mode::Floor), "an operator's order only");
        assert_eq!(ALLOWED.iter().filter(|(_, to)| *to == Mode::Floor).count(), Mode::ALL.len() - 1);
    }
}
