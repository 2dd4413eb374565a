//! The demo's nodes: real processes of this very program, on loopback, that die with it. Starts, kills and ends the
//! processes that it started, by their handles; touches the demo's directory only.

use crate::config::Config;
use crate::local::free_addresses;
use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use synod_wire::NodeId;
use synod_wire::batch::max_entry_bytes;
use synod_wire::frame::{ALIGN, frame_bytes};

/// How long a node may take to end after SIGTERM.
const END_WAIT: Duration = Duration::from_secs(10);
/// The largest batch that a configuration allows.
const MAX_BATCH_BYTES: usize = 65_408;

/// A cluster on loopback.
pub(super) struct Cluster {
    pub(super) config: Config,
    config_file: PathBuf,
    dir: PathBuf,
    children: Vec<Option<Child>>,
}

/// The smallest batch that holds an entry of `longest_bytes`, but not less than the default.
pub(super) fn batch_bytes(longest_bytes: usize) -> anyhow::Result<usize> {
    // An empty batch's overhead is what a batch has beyond its longest entry.
    let overhead = MAX_BATCH_BYTES - max_entry_bytes(MAX_BATCH_BYTES);
    let bytes = (longest_bytes + overhead).next_multiple_of(ALIGN).max(Config::default().net.max_batch_bytes);
    if bytes > MAX_BATCH_BYTES {
        let limit = max_entry_bytes(MAX_BATCH_BYTES);
        bail!("the longest line has {longest_bytes} bytes, but an entry has at most {limit}: split it");
    }
    Ok(bytes)
}

impl Cluster {
    /// Writes the configuration and formats every node's directory.
    pub(super) fn prepare(dir: &Path, nodes: u8, longest_bytes: usize) -> anyhow::Result<Cluster> {
        let mut config = Config { nodes: free_addresses(dir, nodes)?, ..Config::default() };
        config.net.max_batch_bytes = batch_bytes(longest_bytes)?;
        // Half of the arena must hold the window.
        let fitting = config.wal.arena_bytes / 2 / frame_bytes(config.net.max_batch_bytes);
        config.consensus.window_slots = config.consensus.window_slots.min(fitting as u64);
        let config_file = dir.join("synod.toml");
        let text = toml::to_string(&config).context("cannot write the configuration as TOML")?;
        std::fs::write(&config_file, text).with_context(|| format!("cannot write {}", config_file.display()))?;
        for node in config.members() {
            crate::node::format(&config, node, false)?;
        }
        let children = (0..nodes).map(|_| None).collect();
        Ok(Cluster { config, config_file, dir: dir.into(), children })
    }

    /// Starts a node that does not run.
    pub(super) fn start(&mut self, node: NodeId) -> anyhow::Result<()> {
        assert!(self.children[usize::from(node.0)].is_none(), "node {node} runs already");
        let program = std::env::current_exe().context("cannot tell where this program lies")?;
        let mut command = Command::new(&program);
        command.arg("start").arg("--config").arg(&self.config_file).args(["--node", &node.to_string()]);
        command.stdin(Stdio::null()).stdout(self.log_file(node, "out")?).stderr(self.log_file(node, "log")?);
        // A group of its own: Ctrl-C is for the demo, which then ends its nodes itself.
        command.process_group(0);
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec only async-signal-safe calls are made (prctl, getppid), and nothing is allocated:
        // errors are made from the errno.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // The parent may have died before the line above.
                if rustix::process::getppid() == Some(parent) {
                    Ok(())
                } else {
                    Err(std::io::ErrorKind::Interrupted.into())
                }
            });
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        self.children[usize::from(node.0)] = Some(child);
        Ok(())
    }

    fn log_file(&self, node: NodeId, suffix: &str) -> anyhow::Result<File> {
        let path = self.dir.join(format!("node-{node}.{suffix}"));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.with_context(|| format!("cannot open {}", path.display()))
    }

    /// Kills a node with SIGKILL and waits until it is gone.
    pub(super) fn kill(&mut self, node: NodeId) -> anyhow::Result<()> {
        let mut child = self.children[usize::from(node.0)].take().context("the node to be killed does not run")?;
        child.kill().context("cannot kill a node")?;
        child.wait().context("cannot wait for a node's end")?;
        Ok(())
    }

    /// An error if a node that should run has ended, with what it said last.
    pub(super) fn check_running(&mut self) -> anyhow::Result<()> {
        for (index, child) in self.children.iter_mut().enumerate() {
            let Some(child) = child else { continue };
            if let Some(status) = child.try_wait().context("cannot look at a node")? {
                let log = self.dir.join(format!("node-{index}.log"));
                let text = std::fs::read_to_string(&log).unwrap_or_else(|error| format!("{}: {error}", log.display()));
                let last: Vec<&str> = text.lines().rev().take(5).collect();
                bail!(
                    "node {index} ended ({status}); it said:\n  {}",
                    last.into_iter().rev().collect::<Vec<_>>().join("\n  ")
                );
            }
        }
        Ok(())
    }

    /// Ends all nodes with SIGTERM; an error if one does not end cleanly.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        let running: Vec<_> = self.children.iter_mut().enumerate().filter_map(|(i, c)| Some((i, c.take()?))).collect();
        let pids: Vec<Pid> = running.iter().map(|(_, child)| Pid::from_child(child)).collect();
        for pid in &pids {
            kill_process(*pid, Signal::TERM).context("cannot send SIGTERM to a node")?;
        }
        for ((index, child), pid) in running.into_iter().zip(pids) {
            let status = wait_for(child, pid).with_context(|| format!("node {index} did not end after SIGTERM"))?;
            if !status.success() {
                bail!("node {index} did not end cleanly after SIGTERM ({status}); see {}", self.dir.display());
            }
        }
        Ok(())
    }

    /// The nodes' directories.
    pub(super) fn node_dirs(&self) -> Vec<PathBuf> {
        self.config.nodes.iter().map(|node| node.dir.clone()).collect()
    }
}

impl Drop for Cluster {
    /// Whatever still runs must not outlive the demo.
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            // It may have ended by itself; there is nothing else to be done here.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for a process, for a bounded time; past it the process is killed.
fn wait_for(mut child: Child, pid: Pid) -> anyhow::Result<ExitStatus> {
    let (sender, ended) = sync_channel(1);
    let waiter = std::thread::Builder::new().name("wait".into()).spawn(move || {
        // The receiver leaves after a time-out only, and then nobody needs the status.
        let _ = sender.send(child.wait());
    });
    let waiter = waiter.context("cannot start a thread")?;
    match ended.recv_timeout(END_WAIT) {
        Ok(status) => status.context("cannot wait for a node's end"),
        Err(_) => {
            // Not yet waited for, so the pid is still this child's.
            kill_process(pid, Signal::KILL).context("cannot kill a node")?;
            let joined = waiter.join();
            assert!(joined.is_ok(), "the thread that waits does not panic");
            bail!("it was killed after {} s", END_WAIT.as_secs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_holds_the_longest_entry_and_no_more_than_needed() {
        assert_eq!(batch_bytes(1).unwrap(), 1_408);
        for longest in [1_350, 1_351, 2_514, 65_350] {
            let bytes = batch_bytes(longest).unwrap();
            assert!(max_entry_bytes(bytes) >= longest && bytes.is_multiple_of(ALIGN));
            assert!(bytes == 1_408 || max_entry_bytes(bytes - ALIGN) < longest);
        }
        assert!(batch_bytes(65_351).is_err());
    }

    #[test]
    fn prepared_configurations_are_valid() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = free_addresses(dir.path(), 3).unwrap();
        let config = Config { nodes, ..Config::default() };
        assert_eq!(crate::config::check(&config), []);
    }
}
