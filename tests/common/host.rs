//! The host's privileged means: who may use them, and how they are given back whatever happens to the test.

use super::say;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Whether a test that needs root and these programs can run. If not, says so where `.ci/run` counts it; with
/// `SYNOD_REQUIRE_ROOT_TESTS=1` that is a failure.
pub fn privileged(test: &str, programs: &[&str]) -> bool {
    let reason = if rustix::process::geteuid().is_root() {
        let missing = programs.iter().find(|program| !is_installed(program));
        missing.map(|program| format!("the program {program} is not installed"))
    } else {
        Some(format!("needs root ({})", programs.join(", ")))
    };
    let Some(reason) = reason else { return true };
    let required = std::env::var("SYNOD_REQUIRE_ROOT_TESTS").is_ok_and(|value| value == "1");
    assert!(!required, "{test} must not be skipped (SYNOD_REQUIRE_ROOT_TESTS=1), but: {reason}");
    say(&format!("SKIPPED {test}: {reason}"));
    false
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    places.into_iter().any(|place| place.join(program).is_file())
}

/// Runs a program that must succeed; its stdout.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {} {said}", arguments.join(" "), output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Shell commands that run when this is dropped, or when the test's process dies in any way: a shell waits for the end of
/// a pipe that only this process holds.
pub struct Cleanup {
    shell: Child,
}

impl Cleanup {
    /// Promises to run `commands`; each is tried, whatever became of the others.
    pub fn promise(commands: &[String]) -> Cleanup {
        let script = format!("read -r _; {}", commands.join("; "));
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Cleanup { shell: command.spawn().expect("start the shell that cleans up") }
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // Its commands are all tried; there is nothing to do about one that failed, and a drop cannot fail.
        let _ended: bool = self.shell.wait().is_ok();
    }
}

/// An ext4 of its own on a loop device. Unfrozen, unmounted and removed when dropped.
pub struct LoopDisk {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The device's name, as in `/sys/class/block`.
    pub device: String,
    _cleanup: Cleanup,
}

impl LoopDisk {
    /// A file system of `bytes` in a file in `dir`.
    pub fn new(dir: &Path, name: &str, bytes: u64) -> LoopDisk {
        let image = dir.join(format!("{name}.img"));
        let mount = dir.join(name);
        std::fs::create_dir(&mount).expect("a mount point");
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("an image file");
        let (image, at) = (text(&image), text(&mount));
        run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-m", "0", image]);
        let device = run("losetup", &["-f", "--show", image]).trim().to_owned();
        let cleanup = Cleanup::promise(&[
            format!("fsfreeze -u {at}"),
            format!("umount -l {at}"),
            format!("losetup -d {device}"),
            format!("rm -f {image}"),
        ]);
        run("mount", &[&device, at]);
        let device = device.trim_start_matches("/dev/").to_owned();
        LoopDisk { mount, device, _cleanup: cleanup }
    }

    /// Fills it with a file until `left_bytes` are left.
    pub fn fill_up_to(&self, left_bytes: u64) -> PathBuf {
        let state = rustix::fs::statvfs(&self.mount).expect("statvfs");
        let bytes = (state.f_bavail * state.f_frsize).saturating_sub(left_bytes);
        let ballast = self.mount.join("ballast");
        run("fallocate", &["-l", &bytes.to_string(), text(&ballast)]);
        ballast
    }

    /// From now on no write to it ends.
    pub fn freeze(&self) -> Frozen<'_> {
        run("fsfreeze", &["-f", text(&self.mount)]);
        Frozen(self)
    }

    /// Flushes that the device has completed.
    pub fn flushes(&self) -> u64 {
        flushes(&self.device)
    }
}

/// A file system without writes; they go on when this is dropped.
pub struct Frozen<'a>(&'a LoopDisk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let mount = text(&self.0.mount);
        if std::thread::panicking() {
            // A second panic would abort; the disk's own clean-up tries again.
            let _thawed: bool = Command::new("fsfreeze").args(["-u", mount]).status().is_ok();
        } else {
            run("fsfreeze", &["-u", mount]);
        }
    }
}

/// Flush requests that a block device has completed: the 16th field of its `stat` (Linux 5.5).
pub fn flushes(device: &str) -> u64 {
    let path = format!("/sys/class/block/{device}/stat");
    let stat = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let field = stat.split_ascii_whitespace().nth(15).unwrap_or_else(|| panic!("{path} counts no flushes: {stat}"));
    field.parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A network of namespaces around a bridge: one for each node, and the hub, where the tests' clients live.
pub struct Network {
    prefix: String,
    _cleanup: Cleanup,
}

impl Network {
    /// `nodes` namespaces; node `i` has the address 10.77.0.(i + 1), the hub 10.77.0.254.
    pub fn new(nodes: u8) -> Network {
        let prefix = format!("synod{}", std::process::id());
        let names = (0..nodes).map(|node| format!("{prefix}-{node}")).chain([format!("{prefix}-hub")]);
        let names: Vec<String> = names.collect();
        // A namespace takes its devices with it.
        let cleanup = Cleanup::promise(&names.iter().map(|name| format!("ip netns del {name}")).collect::<Vec<_>>());
        let hub = &names[usize::from(nodes)];
        for name in &names {
            run("ip", &["netns", "add", name]);
            run("ip", &["-n", name, "link", "set", "lo", "up"]);
        }
        run("ip", &["-n", hub, "link", "add", "bridge", "type", "bridge"]);
        run("ip", &["-n", hub, "address", "add", "10.77.0.254/24", "dev", "bridge"]);
        run("ip", &["-n", hub, "link", "set", "bridge", "up"]);
        for node in 0..nodes {
            let (name, port) = (&names[usize::from(node)], format!("port{node}"));
            run("ip", &["-n", hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", name]);
            run("ip", &["-n", hub, "link", "set", &port, "master", "bridge", "up"]);
            run("ip", &["-n", name, "address", "add", &format!("10.77.0.{}/24", node + 1), "dev", "eth0"]);
            run("ip", &["-n", name, "link", "set", "eth0", "up"]);
        }
        Network { prefix, _cleanup: cleanup }
    }

    fn name(&self, node: u8) -> String {
        format!("{}-{node}", self.prefix)
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: u8) -> File {
        File::open(format!("/run/netns/{}", self.name(node))).expect("a namespace that was just made")
    }

    /// Moves the calling thread, and those that it starts from now on, into the hub.
    pub fn enter_hub(&self) {
        let path = format!("/run/netns/{}-hub", self.prefix);
        let hub = File::open(path).expect("a namespace that was just made");
        let kind = rustix::thread::LinkNameSpaceType::Network;
        let entered = rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&hub), Some(kind));
        entered.expect("setns into the hub");
    }

    /// In the namespace of `node`, drops what passes between it and `peers` in one direction or both; the hub's clients
    /// still reach it.
    pub fn cut(&self, node: u8, peers: &[u8], direction: Direction) {
        let addresses: Vec<String> = peers.iter().map(|peer| format!("10.77.0.{}", peer + 1)).collect();
        let addresses = addresses.join(", ");
        let mut rules = String::from("table ip cut { }\ndelete table ip cut\ntable ip cut {\n");
        if direction != Direction::Out {
            rules += &format!("chain in {{ type filter hook input priority 0; ip saddr {{ {addresses} }} drop; }}\n");
        }
        if direction != Direction::In {
            rules += &format!("chain out {{ type filter hook output priority 0; ip daddr {{ {addresses} }} drop; }}\n");
        }
        rules += "}\n";
        run("ip", &["netns", "exec", &self.name(node), "nft", &rules]);
    }

    /// Undoes [`Network::cut`].
    pub fn heal(&self, node: u8) {
        run("ip", &["netns", "exec", &self.name(node), "nft", "delete table ip cut"]);
    }
}

/// Which datagrams a cut drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the node would hear.
    In,
    /// What it says.
    Out,
    /// Both.
    Both,
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
