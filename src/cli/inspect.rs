//! `synod inspect wal`: the records of one log, as they lie there.

use super::output::{Failure, Outcome, OutputError, Style, json_line, stdout};
use serde::Serialize;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use synod_wal::{Damage, FlushMark, Item, LogReader, Place};
use synod_wire::Ballot;
use synod_wire::batch::Batch;
use synod_wire::frame::{Frame, Kind};

/// One line of the listing.
#[derive(Serialize)]
struct Line {
    pos: u64,
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lsn: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ballot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    promised: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_bytes: Option<u64>,
    /// The checksums of header and payload.
    crc_ok: bool,
    detail: String,
}

/// Prints every record, trailer and damaged place of the log.
pub(super) fn wal(dir: &Path, style: Style) -> Outcome {
    let mut reader = LogReader::open_offline(dir).map_err(anyhow::Error::new)?;
    let mut out = stdout();
    if style == Style::Text {
        let id = reader.identity();
        heading(
            &mut out,
            &format!(
                "cluster {} group {} node {} incarnation {:016x}",
                id.cluster.0, id.group, id.node, id.incarnation
            ),
        )
        .map_err(OutputError)?;
    }
    let mut put = |line: &Line| -> Outcome {
        match style {
            Style::Text => text(&mut out, line).map_err(|error| OutputError(error).into()),
            Style::Json => json_line(&mut out, line),
        }
    };
    if let Some(line) = front(&reader)? {
        put(&line)?;
    }
    let mut outcome: Outcome = Ok(());
    let scanned = reader.scan(reader.first_pos(), None, &mut |item| {
        outcome = put(&line(&item));
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    outcome?;
    scanned.map_err(|error| Failure::Failed(error.into()))?;
    out.flush().map_err(OutputError)?;
    Ok(())
}

/// Where the log begins, if not with its first record.
fn front(reader: &LogReader) -> Result<Option<Line>, Failure> {
    if reader.first_segment() == 0 {
        return Ok(None);
    }
    let lsn = reader.first_lsn(None).map_err(|error| Failure::Failed(error.into()))?;
    let first = lsn.map_or("an lsn that is not readable".to_string(), |lsn| format!("lsn {lsn}"));
    let detail = format!("begins at segment {:x}, {first}: what was before was removed", reader.first_segment());
    Ok(Some(Line { lsn: lsn.map(|lsn| lsn.0), detail, ..empty(reader.first_pos(), "front", true) }))
}

fn heading(out: &mut impl Write, identity: &str) -> io::Result<()> {
    writeln!(out, "{identity}")?;
    let (pos, what, lsn, slot) = ("position", "what", "lsn", "slot");
    let (ballot, promised, epoch, bytes, crc) = ("ballot", "promised", "epoch", "bytes", "crc");
    writeln!(
        out,
        "{pos:>12}  {what:<13}  {lsn:>9}  {slot:>9}  {ballot:>9}  {promised:>9}  {epoch:>5}  {bytes:>6}  {crc:<3}  detail"
    )
}

fn text(out: &mut impl Write, line: &Line) -> io::Result<()> {
    let number = |value: Option<u64>| value.map_or("-".to_string(), |value| value.to_string());
    let word = |value: &Option<String>| value.clone().unwrap_or("-".into());
    writeln!(
        out,
        "{:>12}  {:<13}  {:>9}  {:>9}  {:>9}  {:>9}  {:>5}  {:>6}  {:<3}  {}",
        line.pos,
        line.what,
        number(line.lsn),
        number(line.slot),
        word(&line.ballot),
        word(&line.promised),
        number(line.epoch.map(u64::from)),
        number(line.payload_bytes),
        if line.crc_ok { "ok" } else { "BAD" },
        line.detail
    )
}

fn line(item: &Item<'_>) -> Line {
    match item {
        Item::Record(place, frame) => record(*place, frame),
        Item::Trailer(mark) => trailer(mark),
        Item::Damage(damage) => damaged(damage),
        Item::TornTail(tail) => Line {
            detail: format!("torn tail: {} whole record(s) of the last flush before it are kept", tail.kept),
            ..empty(tail.pos, "torn", false)
        },
    }
}

fn empty(pos: u64, what: &'static str, crc_ok: bool) -> Line {
    let none = (None, None, None, None, None, None);
    let (lsn, slot, ballot, promised, epoch, payload_bytes) = none;
    Line { pos, what, lsn, slot, ballot, promised, epoch, payload_bytes, crc_ok, detail: String::new() }
}

fn record(place: Place, frame: &Frame<'_>) -> Line {
    let header = &frame.header;
    Line {
        lsn: Some(header.lsn.0),
        slot: Some(header.slot.0).filter(|slot| *slot > 0),
        ballot: Some(header.ballot).filter(|ballot| *ballot != Ballot::ZERO).map(|ballot| ballot.to_string()),
        promised: Some(header.promised.to_string()),
        epoch: Some(header.epoch.0),
        payload_bytes: Some(frame.payload.len() as u64),
        detail: detail(frame),
        ..empty(place.pos, name(header.kind), true)
    }
}

fn trailer(mark: &FlushMark) -> Line {
    Line {
        lsn: Some(mark.lsn.0),
        promised: Some(mark.promised.to_string()),
        detail: format!(
            "flush of {} record(s) from {}; durable lsn {}; next flush at {}",
            mark.records, mark.start, mark.mark, mark.next
        ),
        ..empty(mark.pos, "trailer", true)
    }
}

fn damaged(damage: &Damage) -> Line {
    let lost = match damage.lost() {
        0 => "no record is lost".to_string(),
        _ => format!("lsn {} to {} are lost", damage.first_lsn, damage.last_lsn),
    };
    let all = if damage.complete { "" } else { ", not all of them named" };
    let named: Vec<String> = damage
        .named
        .iter()
        .map(|entry| format!("{} at slot {}", Kind::from_u8(entry.kind).map_or("unknown", name), entry.slot))
        .collect();
    let detail = format!("{lost}{all}: {}", if named.is_empty() { "none named".into() } else { named.join(", ") });
    Line { lsn: Some(damage.first_lsn.0), detail, ..empty(damage.pos, "damage", false) }
}

/// A record's kind as the listing writes it.
fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Accept => "accepted",
        Kind::Learnt => "learnt",
        Kind::Chosen => "chosen",
        Kind::Promised => "promised",
        Kind::Configuration => "configuration",
        Kind::Founded => "founded",
        Kind::Truncated => "truncated",
        Kind::Retention => "retention",
        Kind::SnapshotMark => "snapshot mark",
        Kind::PeerMarks => "peer marks",
        Kind::Repaired => "repaired",
        Kind::Trailer => "trailer",
        Kind::Session => "session",
        Kind::Segment => "segment",
        Kind::Durability => "durability",
        Kind::Lease => "lease",
        _ => "message",
    }
}

/// What is in the payload, in short.
fn detail(frame: &Frame<'_>) -> String {
    use synod_wire::client::Durability;
    use synod_wire::record::{
        ChosenRange, Configuration, DurabilityMark, Incarnation, LeaseMark, PeerMark, RepairedRun,
    };
    use zerocopy::FromBytes;
    let bad = || "the payload does not have its kind's form".to_string();
    match frame.header.kind {
        Kind::Accept | Kind::Learnt => Batch::parse(frame.payload).map_or_else(
            |error| format!("no batch: {error:?}"),
            |batch| {
                let entries: u64 = batch.runs().map(|run| run.len()).sum();
                format!("{} run(s), {entries} entries, {} ns", batch.header.runs, batch.header.timestamp_ns)
            },
        ),
        Kind::Chosen => <[ChosenRange]>::ref_from_bytes(frame.payload).map_or_else(|_| bad(), chosen),
        Kind::Founded => <[Incarnation]>::ref_from_bytes(frame.payload).map_or_else(
            |_| bad(),
            |all| list(all.iter().map(|i| format!("node {} {:016x}", i.node, i.incarnation.get()))),
        ),
        Kind::PeerMarks => <[PeerMark]>::ref_from_bytes(frame.payload).map_or_else(
            |_| bad(),
            |all| list(all.iter().map(|mark| format!("node {} up to lsn {}", mark.node, mark.lsn))),
        ),
        Kind::Configuration => Configuration::read_from_prefix(frame.payload).map_or_else(
            |_| bad(),
            |(body, members)| {
                let members = list(members.iter().take(body.members.into()).map(u8::to_string));
                format!("members {members}; phase 1 {}, phase 2 {}", body.phase1, body.phase2)
            },
        ),
        Kind::Repaired => <[RepairedRun]>::ref_from_bytes(frame.payload).map_or_else(
            |_| bad(),
            |all| list(all.iter().map(|run| format!("damage of lsn {} to {}", run.first, run.last))),
        ),
        Kind::Durability => DurabilityMark::read_from_bytes(frame.payload).map_or_else(
            |_| bad(),
            |mark| match mark.durability() {
                Some(Durability::Disk) => "on disk: an orderly end, all before is synced".to_string(),
                Some(Durability::Memory) => "in memory: what follows was vouched for before it was written".to_string(),
                None => format!("unknown: {}", mark.durability),
            },
        ),
        Kind::Lease => LeaseMark::read_from_bytes(frame.payload).map_or_else(
            |_| bad(),
            |mark| format!("may have granted leases of {} us from here on", mark.longest_ns.get() / 1_000),
        ),
        _ => String::new(),
    }
}

fn chosen(ranges: &[synod_wire::record::ChosenRange]) -> String {
    list(ranges.iter().map(|range| {
        let acceptors = synod_wire::NodeSet(range.acceptors.get());
        let by = if acceptors.is_empty() {
            "the leader's log".into()
        } else {
            list(acceptors.iter().map(|n| n.to_string()))
        };
        format!("slots {}..={} in {} by {by}", range.first, range.last, Ballot::unpack(range.ballot.get()))
    }))
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}
