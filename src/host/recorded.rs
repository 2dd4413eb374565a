//! A host as it was written down: a tree of files in a temporary directory and answers of the kernel, for tests. [`bare_metal`] is
//! a prepared one; each of [`CASES`] spoils one thing.

use super::facts::{Calls, Clock, Coalescing, Host, Refusal, RingSizes, Rings, Space};
use super::{Severity, Target};
use crate::config::{Config, Group, Node};
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tempfile::TempDir;

/// What the kernel answers.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    pub(super) io_uring: Result<String, Refusal>,
    pub(super) direct_io: Result<u32, Refusal>,
    pub(super) device: Result<(u32, u32), String>,
    pub(super) space: Result<Space, String>,
    pub(super) memlock: Result<Option<u64>, String>,
    pub(super) real_time: Result<u64, String>,
    pub(super) clock: Result<Clock, String>,
    pub(super) nic: Result<String, String>,
    pub(super) rings: Result<Rings, String>,
    pub(super) coalescing: Result<Coalescing, String>,
    /// What the card makes of rings that it is to have.
    pub(super) takes_rings: fn(RingSizes) -> Result<RingSizes, String>,
}

/// Shared with the host that is under test, so that what it set can be seen.
#[derive(Clone, Debug)]
pub(super) struct Kept(pub(super) Rc<RefCell<Answers>>);

impl Calls for Kept {
    fn io_uring(&self) -> Result<String, Refusal> {
        self.0.borrow().io_uring.clone()
    }

    fn direct_io(&self, _dir: &Path) -> Result<u32, Refusal> {
        self.0.borrow().direct_io.clone()
    }

    fn device(&self, _dir: &Path) -> Result<(u32, u32), String> {
        self.0.borrow().device.clone()
    }

    fn space(&self, _dir: &Path) -> Result<Space, String> {
        self.0.borrow().space.clone()
    }

    fn memlock_bytes(&self) -> Result<Option<u64>, String> {
        self.0.borrow().memlock.clone()
    }

    fn real_time_priority(&self) -> Result<u64, String> {
        self.0.borrow().real_time.clone()
    }

    fn clock(&self) -> Result<Clock, String> {
        self.0.borrow().clock.clone()
    }

    fn nic_of(&self, _address: Ipv4Addr) -> Result<String, String> {
        self.0.borrow().nic.clone()
    }

    fn rings(&self, _nic: &str) -> Result<Rings, String> {
        self.0.borrow().rings.clone()
    }

    fn set_rings(&self, _nic: &str, rings: RingSizes) -> Result<(), String> {
        let mut answers = self.0.borrow_mut();
        let taken = (answers.takes_rings)(rings)?;
        answers.rings.as_mut().map(|now| now.now = taken).map_err(|reason| reason.clone())
    }

    fn coalescing(&self, _nic: &str) -> Result<Coalescing, String> {
        self.0.borrow().coalescing.clone()
    }

    fn set_coalescing(&self, _nic: &str, coalescing: Coalescing) -> Result<(), String> {
        let mut answers = self.0.borrow_mut();
        answers.coalescing.as_mut().map(|now| *now = coalescing).map_err(|reason| reason.clone())
    }
}

/// A host and what it is for.
pub(super) struct Recorded {
    pub(super) root: TempDir,
    pub(super) answers: Rc<RefCell<Answers>>,
    pub(super) target: Target,
}

impl Recorded {
    pub(super) fn host(&self) -> Host {
        Host::at(self.root.path(), Kept(self.answers.clone()))
    }

    /// Writes a file.
    pub(super) fn put(&self, path: &str, text: &str) {
        let place = self.host().place(path);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, format!("{text}\n")).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        std::fs::remove_file(self.host().place(path)).unwrap();
    }

    /// No file and no answer is left.
    pub(super) fn forget_everything(&mut self) {
        for entry in std::fs::read_dir(self.root.path()).unwrap() {
            std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        let no = || "not told".to_string();
        *self.answers.borrow_mut() = Answers {
            io_uring: Err(Refusal::Unknown(no())),
            direct_io: Err(Refusal::Unknown(no())),
            device: Err(no()),
            space: Err(no()),
            memlock: Err(no()),
            real_time: Err(no()),
            clock: Err(no()),
            nic: Err(no()),
            rings: Err(no()),
            coalescing: Err(no()),
            takes_rings: Ok,
        };
    }
}

const CPU: &str = "/sys/devices/system/cpu";
const DISK: &str = "/sys/devices/pci0000:00/0000:01:00.0/nvme/nvme0";
const CARD: &str = "/sys/devices/pci0000:00/0000:02:00.0";
const QUEUES: &str = "/sys/class/net/eth0/queues";

/// Eight CPUs on two NUMA nodes (0-3 and 4-7), pipelines on 2 and 3, an NVMe drive and a card on node 0, all prepared.
pub(super) fn bare_metal() -> Recorded {
    let mut config = Config { groups: vec![Group::default(); 2], ..Config::default() };
    (config.groups[0].core, config.groups[1].core) = (Some(2), Some(3));
    config.retention.max_bytes = 1 << 30;
    let answers = Rc::new(RefCell::new(prepared_answers()));
    let target = Target { config, node: Some(node("10.0.0.1".parse().unwrap(), "/var/lib/synod")), nic: None };
    let recorded = Recorded { root: tempfile::tempdir().unwrap(), answers, target };
    put_cpus(&recorded);
    put_system(&recorded);
    put_disk(&recorded);
    put_card(&recorded);
    recorded
}

/// A node with this address and directory.
pub(super) fn node(address: Ipv4Addr, dir: impl Into<PathBuf>) -> Node {
    let at = |port| SocketAddrV4::new(address, port);
    Node { id: 0, peer_listen: at(7400), client_listen: at(7410), admin_listen: None, dir: dir.into(), joins: false }
}

fn prepared_answers() -> Answers {
    let most = RingSizes { rx: 4096, tx: 4096 };
    Answers {
        io_uring: Ok("all".into()),
        direct_io: Ok(512),
        device: Ok((259, 1)),
        space: Ok(Space { free_bytes: 100 << 30, held_bytes: 0 }),
        memlock: Ok(None),
        real_time: Ok(99),
        clock: Ok(Clock { synchronised: true, max_error_us: 900 }),
        nic: Ok("eth0".into()),
        rings: Ok(Rings { now: most, most }),
        coalescing: Ok(Coalescing { rx_us: 0, tx_us: 8, adaptive_rx: false, adaptive_tx: false }),
        takes_rings: Ok,
    }
}

fn put_cpus(recorded: &Recorded) {
    recorded.put(&format!("{CPU}/online"), "0-7");
    recorded.put(&format!("{CPU}/isolated"), "2-3");
    recorded.put(&format!("{CPU}/nohz_full"), "2-3");
    let cmdline = "quiet isolcpus=managed_irq,domain,2-3 nohz_full=2-3 rcu_nocbs=2-3";
    recorded.put("/proc/cmdline", cmdline);
    for cpu in 0..8 {
        let own = format!("{CPU}/cpu{cpu}");
        recorded.put(&format!("{own}/topology/thread_siblings_list"), &cpu.to_string());
        recorded.put(&format!("{own}/cpufreq/scaling_governor"), "performance");
        for (state, name, latency, disable) in [(0, "POLL", 0, 0), (1, "C1", 2, 0), (2, "C6", 133, 1)] {
            let state = format!("{own}/cpuidle/state{state}");
            recorded.put(&format!("{state}/name"), name);
            recorded.put(&format!("{state}/latency"), &latency.to_string());
            recorded.put(&format!("{state}/disable"), &disable.to_string());
        }
    }
    for (node, cpus, distance) in [(0, "0-3", "10 21"), (1, "4-7", "21 10")] {
        recorded.put(&format!("/sys/devices/system/node/node{node}/cpulist"), cpus);
        recorded.put(&format!("/sys/devices/system/node/node{node}/distance"), distance);
    }
    recorded.put("/proc/irq/default_smp_affinity", "f3");
    for number in [9, 36] {
        recorded.put(&format!("/proc/irq/{number}/smp_affinity_list"), "0-1,4-7");
        recorded.put(&format!("/proc/irq/{number}/effective_affinity_list"), "0");
    }
}

fn put_system(recorded: &Recorded) {
    recorded.put("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never");
    recorded.put("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority");
    recorded.put("/proc/sys/vm/swappiness", "60");
    recorded.put("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc");
    recorded.put("/proc/sys/net/core/rmem_max", "67108864");
    recorded.put("/proc/sys/net/core/wmem_max", "67108864");
    recorded.put("/etc/security/limits.d/10-others.conf", "@others - nofile 65536");
}

fn put_disk(recorded: &Recorded) {
    recorded.put(&format!("{DISK}/nvme0n1/queue/write_cache"), "write through");
    recorded.put(&format!("{DISK}/nvme0n1/queue/fua"), "0");
    recorded.put(&format!("{DISK}/nvme0n1/device/model"), "GOOD DRIVE");
    recorded.put(&format!("{DISK}/nvme0n1/nvme0n1p1/start"), "2048");
    recorded.put("/sys/devices/pci0000:00/0000:01:00.0/numa_node", "0");
    let blocks = recorded.host().place("/sys/dev/block");
    std::fs::create_dir_all(&blocks).unwrap();
    symlink("../../devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1/nvme0n1p1", blocks.join("259:1")).unwrap();
    let root = "22 1 8:2 / / rw,relatime - ext4 /dev/sda2 rw";
    recorded.put(
        "/proc/self/mountinfo",
        &format!("{root}\n30 22 259:1 / /var/lib/synod rw,noatime shared:1 - xfs /dev/n rw"),
    );
}

fn put_card(recorded: &Recorded) {
    recorded.put("/sys/class/net/eth0/mtu", "1500");
    recorded.put(&format!("{CARD}/numa_node"), "0");
    symlink("../../../devices/pci0000:00/0000:02:00.0", recorded.host().place("/sys/class/net/eth0/device")).unwrap();
    for (queue, xps) in [(0, "04"), (1, "08")] {
        recorded.put(&format!("{QUEUES}/rx-{queue}/rps_cpus"), "00");
        recorded.put(&format!("{QUEUES}/tx-{queue}/xps_cpus"), xps);
    }
}

/// One thing that is wrong.
pub(super) struct Case {
    /// The condition that sees it,
    pub(super) condition: &'static str,
    /// how severe it is,
    pub(super) severity: Severity,
    /// and what it says.
    pub(super) says: &'static str,
    /// Makes it wrong.
    pub(super) spoil: fn(&mut Recorded),
}

const fn case(condition: &'static str, severity: Severity, says: &'static str, spoil: fn(&mut Recorded)) -> Case {
    Case { condition, severity, says, spoil }
}

fn refused(current: &str) -> Refusal {
    Refusal::Refused { current: current.into(), mend: "mend it".into() }
}

use Severity::{Note, Recommended, Required};

/// At least one for each condition.
pub(super) const CASES: &[Case] = &[
    case("io_uring", Recommended, "no DEFER", |host| {
        host.answers.borrow_mut().io_uring = Err(refused("no DEFER_TASKRUN"))
    }),
    case("io_uring", Required, "insists on it", |host| {
        host.answers.borrow_mut().io_uring = Err(refused("no DEFER_TASKRUN"));
        host.target.config.cpu.io = crate::config::KernelIo::Uring;
    }),
    case("direct_io", Recommended, "refuses", |host| {
        host.answers.borrow_mut().direct_io = Err(refused("refuses O_DIRECT"))
    }),
    case("direct_io", Required, "65536", |host| host.answers.borrow_mut().direct_io = Ok(65_536)),
    case("direct_io", Recommended, "has none", |host| host.answers.borrow_mut().direct_io = Ok(0)),
    case("direct_io", Note, "unknown: not", |host| {
        host.answers.borrow_mut().direct_io = Err(Refusal::Unknown("not allowed".into()));
    }),
    case("write_cache", Note, "write back, FUA (GOOD DRIVE)", |host| {
        host.put(&format!("{DISK}/nvme0n1/queue/write_cache"), "write back");
        host.put(&format!("{DISK}/nvme0n1/queue/fua"), "1");
    }),
    case("write_cache", Recommended, "write back, no FUA (no model told)", |host| {
        host.put(&format!("{DISK}/nvme0n1/queue/write_cache"), "write back");
        host.remove(&format!("{DISK}/nvme0n1/device/model"));
    }),
    case("mount", Required, "nobarrier", |host| {
        host.put("/proc/self/mountinfo", "30 22 259:1 / /var rw,noatime - xfs /dev/n rw,nobarrier");
    }),
    case("mount", Required, "ro,", |host| {
        host.put("/proc/self/mountinfo", "30 22 259:1 / /var ro,noatime - xfs /dev/n rw");
    }),
    case("mount", Recommended, "nfs4", |host| {
        host.put("/proc/self/mountinfo", "30 22 259:1 / /var rw,noatime - nfs4 server:/ rw");
    }),
    case("mount", Note, "unknown: /proc/self/mountinfo has no mount", |host| {
        host.put("/proc/self/mountinfo", "30 22 259:1 / /home rw,noatime - xfs /dev/n rw");
    }),
    case("free_space", Required, "1 MiB free", |host| {
        host.answers.borrow_mut().space = Ok(Space { free_bytes: 1 << 20, held_bytes: 1 << 20 });
    }),
    case("free_space", Recommended, "1024 MiB free", |host| {
        host.target.config.retention.max_bytes = 0;
        host.answers.borrow_mut().space = Ok(Space { free_bytes: 1 << 30, held_bytes: 0 });
    }),
    case("memlock", Required, "64 KiB for this user", |host| host.answers.borrow_mut().memlock = Ok(Some(64 << 10))),
    case("huge_pages", Recommended, "always", |host| {
        host.put("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never");
    }),
    case("swap", Recommended, "/dev/sda3, vm.swappiness 60", |host| {
        host.put("/proc/swaps", "Filename\tType\n/dev/sda3 partition 9 0 -2");
    }),
    case("clock_source", Recommended, "hpet", |host| {
        host.put("/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet");
    }),
    case("clock_synchronised", Recommended, "not synchronised", |host| {
        host.answers.borrow_mut().clock = Ok(Clock { synchronised: false, max_error_us: 16_000_000 });
    }),
    case("clock_synchronised", Recommended, "200 ms off", |host| {
        host.answers.borrow_mut().clock = Ok(Clock { synchronised: true, max_error_us: 200_000 });
    }),
    case("cores_present", Required, "9 not online", |host| {
        host.target.config.wal.writer_core = crate::config::WriterCore::Cpu(9);
    }),
    case("isolation", Recommended, "not 3", |host| host.put(&format!("{CPU}/isolated"), "2")),
    case("tickless", Recommended, "not 2-3", |host| host.put(&format!("{CPU}/nohz_full"), "(null)")),
    case("rcu_callbacks", Recommended, "not 2-3", |host| host.put("/proc/cmdline", "quiet")),
    case("interrupts", Recommended, "1 on 2-3: 36", |host| {
        host.put("/proc/irq/36/smp_affinity_list", "0-3");
        host.put("/proc/irq/36/effective_affinity_list", "3");
        host.put("/proc/irq/default_smp_affinity", "ff");
    }),
    case("interrupts", Recommended, "1 on 2-3: 36", |host| {
        host.remove("/proc/irq/36/effective_affinity_list");
        host.put("/proc/irq/36/smp_affinity_list", "0-7");
    }),
    case("smt_siblings", Recommended, "2 shares with 6", |host| {
        host.put(&format!("{CPU}/cpu2/topology/thread_siblings_list"), "2,6");
    }),
    case("governor", Recommended, "core 2: powersave", |host| {
        host.put(&format!("{CPU}/cpu2/cpufreq/scaling_governor"), "powersave");
    }),
    case("governor", Note, "unknown: cpu2 has no cpufreq", |host| {
        host.remove(&format!("{CPU}/cpu2/cpufreq/scaling_governor"));
    }),
    case("idle_states", Recommended, "core 3: C6", |host| host.put(&format!("{CPU}/cpu3/cpuidle/state2/disable"), "0")),
    case("numa_disk", Recommended, "core 2 on node 0, disk on node 1, distance 21", |host| {
        host.put("/sys/devices/pci0000:00/0000:01:00.0/numa_node", "1");
    }),
    case("numa_nic", Recommended, "core 3 on node 0, card on node 1", |host| {
        host.put(&format!("{CARD}/numa_node"), "1")
    }),
    case("numa_nic", Note, "unknown: ", |host| host.put(&format!("{CARD}/numa_node"), "-1")),
    case("nic_rings", Recommended, "receive 256 of 4096", |host| {
        host.answers.borrow_mut().rings.as_mut().unwrap().now.rx = 256;
    }),
    case("nic_rings", Note, "unknown: eth0 does not", |host| {
        host.answers.borrow_mut().rings = Err("eth0 does not tell".into());
    }),
    case("nic_coalescing", Recommended, "not adaptive, receive 50", |host| {
        host.answers.borrow_mut().coalescing.as_mut().unwrap().rx_us = 50;
    }),
    case("nic_coalescing", Recommended, "eth0: adaptive", |host| {
        host.answers.borrow_mut().coalescing.as_mut().unwrap().adaptive_rx = true;
    }),
    case("receive_steering", Recommended, "to 3", |host| host.put(&format!("{QUEUES}/rx-1/rps_cpus"), "0f0a")),
    case("transmit_steering", Recommended, "none for 3", |host| host.put(&format!("{QUEUES}/tx-1/xps_cpus"), "01")),
    case("mtu", Required, "eth0: 1400", |host| host.put("/sys/class/net/eth0/mtu", "1400")),
    case("mtu", Recommended, "eth0: 1400", |host| {
        host.target.config.net.dont_fragment = false;
        host.put("/sys/class/net/eth0/mtu", "1400");
    }),
    case("socket_buffers", Recommended, "rmem_max 212992", |host| host.put("/proc/sys/net/core/rmem_max", "212992")),
    case("real_time", Recommended, "0 at most", |host| host.answers.borrow_mut().real_time = Ok(0)),
];
