//! What the scenarios share: their common arguments, the cluster and the client that these ask for, the load beside them,
//! how they print. Called by `failover`, `recovery`, `catchup`, `scale`, `disturb`, `reads` and `soak`.

use crate::cluster::{self, Cluster, Spec};
use crate::files;
use crate::host::Host;
use crate::interrupt;
use crate::load::{self, Pace, Plan};
use crate::options::{ShapeArgs, Style};
use crate::product::{ClientSetup, ProductClient};
use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use synod_wire::NodeId;
use tempfile::TempDir;

/// The most that a session may have in flight.
pub(crate) const MOST_IN_FLIGHT: usize = 1_024;
/// How long anything may take that a healthy cluster does within a second, on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long a client polls and yields before it blocks.
const CLIENT_SPIN: Duration = Duration::from_micros(500);

/// Arguments of every scenario.
#[derive(Args, Clone, Debug)]
pub(crate) struct ScenarioArgs {
    /// Nodes of the cluster that is started.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=7))]
    pub(crate) nodes: u8,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    /// How often the leader shows that it lives; left out: the product's default.
    #[arg(long, value_name = "US", requires = "election_us")]
    pub(crate) heartbeat_us: Option<u64>,
    /// When a follower stands for election, from and to; left out: the product's default.
    #[arg(long, value_name = "MIN,MAX", value_delimiter = ',', num_args = 1.., requires = "heartbeat_us")]
    pub(crate) election_us: Vec<u64>,
    /// The synod program; left out: the one beside this, built anew under cargo.
    #[arg(long, value_name = "FILE")]
    pub(crate) synod: Option<PathBuf>,
    /// Where the logs lie: a real disk. Left out: below TMPDIR or /var/tmp.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Style,
}

impl ScenarioArgs {
    /// Checks the bounds.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.shape.check()?;
        ensure!(matches!(self.election_us.len(), 0 | 2), "--election-us takes two times, as in 10000,20000");
        Ok(())
    }

    /// The cluster that they ask for.
    pub(crate) fn spec(&self) -> Spec {
        let mut spec = Spec::of(self.nodes, self.shape);
        if let (Some(heartbeat), [min, max]) = (self.heartbeat_us, &self.election_us[..]) {
            spec.settings.push(("consensus", "heartbeat_us", heartbeat));
            spec.settings.push(("consensus", "election_timeout_min_us", *min));
            spec.settings.push(("consensus", "election_timeout_max_us", *max));
        }
        spec
    }

    /// A place to put clusters.
    pub(crate) fn stage(&self) -> anyhow::Result<Stage> {
        self.check()?;
        if cfg!(debug_assertions) {
            eprintln!("note: this is not a release build; its figures say little");
        }
        let program = cluster::program(self.synod.as_deref())?;
        Ok(Stage { program, dir: files::directory(self.dir.as_deref())?, clusters: 0 })
    }

    /// How a client of the product behaves here.
    pub(crate) fn client(&self, window: usize) -> ClientSetup {
        ClientSetup { shape: self.shape, window, spin: CLIENT_SPIN }
    }
}

/// The program, and a directory that goes when this does.
#[derive(Debug)]
pub(crate) struct Stage {
    program: PathBuf,
    dir: TempDir,
    clusters: u32,
}

impl Stage {
    /// Starts another cluster and waits until it serves.
    pub(crate) fn cluster(&mut self, spec: &Spec) -> anyhow::Result<Cluster> {
        let dir = self.dir.path().join(format!("cluster-{}", self.clusters));
        self.clusters += 1;
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut cluster = Cluster::start(&self.program, &dir, spec)?;
        cluster.await_in_step(PATIENCE)?;
        Ok(cluster)
    }
}

/// A measurement at `pace`, without the `warm_up`.
pub(crate) fn plan(pace: Pace, warm_up: Duration, measure: Duration) -> Plan {
    Plan { pace, warm_up, measure }
}

/// How long a load beside a scene may run at most: scenes have bounds of their own, which are far below this.
pub(crate) const LONGEST_SCENE: Duration = Duration::from_secs(4 * 3_600);

/// Load at a constant rate that lasts as long as the scene beside it.
pub(crate) fn steady(rate: u64) -> Plan {
    plan(Pace::Open { rate, window: MOST_IN_FLIGHT }, Duration::ZERO, LONGEST_SCENE)
}

/// Appends as fast as it goes until `enough` says so, which is asked every so often.
pub(crate) fn fill(
    cluster: &mut Cluster,
    args: &ScenarioArgs,
    enough: impl FnMut(&mut Cluster) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let mut client = ProductClient::connect(cluster, &args.client(MOST_IN_FLIGHT))?;
    fill_with(&mut client, cluster, enough)
}

/// The same with a client that is there already.
pub(crate) fn fill_with(
    client: &mut ProductClient,
    cluster: &mut Cluster,
    mut enough: impl FnMut(&mut Cluster) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    const SLICE: Duration = Duration::from_millis(50);
    const LONGEST_FILL: Duration = Duration::from_secs(1_800);
    let start = Instant::now();
    let pace = Pace::Closed { outstanding: MOST_IN_FLIGHT };
    while !enough(cluster)? {
        ensure!(start.elapsed() < LONGEST_FILL, "the log is not long enough after {LONGEST_FILL:?} of appends");
        let filled = load::run(client, &plan(pace, Duration::ZERO, SLICE));
        cluster.check()?;
        filled?;
    }
    Ok(())
}

/// Kills a follower and lets the log grow by `lag_mib` without it; returns it and the leader.
pub(crate) fn leave_behind(
    cluster: &mut Cluster,
    args: &ScenarioArgs,
    lag_mib: u64,
) -> anyhow::Result<(NodeId, NodeId)> {
    let node = cluster.await_follower(PATIENCE)?;
    cluster.kill(node)?;
    let leader = cluster.await_leader(PATIENCE)?;
    let until = log_bytes(cluster, leader)? + (lag_mib << 20);
    fill(cluster, args, |cluster| Ok(log_bytes(cluster, leader)? >= until))?;
    Ok((node, leader))
}

/// Lets time pass, which is all that is awaited, unless the program is interrupted.
pub(crate) fn wait(length: Duration) -> anyhow::Result<()> {
    const LOOK: Duration = Duration::from_millis(100);
    let until = Instant::now() + length;
    loop {
        interrupt::check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK));
    }
}

/// Bytes that `node` has in its log, as it says itself.
pub(crate) fn log_bytes(cluster: &Cluster, node: NodeId) -> anyhow::Result<u64> {
    let status = cluster.status_of(node, PATIENCE).with_context(|| format!("node {node} does not answer"))?;
    Ok(status.durable_bytes)
}

/// The last sequence that `node` has applied.
pub(crate) fn log_entries(cluster: &Cluster, node: NodeId) -> anyhow::Result<u64> {
    let status = cluster.status_of(node, PATIENCE).with_context(|| format!("node {node} does not answer"))?;
    Ok(status.tail.0)
}

/// Resident bytes (VmRSS) of each process.
pub(crate) fn resident_bytes(processes: &[u32]) -> anyhow::Result<Vec<u64>> {
    processes.iter().map(|process| resident(&format!("/proc/{process}/status"))).collect()
}

fn resident(path: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    parse_resident(&status).with_context(|| format!("{path} has an unknown form"))
}

fn parse_resident(status: &str) -> Option<u64> {
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    kib.parse::<u64>().ok().map(|kib| kib << 10)
}

/// In MiB, for people.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// In milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A report as JSON with the host, or as its own text.
pub(crate) fn print<R: Serialize>(style: Style, report: &R, text: impl FnOnce(&R)) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct OnHost<'a, R> {
        host: Host,
        #[serde(flatten)]
        report: &'a R,
    }
    match style {
        Style::Json => println!("{}", serde_json::to_string_pretty(&OnHost { host: Host::here()?, report })?),
        Style::Text => text(report),
    }
    Ok(())
}

/// Asks the kernel to forget what it holds of the files in `dir`, so that the next read of them goes to the disk.
pub(crate) fn forget_pages(dir: &Path) -> anyhow::Result<()> {
    use std::os::fd::AsRawFd;
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
        if path.is_dir() {
            forget_pages(&path)?;
            continue;
        }
        let file = std::fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        // SAFETY: gives advice about a descriptor that lives.
        let failed = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        ensure!(failed == 0, "posix_fadvise {}: {}", path.display(), std::io::Error::from_raw_os_error(failed));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_size_is_found() {
        assert_eq!(parse_resident("Name:\tx\nVmHWM:\t  9 kB\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(parse_resident("Name:\tx\n"), None);
        assert!(resident_bytes(&[std::process::id()]).unwrap()[0] > 1 << 20);
    }
}
