//! `synod read` and `synod tail`: committed entries from any replica.

use super::entries::{EntryWriter, OutputFormat};
use super::output::{Failure, Outcome, OutputError, stdout};
use super::{GroupArgs, ReadArgs, TailArgs, client_failure, known_node};
use crate::config::Config;
use anyhow::{Context, anyhow};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use synod_client::{ReadOptions, Reader, TailSource};
use synod_wire::{GroupId, NodeId, Sequence};

/// How long the leader is looked for before any other node is asked.
const LEADER_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a node holds a request for entries to come; also how soon a signal is noticed at the latest.
const TAIL_WAIT: Duration = Duration::from_millis(500);

/// Where to read from.
struct Source {
    reader: Reader,
    /// The last committed sequence as the asked nodes told it, if they did.
    tail: Option<Sequence>,
}

/// Prints a range.
pub(super) fn read(args: &ReadArgs) -> Outcome {
    let mut source = source(&args.target, args.node)?;
    let from = Sequence(args.from);
    let count = args.count.unwrap_or(u64::MAX);
    source.reader.read(from, count);
    let mut writer = EntryWriter::new(stdout(), args.format);
    let mut read = 0u64;
    while let Some(entry) = source.reader.next_entry().map_err(client_failure)? {
        assert_eq!(entry.sequence.0, args.from + read, "a reader gives consecutive sequences");
        writer.write(entry.payload).map_err(OutputError)?;
        read += 1;
    }
    writer.finish().map_err(OutputError)?;
    short_of(args, &source, read)
}

/// A bounded range that the log does not hold in full is a failure, so that a script notices.
fn short_of(args: &ReadArgs, source: &Source, read: u64) -> Outcome {
    match args.count {
        Some(count) if read < count => {
            let tail = source.reader.known_tail().or(source.tail).map_or(0, |tail| tail.0);
            Err(Failure::Failed(anyhow!("only {read} of {count} entries are there: the log ends at sequence {tail}")))
        }
        _ => Ok(()),
    }
}

/// Prints entries as they come.
pub(super) fn tail(args: &TailArgs) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).context("cannot listen for signals")?;
    }
    let mut source = source(&args.target, args.node)?;
    let from = match (args.from, source.tail) {
        (Some(from), _) => Sequence(from),
        (None, Some(tail)) => tail.next(),
        (None, None) => {
            let reason = anyhow!("no node told where the log ends now: start one, or name a sequence with --from");
            return Err(Failure::Unavailable(reason));
        }
    };
    follow(&mut source.reader, from, args.format, &stop)
}

fn follow(reader: &mut Reader, from: Sequence, format: OutputFormat, stop: &AtomicBool) -> Outcome {
    reader.tail(from, TAIL_WAIT);
    let mut writer = EntryWriter::new(stdout(), format);
    while !stop.load(Ordering::Relaxed) {
        match reader.next_entry() {
            Ok(Some(entry)) => {
                writer.write(entry.payload).map_err(OutputError)?;
                if reader.core().is_ready() {
                    continue;
                }
            }
            Ok(None) => {}
            // A signal may interrupt the wait.
            Err(_) if stop.load(Ordering::Relaxed) => break,
            Err(error) => return Err(client_failure(error)),
        }
        writer.flush().map_err(OutputError)?;
    }
    writer.finish().map_err(OutputError)?;
    Ok(())
}

fn source(target: &GroupArgs, node: Option<u8>) -> Result<Source, Failure> {
    let (config, group) = target.load()?;
    let named = node.map(|node| known_node(&config, node)).transpose()?;
    let addresses: Vec<_> = match named {
        Some(node) => vec![config.client_address(node, group)],
        None => config.client_addresses(group).into_iter().map(|(_, address)| address).collect(),
    };
    let told = synod_client::check_tail(addresses, config.cluster_id(), group, LEADER_TIMEOUT).ok();
    let leader = told.and_then(|tail| match tail.source {
        TailSource::Leader(leader) => Some(leader),
        TailSource::Highest { .. } => None,
    });
    let reader = reader(&config, group, named, leader)?;
    Ok(Source { reader, tail: told.map(|tail| tail.sequence) })
}

/// A reader of the named node, or of all with the leader first.
fn reader(config: &Config, group: GroupId, named: Option<NodeId>, leader: Option<NodeId>) -> Result<Reader, Failure> {
    let mut nodes = named.map_or_else(|| config.members(), |node| vec![node]);
    nodes.sort_by_key(|node| (Some(*node) != leader, *node));
    let addresses = nodes.into_iter().map(|node| config.client_address(node, group)).collect();
    Reader::new(config.cluster_id(), group, addresses, ReadOptions::default()).map_err(client_failure)
}
