//! A network of this program's own, whose datagrams can be dropped: a namespace with nothing but a loopback device, entered
//! before the nodes are started, so that they and all threads live in it. It ends with the last process in it; the host's
//! own rules are never touched. Needs root, `ip` and `nft`. Called by `failover` and `disturb`.

use anyhow::{Context, bail, ensure};
use std::path::Path;
use std::process::{Command, Stdio};

/// The namespace that this process has entered.
#[derive(Debug)]
pub(crate) struct Network(());

/// The table that holds all rules made here.
const TABLE: &str = "inet synod_perf";

impl Network {
    /// Moves this thread, and what it starts from now on, into a new network; or says why that cannot be.
    pub(crate) fn enter() -> Result<Network, String> {
        // SAFETY: asks for a number only.
        if unsafe { libc::geteuid() } != 0 {
            return Err("dropping datagrams needs root".into());
        }
        if let Some(missing) = ["ip", "nft"].into_iter().find(|program| !is_installed(program)) {
            return Err(format!("dropping datagrams needs the program {missing}"));
        }
        // SAFETY: changes this thread's network only; it has no sockets yet.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(format!("no network namespace: {}", std::io::Error::last_os_error()));
        }
        let network = Network(());
        run("ip", &["link", "set", "lo", "up"]).map_err(|error| format!("{error:#}"))?;
        // A kernel without nftables says so here, not in the middle of a measurement.
        network.lose(0).and_then(|()| network.heal()).map_err(|error| format!("{error:#}"))?;
        Ok(network)
    }

    /// Drops everything from and to these ports.
    pub(crate) fn cut(&self, ports: &[u16]) -> anyhow::Result<()> {
        ensure!(!ports.is_empty(), "no port to cut");
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        self.rules(&format!("udp dport {{ {ports} }} drop; udp sport {{ {ports} }} drop;"))
    }

    /// Drops this share of all datagrams, in thousandths, by chance.
    pub(crate) fn lose(&self, per_mille: u32) -> anyhow::Result<()> {
        self.rules(&format!("meta l4proto udp numgen random mod 1000 < {per_mille} drop;"))
    }

    /// Drops nothing any more.
    pub(crate) fn heal(&self) -> anyhow::Result<()> {
        run("nft", &[&format!("delete table {TABLE}")])
    }

    /// On the way in: a sender does not learn of it.
    fn rules(&self, rules: &str) -> anyhow::Result<()> {
        let chain = format!("chain in {{ type filter hook input priority 0; {rules} }}");
        run("nft", &[&format!("table {TABLE} {{ }}\ndelete table {TABLE}\ntable {TABLE} {{\n{chain}\n}}\n")])
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).to_path_buf()));
    places.into_iter().any(|place| place.join(program).is_file())
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
