//! The command line: what `synod` takes, and which module answers it. Prints to stdout what was asked for and to stderr
//! everything else. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no leader or no quorum. Called by `main`.

pub mod entries;
pub mod output;

mod append;
mod check;
mod config;
mod demo;
mod events;
mod evidence;
mod generate;
mod health;
mod inspect;
mod iotune;
mod jitter;
mod kv;
mod logging;
mod member;
mod node;
mod read;
mod reload;
mod session;
mod status;
mod subscribe;
mod top;
mod transfer;
mod trim;
mod tune;
mod verify;

use crate::config::{Config, Loaded, load};
use anyhow::{Context, anyhow};
use clap::{Args, Parser, Subcommand};
use entries::{InputFormat, OutputFormat};
use indicatif::{ProgressBar, ProgressStyle};
use output::{Failure, Outcome, Style};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io::Read;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use synod_client::{ClientError, Consistency};
use synod_wire::frame::HEADER_BYTES;
use synod_wire::{GroupId, NodeId};

/// A low-latency Multi-Paxos sequencer: durable, totally ordered, one pipeline a core.
#[derive(Debug, Parser)]
#[command(name = "synod", version, about, disable_help_subcommand = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no leader or no quorum.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print, check or explain a configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at the host: what a node needs, what is, and how to mend it; exit code 1 if something required is missing
    Check(CheckArgs),
    /// Change of the host what needs no boot, and take it back
    #[command(subcommand)]
    Tune(TuneCommand),
    /// Prepare a node's directory; refuses one that is in use
    Format(FormatArgs),
    /// Run a node in the foreground; SIGTERM ends it cleanly
    Start(StartArgs),
    /// Append entries; prints "sequence<TAB>timestamp_ns" for each
    Append(AppendArgs),
    /// Print how far a client's session got: how many of its entries are decided on
    LastCommitted(LastCommittedArgs),
    /// Print entries from a sequence on
    Read(ReadArgs),
    /// Print entries as they come, until interrupted
    Tail(TailArgs),
    /// Print entries as a node pushes them, until interrupted
    Subscribe(SubscribeArgs),
    /// Give up the entries below a sequence, for good and at every member; prints the first that can be read
    Trim(TrimArgs),
    /// Print the last committed sequence
    CheckTail(CheckTailArgs),
    /// Read or write the key-value map of a group with machine = "kv"
    #[command(subcommand)]
    Kv(KvCommand),
    /// Show every node and group
    Status(StatusArgs),
    /// Watch a group: its modes, leader, log, latency and rate. Prints once where stdout is no terminal
    Top(TopArgs),
    /// For scripts: whether each group has a leader and a quorum in step (exit code 0), or not (3); with --node, whether a node does its
    /// work (0), fails (1), or is without a leader or quorum (3)
    Health(HealthArgs),
    /// For scripts: whether a node leads a group (exit code 0) or another does (1); prints the leader. 3: none is known
    IsLeader(IsLeaderArgs),
    /// Show or change who votes in the groups
    #[command(subcommand)]
    Member(MemberCommand),
    /// Bring back a node that lost its log: formats its directory anew, and has it join the groups as a learner
    Recover(RecoverArgs),
    /// Have a group's leader hand over to another member, without an election time-out in between
    TransferLeader(TransferArgs),
    /// Show who chose a slot, as each node's log has it, and whether they agree
    Evidence(EvidenceArgs),
    /// Look into a log, offline
    #[command(subcommand)]
    Inspect(InspectCommand),
    /// Measure durable writes to a directory; proposes [wal] keys and time-outs, and predicts the commit latency
    Iotune(iotune::IotuneArgs),
    /// Measure how long each core stands still, as a pipeline pinned to it would
    Jitter(jitter::JitterArgs),
    /// Compare logs, offline: no two disagree, nothing is missing or damaged
    Verify(VerifyArgs),
    /// Print the completions for a shell
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the man pages
    #[command(hide = true)]
    Man {
        /// The directory.
        dir: PathBuf,
    },
    /// Run three nodes here, sequence an input, kill the leader, and check everything
    Demo(DemoArgs),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the default configuration with its comments
    Default,
    /// Check a file; tells every problem with its line
    Validate {
        /// The file.
        file: PathBuf,
    },
    /// Have a node of this host read its file again, by its admin_listen; prints what it takes over, and what waits for its restart
    Reload(ReloadArgs),
    /// Print what is in effect, and where each value came from
    Show {
        /// The file.
        file: PathBuf,
        /// Print the memory that a node takes instead.
        #[arg(long)]
        memory: bool,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Style,
    },
}

/// Which cluster.
#[derive(Debug, Args)]
struct ClusterArgs {
    /// The configuration file.
    #[arg(long, value_name = "F")]
    config: PathBuf,
}

/// Which group of which cluster.
#[derive(Debug, Args)]
struct GroupArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The group.
    #[arg(long, value_name = "G", default_value_t = 0)]
    group: u8,
}

/// Which node of which cluster.
#[derive(Debug, Args)]
struct NodeArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The node.
    #[arg(long, value_name = "N")]
    node: u8,
}

#[derive(Debug, Args)]
struct ReloadArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// How long to wait for the node's answer.
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Subcommand)]
enum MemberCommand {
    /// Show who votes and who learns, and how far each is
    List(MemberListArgs),
    /// Add a node that runs and waits (`synod format --join`, `synod start`): it learns, and does not vote
    Add(MemberArgs),
    /// Let a learner vote, once it has caught up
    Promote(MemberArgs),
    /// Take a node out; done when a quorum of the others durably knows it (keep its directory until then: they may need it)
    Remove(MemberArgs),
    /// Put a node that runs and waits in another's place: add it, let it catch up and vote, remove the other
    Replace(ReplaceArgs),
}

/// Which groups.
#[derive(Debug, Args)]
struct GroupsArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The group; all groups, one after the other, if left out.
    #[arg(long, value_name = "G")]
    group: Option<u8>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Args)]
struct MemberListArgs {
    #[command(flatten)]
    groups: GroupsArgs,
    /// How long to wait for answers, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1_000)]
    timeout_ms: u64,
}

#[derive(Debug, Args)]
struct MemberArgs {
    #[command(flatten)]
    groups: GroupsArgs,
    /// The node.
    #[arg(long, value_name = "N")]
    node: u8,
    /// How long a change of one group may take, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    timeout_ms: u64,
}

#[derive(Debug, Args)]
struct ReplaceArgs {
    #[command(flatten)]
    member: MemberArgs,
    /// The node that takes its place.
    #[arg(long, value_name = "M")]
    with: u8,
}

#[derive(Debug, Args)]
struct RecoverArgs {
    #[command(flatten)]
    member: MemberArgs,
}

/// Which host, and what it is for.
#[derive(Debug, Args)]
struct HostArgs {
    /// The configuration file; without it, what concerns a node is unknown.
    #[arg(long, value_name = "F", requires = "node")]
    config: Option<PathBuf>,
    /// The node that is to run here.
    #[arg(long, value_name = "N", requires = "config")]
    node: Option<u8>,
    /// The network card; the one that has the node's address when left out. Name it where that is a bridge, a bond or a VLAN.
    #[arg(long, value_name = "NAME", value_parser = check::parse_nic)]
    nic: Option<String>,
    /// Take the host's files below this directory instead, as of a recorded host; what only system calls tell is unknown then.
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    host: HostArgs,
    /// Fail also on what is only recommended.
    #[arg(long)]
    strict: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Subcommand)]
enum TuneCommand {
    /// Show each knob and what it would change, and what is to be done by hand
    List(TuneListArgs),
    /// Make the changes that `check` asks for; each is printed before, and what was is kept
    Apply(TuneApplyArgs),
    /// Take back what `apply` changed, the last change first
    Revert(TuneRevertArgs),
}

#[derive(Debug, Args)]
struct TuneListArgs {
    #[command(flatten)]
    host: HostArgs,
    /// These knobs only; may be given more than once.
    #[arg(long, value_name = "KNOB", value_parser = tune::knob_names())]
    only: Vec<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

/// How changes are made.
#[derive(Debug, Args)]
struct TuneToArgs {
    /// Print the changes and make none.
    #[arg(long)]
    dry_run: bool,
    /// Where the previous values are kept; /var/lib/synod/tune.json when left out.
    #[arg(long, value_name = "F")]
    state: Option<PathBuf>,
    /// How to print: text, or one JSON object a line.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Args)]
struct TuneApplyArgs {
    #[command(flatten)]
    host: HostArgs,
    /// These knobs only; may be given more than once.
    #[arg(long, value_name = "KNOB", value_parser = tune::knob_names())]
    only: Vec<String>,
    /// Make no change, but write a shell script that makes them (and takes them back); "-" is stdout.
    #[arg(long, value_name = "F", conflicts_with_all = ["dry_run", "state", "output"])]
    output_script: Option<PathBuf>,
    #[command(flatten)]
    to: TuneToArgs,
}

#[derive(Debug, Args)]
struct TuneRevertArgs {
    /// These knobs only; may be given more than once.
    #[arg(long, value_name = "KNOB", value_parser = tune::knob_names())]
    only: Vec<String>,
    /// Take back also what others have changed since.
    #[arg(long)]
    force: bool,
    /// Take the host's files below this directory instead, as of a recorded host.
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
    #[command(flatten)]
    to: TuneToArgs,
}

#[derive(Debug, Args)]
struct FormatArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Join groups that exist, as a learner (`synod member add`): for a node that is added, or one that comes back without its log.
    #[arg(long)]
    join: bool,
}

#[derive(Debug, Args)]
struct StartArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Vote no more, and serve what the log shows committed as stale reads (mode FLOOR), until it is started without this: to look
    /// into a cluster that is not to go on
    #[arg(long)]
    floor: bool,
}

#[derive(Debug, Args)]
struct AppendArgs {
    #[command(flatten)]
    target: GroupArgs,
    /// Where the entries come from; "-" is stdin.
    #[arg(long, value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// How the entries stand there.
    #[arg(long, value_enum, default_value = "lines")]
    format: InputFormat,
    /// Print a summary instead of a line for each entry.
    #[arg(long)]
    quiet: bool,
    /// Print with each entry where its time went on the leader: nanoseconds from its datagram to each stage.
    #[arg(long, conflicts_with = "quiet")]
    receipt: bool,
    /// How long an entry may wait for its acknowledgement before its outcome is given up as unknown.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    deadline_ms: u64,
    /// Append only if the log ends at this sequence; the next entry of the input goes behind this one, and so on, one at a time.
    #[arg(long, value_name = "S")]
    match_sequence: Option<u64>,
    /// A fencing token: append only if the group has seen no higher one.
    #[arg(long, value_name = "T")]
    fence: Option<NonZeroU64>,
    /// Append as this client, whose session goes on: entries of the same input that were decided on before are not appended again,
    /// but their outcomes are told again, as far as they are kept (the last 1,024).
    #[arg(long, value_name = "ID", value_parser = session::parse_client_id)]
    client_id: Option<u128>,
    /// Fail if the client's session is another than this one, as after an eviction, instead of opening a new one. The command says
    /// the number on stderr.
    #[arg(long, value_name = "N", requires = "client_id", value_parser = clap::value_parser!(u64).range(1..u64::MAX))]
    session: Option<u64>,
    /// The most entries in flight.
    #[arg(long, value_name = "N", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    window: u32,
    /// How to print the summary.
    #[arg(short, long, value_enum, default_value_t, requires = "quiet")]
    output: Style,
}

#[derive(Debug, Args)]
struct LastCommittedArgs {
    #[command(flatten)]
    target: GroupArgs,
    /// The client.
    #[arg(long, value_name = "ID", value_parser = session::parse_client_id)]
    client_id: u128,
    /// The number of the session; whatever session the client has when left out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..u64::MAX))]
    session: Option<u64>,
    /// How long to wait for an answer.
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    deadline_ms: u64,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Args)]
struct ReadArgs {
    #[command(flatten)]
    target: GroupArgs,
    /// The first sequence, from 1.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
    /// How many entries; all that are committed when left out.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// The node to ask; any that answers when left out, one that knows all first.
    #[arg(long, value_name = "N")]
    node: Option<u8>,
    /// How recent what is shown must be: `read_index` (all that was acknowledged before), `lease` (the same, of a leader that
    /// holds a lease), `lease_or_read_index`, `bounded:MS` (all until so many milliseconds before) or `local` (what the node
    /// has). What cannot be shown is refused.
    #[arg(long, value_name = "C", default_value = "read_index", value_parser = read::parse_consistency)]
    consistency: Consistency,
    /// How to print them.
    #[arg(long, value_enum, default_value = "lines")]
    format: OutputFormat,
}

#[derive(Debug, Args)]
struct TailArgs {
    #[command(flatten)]
    target: GroupArgs,
    /// The first sequence; the next new entry when left out.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,
    /// The node to ask; any that answers when left out, one that knows all first.
    #[arg(long, value_name = "N")]
    node: Option<u8>,
    /// How recent what is shown must be: `read_index` (all that was acknowledged before), `lease` (the same, of a leader that
    /// holds a lease), `lease_or_read_index`, `bounded:MS` (all until so many milliseconds before) or `local` (what the node
    /// has). What cannot be shown is refused.
    #[arg(long, value_name = "C", default_value = "local", value_parser = read::parse_consistency)]
    consistency: Consistency,
    /// How to print them.
    #[arg(long, value_enum, default_value = "lines")]
    format: OutputFormat,
}

#[derive(Debug, Args)]
struct SubscribeArgs {
    #[command(flatten)]
    target: GroupArgs,
    /// The first sequence, from 1.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
    /// The node that is asked first; where it ends the stream, or is gone, the others go on.
    #[arg(long, value_name = "N")]
    node: Option<u8>,
    /// How to print them as text.
    #[arg(long, value_enum, default_value = "lines")]
    format: OutputFormat,
    /// `json`: a line for each, with sequence, timestamp_ns, and payload, or payload_hex where it is no UTF-8.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Args)]
struct TrimArgs {
    #[command(flatten)]
    target: GroupArgs,
    /// The first sequence that is to be kept.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    before: u64,
    /// How long to wait for the answer.
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    deadline_ms: u64,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Args)]
struct CheckTailArgs {
    #[command(flatten)]
    target: GroupArgs,
    /// How recent what is shown must be: `read_index` (all that was acknowledged before), `lease` (the same, of a leader that
    /// holds a lease), `lease_or_read_index`, `bounded:MS` (all until so many milliseconds before) or `local` (what the node
    /// has). What cannot be shown is refused.
    #[arg(long, value_name = "C", default_value = "read_index", value_parser = read::parse_consistency)]
    consistency: Consistency,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Subcommand)]
enum KvCommand {
    /// Print the value of a key; exit code 1 if it has none
    Get(KvGetArgs),
    /// Give a key a value; prints "sequence<TAB>timestamp_ns<TAB>outcome"
    Put {
        #[command(flatten)]
        write: KvWriteArgs,
        /// The value, at most 1,024 bytes; "-" reads it from stdin.
        value: String,
    },
    /// Take a key's value away; prints "sequence<TAB>timestamp_ns<TAB>outcome"
    Delete(KvWriteArgs),
}

#[derive(Debug, Args)]
struct KvGetArgs {
    #[command(flatten)]
    target: GroupArgs,
    /// The key, 1 to 256 bytes.
    key: String,
    /// The node to ask; any that answers when left out.
    #[arg(long, value_name = "N")]
    node: Option<u8>,
    /// How recent what is shown must be: `read_index` (all that was acknowledged before), `lease` (the same, of a leader that
    /// holds a lease), `lease_or_read_index`, `bounded:MS` (all until so many milliseconds before) or `local` (what the node
    /// has). What cannot be shown is refused.
    #[arg(long, value_name = "C", default_value = "read_index", value_parser = read::parse_consistency)]
    consistency: Consistency,
    /// How long to wait for an answer.
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    deadline_ms: u64,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Args)]
struct KvWriteArgs {
    #[command(flatten)]
    target: GroupArgs,
    /// The key, 1 to 256 bytes.
    key: String,
    /// How long the command may wait for its acknowledgement before its outcome is given up as unknown.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    deadline_ms: u64,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How long to wait for a node's answer.
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Args)]
struct TopArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The group that is shown first; the only one with --once.
    #[arg(long, value_name = "G")]
    group: Option<u8>,
    /// Print one frame of each group as plain text, and end.
    #[arg(long)]
    once: bool,
    /// How often the nodes are asked.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    interval_ms: u64,
    /// How long to wait for a node's answer; no longer than the interval.
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
}

#[derive(Debug, Args)]
struct HealthArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The node; the cluster as a whole when left out.
    #[arg(long, value_name = "N")]
    node: Option<u8>,
    /// How long to wait for the nodes' answers.
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Args)]
struct IsLeaderArgs {
    #[command(flatten)]
    target: GroupArgs,
    /// The node.
    #[arg(long, value_name = "N")]
    node: u8,
    /// How long to wait for the nodes' answers.
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Args)]
struct TransferArgs {
    #[command(flatten)]
    target: GroupArgs,
    /// The node that is to lead; the one that has most of the log of those that answer, when left out.
    #[arg(long, value_name = "N")]
    to: Option<u8>,
    /// How long to look for the leader, and then to wait for what becomes of it.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    timeout_ms: u64,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Args)]
struct EvidenceArgs {
    /// The configuration file: asks the running nodes.
    #[arg(long, value_name = "F", required_unless_present = "dirs", conflicts_with = "dirs")]
    config: Option<PathBuf>,
    /// Nodes' directories, or those of a group's logs: reads the logs of nodes that do not run.
    #[arg(long = "dir", value_name = "DIR", num_args = 1..)]
    dirs: Vec<PathBuf>,
    /// The group.
    #[arg(long, value_name = "G", default_value_t = 0)]
    group: u8,
    #[command(flatten)]
    of: EvidenceOfArgs,
    /// How long to wait for the nodes' answers.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct EvidenceOfArgs {
    /// The slot in which this sequence was given.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    sequence: Option<u64>,
    /// This slot.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    slot: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum InspectCommand {
    /// Print what happened at a group's core: modes, elections, slow syncs, dropped members; after a crash, too
    Events {
        /// The group's directory (`…/group-000`).
        #[arg(long)]
        dir: PathBuf,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Style,
    },
    /// Print the records of a group's log
    Wal {
        /// The group's directory (`…/group-000`).
        dir: PathBuf,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Style,
    },
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// Node directories, or directories of a group's log.
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// A file whose lines are sequenced; generated order messages when left out.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=9))]
    nodes: u8,
    /// Keep the directory with the logs.
    #[arg(long)]
    keep: bool,
    /// How to print the report.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // clap itself ends the process with code 2 on wrong usage and 0 on --help.
    output::exit_code(run(Cli::parse()))
}

fn run(cli: Cli) -> Outcome {
    match cli.command {
        Command::Config(ConfigCommand::Default) => config::default(),
        Command::Config(ConfigCommand::Validate { file }) => config::validate(&file),
        Command::Config(ConfigCommand::Reload(args)) => reload::reload(&args),
        Command::Config(ConfigCommand::Show { file, memory, output }) => config::show(&file, memory, output),
        Command::Check(args) => check::check(&args),
        Command::Tune(command) => tune::tune(&command),
        Command::Format(args) => node::format(&args),
        Command::Start(args) => node::start(&args),
        Command::Append(args) => append::append(&args),
        Command::LastCommitted(args) => session::print_last_committed(&args),
        Command::Read(args) => read::read(&args),
        Command::Tail(args) => read::tail(&args),
        Command::Subscribe(args) => subscribe::subscribe(&args),
        Command::Trim(args) => trim::trim(&args),
        Command::CheckTail(args) => read::check_tail(&args),
        Command::Kv(command) => kv::kv(&command),
        Command::Status(args) => status::status(&args),
        Command::Top(args) => top::top(&args),
        Command::Health(args) => health::health(&args),
        Command::IsLeader(args) => health::is_leader(&args),
        Command::Member(command) => member::member(&command),
        Command::Recover(args) => member::recover(&args),
        Command::TransferLeader(args) => transfer::transfer(&args),
        Command::Evidence(args) => evidence::evidence(&args),
        Command::Inspect(InspectCommand::Events { dir, output }) => events::events(&dir, output),
        Command::Inspect(InspectCommand::Wal { dir, output }) => inspect::wal(&dir, output),
        Command::Iotune(args) => iotune::iotune(&args),
        Command::Jitter(args) => jitter::jitter(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { dir } => generate::man(&dir),
        Command::Demo(args) => demo::demo(&args),
    }
}

impl ClusterArgs {
    /// Reads the configuration and says on stderr what could be better.
    fn load(&self) -> Result<Loaded, Failure> {
        let loaded = load::load(&self.config).map_err(anyhow::Error::new)?;
        for warning in &loaded.warnings {
            eprintln!("synod: warning: {warning}");
        }
        Ok(loaded)
    }
}

impl GroupArgs {
    /// Reads the configuration and checks that it has the group.
    fn load(&self) -> Result<(Config, GroupId), Failure> {
        let config = self.cluster.load()?.config;
        let groups = config.groups.len();
        if usize::from(self.group) >= groups {
            let reason = anyhow!("group {} does not exist: {:?} has {groups}", self.group, self.cluster.config);
            return Err(Failure::Usage(reason.context(format!("--group must be 0 to {}", groups - 1))));
        }
        Ok((config, GroupId(self.group)))
    }
}

impl NodeArgs {
    /// Reads the configuration and checks that it has the node.
    fn load(&self) -> Result<(Config, NodeId), Failure> {
        let config = self.cluster.load()?.config;
        let node = known_node(&config, self.node)?;
        Ok((config, node))
    }
}

/// The node with this number.
fn known_node(config: &Config, number: u8) -> Result<NodeId, Failure> {
    if config.node(NodeId(number)).is_some() {
        return Ok(NodeId(number));
    }
    let members: Vec<String> = config.members().iter().map(NodeId::to_string).collect();
    let reason = anyhow!("node {number} is not in the configuration, which has {}", members.join(", "));
    Err(Failure::Usage(reason.context("--node must name a member")))
}

/// The largest datagram that the cluster takes: a frame with the largest batch.
fn datagram_bytes(config: &Config) -> usize {
    HEADER_BYTES + config.net.max_batch_bytes
}

/// Room for `entries` of the longest kind in flight, within reason: a megabyte, or sixteen datagrams if those are more.
fn window_bytes(config: &Config, entries: usize) -> usize {
    let datagram = datagram_bytes(config);
    entries.saturating_mul(datagram).min((1 << 20).max(16 * datagram)).max(datagram)
}

/// What a client's error means for the exit code.
fn client_failure(error: ClientError) -> Failure {
    if error.is_unavailable() { Failure::Unavailable(error.into()) } else { Failure::Failed(error.into()) }
}

/// A flag that SIGINT and SIGTERM raise; a second one ends the process at once.
fn interrupts() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag down, and only then raises it.
        flag::register_conditional_shutdown(signal, 1, stop.clone()).context("cannot watch signals")?;
        flag::register(signal, stop.clone()).context("cannot watch signals")?;
    }
    Ok(stop)
}

/// A bar on stderr, where that is a terminal.
fn progress_bar(length: u64) -> anyhow::Result<ProgressBar> {
    let bar = ProgressBar::new(length);
    bar.set_style(ProgressStyle::with_template("{wide_bar} {percent:>3} % {elapsed:>4} {msg}").context("a template")?);
    Ok(bar)
}

/// A file for latencies, whose name says in which of HdrHistogram's forms.
fn histogram_file(text: &str) -> Result<PathBuf, String> {
    let file = PathBuf::from(text);
    match file.extension().and_then(|end| end.to_str()) {
        Some("hlog" | "hgrm") => Ok(file),
        _ => Err("the name must end in .hlog or .hgrm".into()),
    }
}

/// A random identity for a session.
fn random_client_id() -> anyhow::Result<u128> {
    let mut bytes = [0; 16];
    let mut source = std::fs::File::open("/dev/urandom").context("cannot open /dev/urandom for a session id")?;
    source.read_exact(&mut bytes).context("cannot read /dev/urandom for a session id")?;
    // 0 stands for "no session".
    Ok(u128::from_le_bytes(bytes).max(1))
}
