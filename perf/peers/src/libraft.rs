//! libraft 0.15 of Debian over its own libuv backend: three nodes of `libraft/node.c`, which install.sh compiles, under
//! the client of our own harness. The C source says what was chosen for speed.

use crate::bench::Running;
use crate::harness::Client;
use crate::processes::{Process, free_ports, wait_all_ready};
use anyhow::{Context, ensure};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const READY: &str = "ready to serve";
const NODES: usize = 3;
const START_WAIT: Duration = Duration::from_secs(20);

/// Starts three nodes and connects to the first, which leads. Its client's listener is open before it runs.
pub(crate) fn start(dir: &Path, tools: &Path, size: usize, spin_us: u64) -> anyhow::Result<Running> {
    let program = tools.join("bin/libraft-node");
    ensure!(program.is_file(), "{} is not there: run perf/peers/install.sh {}", program.display(), tools.display());
    let version = version(&program)?;
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    let leader = listener.local_addr().context("a bound socket has an address")?;
    let mut listener = Some(listener);
    let addresses: Vec<String> = free_ports(NODES)?.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut processes = Vec::new();
    for id in 1..=NODES {
        let log = dir.join(format!("libraft-{id}"));
        std::fs::create_dir(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut command = Command::new(&program);
        command.arg(id.to_string()).arg(&log).arg(spin_us.to_string()).args(&addresses);
        command.stdin(listener.take().map_or_else(Stdio::null, |listener| Stdio::from(OwnedFd::from(listener))));
        processes.push(Process::start(&format!("libraft node {id}"), &mut command, READY)?);
    }
    wait_all_ready(&processes, START_WAIT)?;
    let target = Box::new(Client::connect(leader, size)?);
    Ok(Running { version, processes, target, is_log })
}

/// What it was compiled with; fails where the library is not there any more.
fn version(program: &Path) -> anyhow::Result<String> {
    let told = Command::new(program).arg("--version").output();
    let told = told.with_context(|| format!("cannot start {}", program.display()))?;
    ensure!(told.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&told.stderr).trim());
    Ok(String::from_utf8_lossy(&told.stdout).trim().into())
}

/// Open segments; only those are written to.
fn is_log(file: &str) -> bool {
    file.contains("/open-")
}
