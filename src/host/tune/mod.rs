//! Changes of the host that need no boot: planned from what `check` finds, printed before they are made, kept in a file, and taken
//! back from it. Works on files below the host's root and its network card's driver. Called by the command `tune`.
//!
//! | file | topic |
//! |---|---|
//! | `knobs.rs` | the knobs, and what each would change |
//! | `place.rs` | where a value is, and how it is read, written and compared |
//! | `state.rs` | what was before: the file `tune.json` |
//! | `script.rs` | the same changes as a shell script |

mod knobs;
mod place;
mod script;
mod state;
#[cfg(test)]
mod tests;

pub use knobs::KNOBS;
pub use place::{Kind, Place, Value};
pub use script::script;
pub use state::{DEFAULT_STATE, Entry, StateError};

use super::facts::Host;
use super::{Finding, Severity, Target, check};
use serde::Serialize;
use state::State;
use std::io;
use std::path::Path;

/// A group of values that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// Its name.
    pub name: &'static str,
    /// The conditions of `check` that it mends.
    pub conditions: &'static [&'static str],
    plan: fn(&Host, &Target) -> Result<Vec<Change>, String>,
}

/// A value that is to be another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Where.
    pub place: Place,
    /// What is.
    pub now: Value,
    /// What is to be.
    pub want: Value,
}

/// What a knob would change.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The knob.
    pub knob: Knob,
    /// The changes, none where all is well; or why that is not known.
    pub outcome: Result<Vec<Change>, String>,
}

impl Planned {
    /// The changes that are known.
    pub fn changes(&self) -> &[Change] {
        self.outcome.as_deref().unwrap_or_default()
    }
}

/// What is to be done, and what only a person can do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// By these knobs: those that were named, or all.
    pub planned: Vec<Planned>,
    /// What does not hold and no knob mends.
    pub by_hand: Vec<Finding>,
}

/// Looks at the host; changes nothing.
pub fn plan(host: &Host, target: &Target, only: &[String]) -> Plan {
    let findings = check(host, target);
    let named = KNOBS.iter().filter(|knob| only.is_empty() || only.iter().any(|name| name == knob.name));
    let planned = named.map(|knob| Planned { knob: *knob, outcome: outcome(knob, host, target, &findings) }).collect();
    let is_by_hand = |finding: &Finding| {
        finding.severity >= Severity::Recommended
            && !KNOBS.iter().any(|knob| knob.conditions.contains(&finding.condition))
    };
    Plan { planned, by_hand: findings.into_iter().filter(is_by_hand).collect() }
}

/// A knob is turned only where one of its conditions does not hold.
fn outcome(knob: &Knob, host: &Host, target: &Target, findings: &[Finding]) -> Result<Vec<Change>, String> {
    let of_knob = || findings.iter().filter(|finding| knob.conditions.contains(&finding.condition));
    if of_knob().any(|finding| finding.severity >= Severity::Recommended) {
        return (knob.plan)(host, target);
    }
    match of_knob().find_map(Finding::unknown_reason) {
        Some(reason) => Err(reason.into()),
        None => Ok(Vec::new()),
    }
}

/// What becomes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It is about to be changed.
    Change,
    /// That failed.
    Failed,
    /// The kernel took another value than was asked for.
    Differs,
    /// Others have changed it since, and it is left as it is.
    Left,
}

/// What is told of a value.
#[derive(Clone, Debug, Serialize)]
pub struct Told<'a> {
    /// What becomes of it.
    pub event: Event,
    /// Its knob.
    pub knob: &'a str,
    /// Where it is.
    pub place: &'a Place,
    /// What is, or was.
    pub from: &'a Value,
    /// What it is to be.
    pub to: &'a Value,
    /// Why it failed, or what is there now.
    pub problem: Option<String>,
}

/// Why the work stopped.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// What is told cannot be printed: nothing is changed in silence.
    #[error("cannot write to stdout: {0}")]
    Output(#[source] io::Error),
    /// The file with what was.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Prints; called before each change.
pub type Tell<'a> = &'a mut dyn FnMut(&Told<'_>) -> io::Result<()>;

/// Where the previous values go, and whether anything is to be changed at all.
#[derive(Clone, Copy, Debug)]
pub struct How<'a> {
    /// The file.
    pub state: &'a Path,
    /// Only tell.
    pub dry_run: bool,
}

/// Makes the changes; true if all could be made.
pub fn apply(host: &Host, planned: &[Planned], how: How<'_>, tell: Tell<'_>) -> Result<bool, TuneError> {
    let all = || planned.iter().flat_map(|plan| plan.changes().iter().map(|change| (plan.knob.name, change)));
    if how.dry_run || all().next().is_none() {
        for (knob, change) in all() {
            tell(&told(knob, change, Event::Change, None)).map_err(TuneError::Output)?;
        }
        return Ok(true);
    }
    let mut state = State::open_or_new(how.state)?;
    all().for_each(|(knob, change)| state.remember(knob, change));
    state.save()?;
    let (mut good, mut as_saved) = (true, true);
    for (knob, change) in all() {
        tell(&told(knob, change, Event::Change, None)).map_err(TuneError::Output)?;
        let (event, problem) = match make(host, change, &mut state) {
            Ok(None) => continue,
            Ok(Some(now)) => (Event::Differs, now),
            Err(reason) => (Event::Failed, reason),
        };
        good &= event != Event::Failed;
        as_saved = false;
        tell(&told(knob, change, event, Some(problem))).map_err(TuneError::Output)?;
    }
    if !as_saved {
        state.save()?;
    }
    Ok(good)
}

fn told<'a>(knob: &'a str, change: &'a Change, event: Event, problem: Option<String>) -> Told<'a> {
    Told { event, knob, place: &change.place, from: &change.now, to: &change.want, problem }
}

/// Makes a change and looks what came of it: None if what was wanted, else what is there.
fn make(host: &Host, change: &Change, state: &mut State) -> Result<Option<String>, String> {
    let Change { place, now, want } = change;
    let made = place.set(host, want).and_then(|()| place.get(host));
    let entry = state.entries.iter().position(|entry| entry.place == *place);
    let entry = entry.expect("a change is remembered before it is made");
    let is = match made {
        Ok(is) if place.same(&is, want) => return Ok(None),
        Ok(is) if place.same(&is, now) => Err("the kernel took it and changed nothing".into()),
        Ok(is) => Ok(is),
        Err(reason) => Err(reason),
    };
    match is {
        Ok(is) => {
            let shown = place.show(&is);
            state.entries[entry].set = is;
            Ok(Some(shown))
        }
        Err(reason) => {
            // Only what surely is as it was needs no way back.
            if place.get(host).is_ok_and(|is| place.same(&is, &state.entries[entry].was)) {
                state.entries.remove(entry);
            }
            Err(reason)
        }
    }
}

/// Takes back what the file has, the last change first; true if all is as it was. What others have changed since is left alone
/// unless it is to be forced.
pub fn revert(host: &Host, only: &[String], force: bool, how: How<'_>, tell: Tell<'_>) -> Result<bool, TuneError> {
    let Some(mut state) = State::open(how.state)? else { return Ok(true) };
    let mut kept = Vec::new();
    let mut good = true;
    for entry in state.entries.iter().rev() {
        let named = only.is_empty() || only.contains(&entry.knob);
        let back = if named { take_back(host, entry, force, how.dry_run, tell)? } else { Back::NotAsked };
        good &= back != Back::Failed;
        if back != Back::Done {
            kept.push(entry.clone());
        }
    }
    if !how.dry_run {
        kept.reverse();
        state.entries = kept;
        state.save()?;
    }
    Ok(good)
}

#[derive(PartialEq, Eq)]
enum Back {
    Done,
    NotAsked,
    Failed,
}

fn take_back(host: &Host, entry: &Entry, force: bool, dry_run: bool, tell: Tell<'_>) -> Result<Back, TuneError> {
    let Entry { knob, place, was, set } = entry;
    let mut tell = |event, problem| {
        let told = Told { event, knob, place, from: set, to: was, problem };
        tell(&told).map_err(TuneError::Output)
    };
    let now = match place.get(host) {
        Ok(now) if place.same(&now, was) => return Ok(Back::Done),
        Ok(now) => now,
        Err(reason) => return tell(Event::Failed, Some(reason)).map(|()| Back::Failed),
    };
    if !force && !place.same(&now, set) {
        return tell(Event::Left, Some(place.show(&now))).map(|()| Back::Failed);
    }
    tell(Event::Change, None)?;
    if dry_run {
        return Ok(Back::Done);
    }
    let is = place.set(host, was).and_then(|()| place.get(host));
    let problem = match is {
        Ok(is) if place.same(&is, was) => return Ok(Back::Done),
        Ok(is) => format!("it is {}", place.show(&is)),
        Err(reason) => reason,
    };
    tell(Event::Failed, Some(problem)).map(|()| Back::Failed)
}
