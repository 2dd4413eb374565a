//! `synod append`: entries from a file or stdin, pipelined. A thread of its own reads the input, so that acknowledgements
//! are printed as they come even while the input pauses. A client that comes back offers the end of what was decided on again,
//! before anything new: it is told the same outcomes, and whether it may go on.

use super::entries::{EntryReader, InputError};
use super::output::{Failure, Outcome, OutputError, Style, print, print_json, stdout};
use super::session::{Identity, resume};
use super::{AppendArgs, client_failure, random_client_id};
use crate::config::Config;
use crate::pipeline::{self, Pipeline};
use anyhow::{Context, anyhow};
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, StdoutLock, Write};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;
use synod_client::{Ack, Appender, ClientError, Condition, Options, Sequence, Stage};
use synod_wire::GroupId;

/// Chunks between the reading thread and the session: enough that neither waits for the other.
const CHUNKS: usize = 4;
/// A chunk goes on when it holds this much, or when the input has no more at hand.
const CHUNK_BYTES: usize = 64 << 10;
/// How long the session is looked after before the input is looked at again.
const SLICE: Duration = Duration::from_millis(1);

/// Entries, one after the other, each behind its length.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    lengths: Vec<u16>,
}

impl Chunk {
    fn entries(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..];
        self.lengths.iter().map(move |length| {
            let (entry, tail) = rest.split_at(usize::from(*length));
            rest = tail;
            entry
        })
    }
}

/// Runs the command.
pub(super) fn append(args: &AppendArgs) -> Outcome {
    let (config, group) = args.target.load()?;
    let input = open(&args.input)?;
    let reader = EntryReader::new(BufReader::with_capacity(CHUNK_BYTES, input), args.format);
    let appender = connect(&config, group, args)?;
    announce(&appender, args);
    let mut pushing = Pushing::new(&appender, args);
    let mut pipeline = Pipeline::new(appender);
    let (sender, chunks) = sync_channel(CHUNKS);
    let input = std::thread::Builder::new()
        .name("input".into())
        .spawn(move || read_input(reader, &sender))
        .context("cannot start the thread that reads the input")?;
    let outcome = run(&mut pipeline, &chunks, &mut pushing, &mut Printer::new(args.quiet, args.receipt));
    // The thread ends when its channel closes, except while it waits for input that may never come: then the process's
    // end ends it.
    drop(chunks);
    if let Err(stop) = outcome {
        return Err(told(stop, &pipeline, &pushing, &args.input));
    }
    let read = input.join().map_err(|_| anyhow!("the thread that reads the input panicked"))?;
    if args.quiet {
        summary(&pipeline, args.output)?;
    }
    read.with_context(|| format!("{}: all before it is appended", args.input.display()))?;
    Ok(())
}

fn open(path: &Path) -> Result<Box<dyn Read + Send>, Failure> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path).with_context(|| format!("cannot open the input {path:?}"))?;
    Ok(Box::new(file))
}

fn connect(config: &Config, group: GroupId, args: &AppendArgs) -> Result<Appender, Failure> {
    let window = args.window as usize;
    let options = Options {
        window_entries: window,
        window_bytes: super::window_bytes(config, window),
        deadline: Duration::from_millis(args.deadline_ms),
        max_datagram_bytes: super::datagram_bytes(config),
        receipts: args.receipt,
        resume: resume(args.session),
        repeat_decided: args.client_id.is_some(),
        ..Options::default()
    };
    let members = config.client_addresses(group);
    let client_id = args.client_id.map_or_else(random_client_id, Ok)?;
    Appender::connect(config.cluster_id(), group, members, client_id, options).map_err(client_failure)
}

/// Says by what the session can be come back to, and what it cannot be told of the client's past.
fn announce(appender: &Appender, args: &AppendArgs) {
    if args.client_id.is_none() {
        return;
    }
    let identity = Identity::of(appender);
    eprintln!("synod: {identity}");
    if args.session.is_none() && appender.last_committed() == 0 {
        eprintln!(
            "synod: warning: nothing is decided on in this session: if the client appended before, its earlier session was \
             evicted, and its entries are now appended a second time; --session with the earlier number refuses that"
        );
    }
    if let passed_over @ 1.. = appender.next_client_seq() - 1 {
        eprintln!(
            "synod: entries 1 to {passed_over} were decided on so long ago that their outcomes are not kept: passed over"
        );
    }
}

/// How entries go from the input into the session.
struct Pushing {
    /// The first entry of the input that is offered: the outcomes of those before it are not kept any more.
    first: u64,
    /// How many of those are still to be passed over.
    passed_over: u64,
    /// How many entries are still to be offered that were decided on before, and are told again.
    repeated: u64,
    /// Where the log must end for the next entry.
    tail: Option<Sequence>,
    fence: Option<NonZeroU64>,
}

impl Pushing {
    fn new(appender: &Appender, args: &AppendArgs) -> Pushing {
        let (tail, fence) = (args.match_sequence.map(Sequence), args.fence);
        let first = appender.next_client_seq();
        let passed_over = first - 1;
        Pushing { first, passed_over, repeated: appender.last_committed() - passed_over, tail, fence }
    }

    /// Takes the next entry of the input. One that must stand at a certain place waits there for its acknowledgement: only then
    /// is known where the next one must stand. And nothing new is sent before all that is old is known to be appended.
    fn push(&mut self, pipeline: &mut Pipeline, entry: &[u8], printer: &mut Printer) -> Result<(), ClientError> {
        if self.passed_over > 0 {
            self.passed_over -= 1;
            return Ok(());
        }
        let condition = Condition { match_sequence: self.tail, fence: self.fence };
        pipeline.push_if(entry, condition, &mut |ack| printer.ack(ack))?;
        let last_repeated = self.repeated == 1;
        self.repeated = self.repeated.saturating_sub(1);
        if self.tail.is_some() || last_repeated {
            pipeline.drain(&mut |ack| {
                self.tail = self.tail.and(Some(ack.sequence));
                printer.ack(ack);
            })?;
            printer.flush();
        }
        Ok(())
    }

    /// What is known of the entries before this one if all that were offered are acknowledged.
    fn before(&self, entry: u64) -> String {
        match self.first {
            1 => format!("all before entry {entry} is appended"),
            first => format!("all from entry {first} on before entry {entry} is appended"),
        }
    }
}

/// Reads the input to its end, or until nobody takes it any more.
fn read_input<R: Read>(mut reader: EntryReader<R>, chunks: &SyncSender<Chunk>) -> Result<(), InputError> {
    loop {
        let mut chunk = Chunk::default();
        let end = loop {
            match reader.advance() {
                Ok(true) => {}
                Ok(false) => break Some(Ok(())),
                Err(error) => break Some(Err(error)),
            }
            let entry = reader.current();
            chunk.bytes.extend_from_slice(entry);
            chunk.lengths.push(entry.len() as u16);
            if chunk.bytes.len() >= CHUNK_BYTES || !reader.has_more_at_hand() {
                break None;
            }
        };
        // A closed channel: the session failed and says why itself.
        let closed = !chunk.lengths.is_empty() && chunks.send(chunk).is_err();
        match end {
            Some(end) => return end,
            None if closed => return Ok(()),
            None => {}
        }
    }
}

/// Prints acknowledgements, or does not.
struct Printer {
    /// With each one's stages.
    receipts: bool,
    out: Option<BufWriter<StdoutLock<'static>>>,
    /// The first error of writing: told once the session has settled what is in flight.
    error: Option<io::Error>,
}

impl Printer {
    fn new(quiet: bool, receipts: bool) -> Printer {
        Printer { receipts, out: (!quiet).then(stdout), error: None }
    }

    fn ack(&mut self, ack: Ack) {
        if let (Some(out), None) = (&mut self.out, &self.error) {
            self.error = line(out, &ack, self.receipts).err();
        }
    }

    /// Makes visible what was printed.
    fn flush(&mut self) {
        if let (Some(out), None) = (&mut self.out, &self.error) {
            self.error = out.flush().err();
        }
    }

    fn check(&mut self) -> Outcome {
        self.error.take().map_or(Ok(()), |error| Err(OutputError(error).into()))
    }
}

/// Sequence and timestamp; then, if wanted, the stages in nanoseconds since the datagram was reaped, "-" where there is none.
fn line(out: &mut impl Write, ack: &Ack, receipts: bool) -> io::Result<()> {
    write!(out, "{}\t{}", ack.sequence, ack.timestamp_ns)?;
    let stages = Stage::ALL.iter().filter(|_| receipts);
    for stage in stages {
        match ack.receipt.and_then(|receipt| receipt.stages_ns[*stage as usize]) {
            Some(ns) => write!(out, "\t{}={ns}", stage.name())?,
            None => write!(out, "\t{}=-", stage.name())?,
        }
    }
    writeln!(out)
}

/// Appends all chunks and waits for every acknowledgement. Stops early when nobody reads the output any more.
fn run(
    pipeline: &mut Pipeline,
    chunks: &Receiver<Chunk>,
    pushing: &mut Pushing,
    printer: &mut Printer,
) -> Result<(), Stop> {
    loop {
        let chunk = match chunks.try_recv() {
            Ok(chunk) => chunk,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) if pipeline.in_flight() > 0 => {
                pipeline.turn(SLICE, &mut |ack| printer.ack(ack))?;
                printer.flush();
                continue;
            }
            Err(TryRecvError::Empty) => match chunks.recv() {
                Ok(chunk) => chunk,
                Err(RecvError) => break,
            },
        };
        for entry in chunk.entries() {
            match pushing.push(pipeline, entry, printer) {
                Ok(()) => {}
                Err(error @ ClientError::TooLarge { .. }) if pipeline.is_open() => {
                    // The entry was not taken; those before it are, and are waited for.
                    settle(pipeline, printer)?;
                    return Err(Stop::Session(error));
                }
                Err(error) => return Err(Stop::Session(error)),
            }
        }
        printer.check().map_err(Stop::Output)?;
    }
    settle(pipeline, printer)
}

/// Waits for every acknowledgement and prints it.
fn settle(pipeline: &mut Pipeline, printer: &mut Printer) -> Result<(), Stop> {
    pipeline.drain(&mut |ack| printer.ack(ack))?;
    printer.flush();
    printer.check().map_err(Stop::Output)
}

/// Why not everything was appended.
enum Stop {
    Session(ClientError),
    Output(Failure),
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Stop {
        Stop::Session(error)
    }
}

/// The failure, with how far the input got. A refused or unknown entry is named by its place in the input: the session
/// is this command's own, or one that was begun with the same input, so its client sequences count the input's entries.
fn told(stop: Stop, pipeline: &Pipeline, pushing: &Pushing, input: &Path) -> Failure {
    let error = match stop {
        Stop::Output(failure) => return failure,
        Stop::Session(error) => error,
    };
    let acknowledged = pipeline.measured().entries;
    let next = pipeline.appender().next_client_seq();
    let place = match &error {
        // It was not sent, and what was is settled.
        ClientError::TooLarge { .. } if pipeline.is_open() => format!("entry {next}; {}", pushing.before(next)),
        // Behind an entry that was fenced all are; behind one whose place was taken none was sent.
        ClientError::NotAppended { first, .. } => format!("{}, and nothing from it on", pushing.before(*first)),
        _ => format!("{acknowledged} entries acknowledged, {} without an answer", pipeline.in_flight()),
    };
    let unavailable = error.is_unavailable() && acknowledged == 0;
    let identity = Identity::of(pipeline.appender());
    let error = if error.is_outcome_unknown() && !matches!(error, ClientError::SessionEvicted { .. }) {
        let way = format!(
            "append the same input with {}: what was decided on is told, and the rest follows",
            identity.options()
        );
        anyhow::Error::new(error).context(way)
    } else {
        anyhow::Error::new(error)
    };
    let error = error.context(format!("{}: {place}", input.display()));
    if unavailable { Failure::Unavailable(error) } else { Failure::Failed(error) }
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    identity: Identity,
    #[serde(flatten)]
    summary: pipeline::Summary,
}

fn summary(pipeline: &Pipeline, style: Style) -> Outcome {
    let s = pipeline.measured().summary();
    let l = &s.latency;
    match style {
        Style::Json => print_json(&Report { identity: Identity::of(pipeline.appender()), summary: s }),
        Style::Text => print(&format!(
            "{} entries in {:.3} s, {:.0} a second; latency p50 {} us, p99 {} us, p99.9 {} us, max {} us\n",
            s.entries, s.seconds, s.entries_per_second, l.p50_us, l.p99_us, l.p999_us, l.max_us
        )),
    }
}
