//! A lease service: who holds a name, until when, and with which fencing token. Two workers compete for one; the one that holds it
//! falls silent, and the other takes over when the lease has run out by the time of the log.
//!
//! `cargo run --example lease [DIR]`; DIR, on a real disk, is where the logs are put (the current directory when left out).

use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use synod::local::Local;
use synod::machine::{BadQuestion, BadSnapshot, Entry, MakeMachine, StateMachine};
use synod_client::{Appender, Consistency, GroupId, Options, Questions, ReadOptions, Sequence};

const GROUP: GroupId = GroupId(0);
const LEASE: Duration = Duration::from_millis(300);
/// A tenth of a lease lies between two: far more than it takes to run out.
const ATTEMPTS: u32 = 200;
/// The most names at once: memory is bounded, and what the bound refuses is not held.
const MAX_NAMES: usize = 1_000;

/// Who holds a name. The token is the sequence that first gave it to its owner: it grows from owner to owner.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Lease {
    owner: String,
    token: u64,
    until_ns: u64,
}

/// A command: take a name or keep it, or let it go (a length of 0).
#[derive(serde::Serialize, serde::Deserialize)]
struct Take {
    name: String,
    owner: String,
    for_ns: u64,
}

/// The state. Its only clock is the timestamp of its entries, which is the same at every member.
#[derive(Default)]
struct Leases(BTreeMap<String, Lease>);

impl StateMachine for Leases {
    fn apply(&mut self, entry: &Entry<'_>) {
        let Ok(take) = serde_json::from_slice::<Take>(entry.payload) else { return };
        let now_ns = entry.timestamp_ns;
        self.0.retain(|_, lease| lease.until_ns > now_ns);
        let held = self.0.get(&take.name);
        if held.is_some_and(|lease| lease.owner != take.owner) || held.is_none() && self.0.len() == MAX_NAMES {
            return;
        }
        let token = held.map_or(entry.sequence.0, |lease| lease.token);
        let lease = Lease { owner: take.owner, token, until_ns: now_ns.saturating_add(take.for_ns) };
        match take.for_ns {
            0 => drop(self.0.remove(&take.name)),
            _ => drop(self.0.insert(take.name, lease)),
        }
    }

    fn query(&self, question: &[u8], answer: &mut Vec<u8>) -> Result<(), BadQuestion> {
        let name = std::str::from_utf8(question).map_err(|_| BadQuestion)?;
        serde_json::to_writer(answer, &self.0.get(name)).map_err(|_| BadQuestion)
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(out, &self.0).expect("a map of strings is JSON, and memory takes it");
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), BadSnapshot> {
        self.0 = serde_json::from_slice(snapshot).map_err(|error| BadSnapshot(error.to_string()))?;
        Ok(())
    }
}

/// Somebody who wants to hold a name.
struct Worker {
    owner: String,
    appender: Appender,
    questions: Questions,
}

impl Worker {
    fn new(local: &Local, number: u128) -> anyhow::Result<Worker> {
        let (cluster, members) = (local.config().cluster_id(), local.members());
        let addresses = members.iter().map(|(_, address)| *address).collect();
        Ok(Worker {
            owner: format!("worker {number}"),
            appender: Appender::connect(cluster, GROUP, members, number, Options::default())?,
            questions: Questions::new(cluster, GROUP, addresses, ReadOptions::default())?,
        })
    }

    /// Asks for the name; who holds it then. An attempt in vain is a committed entry like any other.
    fn take(&mut self, name: &str, length: Duration) -> anyhow::Result<Option<Lease>> {
        let take = Take { name: name.to_owned(), owner: self.owner.clone(), for_ns: length.as_nanos() as u64 };
        let ack = self.appender.append(&serde_json::to_vec(&take)?)?;
        self.holder(name, ack.sequence)
    }

    fn holder(&mut self, name: &str, at_least: Sequence) -> anyhow::Result<Option<Lease>> {
        let answer = self.questions.ask_with(name.as_bytes(), Consistency::ReadIndex, at_least)?;
        Ok(serde_json::from_slice(&answer.bytes)?)
    }
}

fn main() -> anyhow::Result<()> {
    run(std::env::args().nth(1).unwrap_or_else(|| ".".to_owned()).as_ref())
}

pub(crate) fn run(place: &Path) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("lease-").tempdir_in(place)?;
    let make: MakeMachine = Arc::new(|_| Some(Box::new(Leases::default())));
    let local = Local::start(&std::path::absolute(dir.path())?, 3, make)?;
    let (mut first, mut second) = (Worker::new(&local, 1)?, Worker::new(&local, 2)?);

    let mine = first.take("printer", LEASE)?.context("nobody holds it")?;
    ensure!(mine.owner == first.owner, "the first to ask gets it: {mine:?}");
    let kept = first.take("printer", LEASE)?.context("it was kept")?;
    ensure!(kept.token == mine.token && kept.until_ns > mine.until_ns, "kept longer, with its token: {kept:?}");
    let theirs = second.take("printer", LEASE)?.context("it is held")?;
    ensure!(theirs == kept, "the second is told who holds it: {theirs:?}");
    println!("{} holds the printer with token {}", theirs.owner, theirs.token);

    // The first falls silent. The second tries until the lease has run out; what it waits for is time.
    let mut taken = theirs;
    for _ in 0..ATTEMPTS {
        taken = second.take("printer", LEASE)?.context("somebody holds it after an attempt")?;
        if taken.owner == second.owner {
            break;
        }
        std::thread::sleep(LEASE / 10);
    }
    ensure!(taken.token > kept.token, "a later owner has a higher token: {taken:?} after {kept:?}");
    println!("{} took over with token {}", taken.owner, taken.token);
    let told = first.take("printer", LEASE)?.context("it is held")?;
    ensure!(told.owner == second.owner, "the first learns that it lost the lease: {told:?}");
    ensure!(second.take("printer", Duration::ZERO)?.is_none(), "what is let go is free");
    local.stop()
}
