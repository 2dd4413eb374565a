//! A log is damaged while its node is down. The node starts, says what is unknown, repairs itself from its peers, and never
//! serves the damage; `verify` then finds nothing but a repair.

mod common;

use common::check::{Entry, check_log, read_log};
use common::cluster::{Cluster, GROUP, SOON};
use common::load::{Load, Told, acknowledged, entry};
use common::{Rng, await_until, say, serial};
use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;
use synod_client::{ReadOptions, Reader};
use synod_wal::{Item, LogReader};
use synod_wire::frame::{HEADER_BYTES, Kind};
use synod_wire::record::ChosenRange;
use synod_wire::{NodeId, Sequence, Slot};
use zerocopy::FromBytes;

/// A record that can be damaged.
#[derive(Clone, Copy, Debug)]
struct Target {
    slot: Slot,
    pos: u64,
    bytes: u64,
}

/// What a log holds: its values in order, and how far they are known chosen.
struct Contents {
    values: Vec<Target>,
    chosen: Slot,
}

fn contents(dir: &Path) -> Contents {
    let mut reader = LogReader::open_offline(dir).expect("the node is down");
    let mut contents = Contents { values: Vec::new(), chosen: Slot::ZERO };
    let (mut pending, mut marked) = (Vec::new(), 0);
    let scanned = reader.scan(0, None, &mut |item| {
        match item {
            Item::Record(place, frame) => match frame.header.kind {
                Kind::Accept | Kind::Learnt => {
                    let target = Target { slot: frame.header.slot, pos: place.pos, bytes: u64::from(place.bytes) };
                    pending.push((frame.header.lsn, target));
                }
                Kind::Chosen => {
                    let ranges = <[ChosenRange]>::ref_from_bytes(frame.payload).expect("a body of ranges");
                    let last = ranges.iter().map(|range| range.last.get()).max();
                    contents.chosen = contents.chosen.max(Slot(last.unwrap_or_default()));
                }
                _ => {}
            },
            Item::Trailer(trailer) => marked = marked.max(trailer.mark.0),
            Item::Damage(damage) => panic!("damaged before the test damages it: {damage:?}"),
            Item::TornTail(_) => {}
        }
        ControlFlow::Continue(())
    });
    scanned.expect("a log that reads");
    // Above every mark, a bad record is a torn write, not damage.
    contents.values = pending.into_iter().filter(|(lsn, _)| lsn.0 <= marked).map(|(_, target)| target).collect();
    contents
}

/// Overwrites some bytes in the payload of a record.
fn damage(cluster: &Cluster, node: NodeId, target: Target, rng: &mut Rng) {
    let segment_bytes = cluster.config.wal.segment_bytes;
    let name = format!("{:016x}.seg", target.pos / segment_bytes);
    let path = cluster.config.log_dir(node, GROUP).join(name);
    let file = OpenOptions::new().write(true).open(&path).expect("the segment");
    let payload_bytes = target.bytes - HEADER_BYTES as u64;
    let at = target.pos % segment_bytes + HEADER_BYTES as u64 + rng.below(payload_bytes.saturating_sub(16).max(1));
    file.write_all_at(&rng.next().to_le_bytes(), at).and_then(|()| file.sync_all()).expect("overwrite");
    say(&format!("damage: node {node}, slot {}, {} at {at}", target.slot, path.display()));
}

/// Reads the damaged node's log from its first answer on until it holds `entries` and nothing is unknown: whatever it
/// serves meanwhile is right.
fn await_repair(cluster: &Cluster, node: NodeId, expected: &[Entry], told: &[Told]) {
    await_until(SOON, "the damage is repaired", || {
        let options = ReadOptions { deadline: Duration::from_millis(300), ..ReadOptions::default() };
        let address = cluster.config.client_address(node, GROUP);
        let mut reader = Reader::new(cluster.config.cluster_id(), GROUP, vec![address], options).expect("a reader");
        reader.read(Sequence(1), u64::MAX);
        let (mut served, mut bytes) = (0, Vec::new());
        // A node that refuses, or does not answer yet, serves nothing wrong.
        while let Ok(Some(found)) = reader.next_entry() {
            let whose = expected[served];
            let max_bytes = told.iter().find(|told| told.client_id == whose.client_id).expect("known").max_bytes;
            entry(whose.client_id, whose.client_seq, max_bytes, &mut bytes);
            assert!(found.sequence.0 == served as u64 + 1 && found.payload == bytes, "damage was served: {served}");
            served += 1;
        }
        let unknown = cluster.status(node, GROUP)?.unknown_slots;
        (served == expected.len() && unknown == 0).then_some(())
    });
}

fn check_repaired(mut cluster: Cluster, node: NodeId, told: &[Told]) {
    cluster.await_converged(GROUP);
    let peer = cluster.others(node)[0];
    let expected = read_log(&cluster, peer, GROUP, told);
    check_log(&expected, told);
    assert!(read_log(&cluster, node, GROUP, told) == expected, "the repaired log is another one");
    cluster.stop_all();
    let report = cluster.verify();
    let logs = report["groups"][0]["logs"].as_array().expect("logs");
    let repaired: u64 = logs.iter().map(|log| log["repaired"].as_u64().expect("a number")).sum();
    assert!(repaired >= 1, "verify reports the repair: {report}");
}

/// What the node says of the damage in the log of its last life.
fn last_words_on_damage(cluster: &Cluster, node: NodeId, lines_before: usize) -> String {
    await_until(SOON, "the node says what damage hides", || {
        let log = cluster.log(node);
        log.lines().skip(lines_before).find(|line| line.contains("the log is damaged")).map(str::to_owned)
    })
}

#[test]
fn damage_in_the_middle_is_named_repaired_and_never_served() {
    let _one = serial();
    let mut rng = Rng::announced("damage_in_the_middle");
    let mut cluster = Cluster::prepare("damage-middle", |_| {});
    cluster.start_all();
    cluster.await_leader(GROUP);
    let load = Load::start(&cluster, GROUP, 2, 64);
    load.await_acks(20_000, SOON);
    let told = load.finish();
    cluster.await_converged(GROUP);
    let node = NodeId(rng.below(3) as u8);
    cluster.kill(node);
    let expected = read_log(&cluster, cluster.others(node)[0], GROUP, &told);

    let values = contents(&cluster.config.log_dir(node, GROUP)).values;
    let in_segment_0 = values.iter().filter(|target| target.pos < cluster.config.wal.segment_bytes).count();
    let target = values[in_segment_0 / 2];
    damage(&cluster, node, target, &mut rng);
    let lines_before = cluster.log(node).lines().count();
    cluster.start(node);
    await_repair(&cluster, node, &expected, &told);
    let words = last_words_on_damage(&cluster, node, lines_before);
    assert!(words.contains(&target.slot.to_string()), "the slot is named: {words}");
    say(&format!("damage: {} entries, the node said: {words}", acknowledged(&told)));
    check_repaired(cluster, node, &told);
}

#[test]
fn damage_above_the_chosen_slots_is_named_and_settled_with_the_peers() {
    let _one = serial();
    let mut rng = Rng::announced("damage_above_the_chosen");
    // The leader goes on for a while after its peers have died: what it accepts then is not chosen.
    let mut cluster = Cluster::prepare("damage-end", |config| {
        config.consensus.election_timeout_min_us = 1_000_000;
        config.consensus.election_timeout_max_us = 2_000_000;
    });
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    let load = Load::start(&cluster, GROUP, 2, 64);
    load.await_acks(2_000, SOON);
    for node in cluster.others(leader) {
        cluster.kill(node);
    }
    // Idle, the log marks on disk what is durable.
    await_until(SOON, "the leader's log holds more than is chosen, and marks it", || {
        let status = cluster.status(leader, GROUP)?;
        (status.accepted > status.chosen).then_some(())
    });
    let dir = cluster.config.log_dir(leader, GROUP);
    let settled = cluster.status(leader, GROUP).expect("it answers").durable_bytes;
    await_until(SOON, "the idle mark is written", || {
        (cluster.status(leader, GROUP)?.durable_bytes > settled).then_some(())
    });
    cluster.kill(leader);
    let Contents { values, chosen } = contents(&dir);
    let open: Vec<Target> = values.into_iter().filter(|target| target.slot > chosen).collect();
    assert!(!open.is_empty(), "nothing was accepted above slot {chosen}");
    let target = open[rng.below(open.len() as u64) as usize];
    damage(&cluster, leader, target, &mut rng);
    let lines_before = cluster.log(leader).lines().count();
    cluster.start_all();
    let words = last_words_on_damage(&cluster, leader, lines_before);
    assert!(words.contains(&target.slot.to_string()), "the slot is named: {words}");
    load.await_acks(500, SOON);
    await_until(SOON, "no vote is unknown any more", || {
        (cluster.status(leader, GROUP)?.unknown_slots == 0).then_some(())
    });
    let told = load.finish();
    say(&format!("damage: {} open slots above {chosen}, the node said: {words}", open.len()));
    check_repaired(cluster, leader, &told);
}

#[test]
fn damage_at_a_different_slot_of_every_log_is_repaired() {
    let _one = serial();
    let mut rng = Rng::announced("damage_everywhere");
    let mut cluster = Cluster::prepare("damage-everywhere", |_| {});
    cluster.start_all();
    cluster.await_leader(GROUP);
    let load = Load::start(&cluster, GROUP, 2, 64);
    load.await_acks(5_000, SOON);
    let told = load.finish();
    cluster.await_converged(GROUP);
    let expected = read_log(&cluster, NodeId(0), GROUP, &told);
    cluster.kill_all();
    for node in cluster.members() {
        let Contents { values, chosen } = contents(&cluster.config.log_dir(node, GROUP));
        // One copy of each slot is damaged: a third of the slots on each node are its own to lose.
        let own = values.into_iter().filter(|target| target.slot <= chosen && target.slot.0 % 3 == u64::from(node.0));
        let own: Vec<Target> = own.collect();
        for _ in 0..4 {
            damage(&cluster, node, own[rng.below(own.len() as u64) as usize], &mut rng);
        }
    }
    cluster.start_all();
    for node in cluster.members() {
        await_repair(&cluster, node, &expected, &told);
    }
    check_repaired(cluster, NodeId(0), &told);
}
