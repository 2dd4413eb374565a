//! The skeleton's datagrams: a header of 16 bytes, and entries of one size. Loopback within one program: a datagram that
//! is not understood is a bug, and an error.

use anyhow::{Context, ensure};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Client to leader: entries.
    Request = 1,
    /// Leader to follower: entries with their positions.
    Forward = 2,
    /// Follower to leader: everything before `first` is durable.
    Durable = 3,
    /// Leader to client: these entries are durable on a majority.
    Reply = 4,
}

/// Starts every datagram.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Head {
    kind: u8,
    from: u8,
    entries: U16,
    size: U32,
    first: U64,
}

/// Bytes of a [`Head`].
pub(super) const HEAD_BYTES: usize = size_of::<Head>();

/// A datagram, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// What it is.
    pub(super) kind: Kind,
    /// The follower that sent it.
    pub(super) from: usize,
    /// The position of the first entry; [`Kind::Durable`]: behind the last durable one.
    pub(super) first: u64,
    /// How many.
    pub(super) entries: usize,
    /// Their bytes ([`Kind::Request`], [`Kind::Forward`]).
    pub(super) payload: &'a [u8],
}

/// Writes a header; `size` bytes of each entry follow it.
pub(super) fn write_head(out: &mut [u8], kind: Kind, from: usize, first: u64, entries: usize, size: usize) {
    let head = Head {
        kind: kind as u8,
        from: from as u8,
        entries: U16::new(entries as u16),
        size: U32::new(size as u32),
        first: U64::new(first),
    };
    out[..HEAD_BYTES].copy_from_slice(head.as_bytes());
}

/// Reads a datagram.
pub(super) fn parse(datagram: &[u8]) -> anyhow::Result<Message<'_>> {
    let (head, payload) = Head::read_from_prefix(datagram).ok().context("a datagram without a header")?;
    let kind = match head.kind {
        1 => Kind::Request,
        2 => Kind::Forward,
        3 => Kind::Durable,
        4 => Kind::Reply,
        other => anyhow::bail!("a datagram of kind {other}"),
    };
    let entries = usize::from(head.entries.get());
    let bytes = entries * head.size.get() as usize;
    ensure!(payload.len() == bytes, "{} bytes where {entries} entries have {bytes}", payload.len());
    Ok(Message { kind, from: usize::from(head.from), first: head.first.get(), entries, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = [7; HEAD_BYTES + 6];
        write_head(&mut bytes, Kind::Forward, 0, 42, 2, 3);
        let message = parse(&bytes).unwrap();
        assert_eq!(message, Message { kind: Kind::Forward, from: 0, first: 42, entries: 2, payload: &[7; 6] });
    }

    #[test]
    fn a_cut_datagram_is_an_error() {
        let mut bytes = [0; HEAD_BYTES + 6];
        write_head(&mut bytes, Kind::Request, 0, 0, 2, 3);
        assert!(parse(&bytes[..HEAD_BYTES + 5]).is_err());
        assert!(parse(&bytes[..HEAD_BYTES - 1]).is_err());
        bytes[0] = 99;
        assert!(parse(&bytes).is_err());
    }
}
