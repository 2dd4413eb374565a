//! Reads a configuration: the file, then the environment's overrides, then [`super::check()`].
//!
//! Every problem is collected, not only the first, and each says where it stands: the file and line, or the variable.
//! Touches the one file it is given and the environment. Called by the command line.

use super::reload::is_taken_over;
use super::{Config, Finding, check};
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// What the names of overriding variables start with.
pub const ENVIRONMENT_PREFIX: &str = "SYNOD__";

/// The sections whose keys the environment can override.
const SECTIONS: [&str; 13] = [
    "cluster",
    "cpu",
    "net",
    "wal",
    "consensus",
    "quorum",
    "clients",
    "reads",
    "catchup",
    "snapshot",
    "retention",
    "metrics",
    "log",
];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was not given.
    Default,
    /// It stands in the file.
    File {
        /// The line, from 1.
        line: usize,
    },
    /// A variable of the environment gave it.
    Environment {
        /// The variable's name.
        variable: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File { line } => write!(f, "line {line}"),
            Origin::Environment { variable } => write!(f, "{variable}"),
        }
    }
}

/// A checked configuration, and where each value came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is in effect.
    pub config: Config,
    /// The file.
    pub file: PathBuf,
    /// What works, but not as well as it could.
    pub warnings: Vec<String>,
    origins: BTreeMap<String, Origin>,
}

/// One value in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, as `net.max_batch_bytes` or `node[1].dir`.
    pub key: String,
    /// The value as TOML writes it.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// One thing wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file and line, or the variable.
    pub place: String,
    /// The key, the reason and the mend.
    pub finding: Finding,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { key, reason, mend } = &self.finding;
        let separator = if key.is_empty() { "" } else { ": " };
        write!(f, "{}: {key}{separator}{reason}; {mend}", self.place)
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read the configuration {file:?}: {source}. Name a readable file; `synod config default` prints one to start from"
    )]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It can be read, but not used.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// Reads, merges and checks.
pub fn load(file: &Path) -> Result<Loaded, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable { file: file.into(), source })?;
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(ENVIRONMENT_PREFIX))?;
        // A value that is not UTF-8 matches no key's type, and is refused as such.
        Some((name, value.to_string_lossy().into_owned()))
    });
    parse(&text, file, environment)
}

/// The same from a text and variables (name and value; all names start with [`ENVIRONMENT_PREFIX`]).
pub fn parse(
    text: &str,
    file: &Path,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let environment: Vec<(String, String)> = environment.collect();
    let mut reader = Reader::new(text, file)?;
    for (variable, value) in &environment {
        reader.override_with(variable, value);
    }
    let config = reader.config();
    if reader.problems.is_empty() {
        for finding in check(&config) {
            let place = reader.place_of(&finding.key);
            reader.problems.push(Problem { place, finding });
        }
    }
    if !reader.problems.is_empty() {
        return Err(ConfigError::Invalid(reader.problems));
    }
    let warnings = check::warnings(&config);
    Ok(Loaded { config, file: file.into(), warnings, origins: reader.origins })
}

/// The document while its sections are taken out one by one.
struct Reader<'t> {
    text: &'t str,
    file: &'t Path,
    document: DeTable<'t>,
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
    /// Where the next overriding value pretends to stand: behind the text, so that an error's span tells it apart.
    next_span: usize,
}

impl<'t> Reader<'t> {
    fn new(text: &'t str, file: &'t Path) -> Result<Reader<'t>, ConfigError> {
        let (document, errors) = DeTable::parse_recoverable(text);
        let mut reader = Reader {
            text,
            file,
            document: document.into_inner(),
            origins: BTreeMap::new(),
            problems: Vec::new(),
            next_span: text.len() + 1,
        };
        for error in errors {
            let line = error.span().map_or(1, |span| reader.line(span.start));
            let reason = error.message().replace('\n', ", ");
            reader.problem_at_line(line, "", &reason, "correct the TOML there");
        }
        if reader.problems.is_empty() { Ok(reader) } else { Err(ConfigError::Invalid(reader.problems)) }
    }

    fn line(&self, offset: usize) -> usize {
        self.text.as_bytes()[..offset.min(self.text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn problem_at_line(&mut self, line: usize, key: &str, reason: &str, mend: &str) {
        let place = format!("{}:{line}", self.file.display());
        self.problem(place, key, reason, mend);
    }

    fn problem(&mut self, place: String, key: &str, reason: &str, mend: &str) {
        let finding = Finding { key: key.into(), reason: reason.into(), mend: mend.into() };
        self.problems.push(Problem { place, finding });
    }

    /// Where `key` was given; for one that was not, where its section stands, or the file alone.
    fn place_of(&self, key: &str) -> String {
        let section = key.rsplit_once('.').map_or(key, |(section, _)| section);
        match self.origins.get(key).or_else(|| self.origins.get(section)) {
            Some(Origin::Environment { variable }) => format!("environment {variable}"),
            Some(Origin::File { line }) => format!("{}:{line}", self.file.display()),
            Some(Origin::Default) | None => self.file.display().to_string(),
        }
    }

    fn override_with(&mut self, variable: &str, value: &'t str) {
        let path = variable.trim_start_matches(ENVIRONMENT_PREFIX).to_ascii_lowercase();
        let place = || format!("environment {variable}");
        let Some((section, key)) = path.split_once("__").filter(|(section, _)| SECTIONS.contains(section)) else {
            let mend = format!("name it {ENVIRONMENT_PREFIX}SECTION__KEY with a section of {}", SECTIONS.join(", "));
            return self.problem(place(), "", "names no section that can be overridden", &mend);
        };
        let entry = self.document.entry(Spanned::new(0..0, Cow::Owned(section.to_string())));
        let section_value = entry.or_insert_with(|| Spanned::new(0..0, DeValue::Table(DeTable::new())));
        let DeValue::Table(table) = section_value.get_mut() else { return };
        // Numbers and booleans as TOML writes them; anything else is taken as a string, so that no quotes are needed.
        let parsed = match DeValue::parse(value).map(Spanned::into_inner) {
            Ok(scalar @ (DeValue::Integer(_) | DeValue::Boolean(_) | DeValue::String(_))) => scalar,
            _ => DeValue::String(Cow::Borrowed(value)),
        };
        let span = self.next_span..self.next_span + 1;
        self.next_span += 2;
        table.remove(key);
        table.insert(Spanned::new(span.clone(), Cow::Owned(key.to_string())), Spanned::new(span, parsed));
        self.origins.insert(format!("{section}.{key}"), Origin::Environment { variable: variable.into() });
    }

    fn config(&mut self) -> Config {
        let mut config = Config {
            cluster: self.section("cluster"),
            nodes: self.list("node"),
            groups: self.list("group"),
            cpu: self.section("cpu"),
            net: self.section("net"),
            wal: self.section("wal"),
            consensus: self.section("consensus"),
            quorum: self.section("quorum"),
            clients: self.section("clients"),
            reads: self.section("reads"),
            catchup: self.section("catchup"),
            snapshot: self.section("snapshot"),
            retention: self.section("retention"),
            metrics: self.section("metrics"),
            log: self.section("log"),
        };
        if config.groups.is_empty() {
            config.groups = Config::default().groups;
        }
        let unknown: Vec<_> = self.document.keys().map(|key| (key.get_ref().to_string(), key.span().start)).collect();
        for (key, offset) in unknown {
            let mend = format!("remove it; there are node, group, {}", SECTIONS.join(", "));
            self.problem_at_line(self.line(offset), &key, "is not a section", &mend);
        }
        config
    }

    fn section<T: DeserializeOwned + Default>(&mut self, name: &str) -> T {
        let Some((key, value)) = self.document.remove_entry(name) else { return T::default() };
        match value.into_inner() {
            DeValue::Table(table) => self.table(name, key.span(), table).unwrap_or_default(),
            other => {
                let reason = format!("is a {}, not a section", other.type_str());
                let line = self.line(key.span().start);
                self.problem_at_line(line, name, &reason, &format!("write [{name}] and its keys below it"));
                T::default()
            }
        }
    }

    fn list<T: DeserializeOwned>(&mut self, name: &str) -> Vec<T> {
        let Some((key, value)) = self.document.remove_entry(name) else { return Vec::new() };
        let DeValue::Array(items) = value.into_inner() else {
            let line = self.line(key.span().start);
            self.problem_at_line(line, name, "is not a list of sections", &format!("write [[{name}]], once for each"));
            return Vec::new();
        };
        let mut read = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let (span, path) = (item.span(), format!("{name}[{index}]"));
            match item.into_inner() {
                DeValue::Table(table) => read.extend(self.table(&path, span, table)),
                _ => {
                    let line = self.line(span.start);
                    self.problem_at_line(line, &path, "is not a section", &format!("write [[{name}]], once for each"));
                }
            }
        }
        read
    }

    /// Reads one section. A key that serde refuses is noted and taken out, so that the others are looked at too.
    fn table<T: DeserializeOwned>(&mut self, path: &str, span: Range<usize>, mut table: DeTable<'t>) -> Option<T> {
        self.note_origins(path, &span, &table);
        let mut clean = true;
        loop {
            let value = Spanned::new(span.clone(), DeValue::Table(table.clone()));
            let error = match T::deserialize(ValueDeserializer::from(value)) {
                Ok(read) => return clean.then_some(read),
                Err(error) => error,
            };
            clean = false;
            let at = error.span().unwrap_or(span.clone());
            let culprit = table.iter().find(|(key, value)| holds(&key.span(), &at) || holds(&value.span(), &at));
            let culprit = culprit.map(|(key, _)| key.get_ref().to_string());
            let Some(name) = culprit else {
                // The section as a whole: a key that has no default is missing.
                let line = self.line(span.start);
                self.problem_at_line(line, path, error.message(), "add it; `synod config default` shows an example");
                return None;
            };
            let key = format!("{path}.{name}");
            let mend = if error.message().starts_with("unknown field") {
                "remove it or correct its name; `synod config default` lists every key"
            } else {
                "`synod config default` says what it takes"
            };
            self.problem(self.place_of(&key), &key, error.message(), mend);
            table.remove(name.as_str());
        }
    }

    fn note_origins(&mut self, path: &str, span: &Range<usize>, table: &DeTable<'_>) {
        self.origins.insert(path.into(), Origin::File { line: self.line(span.start) });
        for key in table.keys() {
            let origin = Origin::File { line: self.line(key.span().start) };
            self.origins.entry(format!("{path}.{}", key.get_ref())).or_insert(origin);
        }
    }
}

fn holds(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

impl Loaded {
    /// Where the value of `key` came from.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// The values in effect as a TOML file, each with its origin in a comment, and whether a node takes a change over while it runs.
    pub fn annotated(&self) -> String {
        let plain = toml::to_string(&self.config).expect("a configuration that was read can be written");
        let mut text = format!("# {}\n", self.file.display());
        let mut walk = Walk::default();
        for line in plain.lines() {
            match walk.key(line) {
                Some(key) => {
                    let reloads = if is_taken_over(&key) { ", reloads" } else { "" };
                    text.push_str(&format!("{line:<44} # {}{reloads}\n", self.origin(&key)));
                }
                None => text.push_str(&format!("{line}\n")),
            }
        }
        text
    }

    /// Every value in effect.
    pub fn entries(&self) -> Vec<Entry> {
        let entry = |(key, value): (String, String)| Entry { origin: self.origin(&key), key, value };
        written(&self.config).into_iter().map(entry).collect()
    }
}

/// Every key with its value as TOML writes it.
pub(super) fn written(config: &Config) -> Vec<(String, String)> {
    let plain = toml::to_string(config).expect("a configuration that was read can be written");
    let mut walk = Walk::default();
    plain.lines().filter_map(|line| Some((walk.key(line)?, line.split_once(" = ")?.1.to_string()))).collect()
}

/// Follows the headers of a written file to tell each line's key.
#[derive(Default)]
struct Walk {
    section: String,
    counts: BTreeMap<String, usize>,
}

impl Walk {
    fn key(&mut self, line: &str) -> Option<String> {
        if let Some(list) = line.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
            let count = self.counts.entry(list.into()).or_default();
            self.section = format!("{list}[{count}]");
            *count += 1;
            return None;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            self.section = section.into();
            return None;
        }
        let (key, _) = line.split_once(" = ")?;
        Some(format!("{}.{key}", self.section))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DEFAULT_TOML, Wait};

    fn read(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
        let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        parse(text, "c.toml".as_ref(), environment).map_err(|error| match error {
            ConfigError::Invalid(problems) => problems.iter().map(Problem::to_string).collect(),
            ConfigError::Unreadable { .. } => panic!("nothing is read from disk here"),
        })
    }

    fn problems(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
        read(text, environment).expect_err("must be refused")
    }

    const NODE: &str =
        "[[node]]\nid = 0\npeer_listen = \"127.0.0.1:1\"\nclient_listen = \"127.0.0.1:9\"\ndir = \"/d\"\n";

    #[test]
    fn all_problems_are_told_with_their_lines() {
        let text = format!(
            "{NODE}[cpu]\nwait = \"fast\"\nyeld = 3\nyield_idle_us = \"x\"\n[nett]\na = 1\n[[group]]\ncore = -1\n"
        );
        let found = problems(&text, &[]);
        let starts = [
            "c.toml:13: group[0].core: ",
            "c.toml:7: cpu.wait: ",
            "c.toml:8: cpu.yeld: unknown field",
            "c.toml:9: cpu.yield_idle_us: ",
            "c.toml:10: nett: ",
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for start in starts {
            assert!(found.iter().any(|problem| problem.starts_with(start)), "{start} is not in {found:#?}");
        }
    }

    #[test]
    fn a_missing_key_and_broken_toml_are_told_with_their_lines() {
        let found = problems(&format!("{NODE}\n[[node]]\nid = 1\n"), &[]);
        assert!(found[0].starts_with("c.toml:7: node[1]: missing field `peer_listen`"), "{found:?}");
        let found = problems("[net]\nmax_batch_bytes = = 3\n", &[]);
        assert!(found[0].starts_with("c.toml:2: "), "{found:?}");
    }

    #[test]
    fn findings_of_the_check_name_the_line_or_the_section() {
        let found = problems(&format!("{NODE}[net]\n\nmax_batch_bytes = 100\n"), &[]);
        assert!(
            found[0].starts_with("c.toml:8: net.max_batch_bytes: 100 is out of range; write 640 to 65_408"),
            "{found:?}"
        );
        let found = problems("", &[]);
        assert!(found[0].starts_with("c.toml: node: no [[node]] is given"), "{found:?}");
        let wrong = NODE.replace("127.0.0.1:9", "localhost:9");
        let found = problems(&wrong, &[]);
        assert!(
            found[0].starts_with("c.toml:4: node[0].client_listen: invalid value: string \"localhost:9\""),
            "{found:?}"
        );
    }

    #[test]
    fn the_environment_overrides_and_is_named_when_it_is_wrong() {
        let loaded = read(NODE, &[("SYNOD__CPU__WAIT", "block"), ("SYNOD__NET__MAX_EVENTS", "64")]).unwrap();
        assert_eq!((loaded.config.cpu.wait, loaded.config.net.max_events), (Wait::Block, 64));
        assert_eq!(loaded.origin("cpu.wait"), Origin::Environment { variable: "SYNOD__CPU__WAIT".into() });
        let over = read(&format!("{NODE}[cluster]\nid = 5\n"), &[("SYNOD__CLUSTER__ID", "6")]).unwrap();
        assert_eq!(over.config.cluster.id, 6);
        for (variable, value) in [
            ("SYNOD__CPU__WAIT", "fast"),
            ("SYNOD__NET__MAX_EVENTS", "0"),
            ("SYNOD__NET__NOTHING", "1"),
            ("SYNOD__NODE__ID", "1"),
            ("SYNOD__NET__DONT_FRAGMENT", "perhaps"),
        ] {
            let found = problems(NODE, &[(variable, value)]);
            assert!(found.len() == 1 && found[0].starts_with(&format!("environment {variable}: ")), "{found:?}");
        }
    }

    #[test]
    fn what_is_shown_is_a_file_with_the_same_meaning_and_the_origins() {
        let text = format!("{NODE}[cpu]\nwait = \"spin\"\n");
        let loaded = read(&text, &[("SYNOD__NET__MAX_EVENTS", "64")]).unwrap();
        let shown = loaded.annotated();
        assert_eq!(read(&shown, &[]).unwrap().config, loaded.config);
        let origin = |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap().split("# ").nth(1).unwrap();
        assert_eq!(origin("wait ="), "line 7");
        assert_eq!(origin("dir ="), "line 5");
        assert_eq!(origin("max_events ="), "SYNOD__NET__MAX_EVENTS");
        assert_eq!(origin("yield_idle_us ="), "default");
        assert_eq!(origin("max_age_s ="), "default, reloads");
        assert!(loaded.entries().iter().any(|e| e.key == "node[0].id" && e.value == "0"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = load("/nonexistent/synod.toml".as_ref()).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/synod.toml") && error.contains("config default"), "{error}");
        assert!(read(DEFAULT_TOML, &[]).is_ok());
    }
}
