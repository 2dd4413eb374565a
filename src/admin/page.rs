//! The status page: HTML that loads nothing and runs nothing, and asks to be fetched again every two seconds. Pure.

use super::{About, Health, drawing};
use crate::view::latency::short;
use crate::view::{Cell, GroupView, LogPicture, Standing, View, clock};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::time::Duration;
use synod_client::{Mode, Stage, Status};
use synod_wire::NodeId;

pub(super) const CONTENT_TYPE: &str = "text/html; charset=utf-8";
/// As many groups are shown on one page; where there are more, one at a time is.
const GROUPS_AT_ONCE: usize = 4;
const STYLE: &str = "
:root { color-scheme: light; }
body { font: 14px/1.45 system-ui, sans-serif; color: #222; max-width: 1000px; margin: 1.2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1.1rem; margin: 1.8rem 0 .3rem; border-bottom: 1px solid #ddd; }
h3 { font-size: .95rem; margin: .9rem 0 .2rem; color: #444; }
p { margin: .3rem 0; } .note { color: #666; } .well { color: #1b7f45; } .ill { color: #b00020; font-weight: 600; }
table { border-collapse: collapse; margin: .3rem 0; } th, td { padding: .1rem .9rem .1rem 0; text-align: left; }
th { font-weight: 600; border-bottom: 1px solid #bbb; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; display: block; } svg text { font: 11px system-ui, sans-serif; fill: #333; }
nav a { margin-right: .6rem; } .key span { margin-right: 1rem; white-space: nowrap; }
.key i { display: inline-block; width: .9em; height: .9em; margin-right: .35em; vertical-align: -.1em; border-radius: 2px; }
";

/// What is shown.
pub(super) struct Shown<'a> {
    pub(super) about: &'a About,
    pub(super) view: &'a View,
    pub(super) health: &'a Health,
    /// The group that was asked for.
    pub(super) only: Option<u8>,
    /// Now, monotonic.
    pub(super) now_ns: u64,
    /// Now, since the Unix epoch.
    pub(super) wall: Duration,
}

/// The page.
pub(super) fn render(shown: &Shown<'_>) -> String {
    let Shown { about, view, health, .. } = shown;
    let groups = view.groups.len();
    let first = shown.only.map(usize::from).filter(|at| *at < groups);
    let at = match first {
        Some(one) => one..one + 1,
        None if groups <= GROUPS_AT_ONCE => 0..groups,
        None => 0..1,
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="refresh" content="2";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Synod: node " (about.node) " of cluster " (about.cluster.0) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Synod: node " (about.node) " of cluster " (about.cluster.0) }
                p class="note" {
                    "version " (env!("CARGO_PKG_VERSION")) " · " (clock(shown.wall)) " · as this node knows it; the others were asked just now"
                }
                @if health.ok {
                    p class="well" { "This node does its work in all groups." }
                } @else {
                    @for reason in &health.reasons { p class="ill" { (reason) } }
                }
                h2 { "Modes" }
                (drawing::modes(shown))
                (key())
                (silent(shown))
                @if groups > 1 {
                    nav { "Groups: " @for group in &view.groups { a href={ "/?group=" (group.group) } { (group.group) } } }
                }
                @for group in &view.groups[at] { (section(shown, group)) }
            }
        }
    };
    page.into_string()
}

fn key() -> Markup {
    let modes = Mode::ALL.iter().map(|mode| (Some(*mode), mode.name())).chain([(None, "unknown")]);
    html! {
        p class="key note" {
            @for (mode, name) in modes { span { i style={ "background:" (drawing::colour_of_mode(mode)) } {} (name) } }
            span { "◆ leads" }
        }
    }
}

/// A line for each node of which nothing is known.
fn silent(shown: &Shown<'_>) -> Markup {
    let (since_ns, now_ns) = (shown.view.since_ns, shown.now_ns);
    let unknown = shown.view.groups.iter().flat_map(|group| {
        group.cells.iter().filter_map(move |cell| Some((group.group, cell, cell.unknown_for(since_ns, now_ns)?)))
    });
    html! {
        @for (group, cell, unknown) in unknown {
            p class="ill" data-unknown=(cell.node) {
                "node " (cell.node) " group " (group) ": " (unknown_since(cell, unknown, shown.wall))
            }
        }
    }
}

fn unknown_since(cell: &Cell, unknown: Duration, wall: Duration) -> String {
    let clock = clock(wall.saturating_sub(unknown));
    match cell.heard_ns {
        Some(_) => format!("unknown since {clock} ({:.1} s)", unknown.as_secs_f64()),
        None => format!("unknown since {clock}, when this node started to look"),
    }
}

fn section(shown: &Shown<'_>, group: &GroupView) -> Markup {
    let standing = group.standing(&shown.about.config);
    let led = group.led(&standing);
    let class = if standing.is_well() { "well" } else { "ill" };
    let log = LogPicture::of(&group.cells, standing.leader);
    html! {
        section data-group=(group.group) data-leader=[standing.leader] {
            h2 { "Group " (group.group) }
            p class=(class) { (standing.line()) }
            (nodes(shown, group, &standing, log.as_ref()))
            h3 { "Leader and lease, the last two minutes by this node's word" }
            (drawing::time_line(&group.history))
            h3 { "Log" }
            @if let Some(log) = &log { (drawing::log(log)) } @else { p class="note" { "unknown: no node answers" } }
            h3 { "Rate" }
            (drawing::rate(&group.history))
            h3 { "Commit latency" }
            @match led { Some(led) => (latency(led)), None => p class="note" { "unknown: no leader" } }
        }
    }
}

fn nodes(shown: &Shown<'_>, group: &GroupView, standing: &Standing, log: Option<&LogPicture>) -> Markup {
    let behind = |node: NodeId| {
        let position = log.and_then(|log| log.positions.iter().find(|position| position.node == node));
        position.and_then(|position| log.and_then(|log| log.behind(position)))
    };
    let told = |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
    html! {
        table {
            tr {
                th { "node" } th { "mode" } th { "role" } th.n { "ballot" } th.n { "chosen" } th.n { "accepted" } th.n { "applied" }
                th.n { "behind" } th.n { "tail" } th.n { "lease left" }
            }
            @for cell in &group.cells {
                @if let Some(status) = cell.current() {
                    tr data-node=(cell.node) {
                        td { (cell.node) @if standing.leader == Some(cell.node) { " ◆" } }
                        td { (status.mode.map_or("?", Mode::name)) }
                        td { (status.role_name()) }
                        td.n { (status.promised) }
                        td.n { (status.chosen) }
                        td.n { (status.accepted) }
                        td.n { (status.applied) }
                        td.n { (told(behind(cell.node))) }
                        td.n { (status.tail) }
                        td.n { (lease(status)) }
                    }
                } @else {
                    tr data-node=(cell.node) {
                        td { (cell.node) }
                        td colspan="6" class="note" {
                            (unknown_since(cell, cell.unknown_for(shown.view.since_ns, shown.now_ns).unwrap_or_default(), shown.wall))
                        }
                        td.n { (told(behind(cell.node))) }
                        td {} td {}
                    }
                }
            }
        }
    }
}

fn lease(status: &Status) -> String {
    match (status.lease, status.lease_left, status.bound_left) {
        (None, ..) => "off".to_owned(),
        (_, Some(left), _) => short(left),
        (_, None, Some(bound)) => format!("bound {}", short(bound)),
        (_, None, None) => "none".to_owned(),
    }
}

/// How long commits of this leader took, since it started.
fn latency(led: &Status) -> Markup {
    let p999 = led.picture.as_ref().map(|picture| picture.p999);
    let of_stage =
        |stage: Stage| if stage == Stage::Replied { p999.map_or("?".to_owned(), short) } else { String::new() };
    html! {
        p class="note" { "From the client's datagram to each stage, on node " (led.node) ", since it started." }
        table {
            tr { th { "stage" } th.n { "commits" } th.n { "p50" } th.n { "p99" } th.n { "p99.9" } th.n { "longest" } }
            @for times in &led.stages {
                tr data-stage=(times.stage.name()) {
                    td { (times.stage.name()) }
                    td.n { (times.count) }
                    td.n { (short(times.p50)) }
                    td.n { (short(times.p99)) }
                    td.n { (of_stage(times.stage)) }
                    td.n { (short(times.max)) }
                }
            }
        }
        @if let Some(picture) = &led.picture {
            (drawing::latency(&picture.commits, led, picture.p999))
        } @else {
            p class="note" { "No histogram: net.max_batch_bytes leaves no room for it in a datagram." }
        }
    }
}
