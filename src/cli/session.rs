//! `synod last-committed`: how far a session got. And what sessions go by on the command line: client ids and numbers.

use super::output::{Failure, Outcome, Style, print, print_json};
use super::{LastCommittedArgs, client_failure, datagram_bytes};
use anyhow::anyhow;
use serde::{Serialize, Serializer};
use std::fmt;
use std::time::Duration;
use synod_client::{Appender, Options, Resume, last_committed};

/// What is printed as JSON.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    identity: Identity,
    last_committed: u64,
}

/// Runs the command.
pub(super) fn print_last_committed(args: &LastCommittedArgs) -> Outcome {
    let (config, group) = args.target.load()?;
    let options = Options {
        deadline: Duration::from_millis(args.deadline_ms),
        max_datagram_bytes: datagram_bytes(&config),
        window_bytes: datagram_bytes(&config),
        resume: resume(args.session),
        ..Options::default()
    };
    let members = config.client_addresses(group);
    let found = last_committed(config.cluster_id(), group, members, args.client_id, options).map_err(client_failure)?;
    let Some(found) = found else {
        let reason = anyhow!("client {:#x} has no such session: none was opened, or it was evicted", args.client_id);
        return Err(Failure::Failed(reason));
    };
    match args.output {
        Style::Json => print_json(&Report {
            identity: Identity { client_id: args.client_id, session: found.session },
            last_committed: found.last_committed,
        }),
        Style::Text => print(&format!("{}\tsession {}\n", found.last_committed, found.session)),
    }
}

/// What a session goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Identity {
    /// In hexadecimal: JSON's numbers are too short for it.
    #[serde(serialize_with = "in_hexadecimal")]
    client_id: u128,
    session: u64,
}

fn in_hexadecimal<S: Serializer>(client_id: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{client_id:#x}"))
}

impl Identity {
    pub(super) fn of(appender: &Appender) -> Identity {
        Identity { client_id: appender.client().core().client_id(), session: appender.session() }
    }

    /// As the commands take it.
    pub(super) fn options(&self) -> String {
        format!("--client-id {:#x} --session {}", self.client_id, self.session)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {:#x}, session {}", self.client_id, self.session)
    }
}

/// Which session a command asks for.
pub(super) fn resume(session: Option<u64>) -> Resume {
    session.map_or(Resume::OrCreate, Resume::Session)
}

/// A client id: decimal, or hexadecimal behind 0x.
pub(super) fn parse_client_id(text: &str) -> Result<u128, String> {
    let id = match text.strip_prefix("0x") {
        Some(digits) => u128::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match id {
        Ok(0) => Err("0 stands for no client: choose any other number of up to 128 bits".into()),
        Ok(id) => Ok(id),
        Err(error) => Err(format!("{error}: a client id is a number of up to 128 bits, hexadecimal behind 0x")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_ids_are_read_in_both_ways() {
        assert_eq!(parse_client_id("0xff"), Ok(255));
        assert_eq!(parse_client_id("340282366920938463463374607431768211455"), Ok(u128::MAX));
        for bad in ["0", "0x0", "0x", "-1", "ff", "340282366920938463463374607431768211456"] {
            assert!(parse_client_id(bad).is_err(), "{bad}");
        }
    }
}
