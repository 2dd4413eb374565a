//! What must hold for every key, found by walking the default configuration: it is documented, the code reads it, and a value that
//! cannot be is refused with its place, its reason and a mend. A key that is added without one of these fails here.

use super::{DEFAULT_TOML, load};
use std::path::{Path, PathBuf};

/// Where the printed default is said to stand.
const FILE: &str = "default.toml";

/// A value that each key refuses, as TOML writes it.
const REFUSED: &[(&str, &str)] = &[
    ("cluster.id", "0"),
    ("node.id", "64"),
    ("node.peer_listen", "\"0.0.0.0:7400\""),
    ("node.client_listen", "\"localhost:7500\""),
    ("node.admin_listen", "\"127.0.0.1:0\""),
    ("node.dir", "\"var/lib\""),
    ("node.joins", "1"),
    ("group.core", "-1"),
    ("group.machine", "\"map\""),
    ("group.leader_priority", "[9]"),
    ("cpu.io", "\"epoll\""),
    ("cpu.wait", "\"fast\""),
    ("cpu.yield_idle_us", "1_000_001"),
    ("cpu.yield_durable_us", "1_000_001"),
    ("net.max_batch_bytes", "639"),
    ("net.dont_fragment", "\"no\""),
    ("net.rx_buffers_peers", "15"),
    ("net.rx_buffers_clients", "16_385"),
    ("net.socket_buffer_bytes", "65_535"),
    ("net.max_events", "15"),
    ("net.segmentation", "0"),
    ("net.receive_offload", "0"),
    ("net.napi_busy_poll_us", "10_001"),
    ("wal.segment_bytes", "4_194_303"),
    ("wal.arena_bytes", "8_388_607"),
    ("wal.max_in_flight", "9"),
    ("wal.max_flush_bytes", "131_071"),
    ("wal.writer", "\"disk\""),
    ("wal.writer_core", "\"any\""),
    ("wal.durability", "\"tape\""),
    ("wal.hung_after_us", "9_999"),
    ("consensus.heartbeat_us", "499"),
    ("consensus.election_timeout_min_us", "4_999"),
    ("consensus.election_timeout_max_us", "120_000_001"),
    ("consensus.retransmit_us", "499"),
    ("consensus.commit_linger_us", "1_000_001"),
    ("consensus.window_slots", "15"),
    ("consensus.fail_slow_factor", "1"),
    ("consensus.fail_slow_min_us", "49"),
    ("quorum.phase1", "0"),
    ("quorum.phase2", "4"),
    ("clients.max_subscribers", "0"),
    ("clients.subscriber_silence_us", "499_999"),
    ("clients.subscriber_starved_us", "9_999"),
    ("clients.max_waiting_reads", "4_097"),
    ("clients.max_read_wait_us", "999"),
    ("reads.max_clock_drift_ppm", "100_001"),
    ("reads.lease_clock_drift_ppm", "0"),
    ("reads.lease_us", "999"),
    ("catchup.max_datagrams_in_flight", "4_097"),
    ("catchup.max_bytes_per_s", "1_048_575"),
    ("snapshot.every_entries", "99"),
    ("snapshot.max_bytes_per_s", "1_048_575"),
    ("retention.max_bytes", "1_125_899_906_842_625"),
    ("retention.max_age_s", "3_153_600_001"),
    ("metrics.max_connections", "0"),
    ("metrics.connection_timeout_us", "99_999"),
    ("metrics.stuck_after_us", "60_000_001"),
    ("log.level", "\"loud\""),
    ("log.format", "\"xml\""),
];

/// Keys that the rest of the program reads through a method of [`super::Config`], and that method.
const BY_METHOD: &[(&str, &str)] = &[
    ("node.peer_listen", "peer_address"),
    ("node.client_listen", "client_address"),
    ("node.dir", "log_dir"),
    ("cpu.wait", "wait_mode"),
    ("cpu.yield_idle_us", "wait_mode"),
    ("cpu.yield_durable_us", "wait_mode"),
    ("quorum.phase1", "quorums"),
    ("quorum.phase2", "quorums"),
    ("reads.lease_clock_drift_ppm", "lease"),
    ("reads.lease_us", "lease"),
    ("cluster.id", "cluster_id"),
    ("node.id", "members"),
    ("node.joins", "founders"),
];

/// What only tells of the configuration, predicts by it, writes one, or prepares the host for one: reading a key there gives it no effect.
const WITHOUT_EFFECT: [&str; 7] =
    ["src/config", "src/memory.rs", "src/iotune", "src/host", "src/demo", "src/cli/config.rs", "src/local.rs"];

/// A key of the printed default: its name without an index, its line (from 1), and the comment above it.
#[derive(Debug)]
struct Key {
    name: String,
    line: usize,
    comment: String,
}

/// Every key that a written configuration has, each once, with its place in the printed default.
fn keys() -> Vec<Key> {
    let written = load::parse(DEFAULT_TOML, Path::new(FILE), std::iter::empty()).unwrap();
    let mut names: Vec<String> = Vec::new();
    for entry in written.entries() {
        let (section, key) = entry.key.rsplit_once('.').unwrap();
        let name = format!("{}.{key}", section.split('[').next().unwrap());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.into_iter().map(|name| place(&name)).collect()
}

/// Where a key first stands in the printed default.
fn place(name: &str) -> Key {
    let (section, key) = name.split_once('.').unwrap();
    let lines: Vec<&str> = DEFAULT_TOML.lines().collect();
    let header = lines.iter().position(|line| line.trim_matches(['[', ']']) == section && line.starts_with('['));
    let header = header.unwrap_or_else(|| panic!("no [{section}] in {FILE}"));
    let below = lines[header + 1..].iter().take_while(|line| !line.starts_with('['));
    let at = below.clone().position(|line| line.starts_with(&format!("{key} = ")));
    let at = header + 1 + at.unwrap_or_else(|| panic!("no {name} in {FILE}"));
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with('#'));
    let comment: Vec<&str> = above.map(|line| line.trim_start_matches('#').trim()).collect();
    Key { name: name.into(), line: at + 1, comment: comment.into_iter().rev().collect::<Vec<_>>().join(" ") }
}

/// The printed default with another value of a key, and what is said of it.
fn told_of(key: &Key, value: &str) -> Vec<String> {
    let mut lines: Vec<String> = DEFAULT_TOML.lines().map(String::from).collect();
    let (_, name) = key.name.split_once('.').unwrap();
    lines[key.line - 1] = format!("{name} = {value}");
    match load::parse(&lines.join("\n"), Path::new(FILE), std::iter::empty()) {
        Ok(_) => Vec::new(),
        Err(load::ConfigError::Invalid(problems)) => problems.iter().map(ToString::to_string).collect(),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_key_is_documented_with_its_range_or_its_words() {
    for key in keys() {
        let (words, limits) = (key.comment.split_whitespace().count(), key.comment.contains("Range: "));
        assert!(words >= 8, "{}: {FILE}:{} hardly says what it is: {:?}", key.name, key.line, key.comment);
        let lines: Vec<&str> = DEFAULT_TOML.lines().collect();
        let value = lines[key.line - 1].split(" = ").nth(1).unwrap();
        let is_number = value.starts_with(|first: char| first.is_ascii_digit());
        assert!(!is_number || limits, "{}: {FILE}:{} says no range", key.name, key.line);
        // What serde expects instead of a word that is none, it names: each must stand in the comment.
        if value.starts_with('"') && !key.name.ends_with("_listen") && key.name != "node.dir" {
            let told = told_of(&key, "\"no such word\"").join("\n");
            let expected = told.split("expected").nth(1).unwrap_or_else(|| panic!("{}: takes any word", key.name));
            let expected = expected.split(';').next().unwrap().replace('`', "\"");
            for word in expected.split('"').skip(1).step_by(2) {
                let says = key.comment.contains(&format!("\"{word}\""));
                assert!(says, "{}: {FILE}:{} does not say what {word:?} does", key.name, key.line);
            }
        }
    }
}

#[test]
fn every_key_refuses_what_cannot_be_and_says_where_why_and_what_instead() {
    let keys = keys();
    for (name, _) in REFUSED {
        assert!(keys.iter().any(|key| key.name == *name), "{name} is no key any more");
    }
    for key in keys {
        let refused = REFUSED.iter().find(|(name, _)| *name == key.name);
        let (_, value) = refused.unwrap_or_else(|| panic!("{}: name a value that it refuses", key.name));
        let told = told_of(&key, value);
        let (section, last) = key.name.split_once('.').unwrap();
        let index = if matches!(section, "node" | "group") { "[0]" } else { "" };
        let place = format!("{FILE}:{}: {section}{index}.{last}: ", key.line);
        let own = told.iter().find_map(|problem| problem.strip_prefix(&place));
        let own = own.unwrap_or_else(|| panic!("{} = {value}: nothing begins with {place:?} in {told:#?}", key.name));
        let (reason, mend) = own.split_once("; ").unwrap_or_else(|| panic!("{}: no mend in {own:?}", key.name));
        assert!(reason.len() >= 10 && mend.len() >= 7, "{}: says little: {own:?}", key.name);
    }
}

#[test]
fn every_key_is_read_where_it_has_an_effect() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code = String::new();
    let mut dirs = vec![root.join("src")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let relative = path.strip_prefix(root).unwrap();
            if WITHOUT_EFFECT.iter().any(|without| relative.starts_with(without)) {
                continue;
            }
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                code += &bare(&std::fs::read_to_string(&path).unwrap());
                code.push('\n');
            }
        }
    }
    let own = bare(include_str!("mod.rs"));
    for key in keys() {
        let (section, name) = key.name.split_once('.').unwrap();
        let found = match BY_METHOD.iter().find(|(by_method, _)| *by_method == key.name) {
            Some((_, method)) => {
                assert!(own.contains(&format!("fn {method}(")), "{}: Config has no {method}", key.name);
                is_read(&own, section, name) && code.contains(&format!(".{method}("))
            }
            None => is_read(&code, section, name),
        };
        assert!(found, "{}: nothing reads it but what tells of it", key.name);
    }
}

/// Whether the code takes the field of the section's value, or of one bound to its name.
fn is_read(code: &str, section: &str, name: &str) -> bool {
    let listed = matches!(section, "node" | "group");
    let owners: Vec<String> = match listed {
        // An element, by whatever way it was found.
        true => [section, ")", "]", "first", "one", "self"].map(String::from).into(),
        false => vec![section.to_owned()],
    };
    owners.iter().any(|owner| {
        code.match_indices(&format!("{owner}.{name}")).any(|(at, found)| {
            let before = code[..at].chars().next_back();
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            // A bracket or a parenthesis ends whatever the element was taken from.
            let owned = owner.len() == 1 || !before.is_some_and(is_word);
            let after = &code[at + found.len()..];
            let whole = !after.starts_with(is_word);
            let assigned = after.starts_with(" = ");
            owned && whole && !assigned
        })
    })
}

/// Code in one line, without comments, what stands in strings, and its tests.
fn bare(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut bare = String::new();
    for line in text.lines() {
        let mut rest = line.trim();
        // Without the strings first: a `//` in one is no comment. A character that is a quote is none, either.
        let unquoted = rest.replace("'\"'", "").replace("\\\"", "");
        rest = &unquoted;
        let parts: Vec<&str> = rest.split('"').collect();
        let code: Vec<&str> = parts.iter().step_by(2).copied().collect();
        let code = code.join("\"\"");
        let code = code.split("//").next().unwrap_or("");
        // A chain of calls may go on in the next line.
        bare += if code.starts_with('.') { "" } else { " " };
        bare += code.trim_end();
    }
    bare
}

#[test]
fn a_key_that_nothing_reads_is_found_out() {
    let code =
        bare("let a = config.net.max_events; // config.net.dont_fragment\nlet b = \"config.net.segmentation\";\n");
    assert!(is_read(&code, "net", "max_events"));
    assert!(!is_read(&code, "net", "max_event") && !is_read(&code, "net", "dont_fragment"));
    assert!(!is_read(&code, "net", "segmentation"));
    assert!(!is_read(&bare("config.net.max_events = 5;"), "net", "max_events"), "it is only written");
    assert!(is_read(&bare("self.config\n    .net\n    .max_events"), "net", "max_events"));
    assert_eq!(keys().len(), REFUSED.len());
}
