//! `synod kv get`, `put` and `delete`: the key-value map of a group with `machine = "kv"`. Values are bytes: "-" reads one from
//! stdin, and text output writes one as it is.

use super::output::{Failure, Outcome, OutputError, Style, print_json, stdout};
use super::session::Identity;
use super::{GroupArgs, KvCommand, KvGetArgs, KvWriteArgs, client_failure, known_node, random_client_id};
use crate::config::{Config, Machine};
use anyhow::{Context, anyhow};
use serde::Serialize;
use std::io::{Read, Write};
use std::time::Duration;
use synod_client::{
    Appender, ClientError, Kv, KvReader, KvWritten, MAX_VALUE_BYTES, Options, Outcome as Did, ReadOptions,
};
use synod_wire::GroupId;

/// Runs the command.
pub(super) fn kv(command: &KvCommand) -> Outcome {
    match command {
        KvCommand::Get(args) => get(args),
        KvCommand::Put { write, value } => {
            let value = match value.as_str() {
                "-" => from_stdin()?,
                text => text.as_bytes().to_vec(),
            };
            self::write(write, |kv| kv.put(write.key.as_bytes(), &value))
        }
        KvCommand::Delete(write) => self::write(write, |kv| kv.delete(write.key.as_bytes())),
    }
}

fn from_stdin() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let most = MAX_VALUE_BYTES as u64 + 1;
    std::io::stdin().lock().take(most).read_to_end(&mut value).context("cannot read the value from stdin")?;
    Ok(value)
}

/// The group must have the map: another one would keep the command as an entry like any other.
fn load(target: &GroupArgs) -> Result<(Config, GroupId), Failure> {
    let (config, group) = target.load()?;
    if config.groups[usize::from(group.0)].machine != Machine::Kv {
        let reason = anyhow!("group {group} has machine = \"log\" in {:?}", target.cluster.config);
        return Err(Failure::Usage(reason.context("synod kv needs a group with machine = \"kv\"")));
    }
    Ok((config, group))
}

/// What a get found.
#[derive(Serialize)]
struct Found<'a> {
    group: u8,
    key: &'a str,
    found: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    /// If it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    /// Else its bytes in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
    applied: u64,
    node: u8,
    recency: String,
}

fn get(args: &KvGetArgs) -> Outcome {
    let (config, group) = load(&args.target)?;
    let members = match args.node {
        Some(node) => vec![config.client_address(known_node(&config, node)?, group)],
        None => config.client_addresses(group).into_iter().map(|(_, address)| address).collect(),
    };
    let options = ReadOptions { deadline: Duration::from_millis(args.deadline_ms), ..ReadOptions::default() };
    let mut reader = KvReader::new(config.cluster_id(), group, members, options).map_err(client_failure)?;
    let read = reader.get(args.key.as_bytes(), args.consistency).map_err(kv_failure)?;
    let value = read.value.as_ref();
    match args.output {
        Style::Text => {
            if let Some(value) = value {
                let mut out = stdout();
                let written = out.write_all(&value.bytes).and_then(|()| out.write_all(b"\n"));
                written.and_then(|()| out.flush()).map_err(OutputError)?;
            }
        }
        Style::Json => {
            let text = value.and_then(|value| std::str::from_utf8(&value.bytes).ok());
            let bytes = value.filter(|_| text.is_none()).map(|value| &value.bytes);
            print_json(&Found {
                group: group.0,
                key: &args.key,
                found: value.is_some(),
                version: value.map(|value| value.version.0),
                value: text,
                value_hex: bytes.map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
                applied: read.applied.0,
                node: read.node.0,
                recency: read.guarantee.recency.to_string(),
            })?;
        }
    }
    if !read.guarantee.recency.is_fresh() {
        eprintln!("synod: {}: node {} says so; there may be a newer value", read.guarantee.recency, read.node);
    }
    match (value, args.output) {
        (Some(_), _) => Ok(()),
        (None, Style::Json) => Err(Failure::Told),
        (None, Style::Text) => Err(Failure::Failed(anyhow!("{:?} has no value", args.key))),
    }
}

/// What a put or delete did.
#[derive(Serialize)]
struct Written<'a> {
    group: u8,
    key: &'a str,
    sequence: u64,
    timestamp_ns: u64,
    /// `null`: committed, and what it did is not known any more.
    outcome: Option<&'static str>,
    previous_version: Option<u64>,
}

fn write(args: &KvWriteArgs, write: impl FnOnce(&mut Kv) -> Result<KvWritten, ClientError>) -> Outcome {
    let (config, group) = load(&args.target)?;
    let mut kv = connect(&config, group, args)?;
    let KvWritten { ack, outcome } = write(&mut kv).map_err(|error| write_failure(error, &kv))?;
    let previous = match outcome {
        Some(Did::Stored { previous }) => previous,
        Some(Did::Deleted { previous }) => Some(previous),
        _ => None,
    };
    let name = outcome.map(Did::name);
    match args.output {
        Style::Text => {
            super::output::print(&format!("{}\t{}\t{}\n", ack.sequence, ack.timestamp_ns, name.unwrap_or("unknown")))?;
        }
        Style::Json => print_json(&Written {
            group: group.0,
            key: &args.key,
            sequence: ack.sequence.0,
            timestamp_ns: ack.timestamp_ns,
            outcome: name,
            previous_version: previous.map(|version| version.0),
        })?,
    }
    match outcome {
        Some(Did::Full) => Err(Failure::Failed(anyhow!("the map is full: nothing changed; delete keys first"))),
        Some(Did::Malformed) => Err(Failure::Failed(anyhow!("the group took it for no command: nothing changed"))),
        Some(Did::Stored { .. } | Did::Deleted { .. } | Did::Absent) | None => Ok(()),
    }
}

fn connect(config: &Config, group: GroupId, args: &KvWriteArgs) -> Result<Kv, Failure> {
    let deadline = Duration::from_millis(args.deadline_ms);
    let options = Options {
        window_bytes: super::window_bytes(config, 1),
        deadline,
        max_datagram_bytes: super::datagram_bytes(config),
        ..Options::default()
    };
    let members = config.client_addresses(group);
    let addresses = members.iter().map(|(_, address)| *address).collect();
    let read = ReadOptions { deadline, ..ReadOptions::default() };
    let reader = KvReader::new(config.cluster_id(), group, addresses, read).map_err(client_failure)?;
    let appender = Appender::connect(config.cluster_id(), group, members, random_client_id()?, options);
    Ok(Kv::new(appender.map_err(client_failure)?, reader))
}

/// A write whose outcome is unknown is asked for by its session.
fn write_failure(error: ClientError, kv: &Kv) -> Failure {
    if !error.is_outcome_unknown() {
        return kv_failure(error);
    }
    let identity = Identity::of(kv.appender());
    let way = format!("{identity}: synod last-committed {} says 1 once the write is committed", identity.options());
    Failure::Failed(anyhow::Error::new(error).context(way))
}

/// A key or value of a forbidden length is wrong usage.
fn kv_failure(error: ClientError) -> Failure {
    match error {
        ClientError::KeyOrValueLength => Failure::Usage(error.into()),
        error => client_failure(error),
    }
}
