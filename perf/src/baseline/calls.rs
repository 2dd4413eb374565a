//! System calls of a commit: strace counts those of the leader and of a follower while entries are committed one by one.
//! The nodes block when they wait, so that what is counted is what the work needs and not what the waiting does.

use crate::cluster::{self, Cluster, Spec};
use crate::files;
use crate::load::{self, Pace, Plan};
use crate::options::ShapeArgs;
use crate::product::{ClientSetup, ProductClient};
use crate::profile::process_of;
use crate::trace;
use anyhow::{Context, ensure};
use clap::Args;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use synod_client::Status;
use synod_wire::client::role;

/// How long the load runs under strace, which makes each system call many times as slow.
const TRACED: Duration = Duration::from_secs(5);
const WARM_UP: Duration = Duration::from_secs(1);
/// Calls rarer than this are those of timers and of housekeeping, whose number depends on how long the trace takes.
const RARE: f64 = 0.05;
/// The log goes through the ring, so that no trial decides which of two ways is counted. Traced nodes are slow; they are not
/// to elect another leader for it.
const SETTINGS: [(&str, &str); 4] = [
    ("SYNOD__CPU__WAIT", "block"),
    ("SYNOD__WAL__WRITER", "ring"),
    ("SYNOD__CONSENSUS__ELECTION_TIMEOUT_MIN_US", "1000000"),
    ("SYNOD__CONSENSUS__ELECTION_TIMEOUT_MAX_US", "2000000"),
];

/// Arguments of `trace-calls`.
#[derive(Args, Debug)]
pub(crate) struct TraceArgs {
    /// The synod program.
    #[arg(long, value_name = "FILE")]
    synod: Option<PathBuf>,
    /// Where the logs lie.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// System calls for each entry, by role, load and call. The nodes take their settings from the environment, so a process of
/// its own starts them.
pub(super) fn count(synod: &Path, dir: Option<&Path>) -> anyhow::Result<BTreeMap<String, f64>> {
    let own = std::env::current_exe().context("cannot find this program's file")?;
    let mut command = Command::new(own);
    command.arg("trace-calls").arg("--synod").arg(synod).envs(SETTINGS);
    if let Some(dir) = dir {
        command.arg("--dir").arg(dir);
    }
    let ran = command.output().context("cannot run this program")?;
    ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr).trim());
    serde_json::from_slice(&ran.stdout).context("the traces were not told")
}

/// The command `trace-calls`: the cluster of [`count`].
pub(crate) fn run_trace(args: &TraceArgs) -> anyhow::Result<()> {
    let dir = files::directory(args.dir.as_deref())?;
    let shape = ShapeArgs { size: 256, entries_per_datagram: None, datagram_bytes: 1_472 };
    let mut cluster = Cluster::start(&cluster::program(args.synod.as_deref())?, dir.path(), &Spec::of(3, shape))?;
    let setup = ClientSetup { shape, window: 1, spin: Duration::ZERO };
    let mut client = ProductClient::connect(&mut cluster, &setup)?;
    let pace = Pace::Closed { outstanding: 1 };
    let plan = |measure| Plan { pace, warm_up: Duration::ZERO, measure };
    // Whatever is done once only, is done by then.
    load::run(&mut client, &plan(WARM_UP))?;
    let mut told = BTreeMap::new();
    for (role, name) in [(role::LEADER, "leader"), (role::FOLLOWER, "follower")] {
        let process = process_of(&cluster, role)?;
        let tracer = trace::Calls::attach(process, dir.path())?;
        let before = committed(&cluster.status());
        load::run(&mut client, &plan(TRACED))?;
        let after = committed(&cluster.status());
        let calls = tracer.finish()?;
        process_of(&cluster, role).and_then(|same| {
            ensure!(same == process, "another node leads now: the machine is too busy to be traced");
            Ok(())
        })?;
        let entries = after.saturating_sub(before);
        ensure!(entries > 100, "only {entries} entries were committed under strace");
        for (call, count) in calls {
            let each = count as f64 / entries as f64;
            if each >= RARE {
                told.insert(format!("{name}, 1 outstanding, {call}"), (each * 100.0).round() / 100.0);
            }
        }
    }
    cluster.stop()?;
    println!("{}", serde_json::to_string(&told)?);
    Ok(())
}

fn committed(statuses: &[Status]) -> u64 {
    statuses.iter().map(|status| status.tail.0).max().unwrap_or(0)
}
