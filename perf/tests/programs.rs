//! The programs as they are run: real processes, a real disk, short rounds. What is checked is that they measure and say
//! so; figures depend on the machine.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};

fn perf(arguments: &[&str]) -> Output {
    let ran = Command::new(env!("CARGO_BIN_EXE_synod-perf")).args(arguments).output();
    ran.expect("the program under test was built")
}

fn json(ran: &Output) -> serde_json::Value {
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    serde_json::from_slice(&ran.stdout).unwrap()
}

const SHORT: [&str; 8] = ["--rounds", "2", "--seconds", "0.2", "--warm-up-ms", "50", "-o", "json"];

#[test]
fn the_floor_measures_every_layer_with_the_writes_and_datagrams_it_claims() {
    let ran = perf(&[&["floor", "--outstanding", "1,16"], &SHORT[..]].concat());
    let report = json(&ran);
    let rows = report["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["what"].as_str().unwrap()).collect();
    let expected = [
        "datagram round trip",
        "durable write of 4096 bytes",
        "skeleton without writes, 1 outstanding",
        "skeleton, 1 outstanding",
        "skeleton without writes, 16 outstanding",
        "skeleton, 16 outstanding",
    ];
    assert_eq!(names, expected);
    for row in rows {
        assert_eq!(row["rounds"].as_array().unwrap().len(), 2);
        assert!(row["overall"]["operations"].as_u64().unwrap() > 0, "{row}");
        assert!(row["overall"]["p50_us"].as_f64().unwrap() > 0.0, "{row}");
    }
    // Leader and followers write, each for itself; without writes none does.
    let writes =
        |row: usize| rows[row]["work"].as_array().unwrap()[1..].iter().map(|work| work["writes"].as_u64().unwrap());
    assert!(writes(2).all(|count| count == 0) && writes(3).all(|count| count > 0));
    assert_eq!(writes(3).count(), 3);
    // One entry in flight: each is a write of its own on the leader, and a datagram to each follower and to the client.
    let leader = &rows[3]["work"][1];
    let [sent, written] = ["sent", "writes"].map(|name| leader[name].as_u64().unwrap());
    assert_eq!(sent, 3 * written, "{leader}");
    let ways: Vec<_> = report["packets"].as_array().unwrap().iter().map(|row| (&row["size"], &row["way"])).collect();
    let expected = [64, 1_472].map(|size| ["plain", "gso", "gso_gro"].map(|way| (size, way))).concat();
    assert!(ways.iter().zip(&expected).all(|((size, way), (s, w))| **size == *s && **way == *w), "{ways:?}");
    assert_eq!(ways.len(), expected.len());
    for row in report["packets"].as_array().unwrap() {
        assert!(row["datagrams_per_second"]["min"].as_f64().unwrap() > 0.0, "{row}");
    }
}

#[test]
fn a_report_has_its_files_and_tells_what_was_printed() {
    let parent = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = parent.path().join("report");
    let to = dir.to_str().unwrap();
    let ran = perf(&[&["floor", "--outstanding", "1", "--report", to], &SHORT[..]].concat());
    let printed = json(&ran);
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&read("results.json")).unwrap(), printed);
    let environment: serde_json::Value = serde_json::from_str(&read("env.json")).unwrap();
    assert_eq!(environment["kernel"].as_str().unwrap().split(' ').next(), printed["host"]["kernel"].as_str());
    let page = read("report.html");
    assert!(page.contains("datagram round trip") && page.contains("<svg "));
    let log = read("1-outstanding.skeleton.hlog");
    assert!(log.starts_with("#[Histogram log format version 1.3]"), "{log}");
    assert!(read("1-outstanding.skeleton.hgrm").contains("#[Mean"));
}

#[test]
fn the_environment_is_told_in_text_and_as_json() {
    let environment = json(&perf(&["collect-env", "-o", "json"]));
    assert!(environment["configuration"]["wal"]["segment_bytes"].is_u64(), "{environment}");
    let text = String::from_utf8(perf(&["collect-env"]).stdout).unwrap();
    assert!(text.lines().any(|line| line.starts_with("kernel ")), "{text}");
}

#[test]
fn a_baseline_that_cannot_be_read_is_an_error_before_anything_is_counted() {
    let ran = perf(&["baseline", "--check", "/no/such/baseline.json"]);
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success() && errors.contains("/no/such/baseline.json"), "{errors}");
}

#[test]
fn five_nodes_replicate_too() {
    let ran = perf(&[&["floor", "--nodes", "5", "--outstanding", "4"], &SHORT[..]].concat());
    assert_eq!(json(&ran)["rows"][3]["work"].as_array().unwrap().len(), 6, "a client and five nodes");
}

#[test]
fn bad_arguments_are_refused_with_the_bound() {
    let cases: [(&[&str], &str); 6] = [
        (&["floor", "--size", "0"], "--size"),
        (&["floor", "--entries-per-datagram", "6"], "5 entries of 256 bytes"),
        (&["floor", "--seconds", "0"], "--seconds"),
        (&["floor", "--dir", "/no/such/place"], "/no/such/place"),
        (&["floor", "--report", "/proc/no/report"], "/proc/no/report"),
        (&["bench", "--rate", "5"], "--mode open"),
    ];
    for (arguments, told) in cases {
        let ran = perf(arguments);
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(!ran.status.success() && errors.contains(told), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_program_that_is_no_skeleton_is_an_error() {
    let ran = perf(&["against", "--skel", "/bin/true", "--rounds", "1", "--milliseconds", "200"]);
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success() && errors.contains("/bin/true"), "{errors}");
}

#[test]
fn an_interrupted_measurement_leaves_nothing_behind() {
    let parent = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_synod-perf"));
    command
        .args(["floor", "--outstanding", "1", "--rounds", "1000", "--seconds", "0.1"])
        .arg("--dir")
        .arg(parent.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The first line is the first round's: the measurement is under way.
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    assert!(line.starts_with("round 1"), "{line}");
    // SAFETY: sends a signal to a child that was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert!(!child.wait().unwrap().success() && rest.contains("interrupted"), "{rest}");
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
}
