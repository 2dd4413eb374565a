//! The host beneath a node: what it offers, what it withholds, and how to mend that. Nothing here is on a node's path; the
//! commands `check` and `tune` call it.
//!
//! | file | topic |
//! |---|---|
//! | `facts.rs` | where all facts come from: a root directory and a small trait of system calls |
//! | `kernel.rs`, `ethtool.rs` | the system calls |
//! | `cpus.rs` | sets of CPUs, as the kernel writes them |
//! | `cores.rs`, `system.rs`, `disk.rs`, `net.rs`, `numa.rs` | the conditions, by topic |
//! | `tune/` | the changes that need no boot, made and taken back |

mod cores;
pub mod cpus;
mod disk;
mod ethtool;
pub mod facts;
pub mod kernel;
mod net;
mod numa;
#[cfg(test)]
mod recorded;
mod system;
pub mod tune;

use crate::config::{Config, Node, WriterCore};
use cpus::Cpus;
use facts::Host;
use serde::Serialize;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be, or not needed here.
    Ok,
    /// To be known; or it could not be found out.
    Note,
    /// The node works, slower or less evenly than it could.
    Recommended,
    /// The node does not start, or does not keep what it promises.
    Required,
}

impl Severity {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Recommended => "recommended",
            Severity::Required => "required",
        }
    }
}

/// One condition and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name.
    pub condition: &'static str,
    /// What should be.
    pub required: String,
    /// What is; "unknown: " and why where it cannot be read.
    pub current: String,
    /// How much it matters.
    pub severity: Severity,
    /// What to do about it; empty where nothing is to be done.
    pub mend: String,
}

/// What `current` begins with where a condition could not be found out.
const UNKNOWN: &str = "unknown: ";

impl Finding {
    /// Why it could not be found out, if so.
    pub fn unknown_reason(&self) -> Option<&str> {
        self.current.strip_prefix(UNKNOWN)
    }
}

/// A condition whose state is not known yet.
pub(crate) struct Condition {
    name: &'static str,
    required: String,
}

impl Condition {
    pub(crate) fn new(name: &'static str, required: impl Into<String>) -> Condition {
        Condition { name, required: required.into() }
    }

    pub(crate) fn ok(self, current: impl Into<String>) -> Finding {
        self.unmet(Severity::Ok, current, "")
    }

    pub(crate) fn unmet(self, severity: Severity, current: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { condition: self.name, required: self.required, current: current.into(), severity, mend: mend.into() }
    }

    /// It cannot be found out here. Never a guess.
    pub(crate) fn unknown(self, reason: impl AsRef<str>) -> Finding {
        self.unmet(Severity::Note, format!("{UNKNOWN}{}", reason.as_ref()), "")
    }

    /// `recommended` where something is wrong, else ok.
    pub(crate) fn recommend_unless(self, holds: bool, current: impl Into<String>, mend: impl Into<String>) -> Finding {
        if holds { self.ok(current) } else { self.unmet(Severity::Recommended, current, mend) }
    }
}

/// What the host is for: a node of a configuration, or any node.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The configuration; the default where none was given.
    pub config: Config,
    /// The node.
    pub node: Option<Node>,
    /// The network card, where it is told: not that which has the node's address.
    pub nic: Option<String>,
}

impl Target {
    /// The CPUs that pipelines are pinned to.
    pub fn pipelines(&self) -> Cpus {
        if self.node.is_none() {
            return Cpus::default();
        }
        self.config.groups.iter().filter_map(|group| group.core).collect()
    }

    /// Those, and the log writers'.
    pub fn pinned(&self) -> Cpus {
        let mut all = self.pipelines();
        if let (Some(_), WriterCore::Cpu(cpu)) = (&self.node, self.config.wal.writer_core) {
            all.0.insert(cpu);
        }
        all
    }

    /// The node's directory.
    pub fn dir(&self) -> Result<PathBuf, String> {
        self.node.as_ref().map(|node| node.dir.clone()).ok_or_else(no_node)
    }

    /// Where members reach it.
    pub fn address(&self) -> Result<Ipv4Addr, String> {
        self.node.as_ref().map(|node| *node.peer_listen.ip()).ok_or_else(no_node)
    }
}

fn no_node() -> String {
    "no node was named (--config and --node)".into()
}

/// Looks at every condition.
pub fn check(host: &Host, target: &Target) -> Vec<Finding> {
    let all: [fn(&Host, &Target) -> Finding; 27] = [
        system::io_uring,
        disk::direct_io,
        disk::write_cache,
        disk::mount_options,
        disk::free_space,
        system::memlock,
        system::huge_pages,
        system::swap,
        system::clock_source,
        system::clock_synchronisation,
        cores::present,
        cores::isolated,
        cores::tickless,
        cores::rcu,
        cores::interrupts,
        cores::siblings,
        cores::governor,
        cores::idle_states,
        numa::disk,
        numa::nic,
        net::rings,
        net::coalescing,
        net::receive_steering,
        net::transmit_steering,
        net::mtu,
        net::socket_buffers,
        system::real_time,
    ];
    all.into_iter().map(|condition| condition(host, target)).collect()
}

/// The worst of them.
pub fn worst(findings: &[Finding]) -> Severity {
    findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use recorded::{CASES, bare_metal};
    use std::collections::BTreeSet;

    #[test]
    fn a_prepared_host_meets_every_condition() {
        let recorded = bare_metal();
        let findings = check(&recorded.host(), &recorded.target);
        for finding in &findings {
            assert_eq!(finding.severity, Severity::Ok, "{finding:?}");
        }
    }

    /// Each condition fails where it should, as severely as it should, with a mend where there is one, and no other with it.
    #[test]
    fn each_condition_fails_alone() {
        for case in CASES {
            let mut recorded = bare_metal();
            (case.spoil)(&mut recorded);
            let findings = check(&recorded.host(), &recorded.target);
            let bad: Vec<&Finding> = findings.iter().filter(|finding| finding.severity != Severity::Ok).collect();
            let [finding] = bad.as_slice() else { panic!("{}: {bad:#?}", case.says) };
            assert_eq!((finding.condition, finding.severity), (case.condition, case.severity), "{finding:?}");
            assert!(finding.current.contains(case.says), "{} not in {finding:?}", case.says);
            let unknown = finding.unknown_reason().is_some();
            assert!(unknown || !finding.mend.is_empty(), "no mend: {finding:?}");
            assert!(
                !unknown || finding.severity == Severity::Note,
                "what is unknown is no more than a note: {finding:?}"
            );
        }
    }

    #[test]
    fn every_condition_has_a_case_in_which_it_fails() {
        let recorded = bare_metal();
        let conditions: BTreeSet<_> =
            check(&recorded.host(), &recorded.target).iter().map(|found| found.condition).collect();
        let failing = CASES.iter().filter(|case| !case.says.starts_with("unknown"));
        let failing: BTreeSet<_> = failing.map(|case| case.condition).collect();
        assert_eq!(conditions, failing);
    }

    #[test]
    fn who_does_without_io_uring_is_not_told_to_mend_it() {
        let mut recorded = bare_metal();
        let refusal = facts::Refusal::Refused { current: "off".into(), mend: "switch it on".into() };
        recorded.answers.borrow_mut().io_uring = Err(refusal);
        recorded.target.config.cpu.io = crate::config::KernelIo::Syscall;
        assert_eq!(worst(&check(&recorded.host(), &recorded.target)), Severity::Ok);
    }

    /// Where nothing can be read, nothing is claimed.
    #[test]
    fn an_empty_root_is_unknown_and_no_failure() {
        let mut recorded = bare_metal();
        recorded.forget_everything();
        for finding in check(&recorded.host(), &recorded.target) {
            assert!(finding.unknown_reason().is_some(), "{finding:?}");
            assert_eq!(finding.severity, Severity::Note, "{finding:?}");
        }
    }

    #[test]
    fn this_host_can_be_looked_at() {
        let node = recorded::node(std::net::Ipv4Addr::LOCALHOST, std::env::current_dir().unwrap());
        let target = Target { node: Some(node), ..Target::default() };
        let findings = check(&Host::real(), &target);
        let of = |name: &str| findings.iter().find(|finding| finding.condition == name).unwrap();
        assert_eq!(of("io_uring").severity, Severity::Ok, "{:?}", of("io_uring"));
        assert_eq!(of("direct_io").severity, Severity::Ok, "{:?}", of("direct_io"));
        assert!(!of("clock_source").current.is_empty());
    }
}
