//! What is drawn and watched exists: every metric that the alerts and the dashboard name stands in a scrape of a real node, and so does
//! each label value that they pick; and `metrics.md` lists what a scrape has. `SYNOD_WRITE_METRICS=1` writes that file.

mod common;

use common::cluster::{Cluster, GROUP};
use common::http::{ask, listen};
use common::serial;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const PORT: u16 = 7600;
/// Metrics that Prometheus makes of a scrape by itself.
const OF_PROMETHEUS: [&str; 1] = ["up"];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A scrape of the leader of a cluster that has just begun.
fn scrape() -> String {
    let _one = serial();
    let mut cluster = Cluster::prepare("dashboards", |config| listen(config, PORT));
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    cluster.await_converged(GROUP);
    let of_members = || {
        let (_, _, body) = ask(&cluster, leader, "GET /metrics");
        body.contains("synod_follower_lag_slots{").then_some(body)
    };
    let body = common::await_until(common::cluster::SOON, "the leader knows its members", of_members);
    cluster.stop_all();
    body
}

/// The names of metrics that an expression of PromQL uses: its words that begin as ours do, and `up`.
fn names(expression: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    // Within quotes there are values of labels.
    let outside: String = expression.split('"').step_by(2).collect::<Vec<_>>().join("\"");
    let words = outside.split(|c| !is_word(c)).map(str::to_owned);
    words.filter(|word| word.starts_with("synod_") || OF_PROMETHEUS.contains(&word.as_str())).collect()
}

/// What an expression picks: a metric with a label's value that is no variable.
fn picked(expression: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (at, _) in expression.match_indices("synod_") {
        let rest = &expression[at..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let Some(labels) = rest[end..].strip_prefix('{').and_then(|rest| rest.split('}').next()) else { continue };
        let fixed = labels.split(',').filter(|label| label.contains("=\"") && !label.contains('$'));
        all.extend(fixed.map(|label| (rest[..end].to_owned(), label.to_owned())));
    }
    all
}

/// The expressions of the alerts: the file's `expr:` lines, each of which is a whole one.
fn of_alerts() -> Vec<String> {
    let text = text("scripts/prometheus/alerts.yml");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let of = |key: &str| lines.iter().filter(|line| line.starts_with(key)).count();
    let alerts = of("- alert: ");
    assert!(alerts > 10 && [of("expr: "), of("summary: "), of("runbook: ")] == [alerts; 3], "each alert has all of it");
    lines.iter().filter_map(|line| line.strip_prefix("expr: ")).map(str::to_owned).collect()
}

fn of_dashboard() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&text("scripts/grafana/synod.json")).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().expect("a number")).collect();
    assert!(panels.len() > 15 && ids.len() == panels.len(), "each panel has a number of its own");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let queries = variables.iter().filter_map(|variable| variable["query"]["query"].as_str());
    targets.map(|target| target["expr"].as_str().expect("an expression")).chain(queries).map(str::to_owned).collect()
}

/// The families of a scrape: name, type, help.
fn families(scrape: &str) -> BTreeMap<String, (String, String)> {
    let mut families: BTreeMap<String, (String, String)> = BTreeMap::new();
    for line in scrape.lines() {
        let Some((what, rest)) = line.strip_prefix("# ").and_then(|line| line.split_once(' ')) else { continue };
        let Some((name, told)) = rest.split_once(' ') else { continue };
        let family = families.entry(name.to_owned()).or_default();
        match what {
            "TYPE" => family.0 = told.to_owned(),
            "HELP" => family.1 = told.trim_end_matches('.').to_owned(),
            other => panic!("{other} in {line}"),
        }
    }
    families
}

/// The labels of a family beside those that each sample has.
fn labels(scrape: &str, name: &str) -> String {
    let mut all = BTreeSet::new();
    for line in scrape.lines().filter(|line| !line.starts_with('#')) {
        let (sample, labels) = line.split_once('{').expect("labels");
        let of =
            sample.strip_prefix(name).is_some_and(|end| ["", "_total", "_bucket", "_sum", "_count"].contains(&end));
        let labels = labels.split('}').next().unwrap_or_default().split(',').filter(|_| of);
        all.extend(labels.filter_map(|label| label.split_once('=')).map(|(label, _)| label.to_owned()));
    }
    let common = ["cluster", "node", "group", "le"];
    all.into_iter().filter(|label| !common.contains(&label.as_str())).collect::<Vec<_>>().join(", ")
}

fn document(scrape: &str) -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         What a node with an `admin_listen` shows at `/metrics`. Each sample has the labels `cluster`, `node` and `group`, and those named here;\n\
         histograms have `_bucket` (with `le`), `_sum` and `_count`. Written by `SYNOD_WRITE_METRICS=1 cargo test --test dashboards` from a\n\
         scrape, and checked by the same test; what makes each move in the tests stands in `tests/metrics.txt`. Loss of messages\n\
         between members is estimated: `synod_heartbeats_unanswered_total` counts the heartbeats of a leader that were not answered when\n\
         a later one was, so that an answer which is overtaken counts as lost, and a member that was silent for an election time-out as\n\
         away, not as loss.\n\n\
         | metric | type | labels | what |\n|---|---|---|---|\n",
    );
    for (name, (kind, help)) in families(scrape) {
        let total = if kind == "counter" { "_total" } else { "" };
        text += &format!("| `{name}{total}` | {kind} | {} | {help} |\n", labels(scrape, &name));
    }
    text
}

#[test]
fn alerts_and_dashboard_use_metrics_that_there_are_and_the_list_of_them_is_whole() {
    let scrape = scrape();
    let samples: Vec<&str> = scrape.lines().filter(|line| !line.starts_with('#')).collect();
    let has = |name: &str| samples.iter().any(|line| line.split('{').next() == Some(name));
    let (alerts, dashboard) = (of_alerts(), of_dashboard());
    let mut used = BTreeSet::new();
    for expression in alerts.iter().chain(&dashboard) {
        let names = names(expression);
        assert!(!names.is_empty(), "an expression of no metric: {expression}");
        for name in &names {
            assert!(has(name) || OF_PROMETHEUS.contains(&name.as_str()), "{name} is in no scrape: {expression}");
        }
        for (name, label) in picked(expression) {
            let there = samples.iter().any(|line| line.split('{').next() == Some(&name) && line.contains(&label));
            // What Prometheus itself says of a job has the job's name.
            assert!(there, "{name} never has {label}: {expression}");
        }
        used.extend(names);
    }
    assert!(used.len() > 40, "{used:?}");
    if std::env::var_os("SYNOD_WRITE_METRICS").is_some() {
        std::fs::write(file("metrics.md"), document(&scrape)).expect("write");
    }
    assert_eq!(text("metrics.md"), document(&scrape), "metrics.md: write it again with SYNOD_WRITE_METRICS=1");
    // For scripts/check-metrics.sh.
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("scrape.txt"), &scrape).expect("write");
}
