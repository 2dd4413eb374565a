//! Runs every script of `tests/scenarios/`, and describes in one place what they show. See `common/script.rs` for the language.

mod common;

use std::path::{Path, PathBuf};

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let entries = std::fs::read_dir(&folder).expect("the folder of scripts");
    let mut scripts: Vec<_> = entries.map(|entry| entry.expect("an entry of the folder").path()).collect();
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    scripts.sort();
    scripts
}

/// Every script runs; all are tried before the first failure is reported.
#[test]
fn every_scenario_ends_as_its_script_expects() {
    let scripts = scripts();
    assert!(scripts.len() >= 20, "only {} scripts were found", scripts.len());
    let failed: Vec<_> =
        scripts.iter().filter(|path| std::panic::catch_unwind(|| common::script::run(path)).is_err()).collect();
    assert!(failed.is_empty(), "failed: {failed:#?}");
}
