//! `synod top` against real nodes: in a pseudo-terminal of 80 columns and 24 rows, which it gives back as it was, and as plain text.

mod common;

use common::cluster::{Cluster, GROUP, SOON, SYNOD};
use common::{await_until, serial};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use synod_wire::NodeId;

const ROWS: u16 = 24;
const COLUMNS: u16 = 80;

/// A terminal with `synod top` on it, and what a person would see.
struct Terminal {
    child: Child,
    /// Our end.
    master: File,
    /// Its end, open as long as this is, so that its settings can be looked at.
    slave: File,
    before: libc::termios,
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
}

fn open_pair() -> (File, File) {
    let (mut master, mut slave) = (0, 0);
    let size = libc::winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the two places and the size are valid for the call; no name and no settings are asked for.
    let opened = unsafe { libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), &size) };
    assert_eq!(opened, 0, "openpty: {}", std::io::Error::last_os_error());
    // SAFETY: both were just opened, and nobody else has them.
    unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) }
}

fn settings(terminal: &File) -> libc::termios {
    // SAFETY: all zeros is a value of it, plain numbers.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and the place is valid.
    let got = unsafe { libc::tcgetattr(terminal.as_raw_fd(), &mut settings) };
    assert_eq!(got, 0, "tcgetattr: {}", std::io::Error::last_os_error());
    settings
}

impl Terminal {
    fn start(cluster: &Cluster, arguments: &[&str]) -> Terminal {
        let (master, slave) = open_pair();
        let before = settings(&slave);
        let mut command = Command::new(SYNOD);
        command.arg("top").arg("--config").arg(cluster.config_file()).args(arguments).env("TERM", "xterm-256color");
        let end = || slave.try_clone().expect("another descriptor");
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: between fork and exec only async-signal-safe calls are made.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let child = command.spawn().expect("synod top starts");
        let (tell, output) = channel();
        let mut reader = master.try_clone().expect("another descriptor");
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            // Ends when the test's descriptors are closed, with an error then.
            while let Ok(bytes @ 1..) = reader.read(&mut buffer) {
                if tell.send(buffer[..bytes].to_vec()).is_err() {
                    return;
                }
            }
        });
        let size = |cells: u16| NonZeroU16::new(cells).expect("a terminal has cells");
        let screen = vt100::Parser::new(size(ROWS), size(COLUMNS), 0);
        Terminal { child, master, slave, before, output, screen }
    }

    fn rows(&self) -> Vec<String> {
        self.screen.screen().rows(0, COLUMNS).collect()
    }

    /// Waits until what is on the screen is what is looked for.
    fn await_screen(&mut self, what: &str, is_it: impl Fn(&[String]) -> bool) -> Vec<String> {
        let until = Instant::now() + SOON;
        loop {
            let rows = self.rows();
            if is_it(&rows) {
                return rows;
            }
            match self.output.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.screen.process(&bytes),
                Err(RecvTimeoutError::Timeout) => panic!("not on the screen: {what}: {rows:#?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the terminal is gone, and not: {what}: {rows:#?}"),
            }
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).expect("keys are taken");
    }

    /// Waits for its end: the code, after the terminal was seen to be as it was before.
    fn await_end(mut self) -> ExitStatus {
        let status = await_until(SOON, "synod top ends", || self.child.try_wait().expect("look at it"));
        // What it had written is there to be read.
        while let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(50)) {
            self.screen.process(&bytes);
        }
        let after = settings(&self.slave);
        assert_eq!(
            (after.c_lflag, after.c_iflag, after.c_oflag),
            (self.before.c_lflag, self.before.c_iflag, self.before.c_oflag)
        );
        let screen = self.screen.screen();
        assert!(!screen.alternate_screen() && !screen.hide_cursor(), "{:?}", screen.contents());
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself, and a drop cannot fail.
        let _gone: bool = self.child.kill().is_err() | self.child.wait().is_err();
    }
}

fn is_led_by(rows: &[String], leader: NodeId) -> bool {
    let row = format!("   {leader} TARGET    leader");
    rows.iter().any(|shown| shown.starts_with(&row)) && rows[1].contains("3 of 3 voters in step")
}

#[test]
fn the_leader_is_shown_keys_are_taken_and_the_terminal_is_given_back() {
    let _one = serial();
    let mut cluster = Cluster::prepare("top", |config| config.groups.push(config.groups[0].clone()));
    cluster.start_all();
    let (leader, other) = (cluster.await_leader(GROUP), cluster.await_leader(synod_wire::GroupId(1)));

    let mut terminal = Terminal::start(&cluster, &["--interval-ms", "100"]);
    let rows = terminal.await_screen("the leader", |rows| is_led_by(rows, leader));
    assert!(rows[0].starts_with("synod top ") && rows[0].contains("group 0 of 2"), "{rows:#?}");
    assert!(rows[23].contains("q quit") && rows.iter().any(|row| row.starts_with("log     first 1 ")), "{rows:#?}");
    assert!(terminal.screen.screen().alternate_screen() && terminal.screen.screen().hide_cursor());
    terminal.press(b"\t");
    terminal.await_screen("the other group", |rows| rows[0].contains("group 1 of 2") && is_led_by(rows, other));
    terminal.press(b"p");
    terminal.await_screen("that it is paused", |rows| rows[0].contains("PAUSED"));
    terminal.press(b"q");
    assert_eq!(terminal.await_end().code(), Some(0));

    // A signal gives it back as well.
    let mut terminal = Terminal::start(&cluster, &["--group", "1", "--interval-ms", "100"]);
    terminal.await_screen("the leader", |rows| rows[0].contains("group 1 of 2") && is_led_by(rows, other));
    kill_process(Pid::from_child(&terminal.child), Signal::TERM).expect("send SIGTERM");
    assert_eq!(terminal.await_end().code(), Some(0));

    prints_once(&cluster, leader);
    cluster.stop_all();
}

/// Where stdout is no terminal.
fn prints_once(cluster: &Cluster, leader: NodeId) {
    let config = cluster.config_file().to_str().expect("a path in UTF-8");
    let ask =
        |arguments: &[&str]| cluster.synod(&[&["top", "--config", config, "--interval-ms", "100"], arguments].concat());
    let output = ask(&[]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(!text.contains('\x1b') && !text.contains("q quit"), "{text}");
    assert!(text.contains("group 0 of 2") && text.contains("group 1 of 2"), "{text}");
    assert!(
        text.contains(&format!("node {leader} leads in ballot ")) && text.contains("3 of 3 voters in step"),
        "{text}"
    );
    assert!(text.contains("entries/s"), "two readings make a rate: {text}");
    let one = ask(&["--once", "--group", "1"]);
    let text = String::from_utf8(one.stdout).expect("text");
    assert!(text.contains("group 1 of 2") && !text.contains("group 0 of 2"), "{text}");
    assert_eq!(ask(&["--group", "2"]).status.code(), Some(2));
}
