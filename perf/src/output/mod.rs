//! Reports: what a command measured, as files for people and for other tools. Any command hands over a [`Sheet`] and a
//! directory; `--report DIR` of `bench` and `floor` comes here.
//!
//! | file in the directory | what it is |
//! |---|---|
//! | `report.html` | one page, plots included, nothing loaded from elsewhere (`page`, `plots`) |
//! | `LEVEL.WHO.hlog` | HdrHistogram's interval log, an interval a second (`synod::measure::logs`) |
//! | `LEVEL.WHO.hgrm` | HdrHistogram's percentile file, all rounds together (`synod::measure::logs`) |
//! | `results.json` | what `-o json` prints |
//! | `env.json` | the machine and the configuration |

mod page;
mod plots;

use crate::environment::Environment;
use crate::stats::{Measured, Spread};
use anyhow::Context;
use serde::Serialize;
use std::path::Path;
use synod::measure::logs;

/// Everything that a report tells.
pub(crate) struct Sheet {
    /// What was run, in words.
    pub(crate) title: String,
    /// The machine.
    pub(crate) environment: Environment,
    /// What the command's JSON says.
    pub(crate) results: serde_json::Value,
    /// In the order in which they are shown; one that offers more load follows one that offers less.
    pub(crate) levels: Vec<Level>,
}

/// One load, and everyone who was under it.
pub(crate) struct Level {
    /// Such as "64 outstanding".
    pub(crate) name: String,
    /// Those who are compared. The same name in another level is the same one.
    pub(crate) series: Vec<Series>,
    /// One divided by another, of each round.
    pub(crate) ratios: Vec<Ratio>,
    /// Where an operation's time went, stage by stage; empty if nobody said.
    pub(crate) stages: Vec<Stage>,
}

/// One that was measured.
pub(crate) struct Series {
    /// Such as "product".
    pub(crate) name: String,
    /// All rounds together.
    pub(crate) measured: Measured,
}

/// A ratio and how it varied.
pub(crate) struct Ratio {
    /// Such as "p50, product / skeleton".
    pub(crate) what: String,
    /// Over the rounds.
    pub(crate) spread: Spread,
}

/// How long after its reception an operation had come so far.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stage {
    /// Such as "durable here".
    pub(crate) name: String,
    /// The median.
    pub(crate) p50_us: f64,
    /// The 99th percentile.
    pub(crate) p99_us: f64,
}

/// Writes all files into `dir`, which is made if need be. Files of an earlier report are replaced.
pub(crate) fn write(dir: &Path, sheet: &Sheet) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for level in &sheet.levels {
        for series in &level.series {
            let stem = format!("{}.{}", slug(&level.name), slug(&series.name));
            let measured = &series.measured;
            let of = logs::Series { tag: None, intervals: &measured.intervals };
            put(dir, &format!("{stem}.hlog"), &logs::interval_log(&sheet.title, &[of])?)?;
            put(dir, &format!("{stem}.hgrm"), logs::percentiles(&measured.latency_ns).as_bytes())?;
        }
    }
    put(dir, "results.json", serde_json::to_string_pretty(&sheet.results)?.as_bytes())?;
    put(dir, "env.json", serde_json::to_string_pretty(&sheet.environment)?.as_bytes())?;
    put(dir, "report.html", page::render(sheet)?.as_bytes())
}

fn put(dir: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let path = dir.join(name);
    std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// A name as a part of a file's name.
fn slug(name: &str) -> String {
    let kept =
        name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' });
    let words: String = kept.collect();
    words.split('-').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
pub(super) mod samples {
    //! A small sheet for the tests of this module's files.

    use super::*;
    use std::time::{Duration, SystemTime};

    pub(super) fn measured(micros: u64) -> Measured {
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut measured = Measured::new();
        for index in 0..2_000u64 {
            let latency = Duration::from_micros(micros + index % 100);
            measured.record_at(latency, began, Duration::from_millis(index));
        }
        measured.ended = 2_000;
        measured.elapsed = Duration::from_secs(2);
        measured.close(began, measured.elapsed);
        measured
    }

    pub(super) fn sheet() -> Sheet {
        let level = |name: &str, micros: u64| Level {
            name: name.into(),
            series: vec![
                Series { name: "product".into(), measured: measured(micros + 50) },
                Series { name: "skeleton & <co>".into(), measured: measured(micros) },
            ],
            ratios: vec![Ratio { what: "p50".into(), spread: Spread { min: 1.1, median: 1.2, max: 1.4 } }],
            stages: vec![
                Stage { name: "written".into(), p50_us: 3.0, p99_us: 9.0 },
                Stage { name: "quorum".into(), p50_us: 200.0, p99_us: 900.0 },
            ],
        };
        Sheet {
            title: "a test".into(),
            environment: Environment::of(Path::new("/var/tmp"), None).unwrap(),
            results: serde_json::json!({"levels": []}),
            levels: vec![level("1 outstanding", 200), level("64 outstanding", 800)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_a_report_is_there() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("report"), &samples::sheet()).unwrap();
        let entries = std::fs::read_dir(dir.path().join("report")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let expected = [
            "1-outstanding.product.hgrm",
            "1-outstanding.product.hlog",
            "1-outstanding.skeleton-co.hgrm",
            "1-outstanding.skeleton-co.hlog",
            "64-outstanding.product.hgrm",
            "64-outstanding.product.hlog",
            "64-outstanding.skeleton-co.hgrm",
            "64-outstanding.skeleton-co.hlog",
            "env.json",
            "report.html",
            "results.json",
        ];
        assert_eq!(names, expected);
    }
}
