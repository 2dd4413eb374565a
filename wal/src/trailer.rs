//! The end of a flush: building it in place and reading it back. Called by the writer, the cut and the scanner.

use crate::Identity;
use crate::layout::{Geometry, trailer_bytes};
use synod_wire::frame::{self, HEADER_BYTES, Header, Kind, flags};
use synod_wire::record::{MAX_FLUSH_RECORDS, Trailer, TrailerEntry};
use synod_wire::{Ballot, Epoch, Lsn, Slot};
use zerocopy::{FromBytes, IntoBytes};

/// Lsns at or above this are not real: a bound, so that arithmetic on what a disk says cannot overflow.
pub(crate) const LSN_LIMIT: u64 = 1 << 62;

/// What a trailer says besides its records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrailerFields {
    pub(crate) start: u64,
    pub(crate) next: u64,
    pub(crate) lsn: Lsn,
    pub(crate) mark: Lsn,
    pub(crate) promised: Ballot,
    /// It ends no flush: a cut that is under way left it, for its mark.
    pub(crate) is_cut_mark: bool,
}

/// Writes a trailer frame, padded with zeros, into all of `out`.
pub(crate) fn write(out: &mut [u8], identity: &Identity, fields: &TrailerFields, entries: &[TrailerEntry]) {
    assert!(entries.len() <= MAX_FLUSH_RECORDS, "a flush of {} records", entries.len());
    let body = Trailer {
        start: fields.start.into(),
        next: fields.next.into(),
        entries: (entries.len() as u16).into(),
        reserved: [0; 6],
    };
    let header = Header {
        kind: Kind::Trailer,
        flags: if fields.is_cut_mark { flags::CUT_MARK } else { 0 },
        from: identity.node,
        group: identity.group,
        cluster: identity.cluster,
        epoch: Epoch(0),
        slot: Slot(fields.mark.0),
        ballot: Ballot::ZERO,
        promised: fields.promised,
        lsn: fields.lsn,
    };
    let entries = entries.as_bytes();
    let payload_bytes = size_of::<Trailer>() + entries.len();
    let (head, rest) = out.split_at_mut(HEADER_BYTES);
    let (payload, padding) = rest.split_at_mut(payload_bytes);
    payload[..size_of::<Trailer>()].copy_from_slice(body.as_bytes());
    payload[size_of::<Trailer>()..].copy_from_slice(entries);
    padding.fill(0);
    frame::write_header(head, &header, payload_bytes, frame::checksum(payload));
}

/// What names the record with this header in its flush's trailer.
pub(crate) fn entry(header: &Header, header_crc: u32, payload_bytes: usize) -> TrailerEntry {
    assert!(payload_bytes <= frame::MAX_PAYLOAD_BYTES);
    TrailerEntry {
        lsn: header.lsn.0.into(),
        slot: header.slot.0.into(),
        ballot: header.ballot.pack().into(),
        header_crc: header_crc.into(),
        length: (payload_bytes as u16).into(),
        kind: header.kind as u8,
        reserved: 0,
    }
}

/// A whole trailer, found at the place that it names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrailerView<'a> {
    /// Where its frame lies.
    pub(crate) pos: u64,
    pub(crate) fields: TrailerFields,
    pub(crate) entries: &'a [TrailerEntry],
}

impl<'a> TrailerView<'a> {
    /// Reads the trailer in `frame`, found at `pos`. None: it is none, or does not belong there.
    pub(crate) fn read(frame: &frame::Frame<'a>, pos: u64, geometry: &Geometry) -> Option<TrailerView<'a>> {
        let header = &frame.header;
        let (body, rest) = Trailer::ref_from_prefix(frame.payload).ok()?;
        let entries = <[TrailerEntry]>::ref_from_bytes(rest).ok()?;
        let fields = TrailerFields {
            start: body.start.get(),
            next: body.next.get(),
            lsn: header.lsn,
            mark: Lsn(header.slot.0),
            promised: header.promised,
            is_cut_mark: header.flags & flags::CUT_MARK != 0,
        };
        let view = TrailerView { pos, fields, entries };
        let whole = header.kind == Kind::Trailer && entries.len() == usize::from(body.entries.get());
        (whole && view.belongs(geometry) && view.is_dense()).then_some(view)
    }

    fn belongs(&self, geometry: &Geometry) -> bool {
        let TrailerFields { start, next, .. } = self.fields;
        let end = geometry.block_ceil(self.pos + trailer_bytes(self.entries.len()));
        let stride_end = geometry.stride_end(self.pos);
        start.is_multiple_of(geometry.block_bytes)
            && start >= geometry.first(geometry.stride_start(self.pos))
            && start <= self.pos
            && end <= stride_end
            && next == geometry.next_start(end, stride_end)
    }

    fn is_dense(&self) -> bool {
        let last = self.fields.lsn.0;
        let count = self.entries.len() as u64;
        count <= MAX_FLUSH_RECORDS as u64
            && last < LSN_LIMIT
            && last >= count
            && self.fields.mark.0 <= last
            && self.entries.iter().zip(last - count + 1..).all(|(entry, lsn)| entry.lsn.get() == lsn)
    }

    /// The Lsn of its first record, or of the one that would come next.
    pub(crate) fn first_lsn(&self) -> Lsn {
        Lsn(self.fields.lsn.0 + 1 - self.entries.len() as u64)
    }
}
