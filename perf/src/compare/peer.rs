//! The program `synod-peer`: built on demand from a package outside of the workspace, run once for each peer and round.

use super::contract::Outcome;
use crate::interrupt;
use anyhow::{Context, bail, ensure};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process_group, set_child_subreaper,
    set_parent_process_death_signal, waitid, waitpgid,
};
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often an interrupt is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// What starting a peer, its elections and its end may take beside the measurements.
const OVERHEAD: Duration = Duration::from_secs(90);
/// What building the peers may take: minutes on two cores, where nothing else runs.
const BUILD: Duration = Duration::from_secs(3_600);

/// The program: `given`, or built anew.
pub(super) fn program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        ensure!(given.is_file(), "{} does not exist", given.display());
        return Ok(given.into());
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/Cargo.toml");
    let own = std::env::current_exe().context("cannot find this program's file")?;
    let target = own.ancestors().nth(2).context("this program lies in no target directory")?.join("peers");
    eprintln!("building {} (minutes the first time)", manifest.display());
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]).arg(&manifest);
    let mut cargo = Group::start(cargo.arg("--target-dir").arg(&target)).context("cannot run cargo")?;
    cargo.read_to_end(Instant::now() + BUILD)?;
    let built = cargo.wait().context("cannot wait for cargo")?;
    ensure!(built.success(), "{} does not build", manifest.display());
    Ok(target.join("release/synod-peer"))
}

/// One run of one peer.
pub(super) struct Run<'a> {
    /// `synod-peer`.
    pub(super) program: &'a Path,
    /// Which peer.
    pub(super) peer: &'a str,
    /// What the measurements take in all.
    pub(super) length: Duration,
    /// What is measured.
    pub(super) outstanding: &'a [usize],
    /// The arguments that all peers share.
    pub(super) arguments: &'a [String],
    /// Where the logs go.
    pub(super) dir: &'a Path,
}

impl Run<'_> {
    /// Runs it to its end; whatever ends this program ends it and its nodes.
    pub(super) fn outcome(&self) -> anyhow::Result<Outcome> {
        let errors = self.dir.join(format!("{}.stderr", self.peer));
        let log = File::create(&errors).with_context(|| format!("cannot create {}", errors.display()))?;
        let mut command = Command::new(self.program);
        command.args(["bench", "--peer", self.peer]).args(self.arguments).arg("--dir").arg(self.dir);
        command.stderr(log);
        let mut peer = Group::start(&mut command)?;
        let text = peer.read_to_end(Instant::now() + self.length + OVERHEAD)?;
        let status = peer.wait().context("cannot wait for a peer")?;
        if !status.success() {
            let said = std::fs::read(&errors).context("cannot read what the peer said")?;
            bail!("it ended with {status}: {}", String::from_utf8_lossy(&said).trim());
        }
        Outcome::parse(&text, self.outstanding)
    }
}

/// A process in a group of its own with all that it starts, and none of them outlives it: Ctrl-C reaches this program alone,
/// which then ends the group; and if this program is killed, the process dies with it.
struct Group {
    leader: Child,
    number: Pid,
    stdout: Option<ChildStdout>,
    ended: bool,
}

impl Group {
    /// Starts it; its standard output is read by `read_to_end`.
    fn start(command: &mut Command) -> anyhow::Result<Group> {
        // What it started and left becomes a child of this program, which can wait for its end.
        set_child_subreaper(Some(getpid())).context("cannot adopt processes")?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        // SAFETY: prctl is async-signal-safe and touches no memory of this process.
        unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
        let program = command.get_program().to_string_lossy().into_owned();
        let mut leader = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let (number, stdout) = (Pid::from_child(&leader), leader.stdout.take());
        Ok(Group { leader, number, stdout, ended: false })
    }

    /// All that it prints. A thread reads, so that an interrupt is seen meanwhile.
    fn read_to_end(&mut self, until: Instant) -> anyhow::Result<String> {
        let mut stdout = self.stdout.take().context("stdout was read before")?;
        let (sender, receiver) = channel();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            // The receiver is gone only where the run was given up.
            let _given_up = sender.send(stdout.read_to_string(&mut text).map(|_| text));
        });
        loop {
            interrupt::check()?;
            match receiver.recv_timeout(LOOK) {
                Ok(text) => {
                    reader.join().expect("the reader does not panic");
                    return text.context("cannot read what it printed");
                }
                Err(RecvTimeoutError::Timeout) => ensure!(Instant::now() < until, "it did not end in time"),
                Err(RecvTimeoutError::Disconnected) => bail!("what it printed was lost"),
            }
        }
    }

    /// Waits for its end, and ends what it left.
    fn wait(&mut self) -> std::io::Result<ExitStatus> {
        // Nothing is reaped by this: the number stays the group's.
        while let Err(errno) = waitid(WaitId::Pid(self.number), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            if errno != Errno::INTR {
                return Err(errno.into());
            }
        }
        self.end()
    }

    /// Kills what runs and returns when all are gone, so that the directory they wrote to can be removed.
    fn end(&mut self) -> std::io::Result<ExitStatus> {
        self.ended = true;
        kill_process_group(self.number, Signal::KILL)?;
        let status = self.leader.wait()?;
        loop {
            match waitpgid(self.number, WaitOptions::empty()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::CHILD) => return Ok(status),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended
            && let Err(error) = self.end()
        {
            eprintln!("a process may live on: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> anyhow::Result<Outcome> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("peer");
        // Written by a process of its own: what another test starts meanwhile would have a copy of the descriptor until its exec, and a
        // file that is open to be written cannot be run.
        let write = [r#"printf '#!/bin/sh\n%s\n' "$1" > "$2" && chmod 755 "$2""#, "sh", script];
        assert!(Command::new("/bin/sh").arg("-c").args(write).arg(&program).status().unwrap().success());
        let (length, outstanding, arguments) = (Duration::ZERO, &[1][..], &[][..]);
        Run { program: &program, peer: "x", length, outstanding, arguments, dir: dir.path() }.outcome()
    }

    #[test]
    fn nothing_that_a_group_started_outlives_it() {
        let mut group =
            Group::start(Command::new("/bin/sh").args(["-c", "sleep 600 >&- & echo $!; exec >&-; wait"])).unwrap();
        let text = group.read_to_end(Instant::now() + Duration::from_secs(10));
        drop(group);
        let grandchild: i32 = text.unwrap().trim().parse().unwrap();
        let alive = rustix::process::test_kill_process(Pid::from_raw(grandchild).unwrap()).is_ok();
        assert!(!alive, "{grandchild} lives on");
    }

    #[test]
    fn an_absent_peer_is_told_as_absent_and_a_failed_one_with_its_words() {
        let absent = run(r#"echo '{"peer":"x","version":"","absent":"not installed","levels":[]}'"#).unwrap();
        assert_eq!(absent.absent.as_deref(), Some("not installed"));
        let failed = run("echo 'disk full' >&2; exit 1").unwrap_err().to_string();
        assert!(failed.contains("disk full"), "{failed}");
        assert!(run("echo nonsense").is_err());
    }
}
