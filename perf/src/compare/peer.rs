//! The program `synod-peer`: built on demand from a package outside of the workspace, run once for each peer and round.

use super::contract::Outcome;
use crate::interrupt;
use anyhow::{Context, bail, ensure};
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often an interrupt is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// What starting a peer, its elections and its end may take beside the measurements.
const OVERHEAD: Duration = Duration::from_secs(90);

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
    let built = cargo.arg("--target-dir").arg(&target).status().context("cannot run cargo")?;
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
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // SAFETY: prctl is async-signal-safe and touches no memory of this process.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
        let child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        let mut child = Killed(child);
        let text = self.read(&mut child.0)?;
        let status = child.0.wait().context("cannot wait for a peer")?;
        if !status.success() {
            let said = std::fs::read_to_string(&errors).context("cannot read what the peer said")?;
            bail!("it ended with {status}: {}", said.trim());
        }
        Outcome::parse(&text, self.outstanding)
    }

    /// All that it prints. A thread reads, so that an interrupt is seen meanwhile.
    fn read(&self, child: &mut Child) -> anyhow::Result<String> {
        let mut stdout = child.stdout.take().context("stdout is a pipe")?;
        let (sender, receiver) = channel();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            // The receiver is gone only where the run was given up.
            let _given_up = sender.send(stdout.read_to_string(&mut text).map(|_| text));
        });
        let until = Instant::now() + self.length + OVERHEAD;
        loop {
            interrupt::check()?;
            match receiver.recv_timeout(LOOK) {
                Ok(text) => {
                    reader.join().expect("the reader does not panic");
                    return text.context("cannot read what the peer printed");
                }
                Err(RecvTimeoutError::Timeout) => ensure!(Instant::now() < until, "it did not end within {OVERHEAD:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("what the peer printed was lost"),
            }
        }
    }
}

/// A process that does not outlive its owner.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // After it ended both fail, and nothing is left to end.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn run(script: &str) -> anyhow::Result<Outcome> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("peer");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let (length, outstanding, arguments) = (Duration::ZERO, &[1][..], &[][..]);
        Run { program: &program, peer: "x", length, outstanding, arguments, dir: dir.path() }.outcome()
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
