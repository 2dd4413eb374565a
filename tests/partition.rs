//! The leader is cut off by nftables, each node in a network namespace of its own: wholly, or in one direction only. The
//! others elect a leader and go on; the old one steps down and acknowledges nothing; healed, they agree.

mod common;

use common::check::check_everything;
use common::cluster::{Cluster, GROUP, SOON};
use common::host::{Direction, Network, privileged};
use common::load::{Load, acknowledged};
use common::packet::{Answer, RawSession};
use common::{await_until, say, serial};
use std::time::{Duration, Instant};
use synod_wire::client::{Refusal, role};

/// How long the old leader is watched after it has stepped down.
const WATCH: Duration = Duration::from_millis(500);

#[test]
fn a_leader_that_is_cut_off_steps_down_and_acknowledges_nothing() {
    let _one = serial();
    if !privileged("a_leader_that_is_cut_off_steps_down_and_acknowledges_nothing", &["ip", "nft", "setsid"]) {
        return;
    }
    let network = Network::new(3);
    network.enter_hub();
    let mut cluster = cluster_in(&network);
    cluster.start_all();
    cluster.await_leader(GROUP);
    let load = Load::start(&cluster, GROUP, 2, 32);
    for direction in [Direction::Both, Direction::Out, Direction::In] {
        load.await_acks(500, SOON);
        cut_and_heal(&cluster, &network, &load, direction);
    }
    load.await_acks(500, SOON);
    let told = load.finish();
    let acked = acknowledged(&told);
    let entries = check_everything(&mut cluster, GROUP, &told);
    say(&format!("partition: {acked} acknowledged of {entries} entries"));
}

fn cluster_in(network: &Network) -> Cluster {
    let mut cluster = Cluster::prepare("partition", |config| {
        for node in &mut config.nodes {
            let ip = std::net::Ipv4Addr::new(10, 77, 0, node.id + 1);
            node.peer_listen.set_ip(ip);
            node.client_listen.set_ip(ip);
        }
        config.consensus.heartbeat_us = 5_000;
        config.consensus.election_timeout_min_us = 25_000;
        config.consensus.election_timeout_max_us = 50_000;
    });
    for node in cluster.members() {
        cluster.put_into_namespace(node, network.namespace(node.0));
    }
    cluster
}

fn cut_and_heal(cluster: &Cluster, network: &Network, load: &Load, direction: Direction) {
    let (old, ballot) = cluster.await_leader_above(GROUP, Default::default());
    let session = RawSession::new(cluster, old, GROUP, u128::MAX - u128::from(ballot.round));
    session.open();
    let others: Vec<u8> = cluster.others(old).iter().map(|node| node.0).collect();
    let since = Instant::now();
    network.cut(old.0, &others, direction);

    let new = await_until(SOON, "the others elect a leader", || {
        let statuses = cluster.others(old).into_iter().filter_map(|node| cluster.status(node, GROUP));
        statuses
            .filter(|status| status.role == role::LEADER && status.promised > ballot)
            .map(|status| status.node)
            .next()
    });
    let elected = since.elapsed();
    await_until(SOON, "the old leader steps down", || {
        cluster.status(old, GROUP).filter(|status| status.role != role::LEADER)
    });
    let stepped_down = since.elapsed();
    let refusal = append_in_vain(&session);
    load.await_acks(500, SOON);
    let committed = since.elapsed();
    network.heal(old.0);
    await_until(SOON, "the old leader follows again, with all that was chosen", || {
        let led = cluster.members().into_iter().filter_map(|node| cluster.status(node, GROUP)).collect::<Vec<_>>();
        let chosen = led.iter().find(|status| status.role == role::LEADER)?.chosen;
        let node = led.iter().find(|status| status.node == old)?;
        (node.leader.is_some() && node.chosen.0 + 1_000 > chosen.0).then_some(())
    });
    say(&format!(
        "partition {direction:?}: node {old} led, node {new} leads after {elected:?}; it stepped down by {stepped_down:?} and \
         said {}; 500 more entries by {committed:?}; healed by {:?}",
        refusal.name(),
        since.elapsed()
    ));
}

/// Appends to a node that has stepped down: it refuses by name, and acknowledges nothing, old or new.
fn append_in_vain(session: &RawSession) -> Refusal {
    let (since, mut refused) = (Instant::now(), None);
    while since.elapsed() < WATCH {
        session.send(1, &[b"never acknowledged"]);
        match session.receive(Duration::from_millis(5)) {
            None => {}
            Some(Answer::Refused(refusal, _)) => {
                let named = [Refusal::QuorumUnavailable, Refusal::NoLeader, Refusal::NotLeader];
                assert!(named.contains(&refusal), "refused with {}", refusal.name());
                refused = Some(refusal);
            }
            Some(other) => panic!("a node without a quorum answered {other:?}"),
        }
    }
    refused.expect("it refused, and was not silent")
}
