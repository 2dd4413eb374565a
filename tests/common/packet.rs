//! Datagrams by hand: what the client library would never send, and answers as they come, without its redirects.

use super::cluster::{Cluster, SOON};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;
use synod_wire::batch::{RunBuilder, RunKind};
use synod_wire::client::{AckHeader, Refusal, RefusalBody};
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

/// A run of entries, or the opening of a session if there are none.
pub fn run(client_id: u128, first_seq: u64, entries: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![0; 60_000];
    let mut builder = RunBuilder::new(&mut out, client_id, first_seq);
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
    /// The session is open.
    Opened,
    /// Runs were acknowledged.
    Appended(u16),
    /// Refused, with the detail.
    Refused(Refusal, u64),
}

/// A session with one node, by hand.
pub struct RawSession {
    socket: UdpSocket,
    cluster: ClusterId,
    group: GroupId,
    client_id: u128,
}

impl RawSession {
    /// A socket of its own that talks to `node` alone.
    pub fn new(cluster: &Cluster, node: NodeId, group: GroupId, client_id: u128) -> RawSession {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
        socket.connect(cluster.config.client_address(node, group)).expect("connect");
        RawSession { socket, cluster: cluster.config.cluster_id(), group, client_id }
    }

    /// Sends a run of entries; none: opens the session.
    pub fn send(&self, first_seq: u64, entries: &[&[u8]]) {
        let kind = if entries.is_empty() { Kind::OpenSession } else { Kind::Append };
        let header = header(kind, self.cluster, self.group, NodeId(0));
        let datagram = frame(&header, &run(self.client_id, first_seq, entries));
        self.socket.send(&datagram).expect("send");
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
            Kind::SessionOpened => Answer::Opened,
            Kind::Appended => {
                let (header, _) = AckHeader::read_from_prefix(frame.payload).expect("a whole body");
                Answer::Appended(header.runs.get())
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
        assert_eq!(self.receive(SOON), Some(Answer::Opened));
    }
}

/// A socket that sends anything to one address.
pub fn sender(to: SocketAddrV4) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
    socket.connect(to).expect("connect");
    socket
}
