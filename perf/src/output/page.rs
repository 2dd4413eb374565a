//! The report's page: one file that loads nothing. Pure.

use super::{Level, Ratio, Sheet, plots};
use crate::report;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use plotters::style::RGBColor;

const STYLE: &str = "
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1rem; margin: 1rem 0 .2rem; }
table { border-collapse: collapse; margin: .6rem 0; } th, td { padding: .15rem .8rem .15rem 0; text-align: left; }
th { font-weight: 600; border-bottom: 1px solid #bbb; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(520px, 1fr)); gap: 0 1.5rem; }
.plots svg { width: 100%; height: auto; } .wide svg { width: 100%; max-width: 640px; height: auto; }
.key span { display: inline-block; margin-right: 1.2rem; } .key i { display: inline-block; width: .9em; height: .9em;
margin-right: .4em; vertical-align: -.1em; border-radius: 2px; }
.note { color: #555; } .fail { color: #b00020; font-weight: 600; } .env td { overflow-wrap: anywhere; vertical-align: top; padding-bottom: 0; line-height: 1.35; }
.env td:first-child { white-space: nowrap; overflow-wrap: normal; color: #555; }
.bar { position: relative; width: 260px; height: 1em; background: #f2f2f2; }
.bar b { position: absolute; top: .3em; height: .4em; background: #0072b2; min-width: 2px; }
.bar u { position: absolute; top: 0; height: 1em; width: 2px; background: #d55e00; }
.bar s { position: absolute; top: 0; height: 1em; width: 1px; background: #888; }
";

/// The page.
pub(super) fn render(sheet: &Sheet) -> anyhow::Result<String> {
    let names = names(sheet);
    let colour_of = |name: &str| plots::colour(names.iter().position(|known| *known == name).unwrap_or(0));
    let throughput = plots::inline(&plots::over_throughput(sheet, &names, &colour_of)?)?;
    let levels = sheet.levels.iter().map(|level| section(level, &colour_of)).collect::<Result<Vec<_>, _>>()?;
    let environment = environment(sheet)?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (sheet.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (sheet.title) }
                p class="note" { (context(sheet)) }
                p class="key" { @for name in &names { span { (swatch(colour_of(name))) (name) } } }
                h2 { "Summary" }
                (summary(sheet))
                @if sheet.levels.iter().any(|level| !level.ratios.is_empty()) {
                    h3 { "Ratios of neighbouring rounds" }
                    (ratios(sheet))
                }
                @if sheet.levels.len() > 1 {
                    h3 { "Latency against throughput" }
                    p class="note" { "A point a level; strong: p50, faint: p99." }
                    div class="wide" { (PreEscaped(throughput)) }
                }
                @for level in levels { (level) }
                h2 { "Environment" }
                (environment)
            }
        }
    };
    Ok(page.into_string())
}

/// Everyone who is compared, in the order of the first appearance.
fn names(sheet: &Sheet) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for series in sheet.levels.iter().flat_map(|level| &level.series) {
        if !names.contains(&series.name.as_str()) {
            names.push(&series.name);
        }
    }
    names
}

fn context(sheet: &Sheet) -> String {
    let environment = &sheet.environment;
    let told = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
    let commit = environment.commit.map_or("unknown", |commit| &commit[..commit.len().min(12)]);
    let build = if environment.release_build { "release" } else { "NOT a release build: figures say little" };
    format!(
        "kernel {}; {} processors, {}; {} on {}; commit {commit}, {build}; load before: {}",
        told(&environment.kernel),
        environment.processor.online.unwrap_or(0),
        told(&environment.processor.model),
        told(&environment.disk.file_system),
        told(&environment.disk.device),
        told(&environment.load),
    )
}

fn swatch(RGBColor(red, green, blue): RGBColor) -> Markup {
    html! { i style=(format!("background:rgb({red},{green},{blue})")) {} }
}

fn summary(sheet: &Sheet) -> Markup {
    html! {
        table {
            tr {
                th { "load" } th { "who" }
                @for heading in ["p50 µs", "p99 µs", "p99.9 µs", "max µs", "ops/s", "operations"] { th class="n" { (heading) } }
            }
            @for level in &sheet.levels {
                @for series in &level.series {
                    @let told = series.measured.summary();
                    tr {
                        td { (level.name) } td { (series.name) }
                        @for value in [told.p50_us, told.p99_us, told.p999_us, told.max_us] {
                            td class="n" { (format!("{value:.1}")) }
                        }
                        td class="n" { (format!("{:.0}", told.per_second)) }
                        td class="n" { (told.operations) }
                        @if let Some(why) = &told.missed { td class="fail" { "FAIL: " (why) } }
                    }
                }
            }
        }
    }
}

fn ratios(sheet: &Sheet) -> Markup {
    let all = sheet.levels.iter().flat_map(|level| &level.ratios);
    let most = all.map(|ratio| ratio.spread.max).fold(1.0, f64::max);
    html! {
        p class="note" { "Each bar reaches from the least to the greatest round; orange: the median; grey: 1." }
        table {
            tr { th { "load" } th { "ratio" } th class="n" { "median" } th class="n" { "rounds" } th { "" } }
            @for level in &sheet.levels {
                @for ratio in &level.ratios {
                    tr {
                        td { (level.name) } td { (ratio.what) }
                        td class="n" { (format!("{:.2}", ratio.spread.median)) }
                        td class="n" { (format!("{:.2} to {:.2}", ratio.spread.min, ratio.spread.max)) }
                        td { (bar(ratio, most)) }
                    }
                }
            }
        }
    }
}

fn bar(ratio: &Ratio, most: f64) -> Markup {
    let percent = |value: f64| 100.0 * value / (most * 1.05);
    let (from, to) = (percent(ratio.spread.min), percent(ratio.spread.max));
    html! {
        div class="bar" {
            s style=(format!("left:{:.2}%", percent(1.0))) {}
            b style=(format!("left:{from:.2}%;width:{:.2}%", to - from)) {}
            u style=(format!("left:{:.2}%", percent(ratio.spread.median))) {}
        }
    }
}

fn section(level: &Level, colour_of: &dyn Fn(&str) -> RGBColor) -> anyhow::Result<Markup> {
    let percentiles = plots::inline(&plots::percentiles(level, colour_of)?)?;
    let over_time = plots::inline(&plots::over_time(level, colour_of)?)?;
    let stages = match level.stages.as_slice() {
        [] => None,
        stages => Some(plots::inline(&plots::stages(stages)?)?),
    };
    Ok(html! {
        h2 { (level.name) }
        p class="key" { @for series in &level.series { span { (swatch(colour_of(&series.name))) (series.name) } } }
        div class="plots" {
            div { h3 { "Percentiles, all rounds" } (PreEscaped(percentiles)) }
            div { h3 { "Over time; strong: p50, faint: p99, of each second" } (PreEscaped(over_time)) }
        }
        @if let Some(plot) = stages {
            h3 { "Where the time goes: bar to the median, line to p99" }
            p class="note" {
                "On the leader, from the reception of a client's datagram; a run of its own, in which every append asked for a "
                "receipt. \"durable\" is the leader's own disk, of those appends only that it had reached when they were "
                "answered: a commit needs a quorum's disks, not this one."
            }
            div class="wide" { (PreEscaped(plot)) }
        }
    })
}

fn environment(sheet: &Sheet) -> anyhow::Result<Markup> {
    let rows = sheet.environment.rows()?;
    Ok(html! {
        table class="env" { @for (name, value) in &rows { tr { td { (name) } td { (value) } } } }
        p class="note" {
            "Figures of all rounds: " (sheet.levels.len()) " loads. "
            (report::LEGEND)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn the_page_tells_everything_and_loads_nothing() {
        let page = render(&samples::sheet()).unwrap();
        for told in ["1 outstanding", "64 outstanding", "1.10 to 1.40", "Where the time goes", "command_line", "<svg "]
        {
            assert!(page.contains(told), "{told} is missing");
        }
        for loads in ["<script", "<link", "src=", "@import", "url("] {
            assert!(!page.contains(loads), "{loads}");
        }
        assert!(page.contains("skeleton &amp; &lt;co&gt;") && !page.contains("<co>"), "names are text");
    }

    #[test]
    fn a_missed_rate_is_seen() {
        let mut sheet = samples::sheet();
        sheet.levels[0].series[0].measured.missed = Some("90 of 100 a second".into());
        assert!(render(&sheet).unwrap().contains("FAIL: 90 of 100 a second"));
    }
}
