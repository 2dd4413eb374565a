//! The changes of a plan as a shell script of its own. Called by `tune apply --output-script`.

use super::place::{Kind, Value};
use super::{Change, Planned};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write;
use std::path::Path;

/// What reads, compares and writes the values, in the shell.
const SHELL: &str = include_str!("../../../scripts/tune-host.sh");

/// The functions of scripts/tune-host.sh that know nothing of its state file.
fn functions() -> &'static str {
    let after = SHELL.split_once("\n# >>> ").expect("scripts/tune-host.sh marks where its functions begin").1;
    let lines = after.split_once('\n').expect("they follow").1;
    lines.split_once("\n# <<<").expect("scripts/tune-host.sh marks where its functions end").0
}

/// The script. `root` is where the host's files lie: "/".
pub fn script(planned: &[Planned], root: &Path) -> String {
    let root = root.to_str().filter(|root| *root != "/").unwrap_or_default();
    let mut text = format!(
        "#!/usr/bin/env bash\n\
         # Written by `synod tune apply --output-script`: this host's knobs, as they are to be and as they were then.\n\
         #   apply (or nothing)   makes the changes, and prints each before; what is so already stays as it is\n\
         #   revert               takes them back\n\
         #   --dry-run, before one of them: prints, and changes nothing\n\
         set -uo pipefail\n\n\
         root={} dry_run='' failed=''\n\n{}\n\n\
         # What was is in this file.\n\
         remember() {{ :; }}\n\n",
        quoted(root),
        functions()
    );
    for (name, backwards) in [("apply", false), ("revert", true)] {
        let all = planned.iter().flat_map(|plan| plan.changes().iter().map(|change| (plan.knob.name, change)));
        let mut lines: Vec<String> = all.map(|(knob, change)| line(knob, change, backwards)).collect();
        if backwards {
            lines.reverse();
        }
        let lines = if lines.is_empty() { "    :\n".into() } else { lines.concat() };
        write!(text, "{name}() {{\n{lines}}}\n\n").expect("a string takes all");
    }
    text + "if [[ ${1:-} == --dry-run ]]; then dry_run=1 && shift; fi\n\
            case ${1:-apply} in\n\
            apply | revert) \"${1:-apply}\" ;;\n\
            *) echo \"usage: $0 [--dry-run] [apply | revert]\" >&2 && exit 2 ;;\n\
            esac\n\
            [[ -z $failed ]]\n"
}

fn line(knob: &str, change: &Change, backwards: bool) -> String {
    let Change { place, now, want } = change;
    let to = value(place.kind, if backwards { now } else { want });
    format!("    change {knob} {} {} {}\n", place.kind.name(), quoted(&place.at), quoted(&to))
}

/// As the functions have it: files in base64.
fn value(kind: Kind, value: &Value) -> String {
    match (kind, value) {
        (Kind::File, Some(text)) => STANDARD.encode(text),
        (_, Some(text)) => text.clone(),
        (_, None) => "absent".into(),
    }
}

/// One word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
