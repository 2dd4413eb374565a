//! For tests: replies as a node would send them, requests as a node would read them, and a small seeded generator.

use std::net::{Ipv4Addr, SocketAddrV4};
use synod_wire::batch::{Condition, Run, open};
use synod_wire::client::{
    AckHeader, AckRun, Decision, Durability, ReadBody, ReadEntry, ReadReplyBody, Receipt, Refusal, RefusalBody,
    SessionBody,
};
use synod_wire::frame::{Header, Kind, frame_bytes, parse, write_frame};
use synod_wire::guarantee::{Guarantee, Recency};
use synod_wire::mode::Mode;
use synod_wire::{Ballot, ClusterId, Epoch, GroupId, Lsn, NodeId, Slot};
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, IntoBytes};

pub(crate) const CLUSTER: ClusterId = ClusterId(0x5e4d);
pub(crate) const GROUP: GroupId = GroupId(3);
pub(crate) const CLIENT: u128 = 0xfeed_0000_0000_0000_0000_0000_0000_0001;
/// The number that the session is told.
pub(crate) const SESSION: u64 = 12;
pub(crate) const MS: u64 = 1_000_000;

pub(crate) fn address(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), port)
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

pub(crate) fn header(kind: Kind) -> Header {
    Header {
        kind,
        flags: 0,
        from: NodeId(1),
        group: GROUP,
        cluster: CLUSTER,
        epoch: Epoch(1),
        slot: Slot(0),
        ballot: Ballot::ZERO,
        promised: Ballot::ZERO,
        lsn: Lsn(0),
    }
}

pub(crate) fn datagram(header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; frame_bytes(payload.len())];
    write_frame(&mut bytes, header, payload);
    bytes
}

pub(crate) fn opened_with(last_committed: u64, credit: u32, max_entry: u32, max_run: u32) -> Vec<u8> {
    let body = SessionBody {
        client_id: U128::new(CLIENT),
        session: U64::new(SESSION),
        last_committed: U64::new(last_committed),
        credit: U32::new(credit),
        max_entry_bytes: U32::new(max_entry),
        max_run_bytes: U32::new(max_run),
        guarantee: Guarantee::COMMITTED.encode(),
    };
    datagram(&header(Kind::SessionOpened), body.as_bytes())
}

pub(crate) fn opened(last_committed: u64, credit: u32) -> Vec<u8> {
    opened_with(last_committed, credit, 1_350, 1_392)
}

/// An acknowledgement of runs (first client sequence, first sequence, timestamp, entries).
pub(crate) fn appended(runs: &[(u64, u64, u64, u32)], credit: u32) -> Vec<u8> {
    appended_with(runs, credit, Durability::Disk as u8, &[])
}

/// The same, resting on anything, with the receipts of runs (first client sequence, entries).
pub(crate) fn appended_with(
    runs: &[(u64, u64, u64, u32)],
    credit: u32,
    durability: u8,
    receipts: &[(u64, u32)],
) -> Vec<u8> {
    let head = AckHeader {
        client_id: U128::new(CLIENT),
        session: U64::new(SESSION),
        runs: U16::new(runs.len() as u16),
        durability,
        receipts: receipts.len() as u8,
        credit: U32::new(credit),
    };
    let mut payload = head.as_bytes().to_vec();
    for (first_seq, first_sequence, timestamp_ns, entries) in runs {
        let run = AckRun {
            first_seq: U64::new(*first_seq),
            first_sequence: U64::new(*first_sequence),
            timestamp_ns: U64::new(*timestamp_ns),
            entries: U16::new(*entries as u16),
            decision: Decision::Appended as u8,
            reserved: 0,
            guarantee: Guarantee::COMMITTED.encode(),
        };
        payload.extend_from_slice(run.as_bytes());
    }
    for (first_seq, entries) in receipts {
        let stages = [5, 20, Receipt::NOT_YET, 300, 400].map(U64::new);
        let (first_seq, entries) = (U64::new(*first_seq), U32::new(*entries));
        payload.extend_from_slice(Receipt { first_seq, entries, reserved: U32::ZERO, stages }.as_bytes());
    }
    datagram(&header(Kind::Appended), &payload)
}

/// The decision about entries that were not appended: first client sequence, what it was, what is told with it, entries.
pub(crate) fn not_appended(first_seq: u64, decision: Decision, value: u64, entries: u32) -> Vec<u8> {
    let head = AckHeader {
        client_id: U128::new(CLIENT),
        session: U64::new(SESSION),
        runs: U16::new(1),
        durability: Durability::Disk as u8,
        receipts: 0,
        credit: U32::new(100),
    };
    let run = AckRun {
        first_seq: U64::new(first_seq),
        first_sequence: U64::new(value),
        timestamp_ns: U64::new(7),
        entries: U16::new(entries as u16),
        decision: decision as u8,
        reserved: 0,
        guarantee: Guarantee::COMMITTED.encode(),
    };
    datagram(&header(Kind::Appended), &[head.as_bytes(), run.as_bytes()].concat())
}

pub(crate) struct Refuse {
    pub(crate) refusal: Refusal,
    pub(crate) reference: u64,
    pub(crate) detail: u64,
    pub(crate) retry_after_us: u32,
    pub(crate) leader: Option<SocketAddrV4>,
}

impl Refuse {
    pub(crate) fn with(refusal: Refusal) -> Refuse {
        let detail = if refusal == Refusal::SessionEvicted { SESSION } else { 0 };
        Refuse { refusal, reference: 0, detail, retry_after_us: 1_000, leader: None }
    }

    pub(crate) fn datagram(&self) -> Vec<u8> {
        let body = RefusalBody {
            client_id: U128::new(CLIENT),
            reference: U64::new(self.reference),
            detail: U64::new(self.detail),
            retry_after_us: U32::new(self.retry_after_us),
            refusal: self.refusal as u8,
            has_leader: u8::from(self.leader.is_some()),
            leader_port: U16::new(self.leader.map_or(0, |leader| leader.port())),
            leader_ip: self.leader.map_or([0; 4], |leader| leader.ip().octets()),
            leader_node: 0,
            mode: Mode::Target as u8,
            reserved: [0; 2],
            guarantee: Guarantee::NONE.encode(),
        };
        datagram(&header(Kind::Rejected), body.as_bytes())
    }
}

/// A local read's reply with `payloads`, each with its timestamp.
pub(crate) fn read_reply(id: u64, first: u64, tail: u64, last: bool, payloads: &[(u64, &[u8])]) -> Vec<u8> {
    recent_reply(1, Recency::StalePossible, (id, first, tail, last), payloads)
}

/// A node's read reply that is as recent as this: request, first sequence, tail, whether it is the last datagram.
pub(crate) fn recent_reply(
    node: u8,
    recency: Recency,
    (id, first, tail, last): (u64, u64, u64, bool),
    payloads: &[(u64, &[u8])],
) -> Vec<u8> {
    let body = ReadReplyBody {
        request_id: U64::new(id),
        first_sequence: U64::new(first),
        tail: U64::new(tail),
        entries: U16::new(payloads.len() as u16),
        last: u8::from(last),
        mode: Mode::Target as u8,
        guarantee: Guarantee::read(recency).encode(),
    };
    let mut bytes = body.as_bytes().to_vec();
    for (timestamp_ns, payload) in payloads {
        let entry = ReadEntry { timestamp_ns: U64::new(*timestamp_ns), length: U16::new(payload.len() as u16) };
        bytes.extend_from_slice(entry.as_bytes());
        bytes.extend_from_slice(payload);
    }
    datagram(&Header { from: NodeId(node), ..header(Kind::ReadReply) }, &bytes)
}

/// What a client asked, as a node reads it: everything is checked as strictly as a node may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    Open(u128),
    /// With a number, or none but an existing one.
    Resume(u64),
    Append {
        first_seq: u64,
        entries: Vec<Vec<u8>>,
    },
    AppendIf {
        condition: Condition,
        first_seq: u64,
        entries: Vec<Vec<u8>>,
    },
    Read(ReadBody),
    Status {
        request_id: u64,
    },
}

pub(crate) fn parse_request(datagram: &[u8]) -> Asked {
    assert!(datagram.len() <= 1_472, "a datagram of {} bytes", datagram.len());
    let frame = parse(datagram).expect("a client sends valid frames");
    assert_eq!(datagram.len(), frame_bytes(frame.payload.len()), "one padded frame a datagram");
    let expected = Header { from: NodeId(0), epoch: Epoch(0), slot: frame.header.slot, ..header(frame.header.kind) };
    assert_eq!(frame.header, expected);
    match frame.header.kind {
        Kind::OpenSession => {
            let (run, rest) = Run::parse(frame.payload).expect("a valid run");
            assert!(rest.is_empty() && run.opens_session());
            if run.session() == open::OR_CREATE { Asked::Open(run.client_id()) } else { Asked::Resume(run.session()) }
        }
        Kind::Append => {
            let (run, rest) = Run::parse(frame.payload).expect("a valid run");
            assert!(rest.is_empty() && (run.client_id(), run.session()) == (CLIENT, SESSION));
            let (first_seq, entries) = (run.first_seq(), run.entries().map(<[u8]>::to_vec).collect());
            match run.condition() {
                Condition::NONE => Asked::Append { first_seq, entries },
                condition => Asked::AppendIf { condition, first_seq, entries },
            }
        }
        Kind::Read => Asked::Read(ReadBody::read_from_bytes(frame.payload).expect("a read body")),
        Kind::Status => Asked::Status { request_id: frame.header.slot.0 },
        other => panic!("a client does not send {other:?}"),
    }
}
