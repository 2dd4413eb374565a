//! The demo holds what it promises, with an input that has every kind of line end and an entry longer than a frame of
//! Ethernet.

#[path = "support/nodes.rs"]
mod nodes;

use std::io::Write;

#[test]
fn the_demo_survives_the_death_of_its_leader_with_an_awkward_input() {
    let mut input = tempfile::NamedTempFile::new().unwrap();
    let long = "x".repeat(3_000);
    write!(input, "plain\ncarriage return\r\n\n\n{long}\n\u{fffd} \0 end without a line feed").unwrap();
    let mut command = nodes::synod();
    command.args(["demo", "--keep", "-o", "json", "--input"]).arg(input.path());
    let output = command.env("TMPDIR", env!("CARGO_TARGET_TMPDIR")).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert!(output.status.success() && report["ok"] == true, "{report:#}");
    let entries = report["entries"].as_u64().unwrap();
    assert!(entries >= 6 && entries.is_multiple_of(6) && report["seconds"].as_f64().unwrap() >= 5.0, "{report:#}");
    assert_eq!(report["input"]["longest_entry_bytes"], 3_001);
    assert!(report["failover"]["in_flight"].as_u64().unwrap() > 0, "{report:#}");
    assert_ne!(report["failover"]["killed_node"], report["failover"]["new_leader"]);
    for node in report["read_back"].as_array().unwrap() {
        assert!(node["identical"] == true && node["entries"].as_u64() == Some(entries), "{report:#}");
    }
    assert_eq!(report["verify"]["groups"][0]["tail"].as_u64(), Some(entries));
    let kept = std::path::Path::new(report["kept"].as_str().unwrap());
    assert!(kept.starts_with(env!("CARGO_TARGET_TMPDIR")) && kept.join("node-2/group-000").is_dir());
    std::fs::remove_dir_all(kept).unwrap();
}
