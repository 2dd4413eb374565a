//! What `synod top` shows of a group, in lines of text with colours. Pure: the same for a terminal and for plain text.

use super::{colour_of, named};
use crate::config::Config;
use crate::view::latency::{Percentiles, short};
use crate::view::{Cell, GroupView, Lease, LogPicture, Position, Sample, Standing, View, clock};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use std::time::Duration;
use synod_client::{Mode, Stage, Status};

/// Eight heights of a sparkline.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Columns before what is drawn over time.
const LABEL: usize = 8;
/// Columns before a bar of the log, and behind it.
const BEFORE_BAR: usize = 7;
const BEHIND_BAR: usize = 15;

/// What is shown.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) view: &'a View,
    pub(super) config: &'a Config,
    /// The group's place.
    pub(super) at: usize,
    pub(super) paused: bool,
    /// Whether there are keys; plain text has none.
    pub(super) keys: bool,
    /// Now, monotonic.
    pub(super) now_ns: u64,
    /// Now, since the Unix epoch.
    pub(super) wall: Duration,
}

impl Shown<'_> {
    /// As many lines as there is room for: where it is scarce, empty lines go first, then nodes of the log that are in step.
    pub(super) fn lines(&self, columns: usize, rows: usize) -> Vec<Line<'static>> {
        let group = &self.view.groups[self.at];
        let standing = group.standing(self.config);
        let led = group.led(&standing);
        let top = vec![self.title(group), self.headline(&standing, led)];
        let nodes = self.nodes(group, &standing);
        let times = vec![leaders(group, columns), leases(group, columns)];
        let figures = vec![
            latency_now(group),
            latency_since_start(led),
            spark_of_p99(group, columns),
            spark_of_rate(group, columns),
        ];
        let taken = top.len() + nodes.len() + times.len() + figures.len() + 1;
        let log = log(group, &standing, columns, rows.saturating_sub(taken));
        let mut spare = rows.saturating_sub(taken + log.len());
        let mut lines = Vec::with_capacity(rows);
        for block in [top, nodes, times, log, figures] {
            lines.extend(block);
            if spare > 0 {
                lines.push(Line::default());
                spare -= 1;
            }
        }
        lines.truncate(rows.saturating_sub(1));
        if self.keys {
            lines.resize(rows.saturating_sub(1), Line::default());
            lines.push(Line::styled(" q quit   ←/→ group   p pause", dim()));
        }
        lines
    }

    fn title(&self, group: &GroupView) -> Line<'static> {
        let (cluster, group) = (self.config.cluster.id, named(group.group, self.view.groups.len()));
        let mut spans = vec![
            Span::styled("synod top", Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!("   cluster {cluster}   {group}   {}", clock(self.wall))),
        ];
        if self.paused {
            spans.push(Span::styled("   PAUSED", Style::new().fg(Color::Yellow)));
        }
        Line::from(spans)
    }

    fn headline(&self, standing: &Standing, led: Option<&Status>) -> Line<'static> {
        let mut text = match led {
            Some(led) => format!(
                "node {} leads in ballot {}, {} of {} voters in step",
                led.node,
                led.promised,
                standing.in_step.len(),
                standing.voters.len()
            ),
            None => "no leader".to_owned(),
        };
        for reason in &standing.reasons {
            text.push_str("; ");
            text.push_str(reason);
        }
        let colour = match (standing.is_well(), standing.reasons.is_empty()) {
            (true, true) => Color::Green,
            (true, false) => Color::Yellow,
            (false, _) => Color::Red,
        };
        Line::styled(text, Style::new().fg(colour))
    }

    fn nodes(&self, group: &GroupView, standing: &Standing) -> Vec<Line<'static>> {
        let headings = format!(
            "{:>4} {:<9} {:<9} {:>9} {:>13} {:>6} {:>8} {:>13}",
            "node", "mode", "role", "ballot", "chosen", "held", "behind", "tail"
        );
        let farthest = group.cells.iter().filter_map(Cell::current).map(|status| status.chosen.0).max().unwrap_or(0);
        let rows = group.cells.iter().map(|cell| self.node(cell, standing, farthest));
        std::iter::once(Line::styled(headings, dim())).chain(rows).collect()
    }

    fn node(&self, cell: &Cell, standing: &Standing, farthest: u64) -> Line<'static> {
        let number = Span::styled(format!("{:>4} ", cell.node), Style::new().fg(colour_of(cell.node)));
        let Some(status) = cell.current() else {
            let unknown = cell.unknown_for(self.view.since_ns, self.now_ns).unwrap_or_default();
            let since = if cell.heard_ns.is_some() { "for" } else { "never heard, for" };
            let text = format!("{:<9} {since} {:.1} s", "unknown", unknown.as_secs_f64());
            return Line::from(vec![number, Span::styled(text, dim())]);
        };
        let mode = status.mode.map_or("?", Mode::name);
        let mut style = Style::new();
        if standing.leader == Some(cell.node) {
            style = style.add_modifier(Modifier::BOLD);
        }
        let text = format!(
            " {:<9} {:>9} {:>13} {:>6} {:>8} {:>13}",
            status.role_name(),
            status.promised.to_string(),
            grouped(status.chosen.0),
            format!("+{}", status.accepted.0.saturating_sub(status.chosen.0)),
            grouped(farthest.saturating_sub(status.chosen.0)),
            grouped(status.tail.0)
        );
        Line::from(vec![
            number,
            Span::styled(format!("{mode:<9}"), Style::new().fg(colour_of_mode(status.mode))),
            Span::styled(text, style),
        ])
    }
}

fn dim() -> Style {
    Style::new().fg(Color::DarkGray)
}

fn colour_of_mode(mode: Option<Mode>) -> Color {
    match mode {
        Some(Mode::Target) => Color::Green,
        Some(Mode::Election) => Color::Yellow,
        Some(Mode::Degraded) => Color::Red,
        Some(Mode::Recovery) => Color::Cyan,
        Some(Mode::Floor) => Color::Magenta,
        None => Color::DarkGray,
    }
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The newest samples that fit, the last at the right end.
fn newest(group: &GroupView, columns: usize) -> impl Iterator<Item = &Sample> {
    let samples = group.history.samples();
    let skipped = samples.len().saturating_sub(columns.saturating_sub(LABEL));
    samples.skip(skipped)
}

fn leaders(group: &GroupView, columns: usize) -> Line<'static> {
    let mut line = Line::from(vec![Span::styled(format!("{:<LABEL$}", "leader"), dim())]);
    line.extend(newest(group, columns).map(|sample| match sample.leader {
        // A digit a sample: the last of its number.
        Some(leader) => Span::styled((leader.0 % 10).to_string(), Style::new().fg(colour_of(leader))),
        None => Span::styled("·", Style::new().fg(Color::Red)),
    }));
    line
}

fn leases(group: &GroupView, columns: usize) -> Line<'static> {
    let mut line = Line::from(vec![Span::styled(format!("{:<LABEL$}", "lease"), dim())]);
    if newest(group, columns).all(|sample| sample.lease == Lease::Off) {
        line.push_span(Span::styled("off", dim()));
        return line;
    }
    line.extend(newest(group, columns).map(|sample| match sample.lease {
        Lease::Held => Span::styled("█", Style::new().fg(Color::Green)),
        Lease::None => Span::styled("░", Style::new().fg(Color::Yellow)),
        Lease::Off => Span::raw(" "),
    }));
    line
}

/// What there is to say of the log as a whole, and a bar for each node: those that are farthest behind, where there are too many.
fn log(group: &GroupView, standing: &Standing, columns: usize, rows: usize) -> Vec<Line<'static>> {
    let Some(picture) = LogPicture::of(&group.cells, standing.leader) else {
        return vec![Line::from(vec![Span::styled(format!("{:<LABEL$}", "log"), dim()), Span::raw("unknown")])];
    };
    let slot = |slot: Option<synod_wire::Slot>| slot.map_or("none".to_owned(), |slot| grouped(slot.0));
    let text = format!(
        "first {}  snapshot {}  committed {}  accepted {}",
        slot(picture.first),
        slot(picture.snapshot),
        grouped(picture.committed.0),
        grouped(picture.accepted.0)
    );
    let mut positions: Vec<&Position> = picture.positions.iter().collect();
    let room = rows.saturating_sub(1);
    if positions.len() > room {
        positions.sort_by_key(|position| std::cmp::Reverse(picture.behind(position).unwrap_or(u64::MAX)));
        positions.truncate(room);
    }
    let heading = Line::from(vec![Span::styled(format!("{:<LABEL$}", "log"), dim()), Span::raw(text)]);
    std::iter::once(heading).chain(positions.into_iter().map(|position| bar(&picture, position, columns))).collect()
}

fn bar(picture: &LogPicture, position: &Position, columns: usize) -> Line<'static> {
    let width = columns.saturating_sub(BEFORE_BAR + BEHIND_BAR).max(1);
    let column = |slot| (picture.share(slot) * width as f64).round() as usize;
    let chosen = position.at().map_or(0, column).min(width);
    let held = position.accepted.map_or(chosen, column).clamp(chosen, width);
    let mut cells: Vec<char> = std::iter::repeat_n('█', chosen)
        .chain(std::iter::repeat_n('▒', held - chosen))
        .chain(std::iter::repeat_n(' ', width - held))
        .collect();
    // Where the leader knows it to be.
    if let Some(matched) = position.matched.filter(|_| position.chosen.is_some() && !position.leads) {
        cells[column(matched).clamp(1, width) - 1] = '┃';
    }
    let colour = if position.chosen.is_some() { colour_of(position.node) } else { Color::DarkGray };
    let at = position.at().map_or("unknown".to_owned(), |slot| grouped(slot.0));
    let mark = if position.leads { '◆' } else { ' ' };
    Line::from(vec![
        Span::raw(format!("{:>4} {mark} ", position.node)),
        Span::styled(cells.into_iter().collect::<String>(), Style::new().fg(colour)),
        Span::raw(format!(" {at:>14}")),
    ])
}

fn latency_now(group: &GroupView) -> Line<'static> {
    let text = match group.history.latency() {
        Some(Percentiles { count, p50, p99, p999 }) => {
            format!("p50 {}  p99 {}  p99.9 {}  ({} commits)", short(p50), short(p99), short(p999), grouped(count))
        }
        None => "no commits in the last 10 s".to_owned(),
    };
    Line::from(vec![Span::styled("latency now   ", dim()), Span::raw(text)])
}

fn latency_since_start(led: Option<&Status>) -> Line<'static> {
    let replied = led.and_then(|led| led.stages.iter().find(|times| times.stage == Stage::Replied));
    let text = match replied.filter(|times| times.count > 0) {
        Some(times) => {
            let p999 = led.and_then(|led| led.picture.as_ref()).map(|picture| short(picture.p999));
            let p999 = p999.unwrap_or_else(|| "?".to_owned());
            format!("p50 {}  p99 {}  p99.9 {p999}  max {}", short(times.p50), short(times.p99), short(times.max))
        }
        None => "no commits by this leader".to_owned(),
    };
    Line::from(vec![Span::styled("  since start ", dim()), Span::raw(text)])
}

fn spark_of_p99(group: &GroupView, columns: usize) -> Line<'static> {
    let p99s: Vec<_> = group.history.p99s().iter().map(|p99| p99.map(|p99| p99.as_nanos() as f64)).collect();
    let now = group.history.latency().map_or("-".to_owned(), |latency| short(latency.p99));
    spark("p99", &now, &p99s, columns)
}

fn spark_of_rate(group: &GroupView, columns: usize) -> Line<'static> {
    let now = group.history.rate().map_or("-".to_owned(), |rate| format!("{} entries/s", grouped(rate.round() as u64)));
    spark("rate", &now, &group.history.rates(), columns)
}

/// The values, the newest at the right end, as heights between zero and the highest.
fn spark(name: &str, now: &str, values: &[Option<f64>], columns: usize) -> Line<'static> {
    let label = format!("{name:<5}{now:>17} ");
    let room = columns.saturating_sub(label.chars().count());
    let values = &values[values.len().saturating_sub(room)..];
    let highest = values.iter().flatten().copied().fold(0.0, f64::max);
    let height = |value: &Option<f64>| match value {
        Some(value) if highest > 0.0 => HEIGHTS[((value / highest) * 7.0).round() as usize],
        Some(_) => HEIGHTS[0],
        None => ' ',
    };
    let drawn: String = values.iter().map(height).collect();
    Line::from(vec![Span::styled(label, dim()), Span::styled(drawn, Style::new().fg(Color::Cyan))])
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::view::testing::{status, three_nodes};
    use synod_wire::{GroupId, NodeId, NodeSet, Quorums, Slot};

    const SECOND_NS: u64 = 1_000_000_000;

    /// What there is to be shown.
    pub(crate) struct Scene {
        config: Config,
        view: View,
        now_ns: u64,
    }

    impl Scene {
        pub(crate) fn shown(&self) -> Shown<'_> {
            let wall = Duration::from_secs(3_661);
            Shown {
                view: &self.view,
                config: &self.config,
                at: 0,
                paused: false,
                keys: true,
                now_ns: self.now_ns,
                wall,
            }
        }

        /// The node has not answered for five seconds.
        pub(crate) fn silence(&mut self, node: u8) {
            self.view.hear(NodeId(node), GroupId(0), None, None);
            self.now_ns += 5 * SECOND_NS;
        }
    }

    /// A group of so many, whose node 0 leads, heard three times.
    pub(crate) fn seen(nodes: u8) -> Scene {
        let mut config = three_nodes();
        let like = config.nodes[0].clone();
        config.nodes = (0..nodes).map(|id| crate::config::Node { id, ..like.clone() }).collect();
        let mut view = View::new(&config, 0);
        for second in 1..=3 {
            let now_ns = second * SECOND_NS;
            for node in 0..nodes {
                let mut status = status(node, Some(0), 1);
                status.tail.0 = 1_000 + 500 * second;
                let picture = status.picture.as_mut().expect("it has one");
                picture.voters = NodeSet((1 << nodes) - 1);
                picture.quorums = Quorums { phase1: 2, phase2: 2 };
                if node == 0 {
                    let at = |node: u8| (NodeId(node), Some(Slot(1_000 - 10 * u64::from(node))));
                    picture.positions = (0..nodes).map(at).collect();
                }
                picture.commits = picture.commits.map(|count| count / 2 * (second - 1));
                view.hear(NodeId(node), GroupId(0), Some(status), Some(now_ns));
            }
            let standing = view.groups[0].standing(&config);
            view.groups[0].note(&standing, now_ns);
        }
        Scene { config, view, now_ns: 3 * SECOND_NS }
    }
}
