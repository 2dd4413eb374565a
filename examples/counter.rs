//! A replicated counter: three nodes, three clients that count at the same time, and a node that misses some of it.
//!
//! `cargo run --example counter [DIR]`; DIR, on a real disk, is where the logs are put (the current directory when left out).

use anyhow::{Context, ensure};
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use synod::local::Local;
use synod::machine::{BadQuestion, BadSnapshot, Entry, MakeMachine, StateMachine};
use synod_client::{Appender, Consistency, GroupId, NodeId, Options, Questions, ReadOptions, Sequence};

const GROUP: GroupId = GroupId(0);
const CLIENTS: u64 = 3;
const ADDS: u64 = 200;

/// The state: one number. A command is a number to be added, 8 bytes; whatever else is appended counts as noise.
#[derive(Default)]
struct Counter {
    sum: u64,
    noise: u64,
}

impl StateMachine for Counter {
    fn apply(&mut self, entry: &Entry<'_>) {
        match entry.payload.try_into() {
            Ok(number) => self.sum = self.sum.wrapping_add(u64::from_le_bytes(number)),
            Err(_) => self.noise += 1,
        }
    }

    fn query(&self, question: &[u8], answer: &mut Vec<u8>) -> Result<(), BadQuestion> {
        match question {
            b"sum" => answer.extend_from_slice(&self.sum.to_le_bytes()),
            b"noise" => answer.extend_from_slice(&self.noise.to_le_bytes()),
            _ => return Err(BadQuestion),
        }
        Ok(())
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.sum.to_le_bytes());
        out.extend_from_slice(&self.noise.to_le_bytes());
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), BadSnapshot> {
        let word = |at: usize| snapshot.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        match (word(0), word(8), snapshot.len()) {
            (Some(sum), Some(noise), 16) => *self = Counter { sum, noise },
            _ => return Err(BadSnapshot("a counter has 16 bytes".to_owned())),
        }
        Ok(())
    }
}

/// A client: adds numbers, many in flight, and gives the sequence of its last.
fn count(local: &Local, client: u64) -> anyhow::Result<Sequence> {
    let config = local.config();
    let client_id = 1 + u128::from(client);
    let mut appender = Appender::connect(config.cluster_id(), GROUP, local.members(), client_id, Options::default())?;
    let mut last = Sequence::ZERO;
    appender.append_all((1..=ADDS).map(u64::to_le_bytes), |ack| last = ack.sequence)?;
    Ok(last)
}

/// All clients at once; the last sequence of them all.
fn count_together(local: &Local, from: u64) -> anyhow::Result<Sequence> {
    thread::scope(|scope| {
        let clients: Vec<_> = (from..from + CLIENTS).map(|client| scope.spawn(move || count(local, client))).collect();
        let ends = clients.into_iter().map(|client| client.join().expect("a client does not panic"));
        Ok(ends.collect::<anyhow::Result<Vec<_>>>()?.into_iter().max().unwrap_or_default())
    })
}

/// One node's number, in a state that is so recent and holds the log up to `at_least`.
fn ask(local: &Local, node: SocketAddrV4, consistency: Consistency, at_least: Sequence) -> anyhow::Result<u64> {
    let mut questions = Questions::new(local.config().cluster_id(), GROUP, vec![node], ReadOptions::default())?;
    let answer = questions.ask_with(b"sum", consistency, at_least)?;
    Ok(u64::from_le_bytes(answer.bytes[..].try_into().context("a sum has 8 bytes")?))
}

fn main() -> anyhow::Result<()> {
    run(std::env::args().nth(1).unwrap_or_else(|| ".".to_owned()).as_ref())
}

pub(crate) fn run(place: &Path) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("counter-").tempdir_in(place)?;
    let make: MakeMachine = Arc::new(|_| Some(Box::new(Counter::default())));
    let mut local = Local::start(&std::path::absolute(dir.path())?, 3, make)?;
    let members = local.members();

    let once = CLIENTS * ADDS * (ADDS + 1) / 2;
    count_together(&local, 0)?;
    for (node, address) in &members {
        let sum = ask(&local, *address, Consistency::ReadIndex, Sequence::ZERO)?;
        println!("node {node} counted {sum}");
        ensure!(sum == once, "node {node} says {sum}, and {once} was acknowledged before it was asked");
    }

    // A node is away while the others go on; when it comes back it rebuilds its state from its log and catches up.
    let away = NodeId(2);
    local.stop_node(away)?;
    let last = count_together(&local, CLIENTS)?;
    local.start_node(away)?;
    let (_, address) = members[usize::from(away.0)];
    let sum = ask(&local, address, Consistency::Local, last)?;
    println!("node {away} was away and counted {sum}");
    ensure!(sum == 2 * once, "node {away} says {sum} in a state that holds sequence {last}, instead of {}", 2 * once);
    local.stop()
}
