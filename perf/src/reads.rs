//! The command `reads`: what commits cost while the followers answer reads that must not be stale. Rounds with and without
//! alternate, in one cluster; the ratio of neighbours counts. The reads are put by hand, without the client library: it has
//! one request under way, and these are many readers.

use crate::cluster::Cluster;
use crate::load::{self, Pace, Plan};
use crate::product::ProductClient;
use crate::report;
use crate::scenario::{self, LONGEST_SCENE, MOST_IN_FLIGHT, PATIENCE, ScenarioArgs};
use crate::stats::{Spread, Summary};
use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};
use synod_wire::client::{Consistency, ReadBody};
use synod_wire::frame::{Frames, Header, Kind, frame_bytes, write_frame};
use synod_wire::{Ballot, Epoch, Lsn, NodeId, Slot};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// Before this nothing counts.
const WARM_UP: Duration = Duration::from_millis(300);
/// Reads leave so often: what fell due since.
const TICK: Duration = Duration::from_millis(1);
/// How long answers are awaited after the last read: longer than a node takes to refuse one.
const LAST_ANSWERS: Duration = Duration::from_millis(700);
/// The share of the reads that must be answered: the others were refused, or lost.
const ANSWERED: f64 = 0.99;
/// No datagram is longer.
const DATAGRAM_BYTES: usize = 65_536;

/// Arguments of `reads`.
#[derive(Args, Debug)]
pub(crate) struct ReadsArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// Reads a second on the followers: every other one read_index, every other one bounded.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=200_000))]
    reads: u64,
    /// The bound of the bounded ones.
    #[arg(long, value_name = "MS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    bound_ms: u32,
    /// Entries a second.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=50_000))]
    rate: u64,
    /// Rounds; each with and without.
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// How long each measurement takes.
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Fail if the p99 of the commits with reads is longer than without by more than this factor (median of the rounds).
    #[arg(long, value_name = "RATIO")]
    max_ratio: Option<f64>,
}

/// What became of the reads of one measurement.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Answers {
    asked: u64,
    answered: u64,
    refused: u64,
    /// Reads a second, as they left.
    per_second: f64,
}

#[derive(Debug, Serialize)]
struct Round {
    with: Summary,
    without: Summary,
    reads: Answers,
}

#[derive(Debug, Serialize)]
struct Report {
    nodes: u8,
    size: usize,
    rate: u64,
    reads: u64,
    bound_ms: u32,
    /// With divided by without, of each round.
    p50_ratio: Spread,
    p99_ratio: Spread,
    rounds: Vec<Round>,
}

/// Measures and prints.
pub(crate) fn run(args: &ReadsArgs) -> anyhow::Result<()> {
    let mut stage = args.scenario.stage()?;
    let mut cluster = stage.cluster(&args.scenario.spec())?;
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        let round = round(args, &mut cluster, number % 2 == 0)?;
        let (with, without, reads) = (round.with.p99_us, round.without.p99_us, round.reads);
        eprintln!(
            "round {number}: p99 {with:.0} µs, without {without:.0} µs; {:.0} reads a second, {} of {} answered, {} refused",
            reads.per_second, reads.answered, reads.asked, reads.refused
        );
        rounds.push(round);
    }
    cluster.stop()?;
    let ratio = |of: fn(&Summary) -> f64| Spread::of(rounds.iter().map(|round| of(&round.with) / of(&round.without)));
    let report = Report {
        nodes: args.scenario.nodes,
        size: args.scenario.shape.size,
        rate: args.rate,
        reads: args.reads,
        bound_ms: args.bound_ms,
        p50_ratio: ratio(|side| side.p50_us),
        p99_ratio: ratio(|side| side.p99_us),
        rounds,
    };
    scenario::print(args.scenario.output, &report, print)?;
    if let Some(limit) = args.max_ratio {
        let ratio = report.p99_ratio.median;
        ensure!(ratio <= limit, "the p99 with reads is {ratio:.2} times that without; the limit is {limit}");
    }
    Ok(())
}

/// With and without reads, in an order that alternates.
fn round(args: &ReadsArgs, cluster: &mut Cluster, reads_first: bool) -> anyhow::Result<Round> {
    let leader = cluster.await_leader(PATIENCE)?;
    let followers: Vec<SocketAddrV4> =
        cluster.members.iter().filter(|(node, _)| *node != leader).map(|(_, address)| *address).collect();
    let read = |cluster: &mut Cluster| {
        let mut readers = Readers::of(cluster, &followers, args)?;
        measure(args, cluster, || readers.run(args))
    };
    let wait = |cluster: &mut Cluster| {
        let (summary, ()) = measure(args, cluster, || scenario::wait(WARM_UP + Duration::from_secs(args.seconds)))?;
        Ok::<_, anyhow::Error>(summary)
    };
    let before = if reads_first { None } else { Some(wait(cluster)?) };
    let (with, reads) = read(cluster)?;
    let without = match before {
        Some(without) => without,
        None => wait(cluster)?,
    };
    let share = reads.answered as f64 / reads.asked as f64;
    ensure!(
        share >= ANSWERED,
        "only {} of {} reads were answered, {} refused",
        reads.answered,
        reads.asked,
        reads.refused
    );
    Ok(Round { with, without, reads })
}

fn measure<T>(
    args: &ReadsArgs,
    cluster: &mut Cluster,
    scene: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(Summary, T)> {
    let mut client = ProductClient::connect(cluster, &args.scenario.client(MOST_IN_FLIGHT))?;
    let pace = Pace::Open { rate: args.rate, window: MOST_IN_FLIGHT };
    let plan = Plan { pace, warm_up: WARM_UP, measure: LONGEST_SCENE };
    let (measured, played) = load::beside(&mut client, &plan, scene)?;
    Ok((measured.summary(), played))
}

/// A socket for each follower, and the two questions.
struct Readers {
    sockets: Vec<UdpSocket>,
    questions: [Vec<u8>; 2],
    answers: Answers,
    incoming: Vec<u8>,
}

impl Readers {
    fn of(cluster: &Cluster, followers: &[SocketAddrV4], args: &ReadsArgs) -> anyhow::Result<Readers> {
        let socket = |to: &SocketAddrV4| -> anyhow::Result<UdpSocket> {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("a socket for reads")?;
            socket.connect(to).context("a socket for reads")?;
            socket.set_nonblocking(true).context("a socket for reads")?;
            Ok(socket)
        };
        let question = |consistency| question(cluster, consistency);
        Ok(Readers {
            sockets: followers.iter().map(socket).collect::<anyhow::Result<_>>()?,
            questions: [question(Consistency::ReadIndex), question(Consistency::Bounded(args.bound_ms))],
            answers: Answers::default(),
            incoming: vec![0; DATAGRAM_BYTES],
        })
    }

    /// Reads at the rate until the measured time is over.
    fn run(&mut self, args: &ReadsArgs) -> anyhow::Result<Answers> {
        let (start, length) = (Instant::now(), WARM_UP + Duration::from_secs(args.seconds));
        while start.elapsed() < length {
            crate::interrupt::check()?;
            let due = (start.elapsed().as_secs_f64() * args.reads as f64) as u64;
            while self.answers.asked < due {
                self.ask()?;
            }
            self.take_answers()?;
            std::thread::sleep(TICK);
        }
        self.answers.per_second = self.answers.asked as f64 / start.elapsed().as_secs_f64();
        let last = Instant::now();
        while self.answers.answered + self.answers.refused < self.answers.asked && last.elapsed() < LAST_ANSWERS {
            self.take_answers()?;
            std::thread::sleep(TICK);
        }
        Ok(self.answers)
    }

    fn ask(&mut self) -> anyhow::Result<()> {
        let number = self.answers.asked as usize;
        // Each follower gets both kinds.
        let (socket, question) = (number % self.sockets.len(), number / self.sockets.len() % 2);
        self.sockets[socket].send(&self.questions[question]).context("a read cannot be sent")?;
        self.answers.asked += 1;
        Ok(())
    }

    fn take_answers(&mut self) -> anyhow::Result<()> {
        for socket in &self.sockets {
            loop {
                let bytes = match socket.recv(&mut self.incoming) {
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("an answer cannot be received"),
                };
                for frame in Frames::new(&self.incoming[..bytes]) {
                    match frame.map(|frame| frame.header.kind) {
                        Ok(Kind::ReadReply) => self.answers.answered += 1,
                        Ok(Kind::Rejected) => self.answers.refused += 1,
                        other => anyhow::bail!("a node answers a read with {other:?}"),
                    }
                }
            }
        }
        Ok(())
    }
}

/// Asks for the tail.
fn question(cluster: &Cluster, consistency: Consistency) -> Vec<u8> {
    let header = Header {
        kind: Kind::Read,
        flags: 0,
        from: NodeId(0),
        group: cluster.group,
        cluster: cluster.id,
        epoch: Epoch(1),
        slot: Slot::ZERO,
        ballot: Ballot::ZERO,
        promised: Ballot::ZERO,
        lsn: Lsn::ZERO,
    };
    let body = ReadBody {
        request_id: U64::new(1),
        from_sequence: U64::ZERO,
        max_entries: U32::ZERO,
        max_datagrams: U16::new(1),
        wait_ms: U16::ZERO,
        bound_ms: U32::ZERO,
        consistency: 0,
        reserved: [0; 3],
    };
    let mut out = vec![0; frame_bytes(size_of::<ReadBody>())];
    write_frame(&mut out, &header, body.with(consistency).as_bytes());
    out
}

fn print(report: &Report) {
    let Report { nodes, size, rate, reads, bound_ms, p50_ratio, p99_ratio, rounds } = report;
    println!(
        "{nodes} nodes, {rate} entries of {size} bytes a second; {reads} reads a second on the followers, half read_index, half \
         bounded:{bound_ms}\n"
    );
    println!("{}", report::heading("commits"));
    for round in rounds {
        println!("{}", report::line("without reads", &round.without));
        println!("{}", report::line("with reads", &round.with));
    }
    println!("{}", report::spread("with / without, p50", p50_ratio));
    println!("{}", report::spread("with / without, p99", p99_ratio));
}
