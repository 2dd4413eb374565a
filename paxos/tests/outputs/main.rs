//! Every transition of the core, with the exact list of what it puts out. Node 1 of three is under test; nodes 2 and 3 are
//! the test's hand.

#[path = "../common/mod.rs"]
mod common;

mod acceptor;
mod candidate;
mod damage;
mod founding;
mod leader;
mod learner;
mod leases;
mod prevote;
mod reads;
mod states;

use common::{MS, ballot, founding_incarnation, settings};
use synod_paxos::*;
use synod_wire::{Ballot, Epoch, Lsn, NodeId, NodeSet, Quorums, Slot};

const ME: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
/// The Lsn that ends a founded log: the configuration and the founding record.
const FOUNDED_LSN: Lsn = Lsn(2);

/// What [`settings`] draws for the start of node 1.
const START: u64 = 1;

/// A core under test and its clock.
struct Bench {
    core: Replica,
    now_ns: u64,
}

impl Bench {
    fn new(settings: Settings, restart: Restart) -> Bench {
        Bench { core: Replica::new(settings, restart, 0), now_ns: 0 }
    }

    /// Follows no one yet, in a founded group.
    fn follower_of(settings: Settings, restart: Restart) -> Bench {
        let mut bench = Bench::new(settings, restart);
        for peer in [TWO, THREE] {
            bench.hear(peer, hello_ack(peer, founding_incarnation(1), Lsn::ZERO));
        }
        assert_eq!(bench.core.role(), Role::Follower);
        bench
    }

    fn follower() -> Bench {
        Bench::follower_of(settings(1, 3), founded())
    }

    /// A candidate whose promise is durable.
    fn candidate(restart: Restart) -> Bench {
        let mut bench = Bench::follower_of(settings(1, 3), restart);
        bench.election();
        bench.sync();
        assert_eq!(bench.core.role(), Role::Candidate);
        bench
    }

    /// A leader in ballot 1.1 that serves: its barrier in slot 1 is chosen, told and synced.
    fn leader() -> Bench {
        let mut bench = Bench::candidate(founded());
        bench.hear(TWO, promise(ballot(1, 1), 0, vec![]));
        bench.sync();
        bench.hear(TWO, accepted(ballot(1, 1), 1, [0; 4]));
        bench.after(1);
        bench.sync();
        assert_eq!((bench.core.role(), bench.core.prefix()), (Role::Leader, Slot(1)));
        bench
    }

    /// A follower of node 2 in ballot 1.2 that has delivered node 2's barrier in slot 1, durably.
    fn led() -> Bench {
        let mut bench = Bench::follower();
        bench.hear(TWO, accept(ballot(1, 2), 1));
        bench.sync();
        bench.hear(TWO, heartbeat(ballot(1, 2), 1, 0));
        bench.sync();
        assert_eq!((bench.core.leader(), bench.core.prefix()), (Some(TWO), Slot(1)));
        bench
    }

    fn step(&mut self, input: Input) -> Vec<Output> {
        let before = self.core.clone();
        self.core.step(self.now_ns, input);
        invariants::check_step(&before, &self.core);
        invariants::check_state(&self.core);
        std::iter::from_fn(|| self.core.poll_output()).collect()
    }

    /// A message from a peer whose durable Lsn is 50.
    fn hear(&mut self, from: NodeId, message: Message) -> Vec<Output> {
        self.hear_at(from, Lsn(50), message)
    }

    fn hear_at(&mut self, from: NodeId, lsn: Lsn, message: Message) -> Vec<Output> {
        self.step(Input::Message { from, epoch: Epoch(1), lsn, message })
    }

    fn sync(&mut self) -> Vec<Output> {
        let upto = self.core.last_lsn();
        self.step(Input::Persisted { upto })
    }

    /// The next timer, at its time. What a test waits for comes within a minute.
    fn timer(&mut self) -> Vec<Output> {
        self.now_ns = self.core.poll_timeout();
        assert!(self.now_ns < 60_000 * MS, "waited in vain: {:?}", self.core);
        self.step(Input::Timeout)
    }

    /// `ms` later, whatever is due.
    fn after(&mut self, ms: u64) -> Vec<Output> {
        self.now_ns += ms * MS;
        self.step(Input::Timeout)
    }

    /// Waits until it would stand for election; the question that it puts to the others.
    fn pre_vote(&mut self) -> Message {
        loop {
            if let Some(question) = question(&self.timer()) {
                return question;
            }
        }
    }

    /// Waits until it stands for election: as many as it needs hear no leader either.
    fn election(&mut self) -> Vec<Output> {
        let promised = self.core.promised();
        let voters: Vec<NodeId> = self.core.configuration().voters().iter().collect();
        loop {
            let mut outputs = self.timer();
            if let Some(question) = question(&outputs) {
                let mut others = voters.iter().filter(|voter| **voter != ME);
                while self.core.promised() == promised {
                    let other = *others.next().expect("all said yes, and it does not stand");
                    outputs = self.hear(other, yes(&question));
                }
            }
            if self.core.promised() > promised {
                return outputs;
            }
        }
    }

    fn lsn(&self) -> Lsn {
        self.core.last_lsn()
    }
}

/// A founded log with nothing in it.
fn founded() -> Restart {
    let members = (1..=3).map(|node| (NodeId(node), founding_incarnation(node)));
    Restart { last_lsn: FOUNDED_LSN, founded: Some(members.collect()), ..Restart::default() }
}

/// A founded log of `last_lsn` records with a promise and some values.
fn restart(promised: Ballot, applied: u64, held: Vec<Held>) -> Restart {
    Restart { promised, last_lsn: Lsn(20), applied: Slot(applied), held, ..founded() }
}

fn held(slot: u64, ballot: Ballot) -> Held {
    Held { slot: Slot(slot), ballot, chosen: None, mark: Mark::Batch, unknown: false }
}

fn set(nodes: &[NodeId]) -> NodeSet {
    nodes.iter().copied().collect()
}

fn send(to: &[NodeId], message: Message, after: Lsn) -> Output {
    Output::Send { to: set(to), message, after, epoch: Epoch(1) }
}

fn persist(lsn: u64, promised: Ballot, record: Record) -> Output {
    Output::Persist { lsn: Lsn(lsn), promised, record }
}

fn became(role: Role, reason: Reason) -> Output {
    Output::Became { role, reason }
}

fn deliver(slot: u64) -> Output {
    Output::Deliver { slot: Slot(slot) }
}

fn hello_ack(from: NodeId, founded_with: u64, counted: Lsn) -> Message {
    let incarnation = founding_incarnation(from.0);
    Message::HelloAck {
        incarnation,
        to_incarnation: founding_incarnation(1),
        to_start: START,
        founded_with,
        counted,
        prefix: Slot::ZERO,
    }
}

/// The pre-vote among some outputs.
fn question(outputs: &[Output]) -> Option<Message> {
    outputs.iter().find_map(|output| match output {
        Output::Send { message: message @ Message::PreVote { .. }, .. } => Some(message.clone()),
        _ => None,
    })
}

/// The sender hears no leader either.
fn yes(question: &Message) -> Message {
    let Message::PreVote { start, round } = *question else { panic!("{question:?} is no pre-vote") };
    Message::PreVoteAck { start, round, granted: true, promised: Ballot::ZERO }
}

fn prepare(ballot: Ballot) -> Message {
    Message::Prepare { ballot, prefix: Slot(0) }
}

fn promise(ballot: Ballot, prefix: u64, reports: Vec<Report>) -> Message {
    Message::Promise { ballot, prefix: Slot(prefix), part: 0, parts: 1, unknown_all: false, reports }
}

fn report(slot: u64, state: ReportState) -> Report {
    Report { slot: Slot(slot), state, configures: false }
}

fn accept(ballot: Ballot, slot: u64) -> Message {
    Message::Accept { ballot, slot: Slot(slot), mark: Mark::Batch }
}

fn accepted(ballot: Ballot, upto: u64, bits: [u64; 4]) -> Message {
    Message::Accepted { ballot, upto: Slot(upto), bits }
}

fn heartbeat(ballot: Ballot, chosen: u64, probe: u64) -> Message {
    Message::Heartbeat { ballot, chosen: Slot(chosen), probe, lease_ns: 0 }
}

fn learn(slot: u64, ballot: Ballot) -> Message {
    Message::Learn { slot: Slot(slot), ballot, mark: Mark::Batch }
}

fn fetch(first: u64, last: u64) -> Message {
    Message::FetchChosen { first: Slot(first), last: Slot(last) }
}

fn missing(ballot: Ballot, first: u64, last: u64) -> Message {
    Message::Missing { ballot, first: Slot(first), last: Slot(last) }
}

fn record_of(slot: u64, ballot: Ballot, source: Source) -> Record {
    Record::Accepted { slot: Slot(slot), ballot, mark: Mark::Batch, source }
}

fn barrier_of(slot: u64, ballot: Ballot) -> Record {
    Record::Accepted { slot: Slot(slot), ballot, mark: Mark::Barrier, source: Source::Noop }
}

fn evidence(first: u64, last: u64, ballot: Ballot, acceptors: &[NodeId]) -> Ranges {
    [Evidence { first: Slot(first), last: Slot(last), ballot, acceptors: set(acceptors), epoch: Epoch(1) }]
        .into_iter()
        .collect()
}

fn chosen(first: u64, last: u64, ballot: Ballot, acceptors: &[NodeId]) -> Record {
    Record::Chosen(evidence(first, last, ballot, acceptors))
}
