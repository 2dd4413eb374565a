//! `synod iotune` and `synod jitter` on a real directory and real cores, shortly.

#[path = "support/nodes.rs"]
mod nodes;

use nodes::synod;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// On the real disk where the build lies: /tmp may be a tmpfs.
fn disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn succeeded(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn iotune_measures_a_directory_and_proposes_what_validates() {
    let (disk, out) = (disk(), tempfile::tempdir().unwrap());
    let (fragment, log) = (out.path().join("proposed.toml"), out.path().join("writes.hlog"));
    let mut command = synod();
    command
        .args(["iotune", "--seconds", "1", "-o", "json", "--nodes", "5", "--rtt-us", "200", "--dir"])
        .arg(disk.path());
    let found = json(&succeeded(command.arg("--write").arg(&fragment).arg("--histogram").arg(&log)));
    assert_eq!(entries(disk.path()), 0, "nothing stays behind");

    let rows = found["rows"].as_array().unwrap();
    for (way, depth) in [("ring", 1), ("ring", 8), ("thread", 1), ("inline", 1), ("unwritten", 1), ("buffered", 1)] {
        let row = rows.iter().find(|row| row["way"] == way && row["depth"] == depth && row["block_bytes"] == 4_096);
        let row = row.unwrap_or_else(|| panic!("no {way} with {depth} in flight: {rows:#?}"));
        let of = |key: &str| row[key].as_f64().unwrap();
        assert!(of("operations") > 0.0 && of("per_second") > 0.0 && of("bytes_per_second") > 0.0, "{row}");
        assert!(0.0 < of("p50_us") && of("p50_us") <= of("p99_us") && of("p99_us") <= of("max_us"), "{row}");
    }
    assert!(rows.iter().any(|row| row["block_bytes"] == 262_144));

    let predicted = |key: &str| found["prediction"][key].as_f64().unwrap();
    assert_eq!((predicted("members"), predicted("votes"), predicted("round_trip_us")), (5.0, 3.0, 200.0));
    assert!(predicted("commit_p50_us") > 400.0, "two round trips and a write: {}", found["prediction"]);
    assert!(predicted("commit_p50_us") <= predicted("commit_p99_us"));

    // The fragment, behind nodes, is a configuration.
    let default = String::from_utf8(succeeded(synod().args(["config", "default"])).stdout).unwrap();
    let nodes: String = default.split_inclusive('\n').take_while(|line| !line.starts_with("[cpu]")).collect();
    let whole = out.path().join("synod.toml");
    std::fs::write(&whole, nodes + &std::fs::read_to_string(&fragment).unwrap()).unwrap();
    succeeded(synod().args(["config", "validate"]).arg(&whole));
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("Tag=ring-4kib-1,") && log.contains("Tag=buffered-4kib-1,"), "{log}");

    // A file that is no proposal is not written over.
    let before = std::fs::read(&whole).unwrap();
    let refused =
        synod().args(["iotune", "--seconds", "1", "--dir"]).arg(disk.path()).arg("--write").arg(&whole).output();
    assert_eq!(refused.unwrap().status.code(), Some(2));
    assert_eq!(std::fs::read(&whole).unwrap(), before);
}

#[test]
fn iotune_says_what_directory_it_cannot_measure() {
    let text = |dir: &str| {
        let output = synod().args(["iotune", "--dir", dir]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(text("/no/such/place").contains("is no directory"));
    assert!(text("/dev/shm").contains("lies in memory"), "a RAM disk");
}

/// A command that runs; killed if the test ends before it.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Running {
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    /// Whether it holds a file open below `dir`.
    fn holds_file_in(&self, dir: &Path) -> bool {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.0.id())).unwrap();
        open.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()).any(|file| file.starts_with(dir))
    }

    /// SIGINT, and what it said until it ended: its exit code, stdout and stderr.
    fn interrupt(mut self) -> (Option<i32>, String, String) {
        kill_process(self.pid(), Signal::INT).unwrap();
        let began = Instant::now();
        let (mut out, mut err) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let status = self.0.wait().unwrap();
        assert!(began.elapsed() < SOON, "it ended late");
        (status.code(), out, err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already or killed now: either is the end of it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn await_that(what: &str, held: impl Fn() -> bool) {
    let began = Instant::now();
    while !held() {
        assert!(began.elapsed() < SOON, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn iotune_ends_at_sigint_and_leaves_nothing() {
    let disk = disk();
    let running = Running::start(synod().args(["iotune", "--seconds", "3600", "--dir"]).arg(disk.path()));
    await_that("it writes", || running.holds_file_in(disk.path()));
    let (code, out, err) = running.interrupt();
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains("interrupted"), "{err}");
    assert_eq!(entries(disk.path()), 0);
}

#[test]
fn jitter_watches_cores_and_sees_who_takes_them() {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("gaps.hgrm");
    // Somebody else on the first core that this test may use.
    let own = rustix::thread::sched_getaffinity(None).unwrap();
    let core = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| own.is_set(*cpu)).unwrap();
    let done = AtomicBool::new(false);
    let found = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut only = rustix::thread::CpuSet::new();
            only.set(core);
            rustix::thread::sched_setaffinity(None, &only).unwrap();
            while !done.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let output = synod().args(["jitter", "--seconds", "1", "-o", "json", "--histogram"]).arg(&file).output();
        done.store(true, Ordering::Relaxed);
        output.unwrap()
    });
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let cores = json(&found);
    let cores = cores.as_array().unwrap();
    assert_eq!(cores.len(), own.count() as usize, "every core that it may use");
    let shared = cores.iter().find(|row| row["core"] == core).unwrap();
    assert!(shared["seconds"].as_f64().unwrap() >= 1.0);
    assert!(shared["max_us"].as_f64().unwrap() > 1_000.0 && shared["above"][2].as_u64().unwrap() > 0, "{shared}");
    assert!(shared["preempted"].as_u64().unwrap() > 0 && shared["lost"].as_f64().unwrap() > 0.1, "{shared}");
    let verdict = shared["verdict"].as_str().unwrap();
    assert!(verdict.contains("another thread gets the core"), "{verdict}");
    // Where it sends its reader, there is something to read.
    let section = verdict.split('"').nth(1).unwrap();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tuning.md")).unwrap();
    assert!(page.contains(&format!("## {section}\n")), "tuning.md has no section {section:?}");
    assert!(std::fs::read_to_string(file).unwrap().contains("TotalCount"));
}

#[test]
fn jitter_tells_what_it_saw_when_interrupted_and_refuses_cores_that_are_not_there() {
    let running = Running::start(synod().args(["jitter", "--seconds", "3600"]));
    let threads = format!("/proc/{}/task", running.0.id());
    let meters = || {
        let names = std::fs::read_dir(&threads)
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("jitter-")).count()
    };
    await_that("a core is watched", || meters() > 0);
    let (code, out, err) = running.interrupt();
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("p99.99 us") && out.contains("preempted"), "{out}");
    let refused = synod().args(["jitter", "--cores", "1023"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}
