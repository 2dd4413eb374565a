//! What a node tells a service manager, with a real socket in systemd's place: when it serves, that it lives, that it stops.

#[path = "support/nodes.rs"]
mod nodes;

use nodes::synod;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// How long the "service manager" waits for a pat; the node pats three times as often.
const WATCHDOG: Duration = Duration::from_millis(300);

/// A cluster of one node, and the socket that the node tells.
struct Host {
    dir: TempDir,
    config: PathBuf,
    manager: UnixDatagram,
}

impl Host {
    fn new() -> Host {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let sockets: Vec<_> = (0..2).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
        let port = |at: usize| sockets[at].local_addr().unwrap();
        let text = format!(
            "[wal]\nsegment_bytes = 4_194_304\narena_bytes = 8_388_608\n[[node]]\nid = 0\npeer_listen = \"{}\"\nclient_listen = \"{}\"\n\
             dir = {:?}\n",
            port(0),
            port(1),
            dir.path().join("node")
        );
        let config = dir.path().join("synod.toml");
        std::fs::write(&config, text).unwrap();
        let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        manager.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Host { dir, config, manager }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        synod().args(&arguments[..1]).arg("--config").arg(&self.config).args(&arguments[1..]).output().unwrap()
    }

    fn start(&self) -> Node {
        let log = File::create(self.dir.path().join("log")).unwrap();
        let mut command = synod();
        command.args(["start", "--node", "0", "--config"]).arg(&self.config);
        command.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        Node(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// The next message, if one comes within `wait`.
    fn heard_within(&self, wait: Duration) -> Option<String> {
        let (began, mut bytes) = (Instant::now(), [0; 1_024]);
        while began.elapsed() < wait {
            if let Ok(len) = self.manager.recv(&mut bytes) {
                return Some(String::from_utf8(bytes[..len].to_vec()).unwrap());
            }
        }
        None
    }

    /// Takes messages until one has this line.
    fn await_line(&self, line: &str) {
        let began = Instant::now();
        while began.elapsed() < SOON {
            if self.heard_within(SOON).is_some_and(|message| message.lines().any(|one| one == line)) {
                return;
            }
        }
        panic!("no {line}: {}", self.log());
    }
}

/// Killed at the end, if it still runs.
struct Node(Child);

impl Node {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    /// The thread of this name.
    fn thread(&self, name: &str) -> libc::pid_t {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap().map(|task| task.unwrap());
        let of_name = |path: PathBuf| std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
        let found = tasks.filter(|task| of_name(task.path())).map(|task| task.file_name().into_string().unwrap());
        found.last().unwrap_or_else(|| panic!("no thread {name}")).parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Gone already or killed now: either is the end of it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One thread of another process that stands still, while the others go on; it runs again when this is dropped.
struct Stopped(libc::pid_t);

impl Stopped {
    fn new(thread: libc::pid_t) -> Stopped {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: these requests take no memory of ours.
        let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, none, none) };
        assert_eq!(seized, 0, "ptrace: {}", std::io::Error::last_os_error());
        let stopped = Stopped(thread);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none) }, 0);
        let mut status = 0;
        // SAFETY: writes into a live local.
        assert_eq!(unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) }, thread);
        assert!(libc::WIFSTOPPED(status));
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: takes no memory of ours. That it fails means that the thread is gone.
        let _gone = unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, none, none) };
    }
}

#[test]
fn a_node_tells_when_it_serves_lives_and_stops() {
    let host = Host::new();
    assert!(host.run(&["format", "--node", "0"]).status.success());
    let mut node = host.start();
    let first = host.heard_within(SOON).expect("a message");
    assert!(first.starts_with("STATUS=1 group(s) read their log") && !first.contains("READY"), "{first}");
    host.await_line("READY=1");
    // Ready means that clients are answered.
    let status = host.run(&["status", "-o", "json"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("\"mode\""), "{status:?}\n{}", host.log());

    for _ in 0..3 {
        host.await_line("WATCHDOG=1");
    }
    // The pipeline alone stands still: the next look but one finds it so, and nobody is told any more that the node lives.
    let stopped = Stopped::new(node.thread("synod-group-0"));
    let began = Instant::now();
    while !host.log().contains("takes no turns") {
        assert!(began.elapsed() < SOON, "nobody notices: {}", host.log());
        host.heard_within(WATCHDOG / 3);
    }
    while host.heard_within(Duration::from_millis(1)).is_some() {}
    assert_eq!(host.heard_within(WATCHDOG * 2), None, "a node that hangs is not alive");
    drop(stopped);
    host.await_line("WATCHDOG=1");

    kill_process(node.pid(), Signal::TERM).unwrap();
    host.await_line("STOPPING=1");
    assert!(node.0.wait().unwrap().success(), "{}", host.log());
}

#[test]
fn a_node_that_cannot_serve_never_says_so() {
    let host = Host::new();
    let mut node = host.start();
    assert_eq!(node.0.wait().unwrap().code(), Some(1), "its directory was not formatted");
    while let Some(message) = host.heard_within(Duration::from_millis(50)) {
        assert!(!message.contains("READY=1"), "{message}");
    }
}
