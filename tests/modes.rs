//! What a cluster of five does for clients while it loses its members one by one: with the default time-outs, as real
//! processes. It goes on without two; without three it says so within a second and labels what it still reads; it goes on
//! with one of them back; and after a power cut of all five it serves again by itself.

mod common;

use common::cluster::{Cluster, GROUP, SOON};
use common::packet::{Answer, RawSession};
use common::{await_until, say, serial};
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};
use synod_client::{
    Appender, ClientError, Consistency, Guarantee, Mode, Options, ReadOptions, Reader, Recency, Sequence,
};
use synod_wire::NodeId;
use synod_wire::client::Refusal;

/// Within this a cluster that has lost its quorum says so.
const SAID_WITHIN: Duration = Duration::from_secs(1);
/// How long one answer is waited for.
const LISTEN: Duration = Duration::from_millis(5);

fn append(cluster: &Cluster, entries: u64) -> u64 {
    let options = Options { deadline: SOON, ..cluster.options() };
    let members = cluster.config.client_addresses(GROUP);
    let client_id = u128::from(next_session());
    let mut session = Appender::connect(cluster.config.cluster_id(), GROUP, members, client_id, options)
        .unwrap_or_else(|error| panic!("the session opens: {error}"));
    let mut last = 0;
    for _ in 0..entries {
        let ack = session.append(b"an entry").unwrap_or_else(|error| panic!("the entry is acknowledged: {error}"));
        assert_eq!(ack.guarantee, Guarantee::COMMITTED);
        last = ack.sequence.0;
    }
    last
}

fn next_session() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Waits until all of these are in TARGET, and one of them leads.
fn await_target(cluster: &Cluster, nodes: &[NodeId]) -> NodeId {
    await_until(SOON, "all are in TARGET", || {
        let told: Vec<_> = nodes.iter().filter_map(|node| cluster.status(*node, GROUP)).collect();
        let all = told.len() == nodes.len() && told.iter().all(|status| status.mode == Some(Mode::Target));
        let leads = told.iter().find(|status| status.role_name() == "leader")?;
        all.then_some(leads.node)
    })
}

/// Waits until each of these has applied all that was acknowledged.
fn await_applied(cluster: &Cluster, nodes: &[NodeId], entries: u64) {
    for node in nodes {
        await_until(SOON, "all is applied", || cluster.status(*node, GROUP).filter(|status| status.tail.0 == entries));
    }
}

/// Kills `victim`, the third; how long each of the survivors took to say QUORUM_UNAVAILABLE.
fn lose_the_third(cluster: &mut Cluster, victim: NodeId, survivors: &[NodeId]) -> Vec<Duration> {
    let asks = |(at, node): (usize, &NodeId)| RawSession::new(cluster, *node, GROUP, u128::MAX - at as u128);
    let sessions: Vec<RawSession> = survivors.iter().enumerate().map(asks).collect();
    cluster.kill(victim);
    let since = Instant::now();
    let mut said = vec![None; survivors.len()];
    while said.iter().any(Option::is_none) {
        assert!(since.elapsed() < SOON, "survivors {survivors:?} said QUORUM_UNAVAILABLE after {said:?}");
        for (session, said) in sessions.iter().zip(&mut said).filter(|(_, said)| said.is_none()) {
            session.send(0, &[]);
            match session.receive(LISTEN) {
                Some(Answer::Refused(Refusal::QuorumUnavailable, _)) => *said = Some(since.elapsed()),
                Some(Answer::Opened(_) | Answer::Appended(_) | Answer::NotAppended(..)) => {
                    panic!("a session was opened without a quorum")
                }
                // Until the time-outs have passed: who does not lead says so.
                Some(Answer::Refused(..)) | None => {}
            }
        }
    }
    said.into_iter().flatten().collect()
}

/// Reads from one node what there is: how many entries, and what the answer promises.
fn read(cluster: &Cluster, node: NodeId, consistency: Consistency) -> (u64, Guarantee, Option<Mode>) {
    let address: SocketAddrV4 = cluster.config.client_address(node, GROUP);
    let options = ReadOptions { consistency, ..ReadOptions::default() };
    let mut reader = Reader::new(cluster.config.cluster_id(), GROUP, vec![address], options).expect("a reader");
    reader.read(Sequence(1), u64::MAX);
    let mut entries = 0;
    while let Some(entry) = reader.next_entry().expect("the node answers") {
        assert_eq!(entry.payload, b"an entry");
        entries += 1;
    }
    (entries, reader.core().guarantee().expect("an answer came"), reader.core().mode())
}

fn without_a_quorum(cluster: &Cluster, survivors: &[NodeId], entries: u64) {
    for node in survivors {
        let (count, guarantee, mode) = read(cluster, *node, Consistency::Local);
        assert_eq!((count, mode), (entries, Some(Mode::Degraded)), "all that was acknowledged is still shown");
        let Recency::BoundedStale(ms) = guarantee.recency else { panic!("node {node} read with {guarantee}") };
        assert!(Duration::from_millis(ms.into()) < SOON, "{guarantee}");
        assert_eq!(guarantee, Guarantee::read(guarantee.recency));
    }
    let options = Options { deadline: Duration::from_millis(300), ..cluster.options() };
    let members = cluster.config.client_addresses(GROUP);
    let error = Appender::connect(cluster.config.cluster_id(), GROUP, members, 77, options).expect_err("no quorum");
    assert!(matches!(error, ClientError::NoQuorum(_)), "{error}");
}

#[test]
fn five_members_lose_three_say_so_and_come_back() {
    let _one = serial();
    let mut cluster = Cluster::prepare("modes", |config| Cluster::members_are(config, 5));
    cluster.start_all();
    let leader = await_target(&cluster, &cluster.members());
    let mut entries = append(&cluster, 20);
    let others = cluster.others(leader);

    cluster.kill(others[0]);
    cluster.kill(others[1]);
    entries = append(&cluster, 20).max(entries);
    assert_eq!(entries, 40, "it goes on without two");

    let survivors = [leader, others[2]];
    await_target(&cluster, &[leader, others[2], others[3]]);
    await_applied(&cluster, &survivors, entries);
    let said = lose_the_third(&mut cluster, others[3], &survivors);
    say(&format!("modes: a follower lost as the third; QUORUM_UNAVAILABLE after {said:?}"));
    assert!(said.iter().all(|said| *said < SAID_WITHIN), "{said:?}");
    without_a_quorum(&cluster, &survivors, entries);

    cluster.start(others[3]);
    let leader = await_target(&cluster, &[survivors[0], survivors[1], others[3]]);
    for node in survivors {
        let status = await_until(SOON, "it answers", || cluster.status(node, GROUP));
        let entered = |mode: Mode| status.modes_entered[mode.index()];
        assert!(entered(Mode::Degraded) >= 1 && entered(Mode::Recovery) >= 2, "{status:?}");
    }
    entries = append(&cluster, 20);
    assert_eq!(entries, 60, "it goes on with one of them back");

    let survivors: Vec<NodeId> = [survivors[0], survivors[1], others[3]].into_iter().filter(|n| *n != leader).collect();
    await_applied(&cluster, &survivors, entries);
    let said = lose_the_third(&mut cluster, leader, &survivors);
    say(&format!("modes: the leader lost as the third; QUORUM_UNAVAILABLE after {said:?}"));
    assert!(said.iter().all(|said| *said < SAID_WITHIN), "{said:?}");
    without_a_quorum(&cluster, &survivors, entries);

    cluster.start_all();
    await_target(&cluster, &cluster.members());
    cluster.kill_all();
    let since = Instant::now();
    cluster.start_all();
    await_target(&cluster, &cluster.members());
    say(&format!("modes: all five in TARGET {:?} after a power cut", since.elapsed()));
    assert_eq!(append(&cluster, 1), entries + 1);
    shown_by_status(&cluster);
    cluster.stop_all();
    cluster.verify();
}

fn shown_by_status(cluster: &Cluster) {
    let config = cluster.config_file().to_str().expect("a path in UTF-8");
    let output = cluster.synod(&["status", "--config", config, "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).expect("status prints JSON");
    let states = rows.as_array().expect("a row a node").iter().map(|row| &row["state"]);
    for state in states {
        assert_eq!(state["mode"], "TARGET", "{rows}");
        assert!(state["modes_entered"]["RECOVERY"] == 1 && state["modes_entered"]["FLOOR"] == 0, "{rows}");
        assert!(state["mode_reason"].is_string() && state["mode_seconds"].is_f64(), "{rows}");
    }
    let output = cluster.synod(&["status", "--config", config]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.matches("TARGET").count(), cluster.members().len(), "{text}");
}

#[test]
fn a_node_that_its_operator_holds_back_serves_what_it_has_and_votes_no_more() {
    let _one = serial();
    let mut cluster = Cluster::prepare("floor", |_| {});
    cluster.start_all();
    let leader = await_target(&cluster, &cluster.members());
    let entries = append(&cluster, 20);
    await_applied(&cluster, &cluster.members(), entries);
    cluster.stop_all();

    cluster.start_with(leader, &["--floor"]);
    let other = cluster.others(leader)[0];
    cluster.start(other);
    let status = await_until(SOON, "it answers", || cluster.status(leader, GROUP));
    assert_eq!(status.mode_reason.map(|reason| reason.name()), Some("ordered by the operator"));
    let session = RawSession::new(&cluster, leader, GROUP, 77);
    await_until(SOON, "it says MANUAL_INTERVENTION", || {
        session.send(0, &[]);
        matches!(session.receive(LISTEN)?, Answer::Refused(Refusal::ManualIntervention, _)).then_some(())
    });
    let (count, guarantee, mode) = read(&cluster, leader, Consistency::Local);
    assert_eq!((mode, guarantee.recency), (Some(Mode::Floor), Recency::StalePossible));
    // That the last is chosen may not stand in this log: nobody waits for that record.
    assert!((entries - 1..=entries).contains(&count), "{count} of {entries} entries");
    // The other would be a quorum with it, and hears no promise.
    await_until(SOON, "the other is alone", || {
        cluster.status(other, GROUP).filter(|status| status.mode == Some(Mode::Degraded))
    });
    assert!(cluster.log(leader).contains("--floor"), "{}", cluster.log(leader));

    cluster.kill(leader);
    cluster.start_all();
    await_target(&cluster, &cluster.members());
    assert_eq!(append(&cluster, 1), entries + 1);
    cluster.stop_all();
    cluster.verify();
}
