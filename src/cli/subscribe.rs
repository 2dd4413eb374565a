//! `synod subscribe`: entries as a node pushes them, from a sequence on. Where a node ends the stream, or is gone, it goes on at
//! the next, and says so on stderr.

use super::entries::EntryWriter;
use super::output::{Outcome, OutputError, Style, stdout};
use super::{SubscribeArgs, client_failure, known_node};
use anyhow::Context;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, BufWriter, StdoutLock, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use synod_client::{EntryRef, ReadOptions, Sequence, SubscribeCore, Subscription};

/// How long an entry is waited for; also how soon a signal is noticed at the latest.
const WAIT: Duration = Duration::from_millis(500);

/// An entry, as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    sequence: u64,
    timestamp_ns: u64,
    /// If it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    /// Else its bytes in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
}

type Stdout = BufWriter<StdoutLock<'static>>;

/// Where entries go.
enum Out {
    Entries(EntryWriter<Stdout>),
    Json(Stdout),
}

impl Out {
    fn write(&mut self, entry: &EntryRef<'_>) -> io::Result<()> {
        match self {
            Out::Entries(writer) => writer.write(entry.payload),
            Out::Json(out) => {
                let payload = std::str::from_utf8(entry.payload).ok();
                let hex = || entry.payload.iter().map(|byte| format!("{byte:02x}")).collect();
                let line = Line {
                    sequence: entry.sequence.0,
                    timestamp_ns: entry.timestamp_ns,
                    payload,
                    payload_hex: if payload.is_none() { Some(hex()) } else { None },
                };
                serde_json::to_writer(&mut *out, &line)?;
                out.write_all(b"\n")
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Out::Entries(writer) => writer.flush(),
            Out::Json(out) => out.flush(),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Out::Entries(writer) => writer.finish().map(drop),
            Out::Json(mut out) => out.flush(),
        }
    }
}

/// Prints entries as they are pushed, until interrupted.
pub(super) fn subscribe(args: &SubscribeArgs) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).context("cannot listen for signals")?;
    }
    let (config, group) = args.target.load()?;
    let first = args.node.map(|node| known_node(&config, node)).transpose()?;
    let mut nodes = config.members();
    nodes.sort_by_key(|node| (Some(*node) != first, *node));
    let members = nodes.into_iter().map(|node| config.client_address(node, group)).collect();
    let (from, options) = (Sequence(args.from), ReadOptions::default());
    let stream = Subscription::new(config.cluster_id(), group, members, options, from).map_err(client_failure)?;
    let out = match args.output {
        Style::Json => Out::Json(stdout()),
        Style::Text => Out::Entries(EntryWriter::new(stdout(), args.format)),
    };
    follow(stream, out, &stop)
}

fn follow(mut stream: Subscription, mut out: Out, stop: &AtomicBool) -> Outcome {
    let mut told = 0;
    while !stop.load(Ordering::Relaxed) {
        match stream.next_entry(WAIT) {
            Ok(Some(entry)) => {
                out.write(&entry).map_err(OutputError)?;
                if stream.core().is_ready() {
                    continue;
                }
            }
            Ok(None) => {}
            // A signal may interrupt the wait.
            Err(_) if stop.load(Ordering::Relaxed) => break,
            Err(error) => return Err(client_failure(error)),
        }
        told = tell_of_ends(stream.core(), told);
        out.flush().map_err(OutputError)?;
    }
    out.finish().map_err(OutputError)?;
    stream.close().map_err(client_failure)
}

/// Says why a node ended the stream, once.
fn tell_of_ends(core: &SubscribeCore, told: u64) -> u64 {
    let ends = core.counters().ends;
    if let Some((from, reason)) = core.last_end().filter(|_| ends > told) {
        let next = core.next_sequence();
        eprintln!("synod: {from} ended the stream: {}; it goes on from sequence {next}", reason.name());
    }
    ends
}
