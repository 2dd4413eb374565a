//! The scenarios as they are run: nodes of the product as processes, on loopback. What is checked is that they measure what
//! they say, that a limit that is exceeded fails, and that no entry is lost; figures depend on the machine.

use serde_json::Value;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A scenario takes the whole machine.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn perf(arguments: &[&str]) -> Output {
    let ran = Command::new(env!("CARGO_BIN_EXE_synod-perf")).args(arguments).args(["-o", "json"]).output();
    ran.expect("the program under test was built")
}

/// The report, whether a limit was exceeded or not.
fn report(ran: &Output) -> Value {
    let text = String::from_utf8_lossy(&ran.stdout);
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text} {}", String::from_utf8_lossy(&ran.stderr)))
}

fn passed(ran: &Output) -> Value {
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    report(ran)
}

/// It measured, and then said which limit is exceeded.
fn failed(ran: &Output, told: &str) -> Value {
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{errors}");
    assert!(errors.contains(told), "{errors}");
    report(ran)
}

fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("not an array: {value}"))
}

/// Every node's log holds every acknowledged entry once.
fn assert_kept(logs: &Value) {
    assert_eq!(array(logs).len(), 3);
    for log in array(logs) {
        assert!(log["acknowledged"].as_u64() > Some(0), "{log}");
        for wrong in ["lost", "duplicated", "misplaced", "altered", "out_of_order"] {
            assert_eq!(log[wrong], 0, "{wrong}: {log}");
        }
    }
}

#[test]
fn failover_tells_the_gap_and_reads_every_log_back() {
    let _alone = alone();
    let load = ["failover", "--fault", "kill,pause", "--repetitions", "1", "--rate", "200", "--settle-ms", "100"];
    let limit = ["--max-gap-ms", "0.001"];
    let report = failed(&perf(&[&load[..], &limit].concat()), "the limit is 0.001");
    let chapters = array(&report["chapters"]);
    assert_eq!(chapters.iter().map(|chapter| &chapter["fault"]).collect::<Vec<_>>(), ["kill", "pause"]);
    for chapter in chapters {
        let incident = &array(&chapter["incidents"])[0];
        assert_ne!(incident["old_leader"], incident["new_leader"]);
        assert!(incident["ballots"].as_u64() >= Some(1), "{incident}");
        assert!(incident["gap_ms"].as_f64() > Some(1.0), "a dead leader commits nothing: {incident}");
        assert_kept(&chapter["logs"]);
    }
}

#[test]
fn a_restart_is_timed_and_a_follower_left_behind_catches_up() {
    let _alone = alone();
    let ran = perf(&["recovery", "--log-mib", "2,48", "--rounds", "1", "--max-seconds", "0.000001"]);
    let report = failed(&ran, "the limit is 0.000001");
    let steps = array(&report["steps"]);
    assert_eq!(steps.len(), 2);
    assert!(steps[0]["entries"].as_u64() < steps[1]["entries"].as_u64());
    for step in steps {
        let restart = &array(&step["restarts"])[0];
        let [answer, in_step] = ["answer_s", "in_step_s"].map(|name| restart[name].as_f64().unwrap());
        assert!(0.0 < answer && answer <= in_step, "{restart}");
        assert!(step["resident_mib"].as_f64() > Some(1.0), "{step}");
    }
    let ran = perf(&["catchup", "--lag-mib", "4", "--rounds", "1", "--seconds", "1", "--rate", "200"]);
    let report = passed(&ran);
    let round = &array(&report["rounds"])[0];
    assert!(round["in_step_s"].as_f64() > Some(0.0), "{round}");
    assert!(round["before"]["operations"].as_u64() > Some(100), "{round}");
}

#[test]
fn what_goes_on_beside_is_held_against_what_does_not() {
    let _alone = alone();
    let what = ["disturb", "--what", "slow-follower,dead-follower,slow-reader,scrape", "--outstanding", "4"];
    let ran = perf(&[&what[..], &["--rounds", "2", "--seconds", "1"]].concat());
    let report = passed(&ran);
    for chapter in array(&report["chapters"]) {
        for round in array(&chapter["rounds"]) {
            assert!(round["with"]["operations"].as_u64() > Some(10), "{round}");
            assert!(round["without"]["operations"].as_u64() > Some(10), "{round}");
        }
    }
    assert_eq!(array(&report["chapters"]).len(), 4);
}

#[test]
fn reads_on_the_followers_are_held_against_none() {
    let _alone = alone();
    let ran = perf(&["reads", "--reads", "500", "--rate", "200", "--rounds", "2", "--seconds", "1"]);
    let report = passed(&ran);
    for round in array(&report["rounds"]) {
        assert!(round["with"]["operations"].as_u64() > Some(100), "{round}");
        assert!(round["without"]["operations"].as_u64() > Some(100), "{round}");
        assert!(round["reads"]["answered"].as_u64() > Some(500), "{round}");
    }
}

#[test]
fn scale_and_soak_watch_the_memory() {
    let _alone = alone();
    let sizes = ["scale", "--what", "length,groups", "--entries", "500,2000", "--groups", "1,2"];
    let report = passed(&perf(&[&sizes[..], &["--rounds", "2", "--seconds", "0.3", "--max-rss-mib", "4096"]].concat()));
    let steps = array(&report["steps"]);
    assert_eq!(steps.iter().map(|step| step["size"].as_u64().unwrap()).collect::<Vec<_>>(), [500, 2000, 1, 2]);
    assert_eq!(steps[2]["p50_ratio"]["median"], 1.0, "the first is held against itself");

    let soak = ["soak", "--minutes", "0.05", "--interval", "1", "--rate", "100"];
    let report = failed(&perf(&[&soak[..], &["--max-rss-mib", "1"]].concat()), "the limit is 1");
    assert_kept(&report["logs"]);
    let intervals = array(&report["intervals"]);
    assert!(intervals.len() >= 3, "{report}");
    assert_eq!(array(&intervals[0]["resident_mib"]).len(), 3);
}
