//! The commands that talk to nodes, against three real ones: what goes in comes out, byte for byte.

#[path = "support/nodes.rs"]
mod nodes;

use nodes::Cluster;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Output, Stdio};

fn stdout(output: &Output) -> &[u8] {
    assert!(output.status.success(), "{output:?}");
    &output.stdout
}

/// Appends `input` through stdin.
fn append(cluster: &Cluster, input: &[u8], arguments: &[&str]) -> Output {
    let mut command = cluster.command(&[&["append"], arguments].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// The sequences of an append's output, and that its timestamps never run backwards.
fn sequences(output: &Output) -> Vec<u64> {
    let text = String::from_utf8(stdout(output).to_vec()).unwrap();
    let mut last = 0;
    text.lines()
        .map(|line| {
            let (sequence, timestamp_ns) = line.split_once('\t').unwrap();
            let timestamp_ns: u64 = timestamp_ns.parse().unwrap();
            assert!(timestamp_ns >= last);
            last = timestamp_ns;
            sequence.parse().unwrap()
        })
        .collect()
}

const LINES: &[u8] = b"first\r\n\n  third \xff\x00\nlast without an end";

#[test]
fn what_is_appended_is_read_back_in_every_format_from_every_node() {
    let cluster = Cluster::start();
    assert_eq!(sequences(&append(&cluster, LINES, &[])), [1, 2, 3, 4]);
    for node in ["0", "1", "2"] {
        // A bounded read of a replica that lags fails rather than waits; following waits.
        let mut tail = cluster.command(&["tail", "--from", "1", "--node", node]);
        let mut tail = tail.stdout(Stdio::piped()).spawn().unwrap();
        let mut read = vec![0; LINES.len()];
        tail.stdout.as_mut().unwrap().read_exact(&mut read).unwrap();
        assert_eq!(read, LINES, "node {node}");
        let pid = rustix::process::Pid::from_child(&tail);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        assert!(tail.wait().unwrap().success());
        assert_eq!(stdout(&cluster.run(&["read", "--from", "1", "--node", node])), LINES);
    }
    let binary = cluster.run(&["read", "--from", "1", "--format", "binaryfile"]);
    let again = append(&cluster, stdout(&binary), &["--format", "binaryfile"]);
    assert_eq!(sequences(&again), [5, 6, 7, 8]);
    let read = |arguments: &[&str]| stdout(&cluster.run(&[&["read", "--from"], arguments].concat())).to_vec();
    assert_eq!(read(&["5", "--format", "raw"]), LINES);
    // The fourth entry has no LF: as lines, one is put between it and the next; raw, none.
    assert_eq!(read(&["4", "--count", "2"]), b"last without an end\nfirst\r\n");
    assert_eq!(read(&["4", "--count", "2", "--format", "raw"]), b"last without an endfirst\r\n");
    let short = cluster.run(&["read", "--from", "8", "--count", "2"]);
    assert_eq!(short.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&short.stderr).contains("only 1 of 2 entries"), "{short:?}");
    assert_eq!(stdout(&cluster.run(&["check-tail"])), b"8\n");
}

#[test]
fn appends_on_a_condition_and_of_a_client_that_comes_back() {
    let cluster = Cluster::start();
    let fails = |arguments: &[&str], reason: &str| {
        let output = append(&cluster, b"one\ntwo\n", arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
        assert!(error.contains("all before entry 1 is appended") && error.contains(reason), "{error}");
    };
    assert_eq!(sequences(&append(&cluster, b"one\ntwo\n", &["--match-sequence", "0"])), [1, 2]);
    fails(&["--match-sequence", "0"], "the log ended at sequence 2");
    assert_eq!(sequences(&append(&cluster, b"three\n", &["--match-sequence", "2", "--fence", "7"])), [3]);
    fails(&["--fence", "6"], "a token of 7 was seen");
    assert_eq!(sequences(&append(&cluster, b"four\nfive\n", &["--fence", "7"])), [4, 5]);

    let ask = |arguments: &[&str]| cluster.run(&[&["last-committed", "--client-id", "0xabc"], arguments].concat());
    let none = ask(&[]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("client 0xabc has no such session"), "{none:?}");
    assert_eq!(sequences(&append(&cluster, b"six\n", &["--client-id", "0xabc"])), [6]);
    let report: serde_json::Value = serde_json::from_slice(stdout(&ask(&["-o", "json"]))).unwrap();
    assert_eq!((&report["client_id"], &report["last_committed"]), (&"0xabc".into(), &1.into()), "{report}");
    let number = report["session"].to_string();
    // The same input again, and one line more: the first is there already, and is told again.
    let again = append(&cluster, b"six\nseven\n", &["--client-id", "0xabc", "--session", &number]);
    assert_eq!(sequences(&again), [6, 7]);
    assert_eq!(stdout(&ask(&["--session", &number])), format!("2\tsession {number}\n").as_bytes());
    let another = append(&cluster, b"six\n", &["--client-id", "0xabc", "--session", "1000000"]);
    assert_eq!(another.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&another.stderr).contains("evicted"), "{another:?}");
    assert_eq!(stdout(&cluster.run(&["read", "--from", "1"])), b"one\ntwo\nthree\nfour\nfive\nsix\nseven\n");
    for bad in [&["append", "--fence", "0"][..], &["append", "--session", "3"], &["last-committed", "--client-id", "0"]]
    {
        assert_eq!(cluster.run(bad).status.code(), Some(2), "{bad:?}");
    }
}

/// What a command printed and ended with, its errors included.
fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_client_that_comes_back_is_told_the_outcomes_that_it_was_told() {
    let cluster = Cluster::start();
    let run = |input: &[u8], arguments: &[&str]| append(&cluster, input, arguments);
    let at = ["--client-id", "7", "--match-sequence", "99"];
    for retry in [false, true] {
        let (code, out, error) = said(&run(b"a\n", &at));
        let refused = "all before entry 1 is appended, and nothing from it on: entries 1..=1 were not appended: the log ended at \
                       sequence 0";
        assert!((code, &out[..]) == (Some(1), "") && error.contains(refused), "{error}");
        assert!(error.contains("client 0x7, session ") && error.contains("nothing is decided on") != retry, "{error}");
    }
    // Whatever the retry asks for instead, and although the log ends at 0.
    for other in [&["--client-id", "7"][..], &["--client-id", "7", "--match-sequence", "0"]] {
        let (code, out, error) = said(&run(b"a\nb\n", other));
        assert!((code, &out[..]) == (Some(1), "") && error.contains("all before entry 1 is appended"), "{error}");
    }
    // The first two have their places, and only the third is asked about.
    let chain = ["--client-id", "8", "--match-sequence", "0"];
    let first = run(b"a\nb\n", &chain);
    assert_eq!(sequences(&first), [1, 2]);
    let second = run(b"a\nb\nc\n", &chain);
    assert_eq!(sequences(&second), [1, 2, 3]);
    assert!(second.stdout.starts_with(&first.stdout), "the timestamps are the same, too");
    assert_eq!(sequences(&run(b"x\n", &[])), [4]);
    let (code, out, error) = said(&run(b"a\nb\nc\nd\n", &chain));
    assert!(code == Some(1) && out.lines().count() == 3 && error.contains("all before entry 4 is appended"), "{error}");
    // A higher token comes too late for the entry that was fenced, and nothing overtakes it.
    assert_eq!(sequences(&run(b"x\n", &["--fence", "7"])), [5]);
    for (token, input) in [("6", &b"a\n"[..]), ("8", b"a\nb\n")] {
        let (code, out, error) = said(&run(input, &["--client-id", "9", "--fence", token]));
        assert!((code, &out[..]) == (Some(1), "") && error.contains("a token of 7 was seen"), "{error}");
    }
    assert_eq!(stdout(&cluster.run(&["check-tail"])), b"5\n");
}

#[test]
fn as_many_outcomes_are_told_again_as_are_kept() {
    let cluster = Cluster::start();
    let input: Vec<u8> = (1..=1_100).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
    assert_eq!(sequences(&append(&cluster, &input, &["--client-id", "7"])), (1..=1_100).collect::<Vec<u64>>());
    let more = [&input[..], b"one more\n"].concat();
    let again = append(&cluster, &more, &["--client-id", "7"]);
    assert_eq!(sequences(&again), (77..=1_101).collect::<Vec<u64>>());
    let (_, _, error) = said(&again);
    assert!(error.contains("entries 1 to 76 were decided on so long ago") && !error.contains("warning"), "{error}");
    let quiet = append(&cluster, &more, &["--client-id", "0x7", "--quiet", "-o", "json"]);
    let summary: serde_json::Value = serde_json::from_slice(stdout(&quiet)).unwrap();
    assert_eq!((&summary["entries"], &summary["client_id"]), (&1_024.into(), &"0x7".into()), "{summary}");
    assert!(error.contains(&format!("client 0x7, session {}\n", summary["session"])), "{error}");
    assert_eq!(stdout(&cluster.run(&["read", "--from", "1"])), more);
    let chained = append(&cluster, &[&more[..], b"and one\n"].concat(), &["--client-id", "7", "--match-sequence", "0"]);
    assert_eq!(sequences(&chained).last(), Some(&1_102), "it goes behind the one before it: {chained:?}");
    assert_eq!(sequences(&append(&cluster, b"x\n", &[])), [1_103]);
    let input = [&more[..], b"and one\nand two\n"].concat();
    let (code, _, error) = said(&append(&cluster, &input, &["--client-id", "7", "--match-sequence", "0"]));
    assert!(code == Some(1) && error.contains("all from entry 79 on before entry 1103 is appended"), "{error}");
}

#[test]
fn an_unknown_outcome_is_found_out_by_what_the_error_names() {
    let mut cluster = Cluster::start();
    let mut command = cluster.command(&["append", "--deadline-ms", "500"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    input.write_all(b"one\n").unwrap();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line.starts_with("1\t"), "{line}");
    for node in 0..3 {
        assert!(cluster.stop_node(node).success());
    }
    input.write_all(b"two\n").unwrap();
    drop(input);
    let (code, _, error) = said(&child.wait_with_output().unwrap());
    assert!(code == Some(1) && error.contains("1 entries acknowledged, 1 without an answer"), "{error}");
    let named: Vec<&str> = error.split_whitespace().skip_while(|word| *word != "--client-id").take(4).collect();
    for node in 0..3 {
        cluster.start_node(node);
    }
    let again = append(&cluster, b"one\ntwo\n", &[named[0], named[1], named[2], named[3].trim_end_matches(':')]);
    assert_eq!(sequences(&again), [1, 2]);
    assert!(again.stdout.starts_with(line.as_bytes()));
    assert_eq!(stdout(&cluster.run(&["read", "--from", "1"])), b"one\ntwo\n");
}

#[test]
fn acknowledgements_come_while_the_input_pauses() {
    let cluster = Cluster::start();
    let mut command = cluster.command(&["append"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    for sequence in 1..=3 {
        writeln!(input, "entry {sequence}").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.starts_with(&format!("{sequence}\t")), "{line}");
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_entry_that_is_too_large_is_named_and_all_before_it_is_kept() {
    let cluster = Cluster::start();
    let input = [b"one\ntwo\n", &vec![b'x'; 1_351][..]].concat();
    let output = append(&cluster, &input, &[]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count(), 2, "{output:?}");
    assert!(error.contains("entry 3") && error.contains("1350 bytes") && error.contains("max_batch_bytes"), "{error}");
    let output = append(&cluster, &[b'y'; 1_350], &["--quiet", "-o", "json"]);
    let summary: serde_json::Value = serde_json::from_slice(stdout(&output)).unwrap();
    assert!(summary["entries"] == 1 && summary["p50_us"].as_u64().unwrap() > 0, "{summary}");
    let expected = [b"one\ntwo\n", &[b'y'; 1_350][..]].concat();
    assert_eq!(stdout(&cluster.run(&["read", "--from", "1"])), expected);
}

#[test]
fn status_shows_roles_and_a_cluster_that_ends_cleanly_verifies() {
    let mut cluster = Cluster::start();
    let many: Vec<u8> = (0..5_000).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
    assert_eq!(sequences(&append(&cluster, &many, &[])), (1..=5_000).collect::<Vec<u64>>());
    assert_eq!(stdout(&cluster.run(&["read", "--from", "1"])), many);
    let output = cluster.run(&["status", "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_slice(stdout(&output)).unwrap();
    let states: Vec<_> = rows.as_array().unwrap().iter().map(|row| &row["state"]).collect();
    assert_eq!(states.iter().filter(|state| state["role"] == "leader").count(), 1, "{rows}");
    assert!(states.iter().all(|state| state["counters"]["turns"].as_u64().unwrap() > 0), "{rows}");
    assert_eq!(states.iter().filter_map(|state| state["tail"].as_u64()).max(), Some(5_000));
    let dirs: Vec<String> = (0..3).map(|node| cluster.node_dir(node).display().to_string()).collect();
    let verify = || nodes::synod().arg("verify").args(&dirs).output().unwrap();
    let in_use = verify();
    assert!(
        in_use.status.code() == Some(1) && String::from_utf8_lossy(&in_use.stderr).contains("in use"),
        "{in_use:?}"
    );
    for node in 0..3 {
        assert!(cluster.stop_node(node).success(), "node {node}");
    }
    let report = String::from_utf8(stdout(&verify()).to_vec()).unwrap();
    assert!(report.contains("sequences 1 to 5000 without a gap") && report.contains("no problem found"), "{report}");
}
