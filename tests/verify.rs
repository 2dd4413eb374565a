//! `verify` is itself verified: sound logs pass, and each kind of unsound one fails with the place.

mod support;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use support::{LogWriter, ballot, cluster, edit, incarnation, value, value_with};
use synod::sequencer::Sequencer;
use synod::verify::{Fault, Problem, Report, VerifyError, verify, verify_in_windows};
use synod_wal::{Item, LogReader, Place, remove_front, snapshot};
use synod_wire::Slot;
use synod_wire::batch::Batch;
use synod_wire::frame::Kind;
use synod_wire::snapshot::{Facts, Head, State};
use zerocopy::{FromZeros, IntoBytes};

fn report(dirs: &[PathBuf]) -> Report {
    verify(dirs).unwrap()
}

/// The problems of one sort.
fn of(report: &Report, fault: Fault) -> Vec<&Problem> {
    assert!(!report.ok && report.problems_count > 0, "{report}");
    report.problems.iter().filter(|problem| problem.fault == fault).collect()
}

fn is_at(problem: &Problem, node: u8, place: Place, slot: u64) -> bool {
    let file = problem.file.ends_with(format!("node-{node}/group-000/0000000000000000.seg"));
    file && problem.node == node && problem.pos == Some(place.pos) && problem.slot == Some(slot)
}

#[test]
fn sound_logs_pass_in_one_window_or_many() {
    let dir = tempfile::tempdir().unwrap();
    let (dirs, _) = cluster(dir.path(), 30, |_, _| None);
    let whole = report(&dirs);
    assert!(whole.ok, "{whole}");
    let group = &whole.groups[0];
    assert_eq!((group.chosen_prefix, group.tail, group.chosen_above, group.logs.len()), (30, 29, 0, 3));
    assert!(group.logs.iter().all(|log| log.chosen_prefix == 30 && !log.torn_tail));
    for slots in [1, 7, 30, 31] {
        assert_eq!(verify_in_windows(&dirs, slots).unwrap(), whole);
    }
    let directly: Vec<_> = dirs.iter().map(|dir| dir.join("group-000")).collect();
    assert!(report(&directly).ok);
}

#[test]
fn a_flipped_byte_is_damage_with_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let (dirs, places) = cluster(dir.path(), 12, |_, _| None);
    let place = places[1][6].unwrap();
    edit(&dirs[1], place, |bytes| bytes[100] ^= 0x10);
    let found = report(&dirs);
    let damage = of(&found, Fault::Damage);
    assert!(damage.len() == 1 && is_at(damage[0], 1, place, 6), "{found}");
    assert!(of(&found, Fault::MissingValue).iter().any(|problem| problem.node == 1 && problem.slot == Some(6)));
}

#[test]
fn swapped_records_are_damage_with_both() {
    let dir = tempfile::tempdir().unwrap();
    let (dirs, places) = cluster(dir.path(), 12, |_, _| None);
    let (one, two) = (places[2][5].unwrap(), places[2][6].unwrap());
    assert_eq!(one.bytes, two.bytes);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    edit(&dirs[2], one, |bytes| first = bytes.to_vec());
    edit(&dirs[2], two, |bytes| second = bytes.to_vec());
    edit(&dirs[2], one, |bytes| bytes.copy_from_slice(&second));
    edit(&dirs[2], two, |bytes| bytes.copy_from_slice(&first));
    let found = report(&dirs);
    let slots: Vec<_> = of(&found, Fault::Damage).iter().map(|problem| problem.slot).collect();
    assert_eq!(slots, [Some(5), Some(6)], "{found}");
}

#[test]
fn a_record_that_was_never_written_is_a_missing_value_and_belies_the_evidence() {
    let dir = tempfile::tempdir().unwrap();
    let (dirs, _) = cluster(dir.path(), 12, |node, slot| (node == 1 && slot == 7).then_some(None));
    let found = report(&dirs);
    let missing = of(&found, Fault::MissingValue);
    assert!(missing.len() == 1 && missing[0].node == 1 && missing[0].slot == Some(7), "{found}");
    let evidence = of(&found, Fault::Evidence);
    assert!(evidence.len() == 1 && evidence[0].node == 0 && evidence[0].slot == Some(7), "{found}");
    assert_eq!(found.groups[0].logs[1].chosen_prefix, 6);
}

#[test]
fn a_flush_that_vanished_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (dirs, places) = cluster(dir.path(), 12, |_, _| None);
    let (first, next) = (places[0][5].unwrap(), places[0][9].unwrap());
    let flush = Place { pos: first.pos, bytes: (next.pos - first.pos) as u32 };
    edit(&dirs[0], flush, |bytes| bytes.fill(0));
    let found = report(&dirs);
    let damage = of(&found, Fault::Damage);
    assert!(damage.iter().all(|problem| problem.node == 0 && problem.pos == Some(first.pos)), "{found}");
    assert!(damage[0].what.contains("not readable"), "{found}");
}

#[test]
fn a_conflicting_record_with_right_checksums_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let other = |node, slot| (node == 2 && slot == 4).then(|| Some(value_with(4, "another")));
    let (dirs, places) = cluster(dir.path(), 12, other);
    let found = report(&dirs);
    let place = places[2][4].unwrap();
    for fault in [Fault::TwoValues, Fault::Conflict] {
        let problems = of(&found, fault);
        assert!(problems.len() == 1 && is_at(problems[0], 2, place, 4), "{fault}: {found}");
    }
}

#[test]
fn a_chosen_value_replaced_later_in_the_same_log_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::new(&dir.path().join("node-0"), 0);
    log.promise(ballot(1));
    log.accept(1, ballot(1), &value(1));
    log.chosen(1, 1, ballot(1), &[0, 1]);
    log.promise(ballot(2));
    let place = log.accept(1, ballot(2), &value_with(2, "another"));
    log.flush();
    drop(log);
    let found = report(&[dir.path().join("node-0")]);
    let conflicts = of(&found, Fault::Conflict);
    assert!(conflicts.len() == 1 && is_at(conflicts[0], 0, place, 1), "{found}");
}

/// One log of node 0 with three records after the founding, built by `write`.
fn one_log(write: impl FnOnce(&mut LogWriter) -> Place) -> (Report, Place) {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::new(&dir.path().join("node-0"), 0);
    log.promise(ballot(5));
    let place = write(&mut log);
    log.flush();
    drop(log);
    (report(&[dir.path().join("node-0")]), place)
}

#[test]
fn promises_and_votes_must_not_regress() {
    let (found, place) = one_log(|log| log.promise(ballot(4)));
    let problems = of(&found, Fault::PromiseRegressed);
    assert!(problems.len() == 1 && problems[0].pos == Some(place.pos), "{found}");

    let (found, place) = one_log(|log| log.accept(1, ballot(4), &value(1)));
    let problems = of(&found, Fault::PromiseRegressed);
    assert!(problems.len() == 1 && is_at(problems[0], 0, place, 1), "{found}");

    let (found, place) = one_log(|log| {
        log.accept(1, ballot(5), &value(1));
        log.accept(1, ballot(3), &value(1))
    });
    let problems = of(&found, Fault::BallotRegressed);
    assert!(problems.len() == 1 && is_at(problems[0], 0, place, 1), "{found}");

    let (found, place) = one_log(|log| {
        log.accept(1, ballot(5), &value(1));
        log.accept(1, ballot(5), &value_with(2, "another"))
    });
    let problems = of(&found, Fault::TwoValues);
    assert!(problems.len() == 1 && is_at(problems[0], 0, place, 1), "{found}");
}

#[test]
fn evidence_needs_a_quorum_of_members() {
    for acceptors in [&[1u8][..], &[1, 9]] {
        let (found, place) = one_log(|log| {
            log.accept(1, ballot(5), &value(1));
            log.chosen(1, 1, ballot(5), acceptors)
        });
        let problems = of(&found, Fault::Evidence);
        assert!(problems.len() == 1 && problems[0].pos == Some(place.pos), "{found}");
    }
}

/// Three logs of one slot, each written by its closure.
fn three(write: [&dyn Fn(&mut LogWriter); 3]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let mut dirs = Vec::new();
    for (node, write) in write.into_iter().enumerate() {
        let node_dir = dir.path().join(format!("node-{node}"));
        let mut log = LogWriter::new(&node_dir, node as u8);
        write(&mut log);
        log.flush();
        dirs.push(node_dir);
    }
    (dir, dirs)
}

fn votes(log: &mut LogWriter, rounds: &[u64]) {
    for round in rounds {
        log.promise(ballot(*round));
        log.accept(1, ballot(*round), &value(1));
    }
}

fn one_evidence_problem(dirs: &[PathBuf], what: &str) {
    let found = report(dirs);
    let problems = of(&found, Fault::Evidence);
    let told = problems[0].node == 0 && problems[0].slot == Some(1) && problems[0].what.contains(what);
    assert!(problems.len() == 1 && told && found.problems_count == 1, "{found}");
}

#[test]
fn an_acceptor_named_for_a_ballot_in_which_it_did_not_vote_is_found() {
    let (_dir, dirs) = three([
        &|log| {
            votes(log, &[1]);
            log.chosen(1, 1, ballot(1), &[0, 1]);
        },
        // It holds the value, but accepted it later.
        &|log| votes(log, &[2]),
        &|log| votes(log, &[1]),
    ]);
    one_evidence_problem(&dirs, "names node 1 as an acceptor in ballot 1.0, in which it did not accept it");
    // Without node 2's log nobody can know what node 1 was told.
    assert!(report(&dirs[..2]).ok);
}

#[test]
fn an_acceptor_may_be_named_for_what_was_chosen_before_or_what_it_learnt_or_accepted_once_more() {
    let (_dir, dirs) = three([
        &|log| {
            votes(log, &[1, 2, 3]);
            log.chosen(1, 1, ballot(2), &[0, 1, 2]);
        },
        // Chosen in ballot 1 by itself and node 0.
        &|log| votes(log, &[1]),
        &|log| votes(log, &[2, 3]),
    ]);
    let found = report(&dirs);
    assert!(found.ok, "{found}");
    let (_dir, dirs) = three([
        &|log| {
            votes(log, &[2]);
            log.chosen(1, 1, ballot(2), &[0, 1]);
        },
        &|log| {
            log.record(Kind::Learnt, synod_wire::Slot(1), ballot(1), &value(1));
        },
        &|_| {},
    ]);
    let found = report(&dirs);
    assert!(found.ok, "{found}");
}

#[test]
fn every_chosen_record_is_held_to_what_it_says() {
    let (_dir, dirs) = three([
        &|log| {
            votes(log, &[1]);
            log.chosen(1, 1, ballot(1), &[0, 1]);
            log.chosen(1, 1, ballot(1), &[0, 2]);
        },
        &|log| votes(log, &[1]),
        &|_| {},
    ]);
    one_evidence_problem(&dirs, "names node 2 as an acceptor, whose log does not hold the value");
}

#[test]
fn a_ballot_that_chose_is_a_members_and_was_promised() {
    let stranger = synod_wire::Ballot { round: 4, node: synod_wire::NodeId(9) };
    for (chosen_in, what) in [(ballot(6), "no more than 5.0 is promised"), (stranger, "no member of epoch 1")] {
        let (found, place) = one_log(|log| {
            log.accept(1, ballot(5), &value(1));
            log.chosen(1, 1, chosen_in, &[0, 1])
        });
        let problems = of(&found, Fault::Evidence);
        let there = problems.iter().any(|problem| problem.pos == Some(place.pos) && problem.what.contains(what));
        assert!(there, "{found}");
    }
}

#[test]
fn payloads_that_their_kind_does_not_allow_are_malformed() {
    for kind in [Kind::Chosen, Kind::Founded, Kind::PeerMarks, Kind::Accept] {
        let (found, place) = one_log(|log| log.record(kind, synod_wire::Slot(1), ballot(5), b"garbage"));
        let problems = of(&found, Fault::Malformed);
        let there = problems.iter().all(|problem| problem.pos == Some(place.pos));
        assert!(there && !problems.is_empty(), "{kind:?}: {found}");
    }
}

#[test]
fn a_slot_that_no_log_of_this_length_can_reach_is_malformed_and_costs_no_time() {
    for slot in [0, 1 << 60] {
        let (found, place) = one_log(|log| log.accept(slot, ballot(5), &value(1)));
        let problems = of(&found, Fault::Malformed);
        assert!(problems.len() == 1 && is_at(problems[0], 0, place, slot), "{found}");
    }
}

#[test]
fn a_log_behind_what_a_peer_counted_from_it_was_rolled_back() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = [dir.path().join("node-0"), dir.path().join("node-1")];
    let mut behind = LogWriter::new(&dirs[1], 1);
    behind.flush();
    let mut counter = LogWriter::new(&dirs[0], 0);
    counter.counted(1, behind.last_lsn());
    counter.flush();
    drop(behind);
    drop(counter);
    assert!(report(&dirs).ok);

    let dir = tempfile::tempdir().unwrap();
    let dirs = [dir.path().join("node-0"), dir.path().join("node-1")];
    let mut behind = LogWriter::new(&dirs[1], 1);
    behind.flush();
    let mut counter = LogWriter::new(&dirs[0], 0);
    counter.counted(1, behind.last_lsn() + 1);
    counter.flush();
    drop(behind);
    drop(counter);
    let found = report(&dirs);
    let problems = of(&found, Fault::RolledBack);
    assert!(problems.len() == 1 && problems[0].node == 1, "{found}");
}

#[test]
fn foundings_must_agree_and_no_node_may_be_there_twice() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = [dir.path().join("a"), dir.path().join("b")];
    for (dir, wrong) in dirs.iter().zip([false, true]) {
        let mut log = LogWriter::new(dir, 0);
        if wrong {
            let other = synod_wire::record::Incarnation { node: 0.into(), incarnation: (incarnation(0) + 1).into() };
            log.record(Kind::Founded, synod_wire::Slot::ZERO, ballot(0), zerocopy::IntoBytes::as_bytes(&other));
        }
        log.flush();
    }
    let found = report(&dirs);
    assert!(!of(&found, Fault::Configuration).is_empty(), "{found}");
    assert_eq!(of(&found, Fault::Duplicate).len(), 1, "{found}");
}

#[test]
fn values_voted_for_by_a_quorum_count_without_a_chosen_record() {
    let dir = tempfile::tempdir().unwrap();
    let dirs: Vec<_> = (0..3u8).map(|node| dir.path().join(format!("node-{node}"))).collect();
    for (node, dir) in dirs.iter().enumerate() {
        let mut log = LogWriter::new(dir, node as u8);
        log.promise(ballot(1));
        if node < 2 {
            log.accept(1, ballot(1), &value(1));
            log.accept(2, ballot(1), &value(2));
        }
        log.flush();
    }
    let found = report(&dirs);
    assert!(found.ok && found.groups[0].chosen_prefix == 2 && found.groups[0].tail == 1, "{found}");
    // One vote alone chooses nothing.
    let found = report(&dirs[1..]);
    assert!(found.ok && found.groups[0].chosen_prefix == 0, "{found}");
}

#[test]
fn a_torn_tail_is_what_a_crash_leaves_and_no_problem() {
    let dir = tempfile::tempdir().unwrap();
    let (dirs, places) = cluster(dir.path(), 12, |_, _| None);
    let end = places[0][12].unwrap().end().next_multiple_of(4096);
    edit(&dirs[0], Place { pos: end, bytes: 64 }, |bytes| bytes.fill(0xab));
    let found = report(&dirs);
    assert!(found.ok && found.groups[0].logs[0].torn_tail, "{found}");
}

#[test]
fn directories_without_logs_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(verify(&[dir.path().into()]), Err(VerifyError::NoLog(_))));
    assert!(matches!(verify(&[Path::new("/nonexistent").into()]), Err(VerifyError::Directory { .. })));
    // A log in use is not read: it would change underneath.
    let log = LogWriter::new(&dir.path().join("node-0"), 0);
    let error = verify(&[dir.path().join("node-0")]).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    drop(log);
}

/// Three logs of three segments: slots of 30 KB, all chosen but what `change` says; the last slot of each first segment is at
/// most the one returned.
fn long_cluster(
    dir: &Path,
    change: impl Fn(u8, u64) -> Option<Option<Vec<u8>>>,
) -> (Vec<PathBuf>, Vec<Vec<Option<Place>>>, u64) {
    let entry = "x".repeat(30_000);
    let large = |slot| (slot > 1).then(|| Some(value_with(slot, &entry)));
    let (dirs, places) = cluster(dir, 300, |node, slot| change(node, slot).or(large(slot)));
    let first = |of_node: &Vec<Option<Place>>| of_node.iter().flatten().filter(|place| place.pos < 4 << 20).count();
    let last = places.iter().map(first).max().unwrap();
    (dirs, places, last as u64)
}

/// The body of a snapshot after slot `last` of a whole log.
fn snapshot_body(log_dir: &Path, last: u64) -> Vec<u8> {
    let mut values = std::collections::BTreeMap::new();
    let mut reader = LogReader::open_offline(log_dir).unwrap();
    let from = reader.first_pos();
    let mut take = |item: Item<'_>| {
        if let Item::Record(_, frame) = item
            && frame.header.kind == Kind::Accept
        {
            values.insert(frame.header.slot, frame.payload.to_vec());
        }
        ControlFlow::Continue(())
    };
    reader.scan(from, None, &mut take).unwrap();
    let mut sequencer = Sequencer::new();
    for (slot, value) in values.range(..=Slot(last)) {
        sequencer.apply(*slot, &Batch::parse(value).unwrap(), &mut |_, _, _| {});
    }
    let mut state = State { slot: last.into(), ..State::new_zeroed() }.as_bytes().to_vec();
    sequencer.snapshot(&mut state);
    let facts = Facts::new_zeroed();
    let (state_bytes, facts_bytes) = ((state.len() as u64).into(), (size_of::<Facts>() as u64).into());
    [Head { state_bytes, facts_bytes }.as_bytes(), &state, facts.as_bytes()].concat()
}

#[test]
fn logs_without_their_front_are_verified_from_where_they_begin() {
    let dir = tempfile::tempdir().unwrap();
    let (dirs, _, last) = long_cluster(dir.path(), |_, _| None);
    let whole = report(&dirs);
    assert!(whole.ok && whole.groups[0].first_slot == 1 && whole.groups[0].tail == 299, "{whole}");
    let body = snapshot_body(&dirs[0].join("group-000"), last);
    for (gone, node_dir) in dirs.iter().enumerate() {
        let log_dir = node_dir.join("group-000");
        let identity = *LogReader::open(&log_dir).unwrap().identity();
        snapshot::write(&log_dir, &identity, Slot(last), &body, &mut || {}).unwrap();
        assert_eq!(remove_front(&log_dir, 1).unwrap().segments, 1);
        for slots in [64, 1 << 20] {
            let found = verify_in_windows(&dirs, slots).unwrap();
            let group = &found.groups[0];
            assert!(found.ok, "{found}");
            assert_eq!(group.chosen_prefix, 300);
            // One whole log is enough to count the sequences of all.
            let expected = if gone < 2 { (1, 299) } else { (last + 1, 0) };
            assert_eq!((group.first_slot, group.tail), expected, "{found}");
            let begins = group.logs.iter().filter_map(|log| log.begins_at).collect::<Vec<_>>();
            assert!(begins.len() == gone + 1 && begins.iter().all(|begin| begin.segment == 1), "{found}");
            assert!(found.to_string().contains("begins at segment 1, lsn "), "{found}");
            assert!(group.logs.iter().all(|log| log.chosen_prefix == 300), "{found}");
        }
    }
}

#[test]
fn what_is_missing_behind_a_removed_front_is_missing_still() {
    let dir = tempfile::tempdir().unwrap();
    let lacks = |node, slot| (node == 1 && slot == 250).then_some(None);
    let (dirs, places, last) = long_cluster(dir.path(), lacks);
    let body = snapshot_body(&dirs[0].join("group-000"), last);
    for node_dir in &dirs {
        let log_dir = node_dir.join("group-000");
        let identity = *LogReader::open(&log_dir).unwrap().identity();
        snapshot::write(&log_dir, &identity, Slot(last), &body, &mut || {}).unwrap();
        remove_front(&log_dir, 1).unwrap();
    }
    assert!(places[1][250].is_none() && last < 200);
    let found = report(&dirs);
    let missing = of(&found, Fault::MissingValue);
    assert!(missing.len() == 1 && missing[0].node == 1 && missing[0].slot == Some(250), "{found}");
    assert!(of(&found, Fault::Evidence).iter().all(|problem| problem.slot == Some(250)), "{found}");
}

#[test]
fn an_inspection_says_where_a_log_begins() {
    let dir = tempfile::tempdir().unwrap();
    let (dirs, _, _) = long_cluster(dir.path(), |_, _| None);
    let log_dir = dirs[0].join("group-000");
    remove_front(&log_dir, 1).unwrap();
    let first = LogReader::open_offline(&log_dir).unwrap().first_lsn(None).unwrap().unwrap();
    let inspect = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_synod"));
        let output = command.args(["inspect", "wal"]).arg(&log_dir).args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let told = format!("begins at segment 1, lsn {first}: what was before was removed");
    let text = inspect(&[]);
    assert!(text.lines().nth(2).is_some_and(|line| line.contains(&told)), "{text:.400}");
    let json = inspect(&["-o", "json"]);
    let line: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!((line["what"].as_str(), line["lsn"].as_u64()), (Some("front"), Some(first.0)), "{line}");
}
