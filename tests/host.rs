//! The host beneath a node, as the commands look at it and change it: `synod check`, `synod tune`, and `scripts/tune-host.sh`.

mod common;
#[path = "support/nodes.rs"]
mod nodes;

use common::host::{Cleanup, privileged};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

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
fn check_fails_where_a_host_lacks_something_required() {
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

/// Files of a host on which some things are not as they should be.
const TREE: [(&str, &str); 12] = [
    ("sys/devices/system/cpu/online", "0-3\n"),
    ("sys/devices/system/cpu/isolated", "\n"),
    ("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "powersave\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"),
    ("proc/irq/default_smp_affinity", "0000000f\n"),
    ("proc/irq/9/smp_affinity_list", "0-3\n"),
    ("proc/irq/9/effective_affinity_list", "0\n"),
    ("proc/irq/36/smp_affinity_list", "2\n"),
    ("proc/swaps", "Filename Type\n/dev/sda3 partition 9 0 -2\n"),
    ("proc/sys/vm/swappiness", "60\n"),
    ("sys/class/net/eth0/queues/rx-0/rps_cpus", "00000004\n"),
    ("sys/class/net/eth0/mtu", "1500\n"),
];

fn write_tree(root: &Path) {
    for (name, text) in TREE {
        std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        std::fs::write(root.join(name), text).unwrap();
    }
}

fn read_tree(root: &Path) -> Vec<String> {
    TREE.iter().map(|(name, _)| std::fs::read_to_string(root.join(name)).unwrap()).collect()
}

#[test]
fn tune_changes_a_recorded_host_and_takes_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let (file, root) = (config(dir.path(), 2), dir.path().join("root"));
    write_tree(&root);
    let (before, root_name) = (read_tree(&root), root.to_str().unwrap());
    let host = ["--root", root_name, "--config", &file, "--node", "0", "--nic", "eth0"];
    let tune = |code: i32, command: &str, arguments: &[&str]| {
        let (out, _) = run(code, &[&["tune", command], host.as_slice(), arguments].concat());
        out
    };
    let listed = tune(DONE, "list", &[]);
    assert!(listed.contains("huge_pages"), "{listed}");
    let by_hand = listed.split_once("By hand").unwrap().1;
    assert!(by_hand.contains("isolation (not 2): add isolcpus=managed_irq,domain,2 to the kernel's command line"));
    let list: Value = serde_json::from_str(&tune(DONE, "list", &["-o", "json"])).unwrap();
    let knobs: Vec<_> = list["knobs"].as_array().unwrap().iter().map(|row| row["knob"].as_str().unwrap()).collect();
    assert_eq!(knobs, names_of_the_script());

    let planned = tune(DONE, "apply", &["--dry-run"]);
    assert_eq!(read_tree(&root), before);
    let applied = tune(DONE, "apply", &[]);
    assert_eq!(applied, planned);
    for line in [
        "governor: /sys/devices/system/cpu/cpu2/cpufreq/scaling_governor: powersave -> performance",
        "huge_pages: /sys/kernel/mm/transparent_hugepage/enabled: always -> madvise",
        "interrupts: /proc/irq/36/smp_affinity_list: 2 -> 0-1,3",
        "interrupts: /proc/irq/default_smp_affinity: 0000000f -> b",
        "swap: /proc/sys/vm/swappiness: 60 -> 1",
        "receive_steering: /sys/class/net/eth0/queues/rx-0/rps_cpus: 00000004 -> 0",
    ] {
        assert!(applied.lines().any(|found| found == line), "{line}\nnot in\n{applied}");
    }
    assert_eq!(applied.lines().count(), 6, "{applied}");
    let after = read_tree(&root);
    assert_eq!((tune(DONE, "apply", &[]).as_str(), &read_tree(&root)), ("", &after));
    // The default place is the host's own.
    assert!(root.join("var/lib/synod/tune.json").exists());
    run(DONE, &["tune", "revert", "--root", root_name, "--dry-run"]);
    assert_eq!(read_tree(&root), after);
    let (reverted, _) = run(DONE, &["tune", "revert", "--root", root_name, "-o", "json"]);
    assert_eq!(reverted.lines().count(), 6, "{reverted}");
    assert_eq!(read_tree(&root), before);
    assert_eq!(run(DONE, &["tune", "revert", "--root", root_name]).0, "");
    run(USAGE, &["tune", "apply", "--only", "everything"]);
}

fn names_of_the_script() -> Vec<String> {
    let listed = Command::new("scripts/tune-host.sh").arg("list").output().unwrap();
    String::from_utf8(listed.stdout).unwrap().lines().map(String::from).collect()
}

#[test]
fn a_written_script_changes_a_host_as_tune_does() {
    let dir = tempfile::tempdir().unwrap();
    let (file, root, script) = (config(dir.path(), 2), dir.path().join("it's root"), dir.path().join("tune.sh"));
    write_tree(&root);
    let (before, root_name, script_name) = (read_tree(&root), root.to_str().unwrap(), script.to_str().unwrap());
    let host = ["--root", root_name, "--config", &file, "--node", "0", "--nic", "eth0"];
    let apply = |more: &[&str]| run(DONE, &[&["tune", "apply"], host.as_slice(), more].concat()).0;
    let written = apply(&["--output-script", "-"]);
    assert_eq!(apply(&["--output-script", script_name]), "");
    assert_eq!(std::fs::read_to_string(&script).unwrap(), written);
    assert_eq!(read_tree(&root), before, "writing a script changes nothing");
    let sh = |argument: &str| {
        let output = Command::new(&script).arg(argument).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let planned = apply(&["--dry-run"]);
    assert_eq!(sh("apply"), planned, "the script prints what the command prints");
    assert_eq!((sh("apply").as_str(), apply(&["--dry-run"]).as_str()), ("", ""));
    assert_eq!(sh("revert").lines().count(), planned.lines().count());
    assert_eq!(read_tree(&root), before);
}

const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// The word in brackets.
fn huge_pages() -> String {
    let text = std::fs::read_to_string(THP).unwrap();
    text.split_once('[').unwrap().1.split_once(']').unwrap().0.to_string()
}

/// The one knob of the real host that a test may turn for a moment.
#[test]
fn a_knob_of_the_real_host_is_turned_and_turned_back() {
    if !privileged("a_knob_of_the_real_host_is_turned_and_turned_back", &[]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("tune.json");
    let tune = |command: &str, more: &[&str]| {
        let state = ["--only", "huge_pages", "--state", state.to_str().unwrap()];
        run(DONE, &[&["tune", command], state.as_slice(), more].concat()).0
    };
    // Whatever becomes of the test.
    let _restored = Cleanup::promise(&[format!("echo {} >{THP}", huge_pages())]);
    std::fs::write(THP, "always").unwrap();
    assert_eq!(tune("apply", &["--dry-run"]), format!("huge_pages: {THP}: always -> madvise\n"));
    assert_eq!(huge_pages(), "always");
    assert_eq!(tune("apply", &[]), format!("huge_pages: {THP}: always -> madvise\n"));
    assert_eq!(huge_pages(), "madvise");
    assert_eq!(tune("apply", &[]), "");
    assert_eq!(tune("revert", &[]), format!("huge_pages: {THP}: madvise -> always\n"));
    assert_eq!((huge_pages().as_str(), state.exists()), ("always", false));
    // The same by the plain script.
    let script = |command: &str| {
        let mut run = Command::new("scripts/tune-host.sh");
        run.args(["--only", "huge_pages", "--state", state.to_str().unwrap(), command]).env_remove("SYNOD_ROOT");
        let output = run.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    script("apply");
    assert_eq!(huge_pages(), "madvise");
    script("revert");
    assert_eq!(huge_pages(), "always");
}
