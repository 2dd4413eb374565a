//! The core does no I/O, reads no clock, draws no randomness and starts no thread: its sources name none of these, and its
//! dependencies bring no `std` in.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// What the protocol must not name.
const FORBIDDEN: &[&str] = &[
    "std::",
    "extern crate std",
    "unsafe",
    "Instant",
    "SystemTime",
    "Duration",
    "thread",
    "Mutex",
    "Atomic",
    "RefCell",
    "Rc<",
    "Arc",
    "random()",
    "getrandom",
    "HashMap",
    "HashSet",
    "println",
    "format!",
    "env!",
    "include_",
    "extern \"",
    "f32",
    "f64",
    "as *const",
    "as *mut",
];

/// All that the core may depend on. The derive macro's own dependencies run at compile time.
const DEPENDENCIES: &[&str] =
    &["synod-paxos", "synod-wire", "zerocopy", "zerocopy-derive", "proc-macro2", "quote", "syn", "unicode-ident"];

/// A source without its comments and without the attribute that forbids unsafe code.
fn code_of(source: &str) -> String {
    let lines = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.filter(|line| line.trim() != "#![forbid(unsafe_code)]").collect::<Vec<_>>().join("\n")
}

#[test]
fn the_sources_name_no_clock_no_thread_and_no_std() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("the sources") {
        let path = entry.expect("an entry of the folder").path();
        let source = std::fs::read_to_string(&path).expect("a source");
        let code = code_of(&source);
        for word in FORBIDDEN {
            assert!(!code.contains(word), "{} names `{word}`", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 10, "only {seen} sources were read");
}

#[test]
fn the_check_of_the_sources_finds_what_it_looks_for() {
    let code =
        code_of("// std::time in a comment\n#![forbid(unsafe_code)]\nlet now = std::time::Instant::now(); // now\n");
    let found: Vec<_> = FORBIDDEN.iter().filter(|word| code.contains(*word)).collect();
    assert_eq!(found, [&"std::", &"Instant"]);
}

#[test]
fn the_crate_says_no_std_and_forbids_unsafe_code() {
    let lib = include_str!("../src/lib.rs");
    for attribute in ["#![no_std]", "#![forbid(unsafe_code)]"] {
        assert!(lib.lines().any(|line| line == attribute), "lib.rs lacks {attribute}");
    }
}

#[test]
fn no_dependency_brings_std_in() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = |arguments: &[&str]| {
        let output = Command::new(&cargo)
            .args(["tree", "--offline", "-p", "synod-paxos", "-e", "normal", "--prefix", "none"])
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("names in UTF-8")
    };
    let listed = tree(&[]);
    let names: BTreeSet<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let foreign: Vec<_> = names.iter().filter(|name| !DEPENDENCIES.contains(name)).collect();
    assert!(names.contains("zerocopy"), "the tree was not read: {listed}");
    assert!(foreign.is_empty(), "the core depends on {foreign:?}");
    let features = tree(&["-f", "{p} [{f}]"]);
    let wire = features.lines().find(|line| line.starts_with("synod-wire")).expect("synod-wire in the tree");
    assert!(wire.contains("[]"), "synod-wire is no_std without features only: {wire}");
    let zerocopy = features.lines().find(|line| line.starts_with("zerocopy v")).expect("zerocopy in the tree");
    assert!(!zerocopy.contains("std"), "zerocopy with std: {zerocopy}");
}
