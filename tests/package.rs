//! What the package is built from: man pages and completions of the command line, the unit, and the files that Cargo.toml names.

#[path = "support/nodes.rs"]
mod nodes;

use nodes::synod;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn printed(arguments: &[&str]) -> String {
    let output = synod().args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The names of the commands, as `--help` lists them.
fn commands() -> Vec<String> {
    let help = printed(&["--help"]);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    listed
        .filter_map(|line| Some(line.strip_prefix("  ")?.split(' ').next()?.to_owned()))
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn every_command_has_a_man_page_and_completions() {
    let dir = tempfile::tempdir().unwrap();
    printed(&["man", dir.path().to_str().unwrap()]);
    let commands = commands();
    assert!(commands.iter().any(|name| name == "iotune") && commands.len() > 20, "{commands:?}");
    assert!(!commands.iter().any(|name| name == "man"), "it is for the package alone");
    let scripts = ["bash", "zsh", "fish"].map(|shell| printed(&["completions", shell]));
    for name in &commands {
        let page = std::fs::read_to_string(dir.path().join(format!("synod-{name}.1")));
        assert!(page.unwrap_or_else(|error| panic!("no page of {name}: {error}")).contains(".SH SYNOPSIS"));
        assert!(scripts.iter().all(|script| script.contains(name.as_str())), "{name} is not completed");
    }
    assert!(dir.path().join("synod.1").is_file());
    let file = dir.path().join("completions");
    std::fs::write(&file, &scripts[0]).unwrap();
    assert!(Command::new("bash").arg("-n").arg(file).status().unwrap().success());
}

#[test]
fn what_the_package_takes_is_there_and_its_scripts_are_shell() {
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    for asset in deb["assets"].as_array().unwrap() {
        let source = asset[0].as_str().unwrap();
        assert!(source.starts_with("target/") || root().join(source).is_file(), "{source}");
    }
    let scripts = root().join(deb["maintainer-scripts"].as_str().unwrap());
    for name in ["postinst", "prerm", "postrm"] {
        let script = scripts.join(name);
        assert!(Command::new("sh").arg("-n").arg(&script).status().unwrap().success(), "{name}");
    }
    // Data go with a purge, and with nothing else.
    let removal = std::fs::read_to_string(scripts.join("postrm")).unwrap();
    let guarded = removal.split("= purge ]; then").nth(1).and_then(|rest| rest.split("\nfi\n").next()).unwrap();
    assert_eq!((removal.matches("rm -rf").count(), guarded.matches("rm -rf").count()), (1, 1));
    assert!(!std::fs::read_to_string(scripts.join("prerm")).unwrap().contains("rm "));
}

/// The unit starts the node as the command line takes it, and keeps what io_uring and the log-writer thread need.
#[test]
fn the_unit_starts_a_node_and_leaves_it_its_means() {
    let unit = std::fs::read_to_string(root().join("scripts/systemd/synod@.service")).unwrap();
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {key}= in the unit")).to_owned()
    };
    let dir = tempfile::tempdir().unwrap();
    let config = nodes::write_config(dir.path());
    let command = value("ExecStart").replace("/etc/synod/synod.toml", config.to_str().unwrap()).replace("%i", "0");
    let mut words = command.split(' ');
    assert_eq!(words.next(), Some("/usr/bin/synod"));
    // It comes as far as the directory, which was not formatted: the words are understood.
    let output = synod().args(words).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // A reload checks the file, and then has the node read it.
    let reloads: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("ExecReload=")).collect();
    let [check, signal] = reloads.as_slice() else { panic!("{reloads:?}") };
    assert_eq!(*signal, "/bin/kill -HUP $MAINPID");
    let check =
        check.strip_prefix("/usr/bin/synod ").unwrap().replace("/etc/synod/synod.toml", config.to_str().unwrap());
    let checked = synod().args(check.split(' ')).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    assert_eq!((value("Type"), value("LimitMEMLOCK")), ("notify".into(), "infinity".into()));
    let priority: i32 = value("LimitRTPRIO").parse().unwrap();
    assert!(priority >= synod_ring::LOG_THREAD_PRIORITY, "the log-writer thread asks for more");
    assert!(!unit.lines().any(|line| line.starts_with("RestrictRealtime=") || line.starts_with("ProcSubset=")));
}
