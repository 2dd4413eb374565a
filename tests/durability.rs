//! Acknowledged means synced. kill -9 alone cannot show that, for the kernel keeps what was written: here the disks of two
//! of three nodes withhold their completions (their file systems are frozen), and the flushes of a disk are counted.

mod common;

use common::check::check_everything;
use common::cluster::{Cluster, GROUP, SOON};
use common::host::{flushes, privileged};
use common::load::Load;
use common::{await_until, say, serial};
use std::time::{Duration, Instant};
use synod_client::{Client, Counter, Event, Options};
use synod_wire::NodeId;

/// How long nothing must be acknowledged: a hundred times what a commit takes.
const WITHHELD: Duration = Duration::from_millis(400);
const DISK_BYTES: u64 = 96 << 20;
const PROGRAMS: &[&str] = &["mkfs.ext4", "losetup", "mount", "umount", "fsfreeze", "setsid"];

/// Nodes on disks of their own.
fn cluster_on_loops(name: &str) -> Cluster {
    let mut cluster = Cluster::unformatted(name, |config| {
        // A frozen disk must not cost the leader its office while the test looks.
        config.consensus.election_timeout_min_us = 1_000_000;
        config.consensus.election_timeout_max_us = 2_000_000;
    });
    for node in cluster.members() {
        cluster.put_on_disk(node, DISK_BYTES);
        assert!(cluster.format(node).status.success(), "format");
    }
    cluster
}

fn events(client: &mut Client, wait: Duration) -> u64 {
    let mut acked = 0;
    let mut on_event = |event: Event| match event {
        Event::Acked { entries, .. } => acked += u64::from(entries),
        Event::Opened { .. } => {}
        other => panic!("{other:?}"),
    };
    client.poll(wait, &mut on_event).expect("poll");
    acked
}

fn await_ack(client: &mut Client) {
    await_until(SOON, "the entry is acknowledged", || (events(client, Duration::from_millis(10)) > 0).then_some(()));
}

#[test]
fn nothing_is_acknowledged_while_two_of_three_disks_withhold_their_syncs() {
    let _one = serial();
    if !privileged("nothing_is_acknowledged_while_two_of_three_disks_withhold_their_syncs", PROGRAMS) {
        return;
    }
    let mut cluster = cluster_on_loops("durability");
    cluster.start_all();
    cluster.await_leader(GROUP);
    let options = Options { deadline: SOON, ..cluster.options() };
    let members = cluster.config.client_addresses(GROUP);
    let mut client = Client::connect(cluster.config.cluster_id(), GROUP, members, 7, options).expect("a client");
    client.offer(b"before").expect("room");
    await_ack(&mut client);
    for spared in cluster.members() {
        withhold_all_but(&cluster, spared, &mut client);
    }
    // One withheld disk delays nothing: the other two are a quorum.
    let follower = cluster.others(cluster.await_leader(GROUP))[0];
    let frozen = cluster.disk(follower).freeze();
    client.offer(b"two of three").expect("room");
    await_ack(&mut client);
    drop(frozen);
    cluster.await_converged(GROUP);
    cluster.stop_all();
    assert_eq!(cluster.verify()["groups"][0]["tail"], 5);
}

fn withhold_all_but(cluster: &Cluster, spared: NodeId, client: &mut Client) {
    let accepted = |node| cluster.status(node, GROUP).map(|status| status.accepted);
    let leader = cluster.await_leader(GROUP);
    let before = accepted(leader).expect("the leader answers");
    let frozen: Vec<_> = cluster.others(spared).into_iter().map(|node| cluster.disk(node).freeze()).collect();
    client.offer(b"withheld").expect("room");
    // Every node has it, and the spared one has it on disk.
    let since = Instant::now();
    let mut everywhere = None;
    while since.elapsed() < WITHHELD {
        assert_eq!(events(client, Duration::from_millis(10)), 0, "acknowledged on one disk ({spared}'s)");
        let all = cluster.members().into_iter().all(|node| accepted(node).is_some_and(|slot| slot > before));
        everywhere = everywhere.or_else(|| all.then(|| since.elapsed()));
    }
    let everywhere = everywhere.expect("the entry reached every node: only the syncs were missing");
    let released = Instant::now();
    drop(frozen);
    await_ack(client);
    say(&format!(
        "durability: node {spared} alone could sync (node {leader} leads): everywhere after {everywhere:?}, \
         no acknowledgement for {WITHHELD:?}, acknowledged {:?} after the release",
        released.elapsed()
    ));
}

#[test]
fn every_group_commit_flushes_the_disk() {
    let _one = serial();
    if !privileged("every_group_commit_flushes_the_disk", PROGRAMS) {
        return;
    }
    let mut cluster = cluster_on_loops("flushes");
    cluster.start_all();
    cluster.await_leader(GROUP);
    let counted = |cluster: &Cluster| -> Vec<(u64, u64)> {
        let node = |node: NodeId| cluster.counter(node, GROUP, Counter::Flushes);
        cluster.members().into_iter().map(|id| (node(id), cluster.disk(id).flushes())).collect()
    };
    let before = counted(&cluster);
    let load = Load::start(&cluster, GROUP, 1, 4);
    load.await_acks(1_000, SOON);
    let told = load.finish();
    cluster.await_converged(GROUP);
    // A commit counts when its write starts: one under way (an idle mark) is given the time to end. A flush that was never
    // asked for stays missing.
    let since = || -> Vec<(u64, u64)> {
        let pairs = before.iter().zip(counted(&cluster));
        pairs.map(|((commits, flushes), (now, flushed))| (now - commits, flushed - flushes)).collect()
    };
    let told_counts = await_until(SOON, "as many flushes as group commits", || {
        Some(since()).filter(|counts| counts.iter().all(|(commits, flushes)| flushes >= commits))
    });
    for (commits, flushes) in told_counts {
        say(&format!("durability: {commits} group commits, {flushes} flushes of the disk"));
        assert!(commits > 50, "too few group commits to compare: {commits}");
        assert!(flushes >= commits, "{commits} group commits, but only {flushes} flushes of the disk");
    }
    check_everything(&mut cluster, GROUP, &told);
}

/// The real disk, which others share: it flushes at least as often as the nodes on it commit. Needs no privilege, but a disk
/// with a volatile cache: one without needs no flushes.
#[test]
fn group_commits_reach_the_real_disk() {
    let _one = serial();
    let test = "group_commits_reach_the_real_disk";
    let mut cluster = Cluster::prepare("real-disk", |_| {});
    let Some(device) = device_with_cache(cluster.dir()) else {
        say(&format!(
            "SKIPPED {test}: the disk below {} has no volatile cache, or none that shows",
            cluster.dir().display()
        ));
        return;
    };
    cluster.start_all();
    cluster.await_leader(GROUP);
    let commits = |cluster: &Cluster| -> u64 {
        cluster.members().into_iter().map(|node| cluster.counter(node, GROUP, Counter::Flushes)).sum()
    };
    let (commits_before, flushes_before) = (commits(&cluster), flushes(&device));
    let load = Load::start(&cluster, GROUP, 1, 4);
    load.await_acks(1_000, SOON);
    let told = load.finish();
    let (commits, flushes) = (commits(&cluster) - commits_before, flushes(&device) - flushes_before);
    say(&format!("durability: {commits} group commits of three nodes, {flushes} flushes of {device}"));
    assert!(commits > 100, "too few group commits: {commits}");
    // Syncs that wait at the same time share a flush: the kernel coalesces those of the three nodes.
    assert!(flushes * 3 >= commits, "{commits} group commits, but only {flushes} flushes of {device}");
    check_everything(&mut cluster, GROUP, &told);
}

/// The block device below a directory, if it has a write-back cache.
fn device_with_cache(dir: &std::path::Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let number = std::fs::metadata(dir).expect("the directory").dev();
    let (major, minor) = (libc::major(number), libc::minor(number));
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let device = link.file_name()?.to_str()?.to_owned();
    let cache = std::fs::read_to_string(format!("/sys/class/block/{device}/queue/write_cache")).ok()?;
    (cache.trim() == "write back").then_some(device)
}
