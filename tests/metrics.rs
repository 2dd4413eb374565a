//! What a node tells over HTTP, of real processes: every metric in the text format and by name, moved by what it counts; health that
//! says why; and an address that takes no orders and is held up by nobody.

mod common;
#[path = "metrics/moves.rs"]
mod moves;

use common::cluster::{Cluster, GROUP, SOON};
use common::http::{admin, ask, listen};
use common::{await_until, serial};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddrV4, TcpStream};
use synod_client::{Appender, ClientError, Options};
use synod_wire::NodeId;

const PORT: u16 = 7600;

fn prepared(name: &str) -> Cluster {
    let mut cluster = Cluster::prepare(name, |config| listen(config, PORT));
    cluster.start_all();
    cluster
}

/// A scrape: each sample's name with its labels (but for cluster and node), and its value.
fn scrape(cluster: &Cluster, node: NodeId) -> BTreeMap<String, f64> {
    let (status, head, body) = ask(cluster, node, "GET /metrics");
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("content-type: application/openmetrics-text"), "{head}");
    assert!(body.ends_with("# EOF\n"), "the text is whole");
    let own = format!("cluster=\"{}\",node=\"{node}\",", cluster.config.cluster.id);
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            assert!(name.starts_with("synod_") && name.contains(&own), "{line}");
            (name.replace(&own, ""), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        })
        .collect()
}

fn append(cluster: &Cluster, entries: u64, client_id: u128) {
    let members = cluster.config.client_addresses(GROUP);
    let options = Options { deadline: SOON, ..cluster.options() };
    let mut session =
        Appender::connect(cluster.config.cluster_id(), GROUP, members, client_id, options).expect("a session");
    for _ in 0..entries {
        session.append(b"an entry").expect("an acknowledgement");
    }
    let too_long = vec![0; cluster.config.net.max_batch_bytes + 1];
    assert!(matches!(session.append(&too_long), Err(ClientError::TooLarge { .. })), "refused before it is sent");
}

#[test]
fn metrics_move_by_what_they_count() {
    let _one = serial();
    let mut cluster = prepared("metrics");
    let leader = cluster.await_leader(GROUP);
    append(&cluster, 100, 1);
    let metrics = await_until(SOON, "the board shows all entries", || {
        Some(scrape(&cluster, leader)).filter(|metrics| metrics["synod_tail_sequence{group=\"0\"}"] == 100.0)
    });
    let of = |name: &str| *metrics.get(name).unwrap_or_else(|| panic!("no {name} in {metrics:#?}"));
    assert_eq!(of("synod_mode{group=\"0\",mode=\"TARGET\"}"), 1.0);
    assert_eq!(of("synod_mode{group=\"0\",mode=\"ELECTION\"}"), 0.0);
    assert_eq!(of("synod_role{group=\"0\",role=\"leader\"}"), 1.0);
    assert_eq!(of("synod_entries_applied_total{group=\"0\"}"), 100.0);
    assert_eq!(of("synod_elections_total{group=\"0\",event=\"won\"}"), 1.0);
    assert_eq!(of("synod_leader_node{group=\"0\"}"), f64::from(leader.0));
    assert_eq!(of("synod_sessions{group=\"0\"}"), 1.0);
    assert!(of("synod_log_written_bytes_total{group=\"0\"}") > 0.0 && of("synod_log_bytes{group=\"0\"}") > 0.0);
    assert!(of("synod_uptime_seconds{group=\"0\"}") > 0.0 && of("synod_core_silent_seconds{group=\"0\"}") < 2.0);
    latencies_add_up(&metrics);
    for other in cluster.others(leader) {
        let lag = format!("synod_follower_lag_slots{{group=\"0\",member=\"{other}\"}}");
        let lag = await_until(SOON, "the member has caught up", || scrape(&cluster, leader).get(&lag).copied());
        assert!(lag < 1_024.0, "{lag}");
        assert_eq!(scrape(&cluster, other)["synod_role{group=\"0\",role=\"follower\"}"], 1.0);
    }
    cluster.stop_all();
}

/// The only sample of this name with these labels.
fn sample(metrics: &BTreeMap<String, f64>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let has = |key: &str| labels.iter().all(|(label, value)| key.contains(&format!("{label}=\"{value}\"")));
    let of_name = metrics.iter().filter(|(key, _)| key.split('{').next() == Some(name) && has(key));
    let values: Vec<f64> = of_name.map(|(_, value)| *value).collect();
    assert_eq!(values.len(), 1, "{name} {labels:?} in {metrics:#?}");
    values[0]
}

/// The histogram of what clients waited for: as many as were counted, none lost between the buckets.
fn latencies_add_up(metrics: &BTreeMap<String, f64>) {
    let replied = ("stage", "replied");
    let count = sample(metrics, "synod_commit_latency_seconds_count", &[replied]);
    let sum = sample(metrics, "synod_commit_latency_seconds_sum", &[replied]);
    let bucket = |le: &str| sample(metrics, "synod_commit_latency_seconds_bucket", &[replied, ("le", le)]);
    let quantile = |q: &str| sample(metrics, "synod_commit_latency_quantile_seconds", &[replied, ("percentile", q)]);
    assert!(count >= 100.0, "a slot for each entry at least: {count}");
    assert_eq!(bucket("+Inf"), count);
    assert!(bucket("0.0001") <= bucket("0.001") && bucket("0.001") <= bucket("10.0"), "cumulative");
    assert!(quantile("50") > 0.0 && quantile("50") <= quantile("99") && quantile("99") <= quantile("99.9"));
    assert!(sum >= count / 2.0 * quantile("50"), "{sum} of {count}, half of which took {} and more", quantile("50"));
}

#[test]
fn health_says_what_is_wrong_and_the_address_takes_no_orders() {
    let _one = serial();
    let mut cluster = prepared("health");
    let leader = cluster.await_leader(GROUP);
    append(&cluster, 1, 1);
    let survivor = cluster.others(leader)[0];
    await_until(SOON, "the survivor is well", || (ask(&cluster, survivor, "GET /health").0 == 200).then_some(()));
    let (status, _, body) = ask(&cluster, survivor, "GET /status");
    let told: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &told["node"], &told["groups"][0]["mode"]), (200, &survivor.0.into(), &"TARGET".into()));
    assert_eq!(told["groups"][0]["leader"], leader.0);

    assert_eq!(ask(&cluster, survivor, "POST /metrics").0, 405);
    assert_eq!(ask(&cluster, survivor, "GET /nothing").0, 404);
    // Who connects and says nothing, or half a thing, holds nobody up.
    let silent: Vec<TcpStream> =
        (0..8).map(|_| TcpStream::connect(admin(&cluster, survivor)).expect("taken")).collect();
    let mut half = TcpStream::connect(admin(&cluster, survivor)).expect("taken");
    half.write_all(b"GET /met").expect("half a request");
    assert_eq!(ask(&cluster, survivor, "GET /metrics").0, 200);
    drop((silent, half));

    for node in cluster.others(survivor) {
        cluster.kill(node);
    }
    let body = await_until(SOON, "the survivor says that it is not well", || {
        let (status, _, body) = ask(&cluster, survivor, "GET /health");
        (status == 503 && body.contains("DEGRADED")).then_some(body)
    });
    let told: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(told["ok"], false);
    assert!(told["reasons"][0].as_str().is_some_and(|reason| reason.contains("quorum")), "{told}");
    cluster.stop(survivor);
}

#[test]
fn scrapes_in_a_loop_hold_up_nobody() {
    let _one = serial();
    let mut cluster = prepared("scrapes");
    let leader = cluster.await_leader(GROUP);
    std::thread::scope(|scope| {
        let scraper = scope.spawn(|| (0..200).map(|_| scrape(&cluster, leader).len()).min());
        append(&cluster, 2_000, 1);
        let fewest = scraper.join().expect("the scraper lives");
        assert!(fewest > Some(100), "each scrape is whole");
    });
    cluster.stop_all();
}

#[test]
fn an_address_in_use_is_an_error_that_names_the_key() {
    let _one = serial();
    let cluster = Cluster::prepare("admin", |config| {
        config.nodes[0].admin_listen = Some(SocketAddrV4::new(*config.nodes[0].client_listen.ip(), PORT));
    });
    let taken = std::net::TcpListener::bind(admin(&cluster, NodeId(0))).expect("the port is free");
    let output = cluster.start_command(NodeId(0)).output().expect("it runs and ends");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("node.admin_listen"), "{told}");
    drop(taken);
}
