//! Reads of stated consistency against real processes: fresh from every member; a leader that stood still while another was
//! elected answers none with an old value; without a quorum they are refused by name, and local ones go on, labelled.

mod common;

use common::cluster::{Cluster, GROUP, SOON};
use common::packet::{frame, header};
use common::{await_until, say, serial};
use rustix::process::Signal;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};
use synod::config::Drift;
use synod_client::{Appender, Consistency, NodeId, Recency, Sequence, check_tail};
use synod_wire::client::{ReadBody, ReadReplyBody, Refusal, RefusalBody, role};
use synod_wire::frame::{Kind, parse};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// How often a leader is stopped; `SYNOD_STOPPED_LEADERS` says otherwise.
const STOPPED_LEADERS: usize = 5;
/// Questions that lie in its socket when it goes on.
const QUESTIONS: u64 = 8;
/// How long it is heard then, and asked again.
const HEARD: Duration = Duration::from_millis(150);
/// How long a cluster without a quorum may take to say so.
const SAID_WITHIN: Duration = Duration::from_secs(1);

fn cluster(name: &str) -> Cluster {
    let mut cluster = Cluster::prepare(name, |config| {
        config.consensus.heartbeat_us = 5_000;
        config.consensus.election_timeout_min_us = 50_000;
        config.consensus.election_timeout_max_us = 100_000;
        // One machine, one clock.
        config.reads.lease_clock_drift_ppm = Drift::Ppm(1_000);
        config.reads.lease_us = 40_000;
    });
    cluster.start_all();
    cluster.await_leader(GROUP);
    cluster
}

fn appender(cluster: &Cluster) -> Appender {
    let members = cluster.config.client_addresses(GROUP);
    Appender::connect(cluster.config.cluster_id(), GROUP, members, 7, cluster.options()).expect("a session")
}

/// What a node said to a question for its tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Tail(u64, Recency),
    Refused(Refusal),
}

/// Asks one node, by hand: the client library would ask another, and would not leave questions lying about.
struct Questions {
    socket: UdpSocket,
    cluster: synod_wire::ClusterId,
    next: u64,
}

impl Questions {
    fn to(cluster: &Cluster, node: NodeId) -> Questions {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
        socket.connect(cluster.config.client_address(node, GROUP)).expect("connect");
        Questions { socket, cluster: cluster.config.cluster_id(), next: 1 }
    }

    fn ask(&mut self, consistency: Consistency) {
        let body = ReadBody {
            request_id: U64::new(self.next),
            from_sequence: U64::ZERO,
            max_entries: U32::ZERO,
            max_datagrams: U16::new(1),
            wait_ms: U16::ZERO,
            bound_ms: U32::ZERO,
            consistency: 0,
            reserved: [0; 3],
        };
        self.next += 1;
        let header = header(Kind::Read, self.cluster, GROUP, NodeId(0));
        self.socket.send(&frame(&header, body.with(consistency).as_bytes())).expect("send");
    }

    fn said(&self, wait: Duration) -> Option<Said> {
        let mut buffer = [0; 65_536];
        self.socket.set_read_timeout(Some(wait)).expect("a time-out above zero");
        // Nothing in time, or word that nobody listens.
        let bytes = self.socket.recv(&mut buffer).ok()?;
        let frame = parse(&buffer[..bytes]).expect("nodes send whole frames");
        Some(match frame.header.kind {
            Kind::ReadReply => {
                let (body, _) = ReadReplyBody::read_from_prefix(frame.payload).expect("a whole body");
                let guarantee = body.guarantee.decode().expect("a known guarantee");
                Said::Tail(body.tail.get(), guarantee.recency)
            }
            Kind::Rejected => {
                let body = RefusalBody::read_from_bytes(frame.payload).expect("a whole body");
                Said::Refused(Refusal::from_u8(body.refusal).expect("a refusal that has a name"))
            }
            other => panic!("an answer of kind {other:?}"),
        })
    }

    /// Asks until the node says what is waited for.
    fn answer_by(&mut self, consistency: Consistency, is_it: impl Fn(&Said) -> bool) -> Said {
        await_until(SOON, "the node answers a read as expected", || {
            Some(self.answer(consistency)).filter(|said| is_it(said))
        })
    }

    /// Asks until the node says something.
    fn answer(&mut self, consistency: Consistency) -> Said {
        await_until(SOON, "the node answers a read", || {
            self.ask(consistency);
            self.said(Duration::from_millis(700))
        })
    }
}

/// What the leaders that were stopped said when they went on.
#[derive(Default)]
struct Tally {
    fresh: u64,
    bounded: u64,
    refused: u64,
}

#[test]
fn a_leader_that_was_stopped_answers_nothing_old() {
    let _one = serial();
    let tries = std::env::var("SYNOD_STOPPED_LEADERS").map_or(STOPPED_LEADERS, |n| n.parse().expect("a number"));
    let cluster = cluster("stopped-leader");
    let mut appender = appender(&cluster);
    let mut tally = Tally::default();
    for _ in 0..tries {
        appender.append(b"before").expect("a leader serves");
        stop_and_ask(&cluster, &mut appender, &mut tally);
    }
    say(&format!(
        "{tries} leaders stood still while another was elected: then {} fresh answers, {} bounded, all with what was \
         acknowledged meanwhile; {} refusals",
        tally.fresh, tally.bounded, tally.refused
    ));
    assert!(tally.fresh > 0, "none of them ever answered");
}

/// The leader stands still, another acknowledges more; questions that were put to the first since then, and those put when it
/// goes on, are answered with what was acknowledged, or refused.
fn stop_and_ask(cluster: &Cluster, appender: &mut Appender, tally: &mut Tally) {
    let (old, ballot) = await_until(SOON, "a leader holds a lease", || {
        let (old, ballot) = cluster.await_leader_above(GROUP, Default::default());
        let said = Questions::to(cluster, old).answer(Consistency::Lease);
        matches!(said, Said::Tail(_, Recency::FreshLease)).then_some((old, ballot))
    });
    cluster.signal(old, Signal::STOP);
    await_until(SOON, "the others elect a leader", || {
        let mut others = cluster.others(old).into_iter().filter_map(|node| cluster.status(node, GROUP));
        others.find(|status| status.role == role::LEADER && status.promised > ballot)
    });
    let acked = appender.append(b"meanwhile").expect("the others elect a leader").sequence;
    let acked_at = Instant::now();
    let mut questions = Questions::to(cluster, old);
    (0..QUESTIONS).for_each(|_| questions.ask(Consistency::ReadIndex));
    (0..QUESTIONS).for_each(|_| questions.ask(Consistency::Lease));
    // What was acknowledged may be missing from a bounded answer only while it is younger than the bound.
    let bound = Duration::from_millis(20);
    await_until(SOON, "the bound has passed", || (acked_at.elapsed() >= bound).then_some(()));
    (0..QUESTIONS).for_each(|_| questions.ask(Consistency::Bounded(20)));
    cluster.signal(old, Signal::CONT);
    let until = Instant::now() + HEARD;
    let mut answered = 0;
    while Instant::now() < until || answered < QUESTIONS {
        let Some(said) = questions.said(Duration::from_millis(5)) else {
            assert!(until.elapsed() < SOON, "node {old} went on, and answers nothing");
            questions.ask(Consistency::ReadIndex);
            questions.ask(Consistency::Lease);
            continue;
        };
        answered += 1;
        match said {
            Said::Refused(_) => tally.refused += 1,
            Said::Tail(tail, recency) => {
                assert!(
                    Sequence(tail) >= acked,
                    "node {old} stood still, and then said {recency} with a tail of {tail}: {acked} was acknowledged before"
                );
                if recency.is_fresh() { tally.fresh += 1 } else { tally.bounded += 1 }
            }
        }
    }
}

#[test]
fn every_member_answers_fresh_and_bounded_reads() {
    let _one = serial();
    let cluster = cluster("fresh-reads");
    let mut appender = appender(&cluster);
    let members = cluster.members();
    for round in 0..50 {
        let acked = appender.append(b"an entry").expect("a leader serves").sequence;
        let node = members[round % members.len()];
        let said = Questions::to(&cluster, node).answer(Consistency::ReadIndex);
        let Said::Tail(tail, Recency::FreshReadIndex) = said else { panic!("node {node} said {said:?}") };
        assert!(Sequence(tail) >= acked, "node {node} said {tail} after {acked} was acknowledged");
    }
    for node in members {
        let said = Questions::to(&cluster, node).answer(Consistency::Bounded(1_000));
        assert!(matches!(said, Said::Tail(_, Recency::BoundedStale(..=1_000))), "node {node} said {said:?}");
        let said = Questions::to(&cluster, node).answer(Consistency::Local);
        assert!(matches!(said, Said::Tail(_, Recency::StalePossible)), "node {node} said {said:?}");
    }
    let file = cluster.config_file().to_str().expect("a path in UTF-8").to_owned();
    for (consistency, recency) in [
        ("read_index", "FRESH(read_index)"),
        ("lease", "FRESH(lease)"),
        ("lease_or_read_index", "FRESH"),
        ("bounded:1000", "BOUNDED_STALE"),
        ("local", "STALE_POSSIBLE"),
    ] {
        let output = cluster.synod(&["check-tail", "--config", &file, "--consistency", consistency, "-o", "json"]);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(answer["tail"], 50, "{answer}");
        assert!(answer["recency"].as_str().is_some_and(|told| told.starts_with(recency)), "{answer}");
    }
}

#[test]
fn the_leader_answers_by_its_lease_and_nobody_else_does() {
    let _one = serial();
    let mut cluster = cluster("lease-reads");
    let mut appender = appender(&cluster);
    for _ in 0..50 {
        let acked = appender.append(b"an entry").expect("a leader serves").sequence;
        let leader = cluster.await_leader(GROUP);
        let said = Questions::to(&cluster, leader).answer_by(Consistency::Lease, |said| matches!(said, Said::Tail(..)));
        let Said::Tail(tail, Recency::FreshLease) = said else { panic!("node {leader} said {said:?}") };
        assert!(Sequence(tail) >= acked, "node {leader} said {tail} after {acked} was acknowledged");
        for node in cluster.others(leader) {
            let said = Questions::to(&cluster, node).answer(Consistency::Lease);
            assert_eq!(said, Said::Refused(Refusal::NotLeader), "node {node}");
        }
    }
    for node in cluster.members() {
        let said = Questions::to(&cluster, node).answer(Consistency::LeaseOrReadIndex);
        assert!(matches!(said, Said::Tail(50, recency) if recency.is_fresh()), "node {node} said {said:?}");
    }
    let (leader, file) = (cluster.await_leader(GROUP), cluster.config_file().to_str().expect("UTF-8").to_owned());
    let read = ["read", "--config", &file, "--from", "50", "--consistency", "lease"];
    let output = cluster.synod(&read);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"an entry"[..]), "{output:?}");
    leases_are_shown(&cluster, leader);
    // Without the others it must stop to within a lease's time, and says so, until it steps down.
    let mut questions = Questions::to(&cluster, leader);
    for node in cluster.others(leader) {
        cluster.kill(node);
    }
    let refused =
        |said: &Said| matches!(said, Said::Refused(Refusal::NoLease | Refusal::QuorumUnavailable | Refusal::NoLeader));
    questions.answer_by(Consistency::Lease, refused);
}

/// What `synod status` says of leases: how long they are, that the leader holds one, and that who granted it is bound.
fn leases_are_shown(cluster: &Cluster, leader: NodeId) {
    let file = cluster.config_file().to_str().expect("UTF-8").to_owned();
    await_until(SOON, "status shows the lease", || {
        let output = cluster.synod(&["status", "--config", &file, "-o", "json"]);
        let rows: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let shown = rows.as_array().expect("a row a node").iter().all(|row| {
            let (state, leads) = (&row["state"], row["node"] == leader.0);
            let [length, left, bound] = ["lease_us", "lease_left_us", "bound_left_us"].map(|key| state[key].as_u64());
            assert_eq!(length, Some(40_000), "{rows}");
            assert!(leads || left == Some(0), "{rows}");
            let runs = if leads { left } else { bound };
            runs.is_some_and(|left_us| (1..=40_000).contains(&left_us))
        });
        shown.then_some(())
    });
}

#[test]
fn a_lease_read_is_refused_for_good_where_leases_are_off() {
    let _one = serial();
    let mut cluster = Cluster::prepare("leases-off", |_| {});
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    appender(&cluster).append(b"an entry").expect("a leader serves");
    assert_eq!(Questions::to(&cluster, leader).answer(Consistency::Lease), Said::Refused(Refusal::NoLease));
    let said = Questions::to(&cluster, leader).answer(Consistency::LeaseOrReadIndex);
    assert_eq!(said, Said::Tail(1, Recency::FreshReadIndex));
    let file = cluster.config_file().to_str().expect("UTF-8").to_owned();
    let since = Instant::now();
    for command in [&["check-tail", "--config", &file][..], &["read", "--config", &file, "--from", "1"]] {
        let output = cluster.synod(&[command, &["--consistency", "lease"]].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("NO_LEASE") && said.contains("lease_clock_drift_ppm"), "{said}");
    }
    assert!(since.elapsed() < Duration::from_secs(4), "they do not wait for what will not come");
}

#[test]
fn without_a_quorum_reads_are_refused_by_name_and_local_ones_are_labelled() {
    let _one = serial();
    let mut cluster = cluster("no-quorum");
    let acked = appender(&cluster).append(b"an entry").expect("a leader serves").sequence;
    cluster.await_converged(GROUP);
    let left = cluster.members()[0];
    for node in cluster.others(left) {
        cluster.kill(node);
    }
    let since = Instant::now();
    let mut questions = Questions::to(&cluster, left);
    for consistency in [Consistency::ReadIndex, Consistency::Bounded(20)] {
        await_until(SAID_WITHIN, "QUORUM_UNAVAILABLE", || {
            (questions.answer(consistency) == Said::Refused(Refusal::QuorumUnavailable)).then_some(())
        });
    }
    say(&format!("without a quorum: QUORUM_UNAVAILABLE to fresh and bounded reads within {:?}", since.elapsed()));
    let Said::Tail(tail, Recency::BoundedStale(ms)) = questions.answer(Consistency::Local) else {
        panic!("a node that heard a leader knows how old its state is");
    };
    assert!(tail == acked.0 && Duration::from_millis(ms.into()) < since.elapsed() + SAID_WITHIN, "{ms} ms");

    let members = vec![cluster.config.client_address(left, GROUP)];
    let id = cluster.config.cluster_id();
    let error = check_tail(members, id, GROUP, SAID_WITHIN, Consistency::ReadIndex).expect_err("there is no quorum");
    assert!(error.is_unavailable() && error.to_string().contains("QUORUM_UNAVAILABLE"), "{error}");
    let file = cluster.config_file().to_str().expect("a path in UTF-8").to_owned();
    let output = cluster.synod(&["check-tail", "--config", &file]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("QUORUM_UNAVAILABLE"), "{output:?}");
    let output = cluster.synod(&["read", "--config", &file, "--from", "1", "--consistency", "local"]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"an entry"[..]), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("BOUNDED_STALE"), "{output:?}");
}
