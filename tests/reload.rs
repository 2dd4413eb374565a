//! SIGHUP: a node that runs takes over what it safely can of a configuration that changed, names what waits for a restart, and goes on as it
//! was where the file cannot be used.

mod common;

use common::cluster::{Cluster, GROUP, SOON};
use common::{await_until, serial};
use rustix::process::{Pid, Signal, kill_process};
use synod::config::{Every, Level};
use synod_client::Counter;
use synod_wire::NodeId;

fn hang_up(cluster: &Cluster, node: NodeId) {
    let pid = Pid::from_raw(cluster.pid(node) as i32).expect("a process");
    kill_process(pid, Signal::HUP).expect("send SIGHUP");
}

/// Has every node read the file again, and waits until each has said this.
fn reload(cluster: &Cluster, said: &str) {
    let before: Vec<usize> = cluster.members().iter().map(|node| cluster.log(*node).matches(said).count()).collect();
    for node in cluster.members() {
        hang_up(cluster, node);
    }
    for (node, before) in cluster.members().into_iter().zip(before) {
        await_until(SOON, said, || (cluster.log(node).matches(said).count() > before).then_some(()));
    }
}

fn append(cluster: &Cluster, entries: usize) {
    let file = cluster.dir().join("input");
    std::fs::write(&file, "a line of some length, which is an entry\n".repeat(entries)).expect("write an input");
    let (config, input) = (cluster.config_file().to_str().expect("UTF-8"), file.to_str().expect("UTF-8"));
    let output = cluster.synod(&["append", "--config", config, "--input", input, "--quiet"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_safe_is_taken_over_while_the_node_runs() {
    let _one = serial();
    let mut cluster = Cluster::prepare("reload", |config| config.log.level = Level::Warn);
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    append(&cluster, 2_000);
    let written = |node| cluster.counter(node, GROUP, Counter::SnapshotsWritten);
    assert_eq!(written(leader), 0, "one is due after a million entries");

    // Another who is to lead, snapshots soon, and messages of which there were none.
    let to = cluster.others(leader)[0];
    cluster.config.groups[0].leader_priority = vec![to.0];
    cluster.config.snapshot.every_entries = Every::Entries(1_000);
    cluster.config.retention.max_age_s = 1;
    cluster.config.log.level = Level::Info;
    cluster.write_config();
    assert!(!cluster.log(leader).contains("INFO"), "{}", cluster.log(leader));
    reload(&cluster, "the configuration was read again");
    let log = cluster.log(leader);
    for change in [
        "key=\"snapshot.every_entries\" old=\"\\\"auto\\\"\" new=\"1000\"".to_owned(),
        format!("key=\"group[0].leader_priority\" old=\"[]\" new=\"[{to}]\""),
        "taken_over=4 waiting=0".to_owned(),
    ] {
        assert!(log.contains(&change), "{change} is not in {log}");
    }
    await_until(SOON, "the one that is to lead leads", || (cluster.await_leader(GROUP) == to).then_some(()));
    append(&cluster, 2_000);
    await_until(SOON, "each makes a snapshot", || {
        cluster
            .members()
            .into_iter()
            .all(|node| cluster.counter(node, GROUP, Counter::SnapshotsWritten) > 0)
            .then_some(())
    });
    await_until(SOON, "what is older than a second is trimmed", || {
        (cluster.counter(to, GROUP, Counter::FirstSequence) > 2_000).then_some(())
    });
}

#[test]
fn what_needs_a_restart_is_named_and_the_node_goes_on_with_what_it_has() {
    let _one = serial();
    let mut cluster = Cluster::prepare("reload-waits", |_| {});
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    cluster.config.net.max_events = 64;
    cluster.config.catchup.max_bytes_per_s = 2 << 20;
    cluster.write_config();
    reload(&cluster, "the configuration was read again");
    let log = cluster.log(leader);
    let refused = log.lines().find(|line| line.contains("not taken over"));
    let refused = refused.unwrap_or_else(|| panic!("nothing was refused in {log}"));
    assert!(refused.contains("WARN") && refused.contains("key=\"net.max_events\" old=\"256\" new=\"64\""), "{refused}");
    assert!(log.contains("taken_over=1 waiting=1"), "{log}");
    append(&cluster, 10);

    // Said again, for the file still differs from what runs; what was taken over does not.
    reload(&cluster, "taken_over=0 waiting=1");
}

#[test]
fn a_file_that_cannot_be_used_changes_nothing() {
    let _one = serial();
    let mut cluster = Cluster::prepare("reload-bad", |config| config.retention.max_age_s = 3_600);
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    let good = std::fs::read_to_string(cluster.config_file()).expect("the file");
    let line = good.lines().position(|line| line.starts_with("max_age_s")).expect("the key") + 1;
    let bad = good.replace("max_age_s = 3600", "max_age_s = -1").replace("level = \"info\"", "level = \"debug\"");
    std::fs::write(cluster.config_file(), bad).expect("write the file");
    reload(&cluster, "the configuration is not taken over");
    let place = format!("{}:{line}: retention.max_age_s: ", cluster.config_file().display());
    let log = cluster.log(leader);
    assert!(log.contains(&place), "{place} is not in {log}");
    assert!(log.lines().any(|line| line.contains("ERROR") && line.contains(&place)), "{log}");
    std::fs::remove_file(cluster.config_file()).expect("remove the file");
    reload(&cluster, "cannot read the configuration");
    std::fs::write(cluster.config_file(), good).expect("write the file");
    reload(&cluster, "taken_over=0 waiting=0");
    append(&cluster, 10);
    assert_eq!(cluster.await_leader(GROUP), leader, "nothing of it cost the leader its place");
}
