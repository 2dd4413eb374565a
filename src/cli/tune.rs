//! `synod tune`: the host's knobs listed, turned and turned back, or written as a script.

use super::output::{Failure, Outcome, OutputError, Style, Table, print, print_json, stdout};
use super::{TuneApplyArgs, TuneCommand, TuneListArgs, TuneRevertArgs};
use crate::host::Finding;
use crate::host::tune::{self, Change, DEFAULT_STATE, Event, How, KNOBS, Plan, Planned, Told, TuneError};
use anyhow::Context;
use clap::builder::PossibleValuesParser;
use serde::Serialize;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What `--only` takes.
pub(super) fn knob_names() -> PossibleValuesParser {
    PossibleValuesParser::new(KNOBS.iter().map(|knob| knob.name))
}

pub(super) fn tune(command: &TuneCommand) -> Outcome {
    match command {
        TuneCommand::List(args) => list(args),
        TuneCommand::Apply(args) => apply(args),
        TuneCommand::Revert(args) => revert(args),
    }
}

/// One knob of the list.
#[derive(Serialize)]
struct Row<'a> {
    knob: &'a str,
    conditions: &'a [&'a str],
    changes: &'a [Change],
    /// Why it is not known whether something is to be changed.
    unknown: Option<&'a str>,
}

/// What `list` prints for programs.
#[derive(Serialize)]
struct List<'a> {
    knobs: Vec<Row<'a>>,
    by_hand: &'a [Finding],
}

fn list(args: &TuneListArgs) -> Outcome {
    let plan = tune::plan(&args.host.host(), &args.host.target()?, &args.only);
    match args.output {
        Style::Text => print(&table(&plan)),
        Style::Json => print_json(&List { knobs: plan.planned.iter().map(row).collect(), by_hand: &plan.by_hand }),
    }
}

fn row(planned: &Planned) -> Row<'_> {
    let unknown = planned.outcome.as_ref().err().map(String::as_str);
    Row { knob: planned.knob.name, conditions: planned.knob.conditions, changes: planned.changes(), unknown }
}

fn table(plan: &Plan) -> String {
    let mut table = Table::new(&["knob", "current", "wanted", "where"]);
    let cell = |text: &str| text.to_string();
    for planned in &plan.planned {
        let name = || cell(planned.knob.name);
        match &planned.outcome {
            Err(reason) => table.row([name(), format!("unknown: {reason}"), cell("-"), cell("-")]),
            Ok(changes) if changes.is_empty() => table.row([name(), cell("as it should be"), cell("-"), cell("-")]),
            Ok(changes) => {
                for Change { place, now, want } in changes {
                    table.row([name(), place.show(now), place.show(want), place.to_string()]);
                }
            }
        }
    }
    let mut text = table.render();
    if !plan.by_hand.is_empty() {
        text += "\nBy hand, as no knob does it:\n";
    }
    for finding in &plan.by_hand {
        text += &format!("{} ({}): {}\n", finding.condition, finding.current, finding.mend);
    }
    text
}

fn apply(args: &TuneApplyArgs) -> Outcome {
    let host = args.host.host();
    let plan = tune::plan(&host, &args.host.target()?, &args.only);
    if let Some(file) = &args.output_script {
        return write_script(file, &tune::script(&plan.planned, args.host.root.as_deref().unwrap_or(Path::new("/"))));
    }
    let state = args.to.state(args.host.root.as_deref());
    let how = How { state: &state, dry_run: args.to.dry_run };
    let done = tune::apply(&host, &plan.planned, how, &mut |told| tell(args.to.output, told));
    ended(done)
}

fn revert(args: &TuneRevertArgs) -> Outcome {
    let state = args.to.state(args.root.as_deref());
    let how = How { state: &state, dry_run: args.to.dry_run };
    let host = super::check::host(args.root.as_deref());
    let done = tune::revert(&host, &args.only, args.force, how, &mut |told| tell(args.to.output, told));
    ended(done)
}

fn ended(done: Result<bool, TuneError>) -> Outcome {
    match done {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Told),
        Err(TuneError::Output(error)) => Err(OutputError(error).into()),
        Err(TuneError::State(error)) => Err(Failure::Failed(error.into())),
    }
}

/// Prints what becomes of a value, at once: before it is changed.
fn tell(style: Style, told: &Told<'_>) -> io::Result<()> {
    let mut out = stdout();
    match style {
        Style::Text => writeln!(out, "{}", line(told))?,
        Style::Json => writeln!(out, "{}", serde_json::to_string(told)?)?,
    }
    out.flush()
}

fn line(told: &Told<'_>) -> String {
    let Told { knob, place, from, to, .. } = told;
    let problem = told.problem.as_deref().unwrap_or_default();
    match told.event {
        Event::Change => format!("{knob}: {place}: {} -> {}", place.show(from), place.show(to)),
        Event::Failed => format!("{knob}: {place}: FAILED: {problem}"),
        Event::Differs => format!("{knob}: {place}: the kernel made {problem} of it"),
        Event::Left => {
            format!(
                "{knob}: {place}: LEFT: it is {problem} by now, not the {} that was set (--force)",
                place.show(from)
            )
        }
    }
}

/// Writes a script that can be run, to a file or to stdout.
fn write_script(file: &Path, script: &str) -> Outcome {
    if file == Path::new("-") {
        return print(script);
    }
    let written = std::fs::write(file, script)
        .and_then(|()| std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)));
    Ok(written.with_context(|| format!("cannot write {}", file.display()))?)
}

impl super::TuneToArgs {
    /// The file with what was; below the root where that is another.
    fn state(&self, root: Option<&Path>) -> PathBuf {
        let host = super::check::host(root);
        self.state.clone().unwrap_or_else(|| host.place(DEFAULT_STATE))
    }
}
