//! The pictures of the status page, as SVG within the HTML. Each figure stands in a `data-` attribute of what is drawn for it. Pure.

use super::page::Shown;
use crate::view::latency::{Commits, short, start_ns};
use crate::view::{Cell, History, KEPT_SAMPLES, Lease, LogPicture, Position, Sample, Standing};
use maud::{Markup, html};
use std::time::Duration;
use synod_client::{Mode, Stage, Status};
use synod_wire::picture::{COMMIT_BUCKETS, commit_bucket_end_ns};
use synod_wire::{GroupId, NodeId, Slot};

/// Width of all pictures, in units of their own.
const WIDTH: f64 = 960.0;
/// Units before what is drawn.
const LABEL: f64 = 70.0;
/// Height of a row of nodes.
const ROW: f64 = 24.0;
/// The widest and the narrowest cell of the matrix.
const CELL: (f64, f64) = (110.0, 12.0);

/// A mode's colour; `None`: it is not known.
pub(super) fn colour_of_mode(mode: Option<Mode>) -> &'static str {
    match mode {
        Some(Mode::Target) => "#3aa76d",
        Some(Mode::Election) => "#e6b01e",
        Some(Mode::Degraded) => "#d1495b",
        Some(Mode::Recovery) => "#3d85c6",
        Some(Mode::Floor) => "#8e5ea2",
        None => "#c9ced3",
    }
}

fn colour_of(node: NodeId) -> &'static str {
    const COLOURS: [&str; 9] =
        ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7f6aa8", "#8c8c8c"];
    COLOURS[usize::from(node.0) % COLOURS.len()]
}

/// The matrix of all nodes and groups.
pub(super) fn modes(shown: &Shown<'_>) -> Markup {
    let groups = &shown.view.groups;
    let nodes = groups.first().map_or(0, |group| group.cells.len());
    let cell_width = ((WIDTH - LABEL) / groups.len() as f64).clamp(CELL.1, CELL.0);
    let height = ROW * (nodes + 1) as f64;
    let x = |at: usize| LABEL + at as f64 * cell_width;
    let standings: Vec<Standing> = groups.iter().map(|group| group.standing(&shown.about.config)).collect();
    html! {
        svg class="modes" viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-label="modes of all nodes and groups" {
            @for (at, group) in groups.iter().enumerate() {
                text x=(x(at) + cell_width / 2.0) y="16" text-anchor="middle" { (heading(group.group, cell_width)) }
                @for (row, cell) in group.cells.iter().enumerate() {
                    (mode(shown, (group.group, cell), &standings[at], (x(at), ROW * (row + 1) as f64), cell_width))
                }
            }
            @if let Some(group) = groups.first() {
                @for (row, cell) in group.cells.iter().enumerate() {
                    text x="0" y=(ROW * (row + 1) as f64 + 16.0) { "node " (cell.node) }
                }
            }
        }
    }
}

fn heading(group: GroupId, width: f64) -> String {
    if width > 60.0 { format!("group {group}") } else { group.to_string() }
}

fn mode(
    shown: &Shown<'_>,
    (group, cell): (GroupId, &Cell),
    standing: &Standing,
    (x, y): (f64, f64),
    width: f64,
) -> Markup {
    let status = cell.current();
    let mode = status.and_then(|status| status.mode);
    let name = mode.map_or("unknown", Mode::name);
    let leads = standing.leader == Some(cell.node);
    let lasting = status.map(|status| status.mode_for).or(cell.unknown_for(shown.view.since_ns, shown.now_ns));
    let reason = status.and_then(|status| status.mode_reason).map_or("", |reason| reason.name());
    let text = match (width > 80.0, width > 24.0) {
        (true, _) => name.to_owned(),
        (false, true) => name.chars().take(1).collect(),
        (false, false) => String::new(),
    };
    html! {
        rect class="mode" data-node=(cell.node) data-group=(group) data-mode=(name) data-leads=(leads)
            x=(x + 1.0) y=(y + 1.0) width=(width - 2.0) height=(ROW - 2.0) rx="3" fill=(colour_of_mode(mode)) {
            title {
                "node " (cell.node) " group " (group) ": " (name) " for " (format!("{:.1}", lasting.unwrap_or_default().as_secs_f64()))
                " s " (reason)
            }
        }
        text x=(x + width / 2.0) y=(y + 16.0) text-anchor="middle" {
            @if leads { "◆ " } (text)
        }
    }
}

/// Who led, and how the lease was: one column a sample, equal neighbours together.
pub(super) fn time_line(history: &History) -> Markup {
    let samples: Vec<&Sample> = history.samples().collect();
    let column = (WIDTH - LABEL) / KEPT_SAMPLES as f64;
    // The newest at the right end.
    let x = |at: usize| LABEL + (KEPT_SAMPLES - samples.len() + at) as f64 * column;
    let leaders = runs(&samples, |sample| sample.leader);
    let leases = runs(&samples, |sample| sample.lease);
    html! {
        svg class="time-line" viewBox={ "0 0 " (WIDTH) " 66" } role="img" aria-label="leader and lease over time" {
            text x="0" y="16" { "leader" }
            text x="0" y="42" { "lease" }
            @for (at, length, leader) in leaders {
                rect class="leader" data-leader=[leader] data-samples=(length) x=(x(at)) y="2" width=(length as f64 * column) height="20"
                    fill=(leader.map_or("#e8e8e8", colour_of)) { title { (name_of_leader(leader)) } }
                @if length > 4 { text x=(x(at) + 4.0) y="16" { (name_of_leader(leader)) } }
            }
            @for (at, length, lease) in leases {
                rect class="lease" data-lease=(name_of(lease)) data-samples=(length) x=(x(at)) y="28"
                    width=(length as f64 * column) height="20" fill=(colour_of_lease(lease)) { title { (name_of(lease)) } }
                @if length > 4 { text x=(x(at) + 4.0) y="42" { (name_of(lease)) } }
            }
            text x=(LABEL) y="62" { (KEPT_SAMPLES) " s ago" }
            text x=(WIDTH) y="62" text-anchor="end" { "now" }
        }
    }
}

fn name_of_leader(leader: Option<NodeId>) -> String {
    leader.map_or("no leader".to_owned(), |node| format!("node {node}"))
}

fn name_of(lease: Lease) -> &'static str {
    match lease {
        Lease::Off => "off",
        Lease::None => "none",
        Lease::Held => "held",
    }
}

fn colour_of_lease(lease: Lease) -> &'static str {
    match lease {
        Lease::Off => "#eeeeee",
        Lease::None => "#f3d9a4",
        Lease::Held => "#9bd3b4",
    }
}

/// Equal neighbours: where they begin, how many, what.
fn runs<T: PartialEq>(samples: &[&Sample], of: impl Fn(&Sample) -> T) -> Vec<(usize, usize, T)> {
    let mut runs: Vec<(usize, usize, T)> = Vec::new();
    for (at, sample) in samples.iter().enumerate() {
        let what = of(sample);
        match runs.last_mut() {
            Some((_, length, last)) if *last == what => *length += 1,
            _ => runs.push((at, 1, what)),
        }
    }
    runs
}

/// The log as a whole, and its end with how far each node is.
pub(super) fn log(log: &LogPicture) -> Markup {
    let height = 66.0 + ROW * log.positions.len() as f64;
    let (from, to) = (log.first.unwrap_or(Slot(1)).0, log.accepted.0.max(1));
    let whole = |slot: Slot| {
        LABEL + (WIDTH - LABEL) * slot.0.saturating_sub(from) as f64 / to.saturating_sub(from).max(1) as f64
    };
    let told = |slot: Option<Slot>| slot.map_or("none".to_owned(), |slot| slot.to_string());
    html! {
        svg class="log" data-first=[log.first] data-snapshot=[log.snapshot] data-committed=(log.committed)
            data-accepted=(log.accepted) viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-label="structure of the log" {
            text x="0" y="16" { "all slots" }
            rect x=(LABEL) y="4" width=(WIDTH - LABEL) height="16" fill="#e3ebf3" {}
            rect x=(LABEL) y="4" width=(whole(log.committed) - LABEL) height="16" fill="#8fb4d9" {}
            @if let Some(snapshot) = log.snapshot {
                rect class="snapshot" x=(whole(snapshot.max(Slot(from))) - 1.5) y="0" width="3" height="24" fill="#b3541e" {}
            }
            text x=(LABEL) y="36" {
                "first " (told(log.first)) " · snapshot " (told(log.snapshot)) " · committed " (log.committed) " · accepted " (log.accepted)
            }
            text x=(LABEL) y="58" { "slot " (log.drawn.0) }
            text x=(WIDTH - 90.0) y="58" text-anchor="end" { "slot " (log.drawn.1) }
            @for (row, position) in log.positions.iter().enumerate() { (row_of(log, position, 62.0 + ROW * row as f64)) }
        }
    }
}

fn row_of(log: &LogPicture, position: &Position, y: f64) -> Markup {
    let width = WIDTH - LABEL - 90.0;
    let x = |slot: Slot| LABEL + width * log.share(slot);
    let chosen = position.at().map_or(LABEL, x);
    let accepted = position.accepted.map_or(chosen, x).max(chosen);
    let colour = if position.chosen.is_some() { colour_of(position.node) } else { "#c9ced3" };
    html! {
        g class="position" data-node=(position.node) data-chosen=[position.chosen] data-accepted=[position.accepted]
            data-matched=[position.matched] data-behind=[log.behind(position)] {
            text x="0" y=(y + 15.0) { "node " (position.node) @if position.leads { " ◆" } }
            rect x=(LABEL) y=(y + 3.0) width=(width) height=(ROW - 8.0) fill="#f4f4f4" {}
            rect x=(LABEL) y=(y + 3.0) width=(accepted - LABEL) height=(ROW - 8.0) fill=(colour) opacity="0.35" {}
            rect x=(LABEL) y=(y + 3.0) width=(chosen - LABEL) height=(ROW - 8.0) fill=(colour) {}
            @if let Some(matched) = position.matched {
                rect class="matched" x=(x(matched) - 1.0) y=(y) width="2" height=(ROW - 2.0) fill="#111" {
                    title { "the leader knows that node " (position.node) " has delivered everything up to slot " (matched) }
                }
            }
            text x=(WIDTH) y=(y + 15.0) text-anchor="end" { (position.at().map_or("unknown".to_owned(), |slot| slot.to_string())) }
        }
    }
}

/// Entries a second, by this node's word.
pub(super) fn rate(history: &History) -> Markup {
    let rates = history.rates();
    let highest = rates.iter().flatten().copied().fold(0.0, f64::max);
    let column = (WIDTH - LABEL) / KEPT_SAMPLES as f64;
    let x = |at: usize| LABEL + (KEPT_SAMPLES - rates.len() + at) as f64 * column;
    html! {
        svg class="rate" data-rate=[history.rate().map(|rate| rate.round())] viewBox={ "0 0 " (WIDTH) " 60" } role="img"
            aria-label="entries a second over time" {
            text x="0" y="16" { "entries/s" }
            @for (at, rate) in rates.iter().enumerate() {
                @if let Some(rate) = rate.filter(|rate| *rate > 0.0) {
                    rect x=(x(at)) y=(54.0 - 50.0 * rate / highest) width=(column * 0.9) height=(50.0 * rate / highest) fill="#56a0d3" {
                        title { (rate.round()) " entries/s" }
                    }
                }
            }
            rect x=(LABEL) y="54" width=(WIDTH - LABEL) height="1" fill="#999" {}
            text x="0" y="34" { (history.rate().map_or("?".to_owned(), |rate| format!("{rate:.0} now"))) }
            text x="0" y="52" { (format!("{highest:.0} most")) }
        }
    }
}

/// How many commits took how long, with the percentiles.
pub(super) fn latency(commits: &Commits, led: &Status, p999: Duration) -> Markup {
    let highest = commits.iter().copied().max().unwrap_or(0).max(1) as f64;
    let column = (WIDTH - LABEL) / COMMIT_BUCKETS as f64;
    let x = |bucket: usize| LABEL + bucket as f64 * column;
    let replied = led.stages.iter().find(|times| times.stage == Stage::Replied).filter(|times| times.count > 0);
    let marks = replied.map(|times| [("p50", times.p50), ("p99", times.p99), ("p99.9", p999)]);
    html! {
        svg class="latency" viewBox={ "0 0 " (WIDTH) " 190" } role="img" aria-label="histogram of commit latency" {
            @for (bucket, count) in commits.iter().enumerate() {
                rect class="bucket" data-from-ns=(start_ns(bucket)) data-count=(count) x=(x(bucket) + 0.5)
                    y=(150.0 - 110.0 * *count as f64 / highest) width=(column - 1.0)
                    height=(110.0 * *count as f64 / highest) fill="#56a0d3" {
                    title { (count) " commits from " (short(Duration::from_nanos(start_ns(bucket)))) " on" }
                }
                @if bucket % 4 == 1 {
                    text x=(x(bucket)) y="166" text-anchor="middle" { (short(Duration::from_nanos(start_ns(bucket)))) }
                }
            }
            rect x=(LABEL) y="150" width=(WIDTH - LABEL) height="1" fill="#999" {}
            @for (row, (name, time)) in marks.iter().flatten().enumerate() {
                rect x=(place(*time, column)) y=(6.0 + 11.0 * row as f64) width="1.5" height=(144.0 - 11.0 * row as f64) fill="#b00020" {}
                text class="percentile" data-percentile=(name) data-ns=(time.as_nanos()) x=(place(*time, column) + 4.0)
                    y=(14.0 + 11.0 * row as f64) { (name) " " (short(*time)) }
            }
            text x="0" y="16" { "commits" }
            text x="0" y="184" { "to the acknowledgement" }
        }
    }
}

/// Where a time is drawn: within its bucket.
fn place(time: Duration, column: f64) -> f64 {
    let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let bucket = (0..COMMIT_BUCKETS).find(|bucket| ns < commit_bucket_end_ns(*bucket)).unwrap_or(COMMIT_BUCKETS - 1);
    let (from_ns, to_ns) = (start_ns(bucket), commit_bucket_end_ns(bucket));
    let within = if to_ns == u64::MAX { 0.5 } else { (ns - from_ns) as f64 / (to_ns - from_ns) as f64 };
    LABEL + (bucket as f64 + within) * column
}
