//! Trims and retention of real nodes: what was given up is refused by name at every member, for ever, and leaves the disk; what was kept
//! is read as before, and `verify` takes logs without their front.

mod common;

use common::cluster::{Cluster, GROUP, SOON};
use common::numbered::{ENTRY_BYTES, append, read, synod};
use common::{await_until, serial};
use std::path::Path;
use std::process::Output;
use synod::config::Every;
use synod_client::{ClientError, Counter, NodeId, ReadOptions, Sequence, StreamEnd, Subscription};

const SEGMENT_BYTES: u64 = 4 << 20;

fn cluster(name: &str, max_bytes: u64) -> Cluster {
    let mut cluster = Cluster::prepare(name, |config| {
        config.wal.segment_bytes = SEGMENT_BYTES;
        config.snapshot.every_entries = Every::Entries(2_000);
        config.retention.max_bytes = max_bytes;
    });
    cluster.start_all();
    cluster.await_leader(GROUP);
    cluster
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Bytes of a node's segment files.
fn disk_bytes(cluster: &Cluster, node: NodeId) -> u64 {
    let of = |dir: &Path| -> u64 {
        let files = std::fs::read_dir(dir).expect("the log's directory").map(|entry| entry.expect("a name"));
        // One that is removed between the two calls takes nothing.
        let segments = files.filter(|file| file.path().extension().is_some_and(|ext| ext == "seg"));
        segments.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum()
    };
    of(&cluster.config.log_dir(node, GROUP))
}

#[test]
fn what_is_trimmed_is_refused_by_name_and_leaves_the_disk_and_the_rest_is_read_as_before() {
    let _one = serial();
    let mut cluster = cluster("trim", 0);
    append(&cluster, 1, 24_000);
    let before = cluster.members().into_iter().map(|node| disk_bytes(&cluster, node)).min();
    assert!(before.is_some_and(|bytes| bytes >= 6 * SEGMENT_BYTES), "{before:?}");
    cluster.await_converged(GROUP);
    // A follower's acknowledgement of the last entries may be on its way still.
    let told = await_until(SOON, "nothing holds the trim back", || {
        let output = synod(&cluster, &["trim"], &["--before", "20000", "-o", "json"]);
        assert!(output.status.success(), "{}", stderr(&output));
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (told["held_back_by"] == "nothing").then_some(told)
    });
    assert_eq!((&told["first_sequence"], &told["before"]), (&20_000.into(), &20_000.into()), "{told}");
    // Lower, again, and beyond the end: what is trimmed stays so.
    assert_eq!(synod(&cluster, &["trim"], &["--before", "7"]).stdout, b"20000\n");
    assert_eq!(synod(&cluster, &["trim"], &["--before", "0"]).status.code(), Some(2));
    let tail = 24_000;
    for node in cluster.members() {
        let removed = || (cluster.counter(node, GROUP, Counter::SegmentsRemoved) >= 4).then_some(());
        await_until(SOON, &format!("the log's front of node {node} is removed"), removed);
        assert!(disk_bytes(&cluster, node) <= 6 * SEGMENT_BYTES);
    }
    for round in ["before", "after"] {
        for node in cluster.members() {
            assert_eq!(cluster.counter(node, GROUP, Counter::FirstSequence), 20_000, "{round} a restart");
            let refused = synod(&cluster, &["read"], &["--node", &node.to_string(), "--from", "19999"]);
            assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0), "{round} a restart");
            let text = stderr(&refused);
            assert!(text.contains("TRIMMED: entries before 20000 were trimmed; begin at 20000"), "{text}");
            read(&cluster, Some(node), 20_000, tail + 1 - 20_000);
        }
        cluster.stop_all();
        let report = cluster.verify();
        assert_eq!(report["ok"], true, "{report}");
        cluster.start_all();
        cluster.await_leader(GROUP);
        cluster.await_converged(GROUP);
    }
    let members = cluster.config.client_addresses(GROUP).into_iter().map(|(_, address)| address).collect();
    let mut stream =
        Subscription::new(cluster.config.cluster_id(), GROUP, members, ReadOptions::default(), Sequence(5)).unwrap();
    let error = stream.next_entry(SOON).expect_err("what it wants is gone");
    assert!(matches!(error, ClientError::Trimmed { first: Sequence(20_000) }), "{error}");
    assert_eq!(stream.core().last_end().map(|(_, reason)| reason), Some(StreamEnd::Trimmed));
    append(&cluster, tail + 1, 100);
}

#[test]
fn a_trim_goes_no_further_than_what_a_member_that_is_heard_has() {
    let _one = serial();
    let mut cluster = cluster("trim-members", 0);
    append(&cluster, 1, 3_000);
    cluster.await_converged(GROUP);
    let leader = cluster.await_leader(GROUP);
    let away = cluster.others(leader)[0];
    cluster.kill(away);
    append(&cluster, 3_001, 3_000);
    // It was heard a moment ago: it holds the trim back.
    let output = synod(&cluster, &["trim"], &["--before", "5000", "-o", "json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&told["held_back_by"], &told["member"]), (&"member".into(), &away.0.into()), "{told}");
    let first = told["first_sequence"].as_u64().expect("a number");
    assert!((1..=3_001).contains(&first), "{told}");
    assert!(stderr(&output).contains(&format!("node {away} is heard, and does not have them yet")));
    cluster.start(away);
    cluster.await_converged(GROUP);
    let whole = await_until(SOON, "the member that came back holds nothing back", || {
        let output = synod(&cluster, &["trim"], &["--before", "999999"]);
        stderr(&output).contains("the log ends there").then_some(output)
    });
    assert_eq!(whole.stdout, b"6001\n");
    let nobody = Cluster::prepare("trim-nobody", |_| {});
    assert_eq!(synod(&nobody, &["trim"], &["--before", "5", "--deadline-ms", "300"]).status.code(), Some(3));
}

#[test]
fn disk_use_stays_within_retention_while_entries_are_appended() {
    let _one = serial();
    let max_bytes = 8 * SEGMENT_BYTES;
    let mut cluster = cluster("retention", max_bytes);
    // One that is full, and one that is prepared ahead of need.
    let most = max_bytes + 2 * SEGMENT_BYTES;
    let mut next = 1;
    for _ in 0..12 {
        append(&cluster, next, 16_000);
        next += 16_000;
        for node in cluster.members() {
            // Half of it is written within 200 ms here: the threads that give way come behind for a moment.
            let within = || (disk_bytes(&cluster, node) <= most).then_some(());
            await_until(SOON, &format!("the log of node {node} takes {most} bytes at most"), within);
        }
    }
    cluster.await_converged(GROUP);
    let first = cluster.counter(NodeId(0), GROUP, Counter::FirstSequence);
    assert!(first > 100_000, "only those before {first} were trimmed");
    assert!(next - first >= max_bytes / 3 / ENTRY_BYTES as u64, "too much was trimmed: {first} of {next}");
    for node in cluster.members() {
        read(&cluster, Some(node), first.max(next - 3_000), 2_000);
    }
    cluster.stop_all();
    assert_eq!(cluster.verify()["ok"], true);
    cluster.start_all();
    cluster.await_leader(GROUP);
    append(&cluster, next, 1_000);
}
