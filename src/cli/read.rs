//! `synod read`, `synod tail` and `synod check-tail`: committed entries from any replica, and how far the log reaches.

use super::entries::{EntryWriter, OutputFormat};
use super::output::{Failure, Outcome, OutputError, Style, print, print_json, stdout};
use super::{CheckTailArgs, GroupArgs, ReadArgs, TailArgs, client_failure, known_node};
use crate::config::Config;
use anyhow::{Context, anyhow};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use synod_client::{Consistency, ReadOptions, Reader, Recency, Tail};
use synod_wire::{GroupId, NodeId, Sequence};

/// How long `check-tail` asks before it gives up.
const CHECK_TAIL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a node that knows all that is committed is looked for, before any that answers will do.
const TAIL_TIMEOUT: Duration = Duration::from_millis(500);
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
    let mut source = source(&args.target, args.node, args.consistency)?;
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
    if let Some(recency) = source.reader.core().recency().filter(|recency| !recency.is_fresh()) {
        eprintln!("synod: {recency}: more may be committed than was read");
    }
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
    let mut source = source(&args.target, args.node, args.consistency)?;
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

fn source(target: &GroupArgs, node: Option<u8>, consistency: Consistency) -> Result<Source, Failure> {
    let (config, group) = target.load()?;
    let named = node.map(|node| known_node(&config, node)).transpose()?;
    let addresses: Vec<_> = match named {
        Some(node) => vec![config.client_address(node, group)],
        None => config.client_addresses(group).into_iter().map(|(_, address)| address).collect(),
    };
    let ask = |consistency| {
        synod_client::check_tail(addresses.clone(), config.cluster_id(), group, TAIL_TIMEOUT, consistency).ok()
    };
    let told = ask(Consistency::ReadIndex).or_else(|| ask(Consistency::Local));
    let reader = reader(&config, group, named.or(told.map(|tail| tail.node)), named.is_none(), consistency)?;
    Ok(Source { reader, tail: told.map(|tail| tail.sequence) })
}

/// A reader of all nodes with `first` in front, or of that one alone.
fn reader(
    config: &Config,
    group: GroupId,
    first: Option<NodeId>,
    others_too: bool,
    consistency: Consistency,
) -> Result<Reader, Failure> {
    let mut nodes = config.members();
    nodes.retain(|node| others_too || Some(*node) == first);
    nodes.sort_by_key(|node| (Some(*node) != first, *node));
    let addresses = nodes.into_iter().map(|node| config.client_address(node, group)).collect();
    let options = ReadOptions { consistency, ..ReadOptions::default() };
    Reader::new(config.cluster_id(), group, addresses, options).map_err(client_failure)
}

/// The last committed sequence, and what that rests on.
#[derive(Serialize)]
struct TailAnswer {
    group: u8,
    tail: u64,
    node: u8,
    recency: String,
}

/// Asks for the last committed sequence.
pub(super) fn check_tail(args: &CheckTailArgs) -> Outcome {
    let (config, group) = args.target.load()?;
    let members = config.client_addresses(group).into_iter().map(|(_, address)| address).collect();
    let (id, asked) = (config.cluster_id(), args.consistency);
    let Tail { sequence, node, recency } =
        synod_client::check_tail(members, id, group, CHECK_TAIL_TIMEOUT, asked).map_err(client_failure)?;
    match args.output {
        Style::Text => print(&format!("{sequence}\n"))?,
        Style::Json => {
            let recency = recency.to_string();
            print_json(&TailAnswer { group: group.0, tail: sequence.0, node: node.0, recency })?;
        }
    }
    if !recency.is_fresh() {
        eprintln!("synod: {recency}: node {node} says so; the log may reach further");
    }
    Ok(())
}

/// `read_index`, `lease`, `lease_or_read_index`, `bounded:MS` or `local`.
pub(super) fn parse_consistency(text: &str) -> Result<Consistency, String> {
    let bound = |ms: &str| ms.parse().ok().filter(|ms| (1..=Recency::MAX_BOUND_MS).contains(ms));
    match text.split_once(':') {
        None if text == "read_index" => Ok(Consistency::ReadIndex),
        None if text == "lease" => Ok(Consistency::Lease),
        None if text == "lease_or_read_index" => Ok(Consistency::LeaseOrReadIndex),
        None if text == "local" => Ok(Consistency::Local),
        Some(("bounded", ms)) => bound(ms)
            .map(Consistency::Bounded)
            .ok_or_else(|| format!("the bound must be 1 to {} milliseconds, as in bounded:50", Recency::MAX_BOUND_MS)),
        _ => Err("it is read_index, lease, lease_or_read_index, bounded:MS or local".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consistency_is_written_as_it_prints() {
        let by_name = [Consistency::ReadIndex, Consistency::Lease, Consistency::LeaseOrReadIndex, Consistency::Local];
        for consistency in by_name.into_iter().chain([Consistency::Bounded(20)]) {
            assert_eq!(parse_consistency(&consistency.to_string()), Ok(consistency));
        }
        for wrong in ["", "bounded", "bounded:", "bounded:0", "bounded:1048576", "bounded:x", "local:1", "lease:1"] {
            assert!(parse_consistency(wrong).is_err(), "{wrong}");
        }
    }
}
