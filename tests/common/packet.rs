//! Datagrams by hand: what the client library would never send, and answers as they come, without its redirects.

use super::cluster::{Cluster, SOON};
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;
use synod_wire::batch::{Condition, RunBuilder, RunKind, open};
use synod_wire::client::{AckHeader, AckRun, Decision, Refusal, RefusalBody, SessionBody};
use synod_wire::frame::{Header, Kind, frame_bytes, parse, write_frame};
use synod_wire::{Ballot, ClusterId, Epoch, GroupId, Lsn, NodeId, Slot};
use zerocopy::FromBytes;

/// A header with nothing in it but who is addressed.
pub fn header(kind: Kind, cluster: ClusterId, group: GroupId, from: NodeId) -> Header {
    Header {
        kind,
        flags: 0,
        from,
        group,
        cluster,
        epoch: Epoch(1),
        slot: Slot::ZERO,
        ballot: Ballot::ZERO,
        promised: Ballot::ZERO,
        lsn: Lsn::ZERO,
    }
}

/// A frame.
pub fn frame(header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; frame_bytes(payload.len())];
    write_frame(&mut out, header, payload);
    out
}

/// A run of entries of session number `session`, or the opening of a session if there are none.
pub fn run(client_id: u128, session: u64, first_seq: u64, entries: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![0; 60_000];
    let session = if entries.is_empty() { open::OR_CREATE } else { session };
    let mut builder = RunBuilder::new(&mut out, client_id, session, first_seq);
    for entry in entries {
        assert!(builder.push(entry), "a run of 60,000 bytes holds the entries");
    }
    let kind = if entries.is_empty() { RunKind::OpenSession } else { RunKind::Append };
    let bytes = builder.finish(kind).0;
    out.truncate(bytes);
    out
}

/// What a node answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The session is open; its number.
    Opened(u64),
    /// Runs were acknowledged.
    Appended(u16),
    /// The first run was not appended: the decision, and what comes with it.
    NotAppended(Decision, u64),
    /// Refused, with the detail.
    Refused(Refusal, u64),
}

/// A session with one node, by hand.
pub struct RawSession {
    socket: UdpSocket,
    cluster: ClusterId,
    group: GroupId,
    client_id: u128,
    /// The session's number; another session's until it is open.
    number: Cell<u64>,
}

impl RawSession {
    /// A socket of its own that talks to `node` alone.
    pub fn new(cluster: &Cluster, node: NodeId, group: GroupId, client_id: u128) -> RawSession {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
        socket.connect(cluster.config.client_address(node, group)).expect("connect");
        RawSession { socket, cluster: cluster.config.cluster_id(), group, client_id, number: Cell::new(1) }
    }

    /// Sends a run of entries; none: opens the session.
    pub fn send(&self, first_seq: u64, entries: &[&[u8]]) {
        let kind = if entries.is_empty() { Kind::OpenSession } else { Kind::Append };
        let header = header(kind, self.cluster, self.group, NodeId(0));
        let datagram = frame(&header, &run(self.client_id, self.number.get(), first_seq, entries));
        self.socket.send(&datagram).expect("send");
    }

    /// Sends one entry on a condition.
    pub fn send_if(&self, first_seq: u64, condition: &Condition, entry: &[u8]) {
        let mut payload = vec![0; 2_000];
        let mut run = RunBuilder::conditional(&mut payload, self.client_id, self.number.get(), first_seq, condition);
        assert!(run.push(entry), "a run of 2,000 bytes holds the entry");
        let bytes = run.finish(RunKind::ConditionalAppend).0;
        let header = header(Kind::Append, self.cluster, self.group, NodeId(0));
        self.socket.send(&frame(&header, &payload[..bytes])).expect("send");
    }

    /// The same session at another node.
    pub fn at(&self, cluster: &Cluster, node: NodeId) -> RawSession {
        let other = RawSession::new(cluster, node, self.group, self.client_id);
        other.number.set(self.number.get());
        other
    }

    /// Goes by another session's number from now on.
    pub fn set_number(&self, number: u64) {
        self.number.set(number);
    }

    /// The session's number.
    pub fn number(&self) -> u64 {
        self.number.get()
    }

    /// The next answer, if one comes in time.
    pub fn receive(&self, wait: Duration) -> Option<Answer> {
        let mut buffer = [0; 65_536];
        self.socket.set_read_timeout(Some(wait)).expect("a time-out above zero");
        let bytes = match self.socket.recv(&mut buffer) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return None;
            }
            Err(error) => panic!("receive: {error}"),
        };
        let frame = parse(&buffer[..bytes]).expect("nodes send whole frames");
        Some(match frame.header.kind {
            Kind::SessionOpened => {
                let body = SessionBody::read_from_bytes(frame.payload).expect("a whole body");
                Answer::Opened(body.session.get())
            }
            Kind::Appended => {
                let (header, runs) = AckHeader::read_from_prefix(frame.payload).expect("a whole body");
                let (first, _) = AckRun::read_from_prefix(runs).expect("a run at least");
                match Decision::from_u8(first.decision).expect("a decision that has a name") {
                    Decision::Appended => Answer::Appended(header.runs.get()),
                    decision => Answer::NotAppended(decision, first.first_sequence.get()),
                }
            }
            Kind::Rejected => {
                let body = RefusalBody::read_from_bytes(frame.payload).expect("a whole body");
                let refusal = Refusal::from_u8(body.refusal).expect("a refusal that has a name");
                Answer::Refused(refusal, body.detail.get())
            }
            other => panic!("an answer of kind {other:?}"),
        })
    }

    /// Opens the session.
    pub fn open(&self) {
        self.send(0, &[]);
        match self.receive(SOON) {
            Some(Answer::Opened(number)) => self.number.set(number),
            other => panic!("{other:?} instead of an open session"),
        }
    }
}

/// A socket that sends anything to one address.
pub fn sender(to: SocketAddrV4) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
    socket.connect(to).expect("connect");
    socket
}
