//! Every node is killed at once, under load, several times over: nothing acknowledged is lost, and the cluster comes back by
//! itself. A patient load keeps its sessions through the cuts; an impatient one gives its entries up as unknown each time,
//! opens its session again and goes on where the log says it was.

mod common;

use common::check::check_everything;
use common::cluster::{Cluster, GROUP, SOON};
use common::load::{Load, acknowledged};
use common::{Rng, say};
use std::time::Duration;
use synod_client::Options;

const CUTS: u64 = 6;

#[test]
fn nothing_acknowledged_is_lost_when_all_nodes_die_at_once() {
    let mut rng = Rng::announced("power_cut");
    let mut cluster = Cluster::prepare("power-cut", |config| {
        config.consensus.heartbeat_us = 5_000;
        config.consensus.election_timeout_min_us = 20_000;
        config.consensus.election_timeout_max_us = 40_000;
    });
    cluster.start_all();
    cluster.await_leader(GROUP);
    let patient = Load::start(&cluster, GROUP, 2, 64);
    let impatient = Options { window_entries: 16, deadline: Duration::from_millis(100), ..cluster.options() };
    let impatient = Load::start_limited(&cluster, GROUP, 2, impatient, u64::MAX);
    for _ in 0..CUTS {
        patient.await_acks(200 + rng.below(2_000), SOON);
        cluster.kill_all();
        cluster.start_all();
        impatient.await_acks(1, SOON);
    }
    patient.await_acks(200, SOON);
    let mut told = patient.finish();
    assert!(told.iter().all(|told| told.reopened == 0), "a patient session outlives every cut");
    let impatient = impatient.finish();
    let reopened: u64 = impatient.iter().map(|told| told.reopened).sum();
    assert!(reopened > 0, "no session came back: the cuts were too short to show anything");
    told.extend(impatient);
    let acked = acknowledged(&told);
    let entries = check_everything(&mut cluster, GROUP, &told);
    say(&format!(
        "power_cut: {CUTS} cuts, {acked} acknowledged of {entries} entries, {reopened} sessions opened again"
    ));
    assert!(acked >= CUTS * 200, "only {acked} acknowledgements");
}
