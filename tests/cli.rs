//! The binary as its users meet it: what each command prints, and its exit codes.

#[path = "support/nodes.rs"]
mod nodes;
mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use support::{cluster, edit, value_with};

const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const UNAVAILABLE: i32 = 3;

fn synod(arguments: &[&str]) -> Output {
    nodes::synod().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Checks the exit code and gives (stdout, stderr).
fn run(code: i32, arguments: &[&str]) -> (String, String) {
    let output = synod(arguments);
    let (out, err) = (text(&output.stdout).to_string(), text(&output.stderr).to_string());
    assert_eq!(output.status.code(), Some(code), "synod {arguments:?}\nstdout: {out}\nstderr: {err}");
    (out, err)
}

/// A configuration of three nodes below `dir` that do not run.
fn config(dir: &Path) -> String {
    nodes::write_config(dir).to_str().unwrap().to_string()
}

#[test]
fn the_default_configuration_is_valid_and_shown_with_origins() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let (default, _) = run(DONE, &["config", "default"]);
    std::fs::write(&file, &default).unwrap();
    let file = file.to_str().unwrap();
    let (out, _) = run(DONE, &["config", "validate", file]);
    assert!(out.contains("valid; 3 node(s), 1 group(s)"), "{out}");
    let (out, _) = run(DONE, &["config", "show", file]);
    let line = default.lines().position(|line| line.starts_with("max_batch_bytes")).unwrap() + 1;
    let shown = out.lines().find(|shown| shown.starts_with("max_batch_bytes = 1408")).unwrap();
    assert!(shown.ends_with(&format!("# line {line}")), "{shown}");
    let (out, _) = run(DONE, &["config", "show", file, "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_str(&out).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["key"] == "wal.arena_bytes").unwrap();
    assert_eq!((&row["value"], row["origin"].as_str().unwrap().starts_with("line ")), (&"33554432".into(), true));
}

#[test]
fn the_memory_table_adds_up() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path());
    let (out, _) = run(DONE, &["config", "show", "--memory", &file]);
    assert!(out.contains("log arena") && out.contains("wal.arena_bytes") && out.contains("total"), "{out}");
    let (out, _) = run(DONE, &["config", "show", "--memory", &file, "-o", "json"]);
    let memory: serde_json::Value = serde_json::from_str(&out).unwrap();
    let pools = memory["pools"].as_array().unwrap();
    let sum: u64 = pools.iter().map(|pool| pool["total_bytes"].as_u64().unwrap()).sum();
    assert_eq!(Some(sum), memory["total_bytes"].as_u64());
}

#[test]
fn a_wrong_configuration_is_refused_with_line_key_and_mend() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path());
    let mut appending = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
    appending.write_all(b"[net]\nmax_batch_byte = 3\nmax_events = 1\n").unwrap();
    let lines = std::fs::read_to_string(&file).unwrap().lines().count();
    let (out, err) = run(FAILED, &["config", "validate", &file]);
    assert!(out.is_empty(), "{out}");
    let place = format!("{file}:{}: net.max_batch_byte: unknown field", lines - 1);
    assert!(err.contains(&place) && err.contains("config default"), "{err}");
    for command in ["start", "format"] {
        let (_, again) = run(FAILED, &[command, "--config", &file, "--node", "0"]);
        assert!(again.contains(&place), "{again}");
    }
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path());
    run(USAGE, &[]);
    run(USAGE, &["sing"]);
    run(USAGE, &["read", "--config", &file]);
    run(USAGE, &["read", "--config", &file, "--from", "0"]);
    run(USAGE, &["append", "--config", &file, "-o", "json"]);
    run(USAGE, &["evidence", "--config", &file]);
    run(USAGE, &["evidence", "--sequence", "1"]);
    run(USAGE, &["evidence", "--config", &file, "--sequence", "0"]);
    run(USAGE, &["evidence", "--config", &file, "--sequence", "1", "--slot", "1"]);
    run(USAGE, &["evidence", "--config", &file, "--dir", "/", "--slot", "1"]);
    run(USAGE, &["evidence", "--config", &file, "--group", "1", "--slot", "1"]);
    let (_, err) = run(USAGE, &["start", "--config", &file, "--node", "7"]);
    assert!(err.contains("node 7 is not in the configuration, which has 0, 1, 2"), "{err}");
    let (_, err) = run(USAGE, &["check-tail", "--config", &file, "--group", "1"]);
    assert!(err.contains("--group must be 0 to 0"), "{err}");
    run(DONE, &["--help"]);
    run(DONE, &["--version"]);
}

#[test]
fn without_nodes_nothing_is_available() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path());
    let (out, err) = run(UNAVAILABLE, &["check-tail", "--config", &file]);
    assert!(out.is_empty() && err.contains("3 members"), "{out}{err}");
    let (out, _) = run(UNAVAILABLE, &["status", "--config", &file, "--timeout-ms", "100"]);
    assert_eq!(out.matches("unreachable").count(), 3, "{out}");
    let (out, _) = run(UNAVAILABLE, &["status", "--config", &file, "--timeout-ms", "100", "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(rows.as_array().unwrap().len() == 3 && rows[0]["reachable"] == false, "{out}");
    let (out, err) = run(UNAVAILABLE, &["evidence", "--config", &file, "--sequence", "1", "--timeout-ms", "100"]);
    assert!(out.is_empty() && err.contains("3 members"), "{out}{err}");
    let input = dir.path().join("input");
    std::fs::write(&input, "a line\n").unwrap();
    let input = input.to_str().unwrap();
    run(UNAVAILABLE, &["append", "--config", &file, "--input", input, "--deadline-ms", "300"]);
    let (_, err) = run(FAILED, &["append", "--config", &file, "--input", "/nonexistent"]);
    assert!(err.contains("cannot open the input"), "{err}");
}

#[test]
fn a_directory_is_formatted_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path());
    let (out, _) = run(DONE, &["format", "--config", &file, "--node", "1"]);
    assert!(out.contains("node 1 is formatted"), "{out}");
    let (_, err) = run(FAILED, &["format", "--config", &file, "--node", "1"]);
    assert!(err.contains("already holds a log"), "{err}");
    let (_, err) = run(FAILED, &["start", "--config", &file, "--node", "0"]);
    assert!(err.contains("holds no log") && err.contains("Format it"), "{err}");
    let log = dir.path().join("node-1/group-000");
    let (out, _) = run(DONE, &["inspect", "wal", log.to_str().unwrap()]);
    assert!(out.contains("configuration") && out.contains("members 0, 1, 2; phase 1 2, phase 2 2"), "{out}");
}

#[test]
fn inspect_lists_records_trailers_and_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (dirs, places) = cluster(dir.path(), 8, |_, _| None);
    let log = dirs[0].join("group-000");
    let log = log.to_str().unwrap();
    let (out, _) = run(DONE, &["inspect", "wal", log, "-o", "json"]);
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let what = |what: &str| lines.iter().filter(|line| line["what"] == what).count();
    assert_eq!((what("accepted"), what("chosen"), what("promised"), what("damage")), (8, 2, 1, 0), "{out}");
    assert!(what("trailer") >= 2 && lines.iter().all(|line| line["crc_ok"] == true), "{out}");
    let slot = lines.iter().find(|line| line["slot"] == 3 && line["what"] == "accepted").unwrap();
    assert_eq!((slot["pos"].as_u64(), slot["ballot"].as_str()), (Some(places[0][3].unwrap().pos), Some("1.0")));
    edit(&dirs[0], places[0][3].unwrap(), |bytes| bytes[70] ^= 1);
    let (out, _) = run(DONE, &["inspect", "wal", log]);
    assert!(out.contains("damage") && out.contains("accepted at slot 3") && out.contains("BAD"), "{out}");
}

#[test]
fn verify_tells_sound_logs_from_unsound_ones_with_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let (dirs, places) = cluster(&dir.path().join("sound"), 8, |_, _| None);
    let names: Vec<&str> = dirs.iter().map(|dir| dir.to_str().unwrap()).collect();
    let verify: Vec<&str> = ["verify"].into_iter().chain(names.iter().copied()).collect();
    let (out, _) = run(DONE, &verify);
    assert!(out.contains("slots 1 to 8 chosen, sequences 1 to 7") && out.contains("no problem found"), "{out}");

    let place = places[1][5].unwrap();
    edit(&dirs[1], place, |bytes| bytes[80] ^= 1);
    let (out, _) = run(FAILED, &verify);
    let pos = format!("node-1/group-000/0000000000000000.seg, position {}, lsn ", place.pos);
    assert!(out.contains(&pos) && out.contains("slot 5: damage"), "{out}");

    let other = |node, slot| (node == 2 && slot == 4).then(|| Some(value_with(4, "another")));
    let (dirs, _) = cluster(&dir.path().join("conflicting"), 8, other);
    let mut arguments = vec!["verify", "-o", "json"];
    arguments.extend(dirs.iter().map(|dir| dir.to_str().unwrap()));
    let (out, _) = run(FAILED, &arguments);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let conflict =
        report["problems"].as_array().unwrap().iter().find(|problem| problem["fault"] == "conflict").unwrap();
    assert_eq!(
        (report["ok"].as_bool(), conflict["node"].as_u64(), conflict["slot"].as_u64()),
        (Some(false), Some(2), Some(4))
    );
    run(FAILED, &["verify", dir.path().to_str().unwrap()]);
    run(USAGE, &["verify"]);
}

#[test]
fn a_closed_stdout_ends_a_command_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let (dirs, _) = cluster(dir.path(), 400, |_, _| None);
    let log = dirs[0].join("group-000");
    let mut child = nodes::synod()
        .args(["inspect", "wal", log.to_str().unwrap(), "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The listing is longer than a pipe holds, so that the command meets the closed end.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(DONE), ""));
}
