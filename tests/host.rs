//! The host beneath a node, as the commands look at it and change it: `synod check`, `synod tune`, and `scripts/tune-host.sh`.

#[path = "support/nodes.rs"]
mod nodes;

use serde_json::Value;
use std::path::Path;

const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;

/// Runs `synod`, checks its exit code and gives (stdout, stderr).
fn run(code: i32, arguments: &[&str]) -> (String, String) {
    let output = nodes::synod().args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "synod {arguments:?}\nstdout: {out}\nstderr: {err}");
    (out, err)
}

/// A configuration below `dir` whose pipeline is pinned to a core.
fn config(dir: &Path, core: usize) -> String {
    let file = nodes::write_config(dir);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}[[group]]\ncore = {core}\n")).unwrap();
    file.to_str().unwrap().to_string()
}

/// This host, whatever it is like, can be looked at: what a node cannot do without is there (or no test of it would run), and each
/// condition that does not hold names its mend.
#[test]
fn check_looks_at_this_host() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = nodes::write_config(dir.path());
    let (out, _) = run(DONE, &["check", "--config", file.to_str().unwrap(), "--node", "0", "-o", "json"]);
    let findings: Vec<Value> = serde_json::from_str(&out).unwrap();
    let of = |name: &str| findings.iter().find(|finding| finding["condition"] == name).unwrap();
    for name in ["io_uring", "direct_io", "cores_present", "mtu"] {
        assert_eq!(of(name)["severity"], "ok", "{}", of(name));
    }
    for finding in &findings {
        let unknown = finding["current"].as_str().unwrap().starts_with("unknown: ");
        let mended = finding["severity"] == "ok" || finding["mend"] != "";
        assert!(unknown || mended, "{finding}");
    }
    let (table, _) = run(DONE, &["check"]);
    let first = table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(first, ["condition", "required", "current", "severity", "mend"]);
    assert_eq!(table.lines().count(), findings.len() + 1);
    assert!(table.contains("unknown: no node was named (--config and --node)"), "{table}");
}

#[test]
fn check_fails_where_something_required_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (file, root) = (config(dir.path(), 9), dir.path().join("root"));
    std::fs::create_dir_all(root.join("sys/devices/system/cpu")).unwrap();
    let check = ["check", "--root", root.to_str().unwrap(), "--config", &file, "--node", "0", "-o", "json"];
    let cores_present = |code: i32, online: &str, arguments: &[&str]| {
        std::fs::write(root.join("sys/devices/system/cpu/online"), online).unwrap();
        let (out, _) = run(code, &[&check, arguments].concat());
        let findings: Vec<Value> = serde_json::from_str(&out).unwrap();
        findings.into_iter().find(|finding| finding["condition"] == "cores_present").unwrap()
    };
    let missing = cores_present(FAILED, "0-7\n", &[]);
    assert_eq!((&missing["severity"], &missing["current"]), (&"required".into(), &"9 not online".into()));
    assert!(missing["mend"].as_str().unwrap().contains("name cores of 0-7"), "{missing}");
    assert_eq!(cores_present(DONE, "0-15\n", &[])["severity"], "ok");
    // What is recommended counts only where it is asked for.
    std::fs::create_dir_all(root.join("sys/kernel/mm/transparent_hugepage")).unwrap();
    std::fs::write(root.join("sys/kernel/mm/transparent_hugepage/enabled"), "[always] madvise never\n").unwrap();
    cores_present(DONE, "0-15\n", &[]);
    cores_present(FAILED, "0-15\n", &["--strict"]);
    run(USAGE, &["check", "--node", "0"]);
    run(USAGE, &["check", "--config", &file, "--node", "7"]);
    run(USAGE, &["check", "--nic", "../eth0"]);
}
