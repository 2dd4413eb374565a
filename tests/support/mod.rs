//! Logs made by hand, record by record, through the production log: what a correct node, or a broken one, could have
//! written. The `Io` beneath writes at once.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this module")]

use std::fs::File;
use std::net::SocketAddrV4;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use synod_ring::{BlockFile, Event, FILE_SLOTS, FileSlot, Io, IoError, RxBuf, Slice};
use synod_wal::{Expect, Identity, Log, Place, Settings};
use synod_wire::batch::{BATCH_HEADER_BYTES, RunBuilder, RunKind, open, write_batch_header};
use synod_wire::frame::{Header, Kind};
use synod_wire::record::{ChosenRange, Configuration, Incarnation, PeerMark};
use synod_wire::{Ballot, ClusterId, Epoch, GroupId, Lsn, NodeId, NodeSet, Slot};
use zerocopy::IntoBytes;

pub const CLUSTER: ClusterId = ClusterId(7);
pub const GROUP: GroupId = GroupId(0);
pub const CLIENT: u128 = 99;
const SETTINGS: Settings = Settings {
    segment_bytes: 4 << 20,
    stride_bytes: 4 << 20,
    arena_bytes: 8 << 20,
    max_in_flight: 1,
    adapts: false,
    max_flush_bytes: 256 << 10,
};

/// An `Io` whose writes complete before they return.
#[derive(Default)]
struct DirectIo {
    files: Vec<Option<Arc<dyn BlockFile>>>,
    written: Vec<(u64, usize)>,
}

impl Io for DirectIo {
    type Job = ();
    type Done = ();

    fn poll(&mut self, _deadline_ns: u64, _eager: bool, _events: &mut Vec<Event<()>>) -> Result<(), IoError> {
        unreachable!("a log does not poll")
    }

    fn now_ns(&self) -> u64 {
        0
    }

    fn wall_ns(&self) -> u64 {
        0
    }

    fn datagram(&self, _buf: &RxBuf) -> &[u8] {
        unreachable!("a log receives nothing")
    }

    fn release(&mut self, _buf: RxBuf) {
        unreachable!("a log receives nothing")
    }

    fn send_peer(&mut self, _peer: usize, _bytes: Slice<'_>) {
        unreachable!("a log sends nothing")
    }

    fn send_client(&mut self, _to: SocketAddrV4, _bytes: Slice<'_>) {
        unreachable!("a log sends nothing")
    }

    fn attach(&mut self, slot: FileSlot, file: Arc<dyn BlockFile>) -> Result<(), IoError> {
        self.files.resize_with(usize::from(FILE_SLOTS), || None);
        self.files[usize::from(slot.0)] = Some(file);
        Ok(())
    }

    fn write(&mut self, file: FileSlot, offset: u64, bytes: Slice<'_>, token: u64) {
        let file = self.files[usize::from(file.0)].as_ref().expect("a write goes to an attached file");
        file.write_at(bytes.bytes(), offset).expect("the test's disk takes the write");
        self.written.push((token, bytes.bytes().len()));
    }

    fn request(&mut self, _job: ()) -> Result<(), ()> {
        unreachable!("a log requests nothing itself")
    }
}

/// A log under construction.
pub struct LogWriter {
    log: Log,
    io: DirectIo,
    node: NodeId,
    promised: Ballot,
    pub dir: PathBuf,
}

/// Ballot `round` of node 0.
pub fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(0) }
}

pub fn incarnation(node: u8) -> u64 {
    1_000 + u64::from(node)
}

impl LogWriter {
    /// A formatted log of `node` in a cluster of three, founded.
    pub fn new(node_dir: &Path, node: u8) -> LogWriter {
        let (dir, node) = (node_dir.join("group-000"), NodeId(node));
        let identity = Identity { cluster: CLUSTER, group: GROUP, node, incarnation: incarnation(node.0) };
        let body = Configuration {
            parent_epoch: 0.into(),
            phase1: 2,
            phase2: 2,
            members: 3,
            learners: 0,
            incarnation: identity.incarnation.into(),
        };
        let payload = [body.as_bytes(), &[0, 1, 2]].concat();
        let first = header(node, Kind::Configuration, Slot::ZERO, Ballot::ZERO, Ballot::ZERO, Lsn(1));
        synod_wal::format(&dir, &identity, (&first, &payload), &SETTINGS).unwrap();
        let expect = Expect { cluster: CLUSTER, group: GROUP, node };
        let mut log =
            synod_wal::recover(&dir, &expect, &SETTINGS, synod_wal::Start::Beginning, &mut |_, _| {}).unwrap().log;
        let mut io = DirectIo::default();
        log.attach_segments(&mut io).unwrap();
        let mut writer = LogWriter { log, io, node, promised: Ballot::ZERO, dir };
        let founded: Vec<Incarnation> = (0..3u8)
            .map(|node| Incarnation { node: u64::from(node).into(), incarnation: incarnation(node).into() })
            .collect();
        writer.record(Kind::Founded, Slot::ZERO, Ballot::ZERO, founded.as_bytes());
        writer
    }

    /// Appends any record.
    pub fn record(&mut self, kind: Kind, slot: Slot, ballot: Ballot, payload: &[u8]) -> Place {
        let header = header(self.node, kind, slot, ballot, self.promised, self.log.last_lsn().next());
        self.log.append(&header, payload, None).expect("the log has room")
    }

    /// Promises a ballot.
    pub fn promise(&mut self, ballot: Ballot) -> Place {
        self.promised = ballot;
        self.record(Kind::Promised, Slot::ZERO, Ballot::ZERO, &[])
    }

    /// Votes for a value.
    pub fn accept(&mut self, slot: u64, ballot: Ballot, payload: &[u8]) -> Place {
        self.record(Kind::Accept, Slot(slot), ballot, payload)
    }

    /// Records slots as chosen.
    pub fn chosen(&mut self, first: u64, last: u64, ballot: Ballot, acceptors: &[u8]) -> Place {
        let acceptors: NodeSet = acceptors.iter().map(|node| NodeId(*node)).collect();
        let range = ChosenRange {
            first: first.into(),
            last: last.into(),
            ballot: ballot.pack().into(),
            acceptors: acceptors.0.into(),
        };
        self.record(Kind::Chosen, Slot(last), Ballot::ZERO, range.as_bytes())
    }

    /// Records what was counted from a peer.
    pub fn counted(&mut self, node: u8, lsn: u64) -> Place {
        let mark = PeerMark { node: u64::from(node).into(), lsn: lsn.into() };
        self.record(Kind::PeerMarks, Slot::ZERO, Ballot::ZERO, mark.as_bytes())
    }

    /// Makes everything durable, as one flush.
    pub fn flush(&mut self) {
        if let Some(spec) = self.log.wants_segment() {
            self.log.segment_ready(&mut self.io, spec.prepare().unwrap()).unwrap();
        }
        self.log.flush(&mut self.io, self.promised);
        let written = std::mem::take(&mut self.io.written);
        for (token, bytes) in written {
            self.log.written(&mut self.io, token, Ok(bytes)).unwrap();
        }
        assert_eq!(self.log.durable_lsn(), self.log.last_lsn());
    }

    /// The last Lsn.
    pub fn last_lsn(&self) -> u64 {
        self.log.last_lsn().0
    }
}

fn header(node: NodeId, kind: Kind, slot: Slot, ballot: Ballot, promised: Ballot, lsn: Lsn) -> Header {
    Header { kind, flags: 0, from: node, group: GROUP, cluster: CLUSTER, epoch: Epoch(1), slot, ballot, promised, lsn }
}

/// A batch with one run of `CLIENT`: slot 1 opens the session, slot s holds the entry s - 1.
pub fn value(slot: u64) -> Vec<u8> {
    value_with(slot, &format!("entry {}", slot - 1))
}

/// The same with another entry.
pub fn value_with(slot: u64, entry: &str) -> Vec<u8> {
    let mut bytes = vec![0; 512 + entry.len()];
    let run_at = BATCH_HEADER_BYTES;
    let used = if slot == 1 {
        RunBuilder::new(&mut bytes[run_at..], CLIENT, open::OR_CREATE, 0).finish(RunKind::OpenSession).0
    } else {
        let mut run = RunBuilder::new(&mut bytes[run_at..], CLIENT, 1, slot - 1);
        assert!(run.push(entry.as_bytes()));
        run.finish(RunKind::Append).0
    };
    write_batch_header(&mut bytes, 1_000 * slot, 1);
    bytes.truncate(run_at + used);
    bytes
}

/// Three nodes that agreed on `slots` slots in ballot 1, four slots a flush, with the leader's evidence; `change` is asked for
/// each (node, slot) what that node accepted, `None` being what the others did.
pub fn cluster(
    dir: &Path,
    slots: u64,
    change: impl Fn(u8, u64) -> Option<Option<Vec<u8>>>,
) -> (Vec<PathBuf>, Vec<Vec<Option<Place>>>) {
    let (mut dirs, mut places) = (Vec::new(), Vec::new());
    for node in 0..3u8 {
        let node_dir = dir.join(format!("node-{node}"));
        let mut log = LogWriter::new(&node_dir, node);
        log.promise(ballot(1));
        let mut of_node = vec![None];
        for slot in 1..=slots {
            let payload = change(node, slot).unwrap_or_else(|| Some(value(slot)));
            of_node.push(payload.map(|payload| log.accept(slot, ballot(1), &payload)));
            if slot.is_multiple_of(4) || slot == slots {
                let acceptors: &[u8] = if node == 0 { &[0, 1, 2] } else { &[] };
                log.chosen((slot - 1) / 4 * 4 + 1, slot, ballot(1), acceptors);
                log.flush();
            }
        }
        dirs.push(node_dir);
        places.push(of_node);
    }
    (dirs, places)
}

/// Changes bytes of a log's file in place.
pub fn edit(node_dir: &Path, place: Place, change: impl FnOnce(&mut [u8])) {
    let path = node_dir.join("group-000/0000000000000000.seg");
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut bytes = vec![0; place.bytes as usize];
    file.read_exact_at(&mut bytes, place.pos).unwrap();
    change(&mut bytes);
    file.write_all_at(&bytes, place.pos).unwrap();
}
