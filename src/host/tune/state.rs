//! The file that keeps what was before `tune` changed it: `tune.json`.
//!
//! ```json
//! {"format":1,"changes":[{"knob":"swap","place":{"kind":"value","at":"/proc/sys/vm/swappiness"},"was":"60","set":"1"}]}
//! ```
//!
//! It is written before the first change is made, whole and by renaming, so that at any time it has all that was changed; an entry
//! whose change was not made is one whose place still has what was. Its directory is locked while one process works on it.

use super::Change;
use super::place::{Place, Value};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where it is unless told otherwise.
pub const DEFAULT_STATE: &str = "/var/lib/synod/tune.json";
const FORMAT: u32 = 1;

/// A change that was made, and how to take it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The knob.
    pub knob: String,
    /// Where.
    pub place: Place,
    /// What was before.
    pub was: Value,
    /// What is since.
    pub set: Value,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    format: u32,
    changes: Vec<Entry>,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read or written.
    #[error("{path}: {error} (`synod tune` needs root, or a --state of your own)")]
    Io {
        /// The file or its directory.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It is not one of these files.
    #[error("{path} does not say what was: {reason}; set the values by hand, and remove it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another process works on it.
    #[error("another `synod tune` works on {path}")]
    Busy {
        /// The file.
        path: PathBuf,
    },
}

/// The file, locked.
#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    dir: File,
    /// In the order in which the changes were made.
    pub(super) entries: Vec<Entry>,
}

impl State {
    /// The file, or none if there is none.
    pub(super) fn open(path: &Path) -> Result<Option<State>, StateError> {
        let there = path.try_exists().map_err(|error| io_error(path, error))?;
        if there { State::lock(path).map(Some) } else { Ok(None) }
    }

    /// The file, or an empty one in a directory that is made.
    pub(super) fn open_or_new(path: &Path) -> Result<State, StateError> {
        std::fs::create_dir_all(parent(path)).map_err(|error| io_error(parent(path), error))?;
        State::lock(path)
    }

    fn lock(path: &Path) -> Result<State, StateError> {
        let dir = File::open(parent(path)).map_err(|error| io_error(parent(path), error))?;
        dir.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => StateError::Busy { path: path.into() },
            std::fs::TryLockError::Error(error) => io_error(parent(path), error),
        })?;
        let entries = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io_error(path, error)),
            Ok(bytes) => parse(&bytes).map_err(|reason| StateError::Damaged { path: path.into(), reason })?,
        };
        Ok(State { path: path.into(), dir, entries })
    }

    /// Takes a change down that is about to be made. What was before our own last one stays what was.
    pub(super) fn remember(&mut self, knob: &str, change: &Change) {
        let Change { place, now, want } = change.clone();
        match self.entries.iter_mut().find(|entry| entry.place == place) {
            Some(entry) => {
                if !place.same(&entry.set, &now) {
                    entry.was = now;
                }
                entry.set = want;
            }
            None => self.entries.push(Entry { knob: knob.into(), place, was: now, set: want }),
        }
    }

    /// Makes it durable; without entries there is no file.
    pub(super) fn save(&self) -> Result<(), StateError> {
        let written = if self.entries.is_empty() { self.remove() } else { self.replace() };
        written.and_then(|()| self.dir.sync_all()).map_err(|error| io_error(&self.path, error))
    }

    fn remove(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn replace(&self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        let contents = Contents { format: FORMAT, changes: self.entries.clone() };
        file.write_all(&serde_json::to_vec_pretty(&contents)?)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let contents: Contents = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if contents.format == FORMAT { Ok(contents.changes) } else { Err(format!("format {}", contents.format)) }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn io_error(path: &Path, error: io::Error) -> StateError {
    StateError::Io { path: path.into(), error }
}

#[cfg(test)]
mod tests {
    use super::super::place::Kind;
    use super::*;

    fn change(now: &str, want: &str) -> Change {
        let place = Place::new(Kind::Value, "/x");
        Change { place, now: Some(now.into()), want: Some(want.into()) }
    }

    #[test]
    fn what_was_before_ones_own_changes_stays_and_what_others_did_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/tune.json");
        assert!(State::open(&path).unwrap().is_none());
        let mut state = State::open_or_new(&path).unwrap();
        assert!(matches!(State::open_or_new(&path), Err(StateError::Busy { .. })));
        state.remember("swap", &change("60", "1"));
        state.remember("swap", &change("1", "0"));
        state.save().unwrap();
        drop(state);
        let mut state = State::open(&path).unwrap().unwrap();
        let [entry] = state.entries.as_slice() else { panic!("{:?}", state.entries) };
        assert_eq!((entry.was.as_deref(), entry.set.as_deref()), (Some("60"), Some("0")));
        // Set anew, by a boot or by someone: that is what was.
        state.remember("swap", &change("10", "1"));
        assert_eq!(state.entries[0].was.as_deref(), Some("10"));
        state.entries.clear();
        state.save().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_damaged_file_is_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tune.json");
        for text in ["", "{", r#"{"format":2,"changes":[]}"#, r#"{"format":1,"changes":[],"more":1}"#] {
            std::fs::write(&path, text).unwrap();
            let refused = State::open(&path).unwrap_err().to_string();
            assert!(refused.contains("tune.json does not say what was"), "{text}: {refused}");
        }
    }
}
