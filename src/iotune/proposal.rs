//! What the measured figures say of the configuration. Pure.
//!
//! `writer`, `max_in_flight` and `max_flush_bytes` follow the figures. Bounds of time are only ever raised above what the configuration
//! has (the defaults, if none was named): a host that is idle while it is measured is no reason to be less patient.

use super::predict::Prediction;
use super::{Cell, DEPTHS, Row, Way};
use crate::config::check::grouped;
use crate::config::{Config, Finding, InFlight, Writer, check};
use crate::measure::files::BLOCK_BYTES;
use serde::Serialize;
use std::fmt::Write;

/// One way is better than the other if its median is below this part of the other's,
const CLEARLY: f64 = 0.9;
/// and its p99 at most this many times the other's.
const TAIL: f64 = 1.1;
/// More writes in flight pay if twice as many bring this many times the writes a second.
const DEPTH_GAIN: f64 = 1.25;
/// The largest flush brings no more than a smaller one that reaches this part of its bytes a second.
const FLUSH_ENOUGH: f64 = 0.9;
/// The least that `wal.max_flush_bytes` may be.
const FLUSH_MIN_BYTES: usize = 128 << 10;
/// An election time-out lasts this many round trips with their slow write (p99.9) at least.
const ELECTION_TRIPS: f64 = 10.0;
/// A message is sent again after so many of them.
const RETRANSMIT_TRIPS: f64 = 2.0;
/// A write hangs that takes so many times the longest that was seen.
const HUNG_TIMES: f64 = 10.0;
/// A log that takes less than so many times the p99 of a write is not slow.
const SLOW_TIMES: f64 = 2.0;

/// The line that a written proposal begins with.
pub const HEAD: &str = "# Proposed by `synod iotune`";

/// A key with the value that is proposed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Key {
    /// Its table.
    pub section: &'static str,
    /// Its name there.
    pub key: &'static str,
    /// As TOML has it.
    pub value: toml::Value,
    /// Whether it differs from what the configuration has.
    pub changed: bool,
    /// From which figures.
    pub why: String,
}

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub struct Proposal {
    /// In the order of the configuration file.
    pub keys: Vec<Key>,
    /// What `config validate` would say of other keys next to these.
    pub findings: Vec<String>,
}

/// The cell that a node's single write is: of the ring and the thread the faster one, else what could be measured.
pub(super) fn choose(rows: &[Row]) -> Cell {
    let single = |way| super::row(rows, Cell { way, block_bytes: BLOCK_BYTES, depth: 1 });
    let faster = match (single(Way::Ring), single(Way::Thread)) {
        (Some(ring), Some(thread)) if thread.summary.p50_us < ring.summary.p50_us => Some(thread),
        (ring, thread) => ring.or(thread),
    };
    let row = faster.or_else(|| single(Way::Inline)).or_else(|| single(Way::Buffered));
    row.expect("a buffered write can always be measured").cell
}

/// From `base` and what was measured.
pub(super) fn of(base: &Config, rows: &[Row], chosen: Cell, prediction: &Prediction) -> Proposal {
    let mut proposed = base.clone();
    let mut why = Vec::new();
    writer(&mut proposed, rows, &mut why);
    depth(&mut proposed, rows, chosen, &mut why);
    flush(&mut proposed, rows, &mut why);
    time_outs(&mut proposed, prediction, &mut why);
    let of_these =
        |finding: &Finding| ["wal.", "consensus.", "reads."].iter().any(|section| finding.key.starts_with(section));
    let findings = check(&proposed).into_iter().filter(of_these).map(told).collect();
    Proposal { keys: why.into_iter().map(|why| key(base, &proposed, why)).collect(), findings }
}

fn told(finding: Finding) -> String {
    format!("{}: {}; {}", finding.key, finding.reason, finding.mend)
}

type Why = (&'static str, &'static str, String);

fn key(base: &Config, proposed: &Config, (section, key, why): Why) -> Key {
    let of = |config: &Config| {
        let table = toml::Table::try_from(config).expect("a configuration is a table");
        table[section][key].clone()
    };
    let value = of(proposed);
    Key { section, key, changed: value != of(base), value, why }
}

fn writer(proposed: &mut Config, rows: &[Row], why: &mut Vec<Why>) {
    let single = |way| super::row(rows, Cell { way, block_bytes: BLOCK_BYTES, depth: 1 });
    let (Some(ring), Some(thread)) = (single(Way::Ring), single(Way::Thread)) else { return };
    let (ring, thread) = (&ring.summary, &thread.summary);
    let better =
        |one: f64, other: f64, one_p99: f64, other_p99: f64| one < CLEARLY * other && one_p99 <= TAIL * other_p99;
    let (value, verdict) = if better(ring.p50_us, thread.p50_us, ring.p99_us, thread.p99_us) {
        (Writer::Ring, "the ring is clearly faster, as long as no other work is on its core and the disk's interrupt's")
    } else if better(thread.p50_us, ring.p50_us, thread.p99_us, ring.p99_us) {
        (Writer::Thread, "the thread is clearly faster")
    } else {
        (Writer::Auto, "neither is clearly faster: trials at run time decide")
    };
    proposed.wal.writer = value;
    let figures = |of: &crate::measure::stats::Summary| format!("{:.0} / {:.0}", of.p50_us, of.p99_us);
    why.push(("wal", "writer", format!("p50 / p99 us: ring {}, thread {}; {verdict}", figures(ring), figures(thread))));
}

fn depth(proposed: &mut Config, rows: &[Row], chosen: Cell, why: &mut Vec<Why>) {
    let rate = |depth| super::row(rows, Cell { depth, ..chosen }).map(|row| row.summary.per_second);
    let rates: Vec<(usize, f64)> = DEPTHS.iter().filter_map(|depth| Some((*depth, rate(*depth)?))).collect();
    if rates.len() < DEPTHS.len() {
        return;
    }
    let pays = rates.windows(2).take_while(|pair| pair[1].1 >= DEPTH_GAIN * pair[0].1).count();
    proposed.wal.max_in_flight = InFlight::Fixed(rates[pays].0);
    let told: Vec<String> = rates.iter().map(|(depth, rate)| format!("{depth}: {rate:.0}")).collect();
    why.push(("wal", "max_in_flight", format!("writes a second with so many in flight: {}", told.join(", "))));
}

fn flush(proposed: &mut Config, rows: &[Row], why: &mut Vec<Why>) {
    let sizes: Vec<&Row> = rows.iter().filter(|row| row.cell.block_bytes >= FLUSH_MIN_BYTES).collect();
    let most = sizes.iter().map(|row| row.bytes_per_second).fold(0.0, f64::max);
    let Some(enough) = sizes.iter().find(|row| row.bytes_per_second >= FLUSH_ENOUGH * most) else { return };
    proposed.wal.max_flush_bytes = enough.cell.block_bytes;
    let told: Vec<String> = sizes
        .iter()
        .map(|row| format!("{} KiB: {:.0}", row.cell.block_bytes >> 10, row.bytes_per_second / 1e6))
        .collect();
    why.push(("wal", "max_flush_bytes", format!("MB a second in writes of: {}", told.join(", "))));
}

fn time_outs(proposed: &mut Config, found: &Prediction, why: &mut Vec<Why>) {
    let hung = raised(proposed.wal.hung_after_us, HUNG_TIMES * found.sync_max_us, 60_000_000);
    proposed.wal.hung_after_us = hung;
    why.push((
        "wal",
        "hung_after_us",
        format!("the longest write took {:.0} us; at least {HUNG_TIMES} times that", found.sync_max_us),
    ));

    let step_us = found.round_trip_us + found.sync_p999_us;
    let consensus = &mut proposed.consensus;
    let before = consensus.election_timeout_min_us;
    let min = raised(before, ELECTION_TRIPS * step_us, 60_000_000);
    if min > before {
        let scale = |value: u64| round_up(value as f64 * min as f64 / before as f64);
        consensus.heartbeat_us = scale(consensus.heartbeat_us).min(10_000_000).min(min / 2);
        consensus.election_timeout_max_us = scale(consensus.election_timeout_max_us).min(120_000_000);
    }
    consensus.election_timeout_min_us = min;
    consensus.retransmit_us = raised(consensus.retransmit_us, RETRANSMIT_TRIPS * step_us, 10_000_000).min(min);
    consensus.fail_slow_min_us = raised(consensus.fail_slow_min_us, SLOW_TIMES * found.sync_p99_us, 10_000_000);
    why.push(("consensus", "heartbeat_us", "moves with the election time-outs".into()));
    let step = format!("a round trip and a write at p99.9 take {step_us:.0} us");
    why.push(("consensus", "election_timeout_min_us", format!("{step}; at least {ELECTION_TRIPS} times that")));
    why.push(("consensus", "election_timeout_max_us", "moves with the one above".into()));
    why.push(("consensus", "retransmit_us", format!("{step}; at least {RETRANSMIT_TRIPS} times that")));
    let p99 = found.sync_p99_us;
    why.push((
        "consensus",
        "fail_slow_min_us",
        format!("p99 of a write is {p99:.0} us; at least {SLOW_TIMES} times that"),
    ));
}

/// `at_least` in two digits, rounded up and within `limit`, where that is more than `value`.
fn raised(value: u64, at_least: f64, limit: u64) -> u64 {
    value.max(round_up(at_least).min(limit))
}

fn round_up(value: f64) -> u64 {
    let whole = value.max(1.0).ceil();
    let step = 10f64.powi((whole.log10().floor() as i32 - 1).max(0));
    ((whole / step).ceil() * step) as u64
}

impl Proposal {
    /// As a part of a configuration file.
    pub fn toml(&self) -> String {
        let mut text = format!(
            "{HEAD} from durable writes on this host.\n# Put the keys into the cluster's file, whose sections they belong to; `synod \
             config validate` checks it.\n"
        );
        let mut section = "";
        for key in &self.keys {
            if key.section != section {
                section = key.section;
                write!(text, "\n[{section}]\n").expect("a string takes everything");
            }
            let same = if key.changed { "" } else { " (as it is)" };
            writeln!(text, "# {}{same}\n{} = {}", key.why, key.key, literal(&key.value))
                .expect("a string takes everything");
        }
        text
    }
}

fn literal(value: &toml::Value) -> String {
    match value.as_integer().and_then(|number| u64::try_from(number).ok()) {
        Some(number) => grouped(number),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{all_cells, of_rounds, predict};
    use super::*;
    use crate::config::{DEFAULT_TOML, load};
    use crate::measure::stats::Measured;
    use std::time::Duration;

    /// A disk on which a write takes `us` in the given cell, and as many end a second.
    fn rows(us: impl Fn(&Cell) -> f64, per_second: impl Fn(&Cell) -> f64) -> Vec<Row> {
        let row = |cell: Cell| {
            let mut measured = Measured::new();
            (0..1_000).for_each(|_| measured.record(Duration::from_nanos((us(&cell) * 1e3) as u64)));
            measured.ended = 1_000;
            measured.elapsed = Duration::from_secs_f64(1_000.0 / per_second(&cell));
            of_rounds(cell, &[measured])
        };
        all_cells(true, true).into_iter().map(row).collect()
    }

    fn proposal(base: &Config, rows: &[Row]) -> Proposal {
        let chosen = choose(rows);
        let sync = &super::super::row(rows, chosen).unwrap().measured.latency_ns;
        of(base, rows, chosen, &predict::of(sync, 3, 2, Duration::from_micros(50), true))
    }

    /// A configuration file that consists of the default's nodes and the proposal.
    fn with_nodes(proposal: &Proposal) -> String {
        let nodes: String = DEFAULT_TOML.split_inclusive('\n').take_while(|line| !line.starts_with("[cpu]")).collect();
        nodes + &proposal.toml()
    }

    fn value(proposal: &Proposal, key: &str) -> toml::Value {
        proposal.keys.iter().find(|one| one.key == key).unwrap_or_else(|| panic!("no {key}")).value.clone()
    }

    #[test]
    fn every_proposed_key_is_one_of_the_configuration_and_a_file_with_them_loads() {
        let documented = DEFAULT_TOML.parse::<toml::Table>().unwrap();
        let default = load::parse(DEFAULT_TOML, "default.toml".as_ref(), std::iter::empty()).unwrap().config;
        for (name, us) in [("fast", 20.0), ("middling", 300.0), ("slow", 80_000.0)] {
            let proposal = proposal(&default, &rows(|_| us, |cell| cell.depth as f64 * 1e6 / us));
            for key in &proposal.keys {
                let known = documented[key.section].get(key.key);
                assert!(known.is_some(), "{}.{}", key.section, key.key);
            }
            let text = with_nodes(&proposal);
            let loaded = load::parse(&text, "proposed.toml".as_ref(), std::iter::empty());
            let loaded = loaded.unwrap_or_else(|error| panic!("{name}: {error}\n{text}")).config;
            let table = toml::Table::try_from(&loaded).unwrap();
            for key in &proposal.keys {
                assert_eq!(table[key.section][key.key], key.value, "{name}: {}", key.key);
            }
            assert!(proposal.findings.is_empty(), "{name}: {:?}", proposal.findings);
        }
    }

    #[test]
    fn the_faster_way_wins_if_it_is_clearly_so() {
        let base = Config::default();
        let faster = |way: Way, us: f64| rows(move |cell| if cell.way == way { us } else { 100.0 }, |_| 1e4);
        for (way, us, expected) in [
            (Way::Ring, 50.0, "ring"),
            (Way::Thread, 50.0, "thread"),
            (Way::Ring, 95.0, "auto"),
            (Way::Thread, 95.0, "auto"),
        ] {
            let rows = faster(way, us);
            assert_eq!(value(&proposal(&base, &rows), "writer").as_str(), Some(expected), "{way:?} {us}");
            assert_eq!(choose(&rows).way, way);
        }
    }

    #[test]
    fn more_writes_in_flight_must_pay_step_by_step() {
        let base = Config::default();
        let with = |rates: [f64; 4]| {
            let rate = move |cell: &Cell| rates[cell.depth.trailing_zeros() as usize];
            value(&proposal(&base, &rows(|_| 100.0, rate)), "max_in_flight").as_integer().unwrap()
        };
        assert_eq!(with([1e4, 1e4, 1e4, 1e4]), 1);
        assert_eq!(with([1e4, 1.9e4, 2.0e4, 9e4]), 2, "the step from two to four does not pay");
        assert_eq!(with([1e4, 1.9e4, 3.5e4, 6e4]), 8);
    }

    #[test]
    fn bounds_of_time_rise_with_the_disk_and_never_fall() {
        let base = Config::default();
        let fast = proposal(&base, &rows(|_| 20.0, |_| 5e4));
        for key in fast.keys.iter().filter(|key| key.key.ends_with("_us")) {
            assert!(!key.changed, "{key:?}");
        }
        // Writes of 80 ms: ten of them and their round trips are 800.5 ms.
        let slow = proposal(&base, &rows(|_| 80_000.0, |_| 12.0));
        let us = |key| value(&slow, key).as_integer().unwrap();
        assert!((810_000..=820_000).contains(&us("election_timeout_min_us")), "{slow:?}");
        assert!(us("election_timeout_max_us") >= 2 * us("election_timeout_min_us"));
        assert!(us("heartbeat_us") * 7 <= us("election_timeout_min_us"));
        assert!(us("fail_slow_min_us") >= 160_000 && us("retransmit_us") >= 160_000);
        assert_eq!((round_up(150_001.0), round_up(0.2), round_up(99.1)), (160_000, 1, 100));
    }
}
