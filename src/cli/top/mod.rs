//! `synod top`: one group of a cluster on a terminal, again and again; or once, as plain text.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | asking, keys, the end |
//! | `frame.rs` | what is shown, in lines |
//! | `screen.rs` | the terminal, and its return to what it was |
//!
//! Three threads tell the main one what happens: keys, signals, and the nodes' answers. It waits for nothing else.

mod frame;
mod screen;

use super::output::{Failure, Outcome, print};
use super::{TopArgs, client_failure};
use crate::config::Config;
use crate::node::monotonic_ns;
use crate::view::{Answer, View, ask};
use anyhow::{Context, anyhow};
use frame::Shown;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use screen::Screen;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use synod_client::ClientError;
use synod_wire::{GroupId, NodeId};

/// Lines of a frame that is printed: all that there is to say.
const PLAIN_LINES: usize = 64;
/// Columns of a frame that is printed.
const PLAIN_COLUMNS: usize = 80;
/// News that may wait for the main thread; who has more waits.
const MAX_NEWS: usize = 16;

/// What the main thread waits for.
enum News {
    /// The terminal has something to say.
    Terminal(Event),
    /// A signal.
    Stop,
    /// What the nodes said.
    Heard(Result<Vec<Answer>, ClientError>),
    /// The terminal cannot be read any more.
    Broken(std::io::Error),
}

/// Runs the command.
pub(super) fn top(args: &TopArgs) -> Outcome {
    let config = Arc::new(args.cluster.load()?.config);
    let groups = config.groups.len();
    if let Some(group) = args.group.filter(|group| usize::from(*group) >= groups) {
        let reason = anyhow!("group {group} does not exist: {:?} has {groups}", args.cluster.config);
        return Err(Failure::Usage(reason.context(format!("--group must be 0 to {}", groups - 1))));
    }
    let pace = Pace {
        interval: Duration::from_millis(args.interval_ms),
        timeout: Duration::from_millis(args.timeout_ms.min(args.interval_ms)),
    };
    match args.once || !std::io::stdout().is_terminal() {
        true => once(&config, args.group, pace),
        false => watch(config, args.group, pace),
    }
}

/// How often, and for how long, the nodes are asked.
#[derive(Clone, Copy, Debug)]
struct Pace {
    interval: Duration,
    timeout: Duration,
}

impl Pace {
    fn ask(&self, config: &Config) -> Result<Vec<Answer>, ClientError> {
        ask(config, self.timeout, |_, _| true)
    }
}

/// Two readings, for rates are of the time between, and a frame of each group, or of one.
fn once(config: &Config, only: Option<u8>, pace: Pace) -> Outcome {
    let mut view = View::new(config, monotonic_ns());
    hear(&mut view, config, pace.ask(config).map_err(client_failure)?);
    thread::sleep(pace.interval);
    hear(&mut view, config, pace.ask(config).map_err(client_failure)?);
    let mut text = String::new();
    let groups = (0..view.groups.len()).filter(|at| only.is_none_or(|only| usize::from(only) == *at));
    for at in groups.clone() {
        for line in shown(&view, config, at).lines(PLAIN_COLUMNS, PLAIN_LINES) {
            let line: String = line.spans.iter().map(|span| &*span.content).collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    print(&text)?;
    let mut leaderless = groups.filter(|at| view.groups[*at].standing(config).leader.is_none());
    match leaderless.next() {
        None => Ok(()),
        Some(group) => Err(Failure::Unavailable(anyhow!("group {group}: no node that answers leads and serves"))),
    }
}

fn hear(view: &mut View, config: &Config, answers: Vec<Answer>) {
    let now_ns = monotonic_ns();
    view.hear_all(answers, now_ns);
    for group in &mut view.groups {
        let standing = group.standing(config);
        group.note(&standing, now_ns);
    }
}

fn shown<'a>(view: &'a View, config: &'a Config, at: usize) -> Shown<'a> {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Shown { view, config, at, paused: false, keys: false, now_ns: monotonic_ns(), wall }
}

/// On the terminal, until somebody ends it.
fn watch(config: Arc<Config>, first: Option<u8>, pace: Pace) -> Outcome {
    let (tell, news) = sync_channel(MAX_NEWS);
    // Before the screen is taken: a signal in between would leave it as it is.
    watch_signals(tell.clone())?;
    let mut screen = Screen::open().context("cannot take over the terminal")?;
    spawn("top-keys", {
        let tell = tell.clone();
        move || read_terminal(&tell)
    })?;
    let (end, ended) = channel();
    let asked = config.clone();
    spawn("top-ask", move || ask_on(&asked, pace, &tell, &ended))?;
    let told = show(&mut screen, &config, usize::from(first.unwrap_or(0)), &news);
    drop(end);
    screen.close().context("cannot give the terminal back")?;
    told
}

fn show(screen: &mut Screen, config: &Config, mut at: usize, news: &Receiver<News>) -> Outcome {
    let mut view = View::new(config, monotonic_ns());
    let mut paused = false;
    let groups = view.groups.len();
    loop {
        screen.draw(&Shown { paused, keys: true, ..shown(&view, config, at) }).context("cannot draw")?;
        match news.recv().context("nobody has news any more")? {
            News::Stop => return Ok(()),
            News::Broken(error) => return Err(Failure::Failed(anyhow!(error).context("cannot read the terminal"))),
            News::Heard(answers) => {
                let answers = answers.map_err(client_failure)?;
                if !paused {
                    hear(&mut view, config, answers);
                }
            }
            News::Terminal(Event::Key(key)) => match command(key) {
                Some(Command::Quit) => return Ok(()),
                Some(Command::Pause) => paused = !paused,
                Some(Command::Next) => at = (at + 1) % groups,
                Some(Command::Previous) => at = (at + groups - 1) % groups,
                None => {}
            },
            // Another size, for one: it is drawn anew.
            News::Terminal(_) => {}
        }
    }
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Quit,
    Pause,
    Next,
    Previous,
}

fn command(key: KeyEvent) -> Option<Command> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Command::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Command::Quit),
        KeyCode::Char('p') | KeyCode::Char(' ') => Some(Command::Pause),
        KeyCode::Tab | KeyCode::Right | KeyCode::Down => Some(Command::Next),
        KeyCode::BackTab | KeyCode::Left | KeyCode::Up => Some(Command::Previous),
        _ => None,
    }
}

/// They end with the process.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    thread::Builder::new().name(name.into()).spawn(work).context("cannot start a thread")?;
    Ok(())
}

fn watch_signals(tell: SyncSender<News>) -> anyhow::Result<()> {
    let signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]);
    let mut signals = signals.context("cannot watch signals")?;
    spawn("top-signals", move || {
        for _ in signals.forever() {
            if tell.send(News::Stop).is_err() {
                return;
            }
        }
    })
}

fn read_terminal(tell: &SyncSender<News>) {
    loop {
        let (news, goes_on) = match event::read() {
            Ok(event) => (News::Terminal(event), true),
            Err(error) => (News::Broken(error), false),
        };
        if tell.send(news).is_err() || !goes_on {
            return;
        }
    }
}

/// Asks the nodes, again and again, until `ended`.
fn ask_on(config: &Config, pace: Pace, tell: &SyncSender<News>, ended: &Receiver<()>) {
    let mut next_ns = monotonic_ns();
    loop {
        if tell.send(News::Heard(pace.ask(config))).is_err() {
            return;
        }
        next_ns = (next_ns + pace.interval.as_nanos() as u64).max(monotonic_ns());
        let wait = Duration::from_nanos(next_ns.saturating_sub(monotonic_ns()));
        if ended.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// For those who look for one group among many.
fn named(group: GroupId, groups: usize) -> String {
    if groups == 1 { format!("group {group}") } else { format!("group {group} of {groups}") }
}

/// A node's colour, wherever it is drawn.
fn colour_of(node: NodeId) -> ratatui::style::Color {
    use ratatui::style::Color;
    const COLOURS: [Color; 6] =
        [Color::Cyan, Color::Yellow, Color::Magenta, Color::Green, Color::Blue, Color::LightRed];
    COLOURS[usize::from(node.0) % COLOURS.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_last_line_and_a_release_is_none() {
        let key = |code, modifiers| command(KeyEvent::new(code, modifiers));
        let plain = |code| key(code, KeyModifiers::NONE);
        assert_eq!(plain(KeyCode::Char('q')), Some(Command::Quit));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Command::Quit));
        assert_eq!(plain(KeyCode::Char('c')), None);
        assert_eq!((plain(KeyCode::Tab), plain(KeyCode::Left)), (Some(Command::Next), Some(Command::Previous)));
        assert_eq!(plain(KeyCode::Char('p')), Some(Command::Pause));
        let released =
            KeyEvent { kind: KeyEventKind::Release, ..KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE) };
        assert_eq!(command(released), None);
    }
}
