//! Sessions that append without end, each on a thread of its own, with many entries in flight. Every entry says whose it
//! is, so that a log can be checked entry by entry; its bytes follow from that, so that nothing has to be remembered.

use super::cluster::Cluster;
use super::{Rng, await_until};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use synod_client::{Ack, Appender, ClientError, Options, Resume};
use synod_wire::{ClusterId, GroupId, NodeId, Sequence};

/// Bytes at the start of every entry: the session and the client sequence.
pub const TAG_BYTES: usize = 24;
/// Most entries of a session with an even number, and of one with an odd number, are at most this long.
const USUAL_BYTES: [u64; 2] = [1_000, 300];
/// How long the last entries of a load may take.
const LAST_ENTRIES: Duration = Duration::from_secs(30);

/// The entry that session `client_id` appends under `client_seq`; one in 64 is as long as allowed.
pub fn entry(client_id: u128, client_seq: u64, max_bytes: usize, out: &mut Vec<u8>) {
    let mut rng = Rng(client_seq ^ client_id as u64);
    let usual = TAG_BYTES as u64 + rng.below(USUAL_BYTES[client_id as usize % 2] - TAG_BYTES as u64);
    let bytes = if rng.below(64) == 0 { max_bytes } else { (usual as usize).min(max_bytes) };
    out.clear();
    out.extend_from_slice(&client_id.to_le_bytes());
    out.extend_from_slice(&client_seq.to_le_bytes());
    while out.len() < bytes {
        out.extend_from_slice(&rng.next().to_le_bytes());
    }
    out.truncate(bytes);
}

/// What one session did.
#[derive(Debug)]
pub struct Told {
    /// The session.
    pub client_id: u128,
    /// The longest entry it may append.
    pub max_bytes: usize,
    /// Acknowledgements by client sequence, from 1; `None`: never acknowledged.
    pub acks: Vec<Option<Ack>>,
    /// The last client sequence offered.
    pub offered: u64,
    /// How often the session ended with an unknown outcome and was opened again.
    pub reopened: u64,
    /// The longest time between two acknowledgements.
    pub longest_gap: Duration,
}

impl Told {
    fn acknowledged(&self) -> u64 {
        self.acks.iter().flatten().count() as u64
    }
}

/// Sessions under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Told>>,
}

/// What a session's thread needs.
struct Worker {
    cluster: ClusterId,
    group: GroupId,
    members: Vec<(NodeId, SocketAddrV4)>,
    client_id: u128,
    options: Options,
    entries: u64,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
}

impl Load {
    /// Starts `sessions` sessions with `window` entries in flight each, until [`Load::finish`].
    pub fn start(cluster: &Cluster, group: GroupId, sessions: u64, window: usize) -> Load {
        Load::start_limited(cluster, group, sessions, Options { window_entries: window, ..cluster.options() }, u64::MAX)
    }

    /// The same; each session stops by itself after `entries` entries.
    pub fn start_limited(cluster: &Cluster, group: GroupId, sessions: u64, options: Options, entries: u64) -> Load {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let spawn = |_| {
            let worker = Worker {
                cluster: cluster.config.cluster_id(),
                group,
                members: cluster.config.client_addresses(group),
                client_id: u128::from(std::process::id()) << 64 | u128::from(NEXT.fetch_add(1, Ordering::Relaxed)),
                options: options.clone(),
                entries,
                stop: stop.clone(),
                acked: acked.clone(),
            };
            std::thread::spawn(move || worker.run())
        };
        let threads = (0..sessions).map(spawn).collect();
        Load { stop, acked, threads }
    }

    /// Acknowledgements so far.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Waits for `more` acknowledgements beyond those there are now.
    pub fn await_acks(&self, more: u64, deadline: Duration) {
        let target = self.acked() + more;
        await_until(deadline, "enough entries are acknowledged", || (self.acked() >= target).then_some(()));
    }

    /// Ends the load, waits for its last acknowledgements, and returns what every session was told.
    pub fn finish(self) -> Vec<Told> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("a session's thread panicked")).collect()
    }

    /// Waits until every session has appended its entries.
    pub fn join(self) -> Vec<Told> {
        self.threads.into_iter().map(|thread| thread.join().expect("a session's thread panicked")).collect()
    }
}

/// Acknowledgements in all.
pub fn acknowledged(told: &[Told]) -> u64 {
    told.iter().map(Told::acknowledged).sum()
}

impl Worker {
    fn run(self) -> Told {
        let mut told = Told {
            client_id: self.client_id,
            max_bytes: 0,
            acks: Vec::new(),
            offered: 0,
            reopened: 0,
            longest_gap: Duration::ZERO,
        };
        let mut resume = Resume::OrCreate;
        while let Some(mut appender) = self.open(&mut told, resume) {
            resume = Resume::Session(appender.session());
            match self.append_until_stopped(&mut appender, &mut told) {
                Ok(()) => break,
                Err(error) if error.is_outcome_unknown() => told.reopened += 1,
                Err(error) => panic!("session {}: {error}", self.client_id),
            }
        }
        told
    }

    /// Opens the session, patiently; `None` when the load ends meanwhile.
    fn open(&self, told: &mut Told, resume: Resume) -> Option<Appender> {
        loop {
            let (members, options) = (self.members.clone(), Options { resume, ..self.options.clone() });
            match Appender::connect(self.cluster, self.group, members, self.client_id, options) {
                Ok(appender) => {
                    told.max_bytes = appender.max_entry_bytes();
                    return Some(appender);
                }
                Err(error) if error.is_unavailable() && self.stop.load(Ordering::Relaxed) => return None,
                Err(error) if error.is_unavailable() => {}
                Err(error) => panic!("session {}: {error}", self.client_id),
            }
        }
    }

    fn append_until_stopped(&self, appender: &mut Appender, told: &mut Told) -> Result<(), ClientError> {
        let mut client_seq = appender.last_committed();
        let acknowledged = told.acks.iter().rposition(Option::is_some).map_or(0, |index| index as u64 + 1);
        assert!(client_seq >= acknowledged, "the session lost acknowledged entries: {client_seq} < {acknowledged}");
        let mut buffer = Vec::new();
        let mut last_ack = Instant::now();
        let Told { acks, offered, longest_gap, .. } = told;
        let mut on_ack = |ack: Ack| {
            let index = ack.client_seq as usize - 1;
            if acks.len() <= index {
                acks.resize(index + 1, None);
            }
            let before = acks[index].replace(ack);
            assert!(before.is_none_or(|before| before == ack), "two answers for one entry: {before:?}, {ack:?}");
            *longest_gap = (*longest_gap).max(last_ack.elapsed());
            last_ack = Instant::now();
            self.acked.fetch_add(1, Ordering::Relaxed);
        };
        while client_seq < self.entries && !self.stop.load(Ordering::Relaxed) {
            client_seq += 1;
            entry(self.client_id, client_seq, told.max_bytes, &mut buffer);
            *offered = (*offered).max(client_seq);
            let given = appender.push(&buffer, &mut on_ack)?;
            assert_eq!(given, client_seq, "the session goes on where it was");
        }
        appender.flush(LAST_ENTRIES, &mut on_ack)
    }
}

/// The order of a session's entries in the log, as far as it was acknowledged.
pub fn acked_sequences(told: &Told) -> impl Iterator<Item = (u64, Sequence)> + '_ {
    told.acks.iter().flatten().map(|ack| (ack.client_seq, ack.sequence))
}
