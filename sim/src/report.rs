//! What the command line prints: totals of many runs, and failures.

use crate::pace::Pace;
use crate::worker::Passed;
use std::fmt::Write;
use std::time::Instant;
use synod_sim::{Coverage, Failure, Fault, Plan, Profile};

/// Sums over runs.
pub(crate) struct Total {
    began: Instant,
    runs: u64,
    events: u64,
    simulated_ns: u64,
    operations: u64,
    slots: u64,
    coverage: Coverage,
    pace: Pace,
    jobs: usize,
    /// Seeds that failed, if the caller goes on after them.
    pub(crate) failed: Vec<u64>,
}

impl Total {
    pub(crate) fn new(jobs: usize) -> Total {
        Total {
            jobs,
            failed: Vec::new(),
            began: Instant::now(),
            runs: 0,
            events: 0,
            simulated_ns: 0,
            operations: 0,
            slots: 0,
            coverage: Coverage::default(),
            pace: Pace::default(),
        }
    }

    pub(crate) fn add(&mut self, seed: u64, passed: &Passed) {
        let outcome = &passed.outcome;
        self.pace.add(seed, outcome, passed.cpu_ns);
        self.runs += 1;
        self.events += outcome.events;
        self.simulated_ns += outcome.simulated_ns;
        self.operations += outcome.operations;
        self.slots += outcome.slots;
        self.coverage.absorb(&outcome.coverage);
    }

    fn speed(&self) -> f64 {
        self.simulated_ns as f64 / 1e9 / self.began.elapsed().as_secs_f64().max(1e-9)
    }

    /// For the progress line.
    pub(crate) fn line(&self) -> String {
        let faults: u64 = self.coverage.faults.values().sum();
        let mut most: Vec<(&Fault, &u64)> = self.coverage.faults.iter().collect();
        most.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let most: Vec<String> = most.iter().take(4).map(|(fault, count)| format!("{} {count}", fault.name())).collect();
        format!(
            "{} s simulated, {:.0}x real time, {} operations, {faults} faults ({}, …)",
            self.simulated_ns / 1_000_000_000,
            self.speed(),
            self.operations,
            most.join(", ")
        )
    }

    /// For programs.
    pub(crate) fn json(&self, profile: Profile) -> serde_json::Value {
        serde_json::json!({
            "profile": profile,
            "seeds_passed": self.runs,
            "seeds_failed": self.failed,
            "jobs": self.jobs,
            "elapsed_seconds": self.began.elapsed().as_secs_f64(),
            "simulated_seconds": self.simulated_ns as f64 / 1e9,
            "speed_up": self.speed(),
            "pace": self.pace.json(),
            "events": self.events,
            "operations": self.operations,
            "slots": self.slots,
            "coverage": self.coverage,
            "never_seen": self.coverage.missed(profile),
        })
    }

    /// For the end.
    pub(crate) fn report(&self, profile: Profile) -> String {
        let mut out = String::new();
        let seconds = self.simulated_ns as f64 / 1e9;
        let _ = writeln!(
            out,
            "{} seeds passed, {} failed: {seconds:.0} s simulated in {:.1} s ({:.0}x, {} at a time), {} events, {} slots, {} operations ({:.0} a simulated second)",
            self.runs,
            self.failed.len(),
            self.began.elapsed().as_secs_f64(),
            self.speed(),
            self.jobs,
            self.events,
            self.slots,
            self.operations,
            self.operations as f64 / seconds.max(1e-9)
        );
        out.push_str(&self.pace.lines());
        for (fault, count) in &self.coverage.faults {
            let _ = writeln!(out, "  fault {:<30} {count:>10}", fault.to_string());
        }
        for (role, count) in &self.coverage.roles {
            let _ = writeln!(out, "  role  {role:<30} {count:>10}");
        }
        for (change, count) in &self.coverage.modes {
            let _ = writeln!(out, "  mode  {change:<30} {count:>10}");
        }
        for (mark, count) in &self.coverage.marks {
            let _ = writeln!(out, "  mark  {mark:<50} {count:>10}");
        }
        for missed in self.coverage.missed(profile) {
            let _ = match missed.because {
                None => writeln!(out, "NEVER SEEN: {}", missed.what),
                Some(why) => writeln!(out, "  not seen: {}: {why}", missed.what),
            };
        }
        out
    }
}

/// A plan, for people.
pub(crate) fn plan(plan: &Plan) -> String {
    let faults: Vec<String> = plan.faults.iter().map(|(fault, rate)| format!("{fault}={rate}")).collect();
    format!(
        "seed {}, {} nodes{}, quorums {}/{}, {} clients, {} readers, {} subscribers, {} entries/s, {} ms of chaos, window {}, {} writes in flight{}\nfaults: {}",
        plan.seed,
        plan.nodes,
        if plan.spares > 0 { format!(" and {} spare ones", plan.spares) } else { String::new() },
        plan.phase1,
        plan.phase2,
        plan.clients,
        plan.readers,
        plan.subscribers,
        plan.entries_per_second,
        plan.safety_ms,
        plan.window_slots,
        plan.max_in_flight,
        plan.mutant.as_ref().map_or_else(String::new, |mutant| format!(", mutant {mutant}")),
        if faults.is_empty() { "none".to_owned() } else { faults.join(", ") }
    )
}

/// A failure, for people.
pub(crate) fn failure(failure: &Failure) -> String {
    let mut out = failure.events.join("\n");
    let _ = write!(
        out,
        "\n{}\nFAILED at {:.6} s: {}\n  {}",
        plan(&failure.plan),
        failure.at_ns as f64 / 1e9,
        failure.violation.property,
        failure.violation.detail
    );
    out
}
