//! `synod inspect events`: what happened at a group's core, of a node that runs or has crashed.

use super::output::{Outcome, OutputError, Style, json_line, stdout};
use crate::events::{EVENTS_FILE, Figures, Kept, Told, read, tell};
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One record.
#[derive(Serialize)]
struct Line {
    number: u64,
    time: String,
    wall_ns: u64,
    monotonic_ns: u64,
    kind: u8,
    what: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    details: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    figures: BTreeMap<&'static str, String>,
}

/// The time of a record, to the microsecond; beyond what a date can say: the number.
fn time_of(wall_ns: u64) -> String {
    let micros = i128::from(wall_ns / 1_000) * 1_000;
    let date = OffsetDateTime::from_unix_timestamp_nanos(micros).ok().and_then(|date| date.format(&Rfc3339).ok());
    date.unwrap_or_else(|| format!("{wall_ns} ns"))
}

/// Prints the records that are kept, the oldest first.
pub(super) fn events(dir: &Path, style: Style) -> Outcome {
    let found = read(&dir.join(EVENTS_FILE))
        .context("give the directory of a group of a node that was started (…/group-000)")?;
    let mut out = stdout();
    for Kept { number, record } in &found.records {
        let Told { what, details, reason, figures } = tell(record);
        let time = time_of(record.wall_ns);
        if style == Style::Json {
            let figures = figures.into_iter().collect();
            let (wall_ns, monotonic_ns, kind) = (record.wall_ns, record.monotonic_ns, record.kind);
            json_line(
                &mut out,
                &Line { number: *number, time, wall_ns, monotonic_ns, kind, what, details, reason, figures },
            )?;
            continue;
        }
        let details = if details.is_empty() { details } else { format!(" {details}") };
        let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
        let figures = Figures(&figures).to_string();
        let line = format!("{number:>6}  {time:<27}  {what}{details}{reason}  {figures}");
        writeln!(out, "{}", line.trim_end()).map_err(OutputError)?;
    }
    out.flush().map_err(OutputError)?;
    if found.torn {
        eprintln!("synod: the last record was torn by a crash, or is being written; it is left out");
    }
    if found.damaged > 0 {
        return Err(anyhow::anyhow!(
            "{}: {} record(s) are damaged and left out; the disk, or whoever wrote to the file, did that. The log does not depend on it",
            dir.join(EVENTS_FILE).display(),
            found.damaged
        )
        .into());
    }
    Ok(())
}
