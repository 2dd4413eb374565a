//! What a node that runs takes over from a configuration that changed, and what waits for its restart. Pure. Called by `synod start`.

pub use super::Finding;
use super::{Config, check, load};
use serde::{Deserialize, Serialize};

/// The keys that it takes over. Each changes when or how fast something is done, and nothing that members must have in common or that
/// memory was laid out by.
const TAKEN_OVER: [&str; 13] = [
    "group.leader_priority",
    "wal.hung_after_us",
    "consensus.fail_slow_factor",
    "consensus.fail_slow_min_us",
    "clients.subscriber_silence_us",
    "clients.subscriber_starved_us",
    "clients.max_read_wait_us",
    "catchup.max_bytes_per_s",
    "snapshot.every_entries",
    "snapshot.max_bytes_per_s",
    "retention.max_bytes",
    "retention.max_age_s",
    "log.level",
];

/// Whether a node that runs takes over a change of this key, as `node[1].dir`.
pub fn is_taken_over(key: &str) -> bool {
    let (list, last) = (key.split('[').next().unwrap_or(key), key.rsplit('.').next().unwrap_or(key));
    let plain = if key.contains('[') { format!("{list}.{last}") } else { key.to_owned() };
    TAKEN_OVER.contains(&plain.as_str())
}

/// One key that has another value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The key, as `retention.max_bytes` or `node[1].dir`.
    pub key: String,
    /// The value that runs, as TOML writes it; `none`: the key is new.
    pub old: String,
    /// The other value; `none`: the key is gone.
    pub new: String,
}

/// What comes of a configuration that changed.
#[derive(Clone, Debug)]
pub struct Reload {
    /// What runs from now on.
    pub config: Config,
    /// What it takes over.
    pub taken: Vec<Change>,
    /// What waits for a restart.
    pub waits: Vec<Change>,
}

/// What came of a reload, as a node tells it to who asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The file that was read.
    pub file: String,
    /// What it takes over.
    pub taken: Vec<Change>,
    /// What waits for a restart.
    pub waits: Vec<Change>,
    /// Why nothing is taken over; empty: the file can be used.
    pub problems: Vec<String>,
}

/// Holds a configuration that was read, and checked, against the one that runs. What it takes over must go together with what it
/// does not: else all of it is refused.
pub fn reload(running: &Config, read: &Config) -> Result<Reload, Vec<Finding>> {
    let mut config = running.clone();
    for (own, other) in config.groups.iter_mut().zip(&read.groups) {
        own.leader_priority.clone_from(&other.leader_priority);
    }
    config.wal.hung_after_us = read.wal.hung_after_us;
    config.consensus.fail_slow_factor = read.consensus.fail_slow_factor;
    config.consensus.fail_slow_min_us = read.consensus.fail_slow_min_us;
    config.clients.subscriber_silence_us = read.clients.subscriber_silence_us;
    config.clients.subscriber_starved_us = read.clients.subscriber_starved_us;
    config.clients.max_read_wait_us = read.clients.max_read_wait_us;
    config.catchup.max_bytes_per_s = read.catchup.max_bytes_per_s;
    config.snapshot = read.snapshot.clone();
    config.retention = read.retention.clone();
    config.log.level = read.log.level;
    let findings = check(&config);
    if !findings.is_empty() {
        return Err(findings);
    }
    let (taken, waits) = (changes(running, &config), changes(&config, read));
    Ok(Reload { config, taken, waits })
}

/// The keys that have another value in `new`.
fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let (old, new) = (load::written(old), load::written(new));
    let find = |all: &[(String, String)], key: &str| {
        let found = all.iter().find(|(other, _)| other == key);
        found.map_or("none".to_owned(), |(_, value)| value.clone())
    };
    let added = new.iter().filter(|(key, _)| !old.iter().any(|(other, _)| other == key));
    let keys = old.iter().chain(added).map(|(key, _)| key.clone());
    let change = |key: String| Change { old: find(&old, &key), new: find(&new, &key), key };
    keys.map(change).filter(|change| change.old != change.new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DEFAULT_TOML, Every, Level};

    fn running() -> Config {
        load::parse(DEFAULT_TOML, "default.toml".as_ref(), std::iter::empty()).unwrap().config
    }

    fn keys(changes: &[Change]) -> Vec<&str> {
        changes.iter().map(|change| change.key.as_str()).collect()
    }

    #[test]
    fn each_key_that_is_named_is_taken_over_and_no_other() {
        let read = {
            let mut c = running();
            c.groups[0].leader_priority = vec![2, 1];
            c.wal.hung_after_us += 1;
            c.consensus.fail_slow_factor += 1;
            c.consensus.fail_slow_min_us += 1;
            c.clients.subscriber_silence_us += 1;
            c.clients.subscriber_starved_us += 1;
            c.clients.max_read_wait_us += 1;
            c.catchup.max_bytes_per_s += 1;
            c.snapshot.every_entries = Every::Entries(500);
            c.snapshot.max_bytes_per_s += 1;
            c.retention.max_bytes = 1 << 40;
            c.retention.max_age_s = 60;
            c.log.level = Level::Debug;
            c
        };
        let reload = reload(&running(), &read).unwrap();
        let taken: Vec<String> = keys(&reload.taken).iter().map(|key| key.replace("[0]", "")).collect();
        let sorted = |mut all: Vec<String>| {
            all.sort();
            all
        };
        assert_eq!(sorted(taken), sorted(TAKEN_OVER.map(String::from).into()));
        assert_eq!((reload.config, reload.waits), (read, Vec::new()));
        let shown = load::written(&running());
        let marked = shown.iter().filter(|(key, _)| is_taken_over(key)).count();
        assert_eq!(marked, TAKEN_OVER.len(), "of one group");
    }

    #[test]
    fn what_needs_a_restart_is_named_with_both_values_and_the_rest_is_taken_over() {
        let mut read = running();
        (read.cluster.id, read.retention.max_age_s) = (7, 60);
        read.nodes.truncate(2);
        let reload = reload(&running(), &read).unwrap();
        assert_eq!(keys(&reload.taken), ["retention.max_age_s"]);
        let change = |key: &str, old: &str, new: &str| Change { key: key.into(), old: old.into(), new: new.into() };
        assert!(reload.waits.contains(&change("cluster.id", "1", "7")), "{:?}", reload.waits);
        assert!(reload.waits.contains(&change("node[2].id", "2", "none")), "{:?}", reload.waits);
        assert_eq!((reload.config.cluster.id, reload.config.nodes.len()), (1, 3));
        assert!(super::reload(&running(), &running()).is_ok_and(|same| same.taken.is_empty() && same.waits.is_empty()));
    }

    #[test]
    fn what_does_not_go_together_with_what_runs_is_refused() {
        let mut read = running();
        (read.wal.segment_bytes, read.retention.max_bytes) = (4 << 20, 32 << 20);
        assert!(check(&read).is_empty(), "after a restart it would do");
        let findings = reload(&running(), &read).unwrap_err();
        assert_eq!(findings.iter().map(|finding| finding.key.as_str()).collect::<Vec<_>>(), ["retention.max_bytes"]);
    }
}
