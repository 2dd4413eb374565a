//! The plots of a report, as SVG that stands in the page: no script, no font, nothing from elsewhere. Pure.

use super::{Level, Sheet, Stage};
use crate::stats::Measured;
use anyhow::{Context, anyhow};
use plotters::coord::combinators::BindKeyPoints;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use std::ops::Range;
use std::time::{Duration, SystemTime};

/// Colours that the colour-blind tell apart (Okabe and Ito), one for each who is compared.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

const SIZE: (u32, u32) = (600, 300);
const FONT: &str = "system-ui, sans-serif";
/// Percentiles are drawn up to this many nines: 99.99 %.
const NINES: f64 = 4.0;
/// Points of a percentile curve between two nines.
const POINTS_PER_NINE: u32 = 24;
/// Labels of a logarithmic axis for which there is room.
const MAX_MARKS: usize = 9;
/// Rounds of one measurement alternate with others': intervals further apart than this are not joined.
const PAUSE: Duration = Duration::from_millis(1_500);

/// The colour of a series, by its place among the names of the sheet.
pub(super) fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// A curve, in pieces that are not joined.
struct Curve {
    colour: RGBColor,
    /// Drawn thin: what is less important than the rest.
    faint: bool,
    pieces: Vec<Vec<(f64, f64)>>,
    /// Points are marked.
    marked: bool,
}

/// Latency over percentile, each series of a level.
pub(super) fn percentiles(level: &Level, colour_of: &dyn Fn(&str) -> RGBColor) -> anyhow::Result<String> {
    let curves: Vec<Curve> = level
        .series
        .iter()
        .map(|series| Curve {
            colour: colour_of(&series.name),
            faint: false,
            pieces: vec![quantiles(&series.measured)],
            marked: false,
        })
        .collect();
    let told = |nines: &f64| match nines.round() as u32 {
        0 => "0".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        more => format!("99.{} %", "9".repeat(more as usize - 2)),
    };
    draw(&curves, Axis { range: 0.0..NINES, name: "percentile", labels: 5, told: &told })
}

/// Where a quantile of so many nines lies. A curve ends where fewer than one operation would lie beyond.
fn quantiles(measured: &Measured) -> Vec<(f64, f64)> {
    let most = (measured.latency_ns.len() as f64).log10().min(NINES);
    let steps = 0..=(NINES as u32 * POINTS_PER_NINE);
    let nines = steps.map(|step| f64::from(step) / f64::from(POINTS_PER_NINE)).take_while(|nines| *nines <= most);
    let at = |nines: f64| measured.latency_ns.value_at_quantile(1.0 - 10f64.powf(-nines)) as f64 / 1e3;
    nines.map(|nines| (nines, at(nines))).collect()
}

/// p50 and p99 of each interval over time, each series of a level.
pub(super) fn over_time(level: &Level, colour_of: &dyn Fn(&str) -> RGBColor) -> anyhow::Result<String> {
    let starts = level.series.iter().flat_map(|series| series.measured.intervals.first()).map(|first| first.start);
    let start = starts.min().unwrap_or(SystemTime::UNIX_EPOCH);
    let mut curves = Vec::new();
    for series in &level.series {
        let colour = colour_of(&series.name);
        for (quantile, faint) in [(0.5, false), (0.99, true)] {
            let pieces = timeline(&series.measured, start, quantile);
            curves.push(Curve { colour, faint, pieces, marked: true });
        }
    }
    let ends = curves.iter().flat_map(|curve| curve.pieces.iter().flatten()).map(|(at, _)| *at);
    let end = ends.fold(1.0, f64::max);
    let told = |seconds: &f64| format!("{seconds:.0}");
    draw(&curves, Axis { range: 0.0..end * 1.02, name: "seconds since the first round", labels: 8, told: &told })
}

fn timeline(measured: &Measured, start: SystemTime, quantile: f64) -> Vec<Vec<(f64, f64)>> {
    let mut pieces: Vec<Vec<(f64, f64)>> = Vec::new();
    let mut last: Option<SystemTime> = None;
    for interval in measured.intervals.iter().filter(|interval| !interval.latency_ns.is_empty()) {
        // Where the wall's clock was set back, the picture is.
        let gap = last.map(|last| interval.start.duration_since(last).unwrap_or_default());
        if gap.is_none_or(|gap| gap > PAUSE) {
            pieces.push(Vec::new());
        }
        last = Some(interval.start);
        let middle = interval.start.duration_since(start).unwrap_or_default() + interval.length / 2;
        let value_us = interval.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        pieces.last_mut().expect("a piece was begun").push((middle.as_secs_f64(), value_us));
    }
    pieces
}

/// p50 and p99 over the operations a second, a point a level.
pub(super) fn over_throughput(
    sheet: &Sheet,
    names: &[&str],
    colour_of: &dyn Fn(&str) -> RGBColor,
) -> anyhow::Result<String> {
    let mut curves = Vec::new();
    for name in names {
        let all = sheet.levels.iter().flat_map(|level| &level.series).filter(|series| series.name == *name);
        let found: Vec<_> = all.map(|series| series.measured.summary()).collect();
        let points = |of: fn(&crate::stats::Summary) -> f64| {
            vec![found.iter().map(|each| (each.per_second.max(1.0), of(each))).collect::<Vec<_>>()]
        };
        let colour = colour_of(name);
        curves.push(Curve { colour, faint: false, pieces: points(|each| each.p50_us), marked: true });
        curves.push(Curve { colour, faint: true, pieces: points(|each| each.p99_us), marked: true });
    }
    let rates = curves.iter().flat_map(|curve| curve.pieces.iter().flatten()).map(|(rate, _)| *rate);
    let range = around(rates);
    let marks = marks(&range);
    let range = range.log_scale().with_key_points(marks);
    draw(&curves, Axis { range, name: "operations a second", labels: 10, told: &|rate| count(*rate) })
}

/// How far operations had come, and when: a bar to the median, a line to the 99th percentile.
pub(super) fn stages(stages: &[Stage]) -> anyhow::Result<String> {
    let height = 60 + 34 * stages.len() as u32;
    let longest = stages.iter().map(|stage| stage.p99_us).fold(1.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (SIZE.0, height)).into_drawing_area();
        let rows = stages.len() as f64;
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(120)
            .build_cartesian_2d(0.0..longest * 1.05, rows..0.0)
            .map_err(refused)?;
        let mut mesh = chart.configure_mesh();
        mesh.disable_y_mesh().y_labels(0).x_desc("µs after reception").label_style((FONT, 14));
        mesh.x_label_formatter(&|us| count(*us));
        mesh.axis_desc_style((FONT, 14)).light_line_style(TRANSPARENT).draw().map_err(refused)?;
        for (row, stage) in stages.iter().enumerate() {
            let row = row as f64;
            let bar = Rectangle::new([(0.0, row + 0.25), (stage.p50_us, row + 0.75)], COLOURS[0].filled());
            let line =
                PathElement::new([(stage.p50_us, row + 0.5), (stage.p99_us, row + 0.5)], COLOURS[0].stroke_width(2));
            chart.draw_series([bar]).map_err(refused)?;
            chart.draw_series([line]).map_err(refused)?;
            let (x, y) = chart.backend_coord(&(0.0, row + 0.5));
            let style = TextStyle::from((FONT, 15).into_font()).pos(plotters::style::text_anchor::Pos::new(
                plotters::style::text_anchor::HPos::Right,
                plotters::style::text_anchor::VPos::Center,
            ));
            area.draw_text(&stage.name, &style, (x - 8, y)).map_err(refused)?;
        }
        area.present().map_err(refused)?;
    }
    Ok(svg)
}

/// A horizontal axis.
struct Axis<'a, X> {
    range: X,
    name: &'a str,
    /// About how many labels.
    labels: usize,
    told: &'a dyn Fn(&f64) -> String,
}

/// The curves over a logarithmic axis of microseconds.
fn draw<X>(curves: &[Curve], x: Axis<'_, X>) -> anyhow::Result<String>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let values = curves.iter().flat_map(|curve| curve.pieces.iter().flatten()).map(|(_, value)| *value);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let y = around(values);
        let marks = marks(&y);
        let mut chart = ChartBuilder::on(&area)
            .margin(10)
            .margin_right(36)
            .x_label_area_size(42)
            .y_label_area_size(72)
            .build_cartesian_2d(x.range, y.log_scale().with_key_points(marks))
            .map_err(refused)?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(x.name).y_desc("µs").x_labels(x.labels).x_label_formatter(x.told);
        mesh.y_label_formatter(&|value| count(*value)).label_style((FONT, 14)).axis_desc_style((FONT, 14));
        mesh.bold_line_style(BLACK.mix(0.12)).light_line_style(TRANSPARENT).axis_style(BLACK.mix(0.4));
        mesh.draw().map_err(refused)?;
        for curve in curves {
            for piece in &curve.pieces {
                let style =
                    if curve.faint { curve.colour.mix(0.45).stroke_width(1) } else { curve.colour.stroke_width(2) };
                chart.draw_series(LineSeries::new(piece.iter().copied(), style)).map_err(refused)?;
                if curve.marked {
                    let dot = curve.colour.mix(if curve.faint { 0.45 } else { 1.0 }).filled();
                    let dots = piece.iter().map(|point| Circle::new(*point, 3, dot));
                    chart.draw_series(dots).map_err(refused)?;
                }
            }
        }
        area.present().map_err(refused)?;
    }
    Ok(svg)
}

/// A logarithmic axis with a little room around the values.
fn around(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (least, most) = values.fold((f64::MAX, 0.0f64), |(least, most), value| (least.min(value), most.max(value)));
    if least > most { 1.0..10.0 } else { (least / 1.3).max(0.1)..most.max(0.1) * 1.3 }
}

/// Where a logarithmic axis is labelled: at 1, 2 and 5 of each decade, or at decades only if these are many.
fn marks(range: &Range<f64>) -> Vec<f64> {
    let decades = range.start.log10().floor() as i32..=range.end.log10().ceil() as i32;
    let all = |steps: &[f64]| -> Vec<f64> {
        let marks = decades.clone().flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
        marks.filter(|mark| range.contains(mark)).collect()
    };
    let fine = all(&[1.0, 2.0, 5.0]);
    if fine.len() > MAX_MARKS { all(&[1.0]) } else { fine }
}

/// 1,500,000 as "1.5M".
pub(super) fn count(value: f64) -> String {
    let (scaled, unit) = match value {
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e3 => (value / 1e3, "k"),
        value => (value, ""),
    };
    let text = format!("{scaled:.1}");
    format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
}

fn refused<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow!("a plot cannot be drawn: {error}")
}

/// The picture without the declaration of a document of its own, and scalable.
pub(super) fn inline(svg: &str) -> anyhow::Result<String> {
    let body = svg.find("<svg ").map(|at| &svg[at..]).context("a plot is no SVG")?;
    let (width, height) = (attribute(body, "width")?, attribute(body, "height")?);
    Ok(body.replacen(&format!("width=\"{width}\" height=\"{height}\" "), "", 1))
}

fn attribute<'a>(svg: &'a str, name: &str) -> anyhow::Result<&'a str> {
    let value = svg.split_once(&format!(" {name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
    value.map(|(value, _)| value).with_context(|| format!("a plot has no {name}"))
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([count(1_500_000.0), count(20_000.0), count(950.0), count(0.5)], ["1.5M", "20k", "950", "0.5"]);
    }

    #[test]
    fn an_axis_has_few_marks() {
        assert_eq!(marks(&(150.0..2_500.0)), [200.0, 500.0, 1_000.0, 2_000.0]);
        assert_eq!(marks(&(0.5..200_000.0)), [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0]);
    }

    #[test]
    fn a_curve_ends_where_nothing_was_measured() {
        let measured = samples::measured(100);
        let last = *quantiles(&measured).last().unwrap();
        assert!((3.2..3.31).contains(&last.0), "2,000 operations are 3.3 nines: {last:?}");
        assert!(quantiles(&Measured::new()).is_empty());
    }

    #[test]
    fn rounds_are_not_joined() {
        let mut measured = samples::measured(100);
        let mut later = measured.intervals.clone();
        later.iter_mut().for_each(|interval| interval.start += Duration::from_secs(60));
        measured.intervals.extend(later);
        let pieces = timeline(&measured, measured.intervals[0].start, 0.5);
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
        assert!((60.4..60.6).contains(&pieces[1][0].0), "{pieces:?}");
    }

    #[test]
    fn every_plot_draws_even_of_nothing() {
        let black = |_: &str| BLACK;
        let mut sheet = samples::sheet();
        for level in &sheet.levels {
            assert!(percentiles(level, &black).unwrap().contains("99.99 %"));
            assert!(over_time(level, &black).unwrap().contains("<circle"));
            assert!(stages(&level.stages).unwrap().contains("quorum"));
        }
        assert!(over_throughput(&sheet, &["product"], &black).unwrap().contains("<polyline"));
        sheet.levels[0].series.iter_mut().for_each(|series| series.measured = Measured::new());
        percentiles(&sheet.levels[0], &black).unwrap();
        over_time(&sheet.levels[0], &black).unwrap();
        let svg = inline(&over_throughput(&sheet, &[], &black).unwrap()).unwrap();
        assert!(svg.starts_with("<svg ") && svg.contains("viewBox"), "{}", &svg[..200]);
    }
}
