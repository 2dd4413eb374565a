//! `synod config default | validate | show`.

use super::output::{Outcome, Style, print, print_json};
use crate::config::reload::is_taken_over;
use crate::config::{DEFAULT_TOML, Loaded, load};
use crate::memory::Memory;
use serde::Serialize;
use std::path::Path;

/// Prints the commented default.
pub(super) fn default() -> Outcome {
    print(DEFAULT_TOML)
}

/// Says that the file is right, or everything that is wrong with it.
pub(super) fn validate(file: &Path) -> Outcome {
    let loaded = load::load(file).map_err(anyhow::Error::new)?;
    for warning in &loaded.warnings {
        eprintln!("synod: warning: {warning}");
    }
    let (nodes, groups) = (loaded.config.nodes.len(), loaded.config.groups.len());
    print(&format!("{}: valid; {nodes} node(s), {groups} group(s)\n", file.display()))
}

/// Prints what is in effect.
pub(super) fn show(file: &Path, memory: bool, style: Style) -> Outcome {
    let loaded = load::load(file).map_err(anyhow::Error::new)?;
    if memory {
        let memory = Memory::of(&loaded.config);
        return match style {
            Style::Text => print(&memory.table()),
            Style::Json => print_json(&memory),
        };
    }
    match style {
        Style::Text => print(&loaded.annotated()),
        Style::Json => print_json(&rows(&loaded)),
    }
}

/// One value in effect, for programs.
#[derive(Serialize)]
struct Row {
    key: String,
    value: String,
    origin: String,
    /// A node takes a change over while it runs.
    reloads: bool,
}

fn rows(loaded: &Loaded) -> Vec<Row> {
    let row = |entry: crate::config::load::Entry| Row {
        reloads: is_taken_over(&entry.key),
        key: entry.key,
        value: entry.value,
        origin: entry.origin.to_string(),
    };
    loaded.entries().into_iter().map(row).collect()
}
