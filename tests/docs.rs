//! What tuning.md says and the program must bear out. Its commands are run by `scripts/test-docs.sh`.

use std::path::Path;
use std::process::Command;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_sizing_table_is_what_its_command_prints() {
    let page = read("tuning.md");
    let begins = page.find("awk -v N=3").expect("the command");
    let (command, rest) = page[begins..].split_once("```").unwrap();
    let output = Command::new("sh").arg("-c").arg(command).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let table = rest.split("```\n").nth(1).expect("the table, fenced, behind the command");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), table);
}

/// Those whom an operator would look for in vain otherwise. What each shows, tests/metrics.rs makes it show.
#[test]
fn every_metric_of_the_runbook_is_one() {
    let (page, metrics) = (read("tuning.md"), read("src/admin/metrics.rs"));
    let mut found = 0;
    for (at, _) in page.match_indices("synod_") {
        let rest = &page[at + "synod_".len()..];
        let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let name = name.strip_suffix("_total").unwrap_or(&name);
        assert!(metrics.contains(&format!("\"{name}\"")), "synod_{name} is no metric");
        found += 1;
        // A reason that is named in the same breath is one of those that the counter has.
        let reason = rest.strip_prefix(name).and_then(|rest| rest.strip_prefix("_total{reason=\""));
        if let Some(reason) = reason.and_then(|reason| reason.split('"').next()) {
            assert!(metrics.contains(&format!("(\"{reason}\")")), "synod_{name} has no reason {reason}");
        }
    }
    assert!(found > 15, "{found}");
}

#[test]
fn every_command_of_the_pages_is_one() {
    let help = Command::new(env!("CARGO_BIN_EXE_synod")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for page in ["README.md", "tuning.md"] {
        let text = read(page);
        for (at, _) in text.match_indices("`synod ") {
            let word = text[at + "`synod ".len()..].split([' ', '`', '\n']).next().unwrap();
            assert!(
                help.contains(&format!("\n  {word} ")) || help.contains(&format!("\n  {word}\n")),
                "{page}: synod {word}"
            );
        }
    }
}
