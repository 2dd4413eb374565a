//! Every knob over recorded hosts: what `tune` does, what scripts/tune-host.sh does, and what a script does that `tune` wrote are
//! the same to the last byte, and all of them bring back what was.

use super::super::facts::RingSizes;
use super::super::recorded::{CASES, Case, Recorded, bare_metal};
use super::super::{Severity, check};
use super::{Event, How, KNOBS, Knob, TuneError, apply, plan, revert, script};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const TUNE_HOST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/tune-host.sh");

type Spoil = Box<dyn Fn() -> Recorded>;

const EFFECTIVE: &str = "/proc/irq/36/effective_affinity_list";

fn knob_of(case: &Case) -> Option<&'static Knob> {
    let mends = |knob: &&Knob| knob.conditions.contains(&case.condition) && case.severity >= Severity::Recommended;
    KNOBS.iter().find(mends)
}

fn spoiled(case: &Case) -> Recorded {
    let mut recorded = bare_metal();
    (case.spoil)(&mut recorded);
    recorded
}

/// Every file with its contents, and what the card is set to.
fn contents(recorded: &Recorded, card: &[String]) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::from([("card".into(), card.join(" ").into_bytes())]);
    let mut dirs = vec![recorded.root.path().to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else if entry.file_type().unwrap().is_file() {
                let name = entry.path().strip_prefix(recorded.root.path()).unwrap().to_path_buf();
                all.insert(name, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    all
}

/// Receive rings, send rings, whether receiving is adaptive, and how long it waits, as ethtool has them.
fn card(recorded: &Recorded) -> [String; 4] {
    let answers = recorded.answers.borrow();
    let (rings, coalescing) = (answers.rings.clone().unwrap().now, answers.coalescing.clone().unwrap());
    let adaptive = if coalescing.adaptive_rx { "on" } else { "off" };
    [rings.rx.to_string(), rings.tx.to_string(), adaptive.into(), coalescing.rx_us.to_string()]
}

fn known(recorded: &Recorded) -> BTreeMap<PathBuf, Vec<u8>> {
    contents(recorded, &card(recorded))
}

/// Runs the plan of one knob; gives (whether all was done, how many changes were told).
fn apply_it(recorded: &Recorded, only: &[String], state: &Path) -> (bool, usize) {
    let (host, mut count) = (recorded.host(), 0);
    let planned = plan(&host, &recorded.target, only).planned;
    let mut tell = |told: &super::Told<'_>| -> io::Result<()> {
        if told.event == Event::Change {
            count += 1;
            assert!(told.place.same(&told.place.get(&host).unwrap(), told.from), "told after it was made: {told:?}");
        }
        Ok(())
    };
    let good = apply(&host, &planned, How { state, dry_run: false }, &mut tell).unwrap();
    (good, count)
}

/// Reverts; gives (whether all was done, the events that were told).
fn revert_it(recorded: &Recorded, state: &Path, force: bool) -> (bool, Vec<Event>) {
    let mut events = Vec::new();
    let mut tell = |told: &super::Told<'_>| -> io::Result<()> {
        events.push(told.event);
        Ok(())
    };
    let good = revert(&recorded.host(), &[], force, How { state, dry_run: false }, &mut tell).unwrap();
    (good, events)
}

#[test]
fn each_knob_mends_its_condition_once_and_is_taken_back() {
    for case in CASES {
        let Some(knob) = knob_of(case) else { continue };
        let (recorded, dir) = (spoiled(case), tempfile::tempdir().unwrap());
        let (before, state) = (known(&recorded), dir.path().join("tune.json"));
        let all = plan(&recorded.host(), &recorded.target, &[]).planned;
        let turned: Vec<_> = all.iter().filter(|plan| !plan.changes().is_empty()).map(|plan| plan.knob.name).collect();
        assert_eq!(turned, [knob.name], "{}", case.says);
        let (good, count) = apply_it(&recorded, &[], &state);
        assert!(good && count > 0, "{}: {count}", case.says);
        let after = known(&recorded);
        assert_ne!(before, after, "{}", case.says);
        // A limit is another one only for the next login, and no kernel is here to move an interrupt.
        let waits = case.says.ends_with("36") && recorded.host().place(EFFECTIVE).exists();
        if knob.name != "limits" && !waits {
            let worst = check(&recorded.host(), &recorded.target).into_iter().max_by_key(|finding| finding.severity);
            assert_eq!(worst.as_ref().map(|finding| finding.severity), Some(Severity::Ok), "{worst:?}");
        }
        assert_eq!(apply_it(&recorded, &[], &state), (true, 0), "{}: a second time", case.says);
        assert_eq!(known(&recorded), after, "{}", case.says);
        let (good, events) = revert_it(&recorded, &state, false);
        assert_eq!((good, events), (true, vec![Event::Change; count]), "{}", case.says);
        assert_eq!(known(&recorded), before, "{}", case.says);
        assert!(!state.exists());
    }
}

#[test]
fn every_knob_has_a_case() {
    let with_a_case: Vec<_> = CASES.iter().filter_map(knob_of).map(|knob| knob.name).collect();
    for knob in KNOBS {
        assert!(with_a_case.contains(&knob.name), "{}", knob.name);
    }
}

/// What is wrong everywhere at once, and names that the host does not have, change nothing where it is not asked for.
#[test]
fn only_what_is_named_is_changed_and_a_dry_run_changes_nothing() {
    let (recorded, dir) = (all_wrong(), tempfile::tempdir().unwrap());
    let (before, state) = (known(&recorded), dir.path().join("tune.json"));
    let host = recorded.host();
    let mut places = Vec::new();
    let mut tell = |told: &super::Told<'_>| -> io::Result<()> {
        places.push(told.place.clone());
        Ok(())
    };
    let all = plan(&host, &recorded.target, &[]);
    apply(&host, &all.planned, How { state: &state, dry_run: true }, &mut tell).unwrap();
    assert!(places.len() > 10, "{places:?}");
    assert_eq!((known(&recorded), state.exists()), (before.clone(), false));
    assert_eq!(apply_it(&recorded, &["huge_pages".into()], &state), (true, 1));
    let after = known(&recorded);
    let changed: Vec<_> = after.iter().filter(|(name, text)| before.get(*name) != Some(*text)).collect();
    let thp = Path::new("sys/kernel/mm/transparent_hugepage/enabled").to_path_buf();
    assert_eq!(changed, [(&thp, &b"always [madvise] never\n".to_vec())]);
    assert_eq!(revert_it(&recorded, &state, false), (true, vec![Event::Change]));
    assert_eq!(known(&recorded), before);
}

/// A host on which every case with a knob is wrong.
fn all_wrong() -> Recorded {
    let mut recorded = bare_metal();
    for case in CASES.iter().filter(|case| knob_of(case).is_some()) {
        (case.spoil)(&mut recorded);
    }
    recorded
}

#[test]
fn what_others_changed_since_is_left_alone_unless_forced() {
    let (recorded, dir) = (all_wrong(), tempfile::tempdir().unwrap());
    let (before, state) = (known(&recorded), dir.path().join("tune.json"));
    let (good, count) = apply_it(&recorded, &[], &state);
    assert!(good && count > 10, "{count}");
    recorded.put("/proc/sys/vm/swappiness", "30");
    let (good, events) = revert_it(&recorded, &state, false);
    assert!(!good);
    let left = events.iter().filter(|event| **event == Event::Left).count();
    assert_eq!((left, events.len()), (1, count), "all others are taken back");
    assert_eq!(recorded.host().read("/proc/sys/vm/swappiness").unwrap(), "30");
    assert_eq!(revert_it(&recorded, &state, true), (true, vec![Event::Change]));
    assert_eq!((known(&recorded), state.exists()), (before, false));
    assert_eq!(revert_it(&recorded, &state, true), (true, vec![]), "nothing is left to revert");
}

#[test]
fn what_the_card_refuses_or_rounds_is_told_and_the_rest_is_done() {
    for (takes, event) in [
        ((|_| Err("refused".into())) as fn(RingSizes) -> Result<RingSizes, String>, Event::Failed),
        (|_| Ok(RingSizes { rx: 2048, tx: 4096 }), Event::Differs),
        (|_| Ok(RingSizes { rx: 256, tx: 4096 }), Event::Failed),
    ] {
        let (recorded, dir) = (all_wrong(), tempfile::tempdir().unwrap());
        let (before, state) = (known(&recorded), dir.path().join("tune.json"));
        recorded.answers.borrow_mut().takes_rings = takes;
        let (host, mut told) = (recorded.host(), Vec::new());
        let planned = plan(&host, &recorded.target, &[]).planned;
        let mut tell = |one: &super::Told<'_>| -> io::Result<()> {
            told.push((one.event, one.knob.to_string()));
            Ok(())
        };
        let good = apply(&host, &planned, How { state: &state, dry_run: false }, &mut tell).unwrap();
        assert_eq!(good, event == Event::Differs);
        let others: Vec<_> = told.iter().filter(|(event, _)| *event != Event::Change).collect();
        assert_eq!(others, [&(event, "nic_rings".to_string())]);
        assert_eq!(told.last().unwrap().1, "limits", "those behind it are made, too");
        recorded.answers.borrow_mut().takes_rings = Ok;
        assert!(revert_it(&recorded, &state, false).0);
        assert_eq!(known(&recorded), before);
    }
}

/// Whoever cannot see what is changed does not have it changed.
#[test]
fn nothing_is_changed_in_silence() {
    let (recorded, dir) = (all_wrong(), tempfile::tempdir().unwrap());
    let (before, state) = (known(&recorded), dir.path().join("tune.json"));
    let host = recorded.host();
    let planned = plan(&host, &recorded.target, &[]).planned;
    let mut tell = |_: &super::Told<'_>| -> io::Result<()> { Err(io::ErrorKind::BrokenPipe.into()) };
    let stopped = apply(&host, &planned, How { state: &state, dry_run: false }, &mut tell);
    assert!(matches!(stopped, Err(TuneError::Output(_))));
    assert_eq!(known(&recorded), before);
    assert_eq!(revert_it(&recorded, &state, false), (true, vec![]), "what was planned and not made needs no way back");
}

/// A stand-in for ethtool, whose card is a directory of files.
struct Ethtool(TempDir);

const ETHTOOL: &str = r#"#!/usr/bin/env bash
cd "$(dirname "$0")" || exit 1
[[ $2 == eth0 ]] || exit 1
case $1 in
-g) printf 'Ring parameters for eth0:\nPre-set maximums:\nRX:\t\t4096\nRX Mini:\tn/a\nTX:\t\t4096\nTX push buff len:\tn/a\nCurrent hardware settings:\nRX:\t\t%s\nRX Mini:\tn/a\nTX:\t\t%s\n' "$(<rx)" "$(<tx)" ;;
-c) printf 'Coalesce parameters for eth0:\nAdaptive RX: %s  TX: off\nstats-block-usecs:\tn/a\n\nrx-usecs:\t%s\nrx-frames:\tn/a\n\ntx-usecs:\t8\n' "$(<adaptive-rx)" "$(<rx-usecs)" ;;
-G | -C) [[ -e $3 ]] && echo "$4" >"$3" ;;
esac
"#;

impl Ethtool {
    const FILES: [&str; 4] = ["rx", "tx", "adaptive-rx", "rx-usecs"];

    fn new(recorded: &Recorded) -> Ethtool {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("ethtool");
        std::fs::write(&program, ETHTOOL).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        for (file, value) in Ethtool::FILES.iter().zip(card(recorded)) {
            std::fs::write(dir.path().join(file), format!("{value}\n")).unwrap();
        }
        Ethtool(dir)
    }

    fn card(&self) -> Vec<String> {
        let value = |file| std::fs::read_to_string(self.0.path().join(file)).unwrap().trim().to_string();
        Ethtool::FILES.into_iter().map(value).collect()
    }

    /// Runs a script beside it, as a user whose limits are low; gives what it printed.
    fn run(&self, recorded: &Recorded, script: &str, arguments: &[&str]) -> String {
        let path = format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command.args(["-c", r#"ulimit -l 64 && ulimit -r 0 && exec bash "$@""#, "bash", script]).args(arguments);
        command.env("PATH", path).env("SYNOD_ROOT", recorded.root.path());
        let output = command.output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && err.is_empty(), "{script} {arguments:?}\n{out}\n{err}");
        out.into_owned()
    }
}

/// Runs a script three times: it makes the same changes as `tune`, makes none the second time, and takes them back.
fn runs_as_tune_does(what: &str, recorded: &Recorded, script: &str, arguments: &[&str], tuned: &Recorded) {
    let ethtool = Ethtool::new(recorded);
    let before = contents(recorded, &ethtool.card());
    let with = |command| [arguments, &[command]].concat();
    assert_ne!(ethtool.run(recorded, script, &[&["--dry-run"], with("apply").as_slice()].concat()), "", "{what}");
    assert_eq!(contents(recorded, &ethtool.card()), before, "{what}: a dry run");
    assert_ne!(ethtool.run(recorded, script, &with("apply")), "", "{what}");
    assert_eq!(contents(recorded, &ethtool.card()), known(tuned), "{what}");
    assert_eq!(ethtool.run(recorded, script, &with("apply")), "", "{what}: a second time");
    assert_ne!(ethtool.run(recorded, script, &with("revert")), "", "{what}");
    assert_eq!(contents(recorded, &ethtool.card()), before, "{what}");
}

#[test]
fn the_scripts_do_what_tune_does() {
    let locked_kib = super::super::system::locked_bytes(&bare_metal().target) >> 10;
    let (locked_kib, buffer) = (locked_kib.to_string(), bare_metal().target.config.net.socket_buffer_bytes.to_string());
    let dir = tempfile::tempdir().unwrap();
    let (state, written) = (dir.path().join("tune-host.state"), dir.path().join("written.sh"));
    let (state, written) = (state.to_str().unwrap(), written.to_str().unwrap());
    let host = ["--cores", "2-3", "--nic", "eth0", "--socket-buffer-bytes", &buffer, "--memlock-kib", &locked_kib];
    let arguments = [host.as_slice(), &["--state", state]].concat();
    // All that is wrong at once, and each interrupt case alone: the first hides what the second shows.
    let mut all: Vec<(&str, Vec<&str>, Spoil)> = vec![("all", vec![], Box::new(all_wrong))];
    for case in CASES.iter().filter(|case| case.condition == "interrupts") {
        all.push((case.says, vec!["--only", "interrupts"], Box::new(|| spoiled(case))));
    }
    for (what, only, spoiled) in all {
        let tuned = spoiled();
        let planned = plan(&tuned.host(), &tuned.target, &[]).planned;
        let (good, _) = apply_it(&tuned, &[], &dir.path().join("tune.json"));
        assert!(good, "{what}");
        runs_as_tune_does(what, &spoiled(), TUNE_HOST, &[arguments.clone(), only].concat(), &tuned);
        assert!(!Path::new(state).exists(), "{what}: nothing is left to revert");
        let other = spoiled();
        std::fs::write(written, script(&planned, other.root.path())).unwrap();
        runs_as_tune_does(what, &other, written, &[], &tuned);
        std::fs::remove_file(dir.path().join("tune.json")).unwrap();
    }
}

#[test]
fn the_script_lists_the_same_knobs() {
    let listed = Command::new(TUNE_HOST).arg("list").output().unwrap();
    let names: Vec<_> = KNOBS.iter().map(|knob| knob.name).collect();
    assert_eq!(String::from_utf8(listed.stdout).unwrap().lines().collect::<Vec<_>>(), names);
}
