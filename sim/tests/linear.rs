//! The search for a linearization against `stateright`'s, on thousands of random histories of the log: what a sequential
//! object did, and what became of it when a result or the order of two events was changed. Both searches must agree, and
//! both verdicts must be common. `stateright` gets an object of its own, written anew: an error in either shows.

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use synod_sim::Rng;
use synod_sim::linear::{Call, Log, LogOp, LogRet, Verdict, check};

const HISTORIES: u64 = 12_000;
const NODES: u64 = 2;
/// More than any of these histories needs: giving up would be a failure.
const MAX_STATES: usize = 1_000_000;

/// The log and the nodes' views of it, plainly.
#[derive(Clone, Debug, Default)]
struct Plain {
    log: Vec<u8>,
    views: [usize; NODES as usize],
}

impl SequentialSpec for Plain {
    type Op = LogOp;
    type Ret = LogRet;

    fn invoke(&mut self, op: &LogOp) -> LogRet {
        match op {
            LogOp::Append(entry) => {
                self.log.push(*entry);
                LogRet::At(self.log.len() as u8)
            }
            LogOp::Ask(node) => LogRet::ShowsAtLeast(self.views[*node] as u8),
            LogOp::AskLength => LogRet::Length(self.log.len() as u8),
            LogOp::Restart(node) => {
                self.views[*node] = 0;
                LogRet::Restarted
            }
        }
    }

    fn is_valid_step(&mut self, op: &LogOp, ret: &LogRet) -> bool {
        let LogOp::Ask(node) = op else { return self.invoke(op) == *ret };
        let view = &mut self.views[*node];
        match ret {
            LogRet::Shows { tail, first, entries } => {
                let (tail, from) = (usize::from(*tail), usize::from(*first) - 1);
                let goes_back = tail < *view;
                *view = tail;
                let read = || self.log.get(from..from + entries.len()).is_some_and(|read| read == &entries[..]);
                !goes_back && tail <= self.log.len() && (entries.is_empty() || from + entries.len() <= tail && read())
            }
            LogRet::ShowsAtLeast(place) => {
                *view = usize::from(*place).max(*view);
                usize::from(*place) <= self.log.len()
            }
            LogRet::At(_) | LogRet::Length(_) | LogRet::Restarted => false,
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Begins(usize, LogOp),
    Returns(usize, LogRet),
}

/// A client of the generator.
#[derive(Clone, Debug)]
enum Thread {
    Idle,
    Asked(LogOp),
    Done(LogRet),
    Gone,
}

/// Plays a few threads against a sequential object, an event at a time: what comes out is linearizable.
fn play(rng: &mut Rng) -> Vec<Event> {
    let mut object = Plain::default();
    let mut threads = vec![Thread::Idle; rng.between(2, 4) as usize];
    let mut calls_left = rng.between(3, 9) as u8;
    let mut events = Vec::new();
    loop {
        let running = |thread: &Thread| match thread {
            Thread::Idle => calls_left > 0,
            Thread::Asked(_) | Thread::Done(_) => true,
            Thread::Gone => false,
        };
        let able: Vec<usize> = (0..threads.len()).filter(|at| running(&threads[*at])).collect();
        let Some(at) = rng.pick_index(able.len()).map(|at| able[at]) else { return events };
        threads[at] = match threads[at].clone() {
            Thread::Idle => {
                calls_left -= 1;
                let op = operation(calls_left, rng);
                events.push(Event::Begins(at, op.clone()));
                Thread::Asked(op)
            }
            // A client that crashes: before its call takes effect, or after.
            Thread::Asked(_) if rng.percent(7) => Thread::Gone,
            Thread::Asked(op) => Thread::Done(effect(&mut object, &op, rng)),
            Thread::Done(_) if rng.percent(7) => Thread::Gone,
            Thread::Done(ret) => {
                events.push(Event::Returns(at, ret));
                Thread::Idle
            }
            Thread::Gone => unreachable!("not able"),
        };
    }
}

fn operation(entry: u8, rng: &mut Rng) -> LogOp {
    match rng.below(10) {
        0..5 => LogOp::Append(entry),
        5..8 => LogOp::Ask(rng.below(NODES) as usize),
        8 => LogOp::AskLength,
        _ => LogOp::Restart(rng.below(NODES) as usize),
    }
}

/// The object's answer; a view moves forward as it likes.
fn effect(object: &mut Plain, op: &LogOp, rng: &mut Rng) -> LogRet {
    let LogOp::Ask(node) = op else { return object.invoke(op) };
    let view = &mut object.views[*node];
    *view = rng.between(*view as u64, object.log.len() as u64) as usize;
    if rng.percent(25) {
        return LogRet::ShowsAtLeast(rng.below(*view as u64 + 1) as u8);
    }
    let from = rng.below(*view as u64 + 1) as usize;
    let count = rng.below((*view - from) as u64 + 1) as usize;
    let entries = object.log[from..from + count].to_vec();
    LogRet::Shows { tail: *view as u8, first: from as u8 + 1, entries }
}

/// Changes one result, or the order of two events.
fn mutate(events: &mut [Event], rng: &mut Rng) {
    let Some(at) = rng.pick_index(events.len()) else { return };
    if rng.percent(50) {
        let with = rng.below(events.len() as u64) as usize;
        move_event(events, at, with);
        return;
    }
    if let Event::Returns(_, ret) = &mut events[at] {
        let up = rng.percent(50);
        let nudge = |number: &mut u8| *number = if up { *number + 1 } else { number.saturating_sub(1) };
        match ret {
            LogRet::At(place) | LogRet::Length(place) | LogRet::ShowsAtLeast(place) => nudge(place),
            LogRet::Shows { tail, entries, .. } => match entries.first_mut().filter(|_| rng.percent(50)) {
                Some(entry) => nudge(entry),
                None => nudge(tail),
            },
            LogRet::Restarted => {}
        }
    }
}

/// Moves an event towards another place, as far as its own thread's events allow.
fn move_event(events: &mut [Event], mut at: usize, to: usize) {
    let thread = |event: &Event| match event {
        Event::Begins(thread, _) | Event::Returns(thread, _) => *thread,
    };
    while at != to {
        let next = if at < to { at + 1 } else { at - 1 };
        if thread(&events[at]) == thread(&events[next]) {
            return;
        }
        events.swap(at, next);
        at = next;
    }
}

fn calls_of(events: &[Event]) -> Vec<Call<LogOp, LogRet>> {
    let mut calls: Vec<Call<LogOp, LogRet>> = Vec::new();
    let mut open = [None; 4];
    for (at_ns, event) in (0..).zip(events) {
        match event {
            Event::Begins(thread, op) => {
                open[*thread] = Some(calls.len());
                calls.push(Call { op: op.clone(), began_ns: at_ns, returned: None });
            }
            Event::Returns(thread, ret) => {
                let call = open[*thread].take().expect("what returns has begun");
                calls[call].returned = Some((at_ns, ret.clone()));
            }
        }
    }
    calls
}

fn stateright_agrees(events: &[Event]) -> bool {
    let mut tester = LinearizabilityTester::new(Plain::default());
    for event in events {
        match event {
            Event::Begins(thread, op) => tester.on_invoke(*thread, op.clone()).map(|_| ()),
            Event::Returns(thread, ret) => tester.on_return(*thread, ret.clone()).map(|_| ()),
        }
        .expect("the history is well formed");
    }
    tester.is_consistent()
}

/// An order that was found is an order of these calls, keeps real time, and explains every result.
fn explains(order: &[usize], calls: &[Call<LogOp, LogRet>]) {
    let mut object = Plain::default();
    for (rank, at) in order.iter().enumerate() {
        assert!(!order[..rank].contains(at), "call {at} stands twice in {order:?}");
        let call = &calls[*at];
        let was_over = |other: &usize| calls[*other].returned.as_ref().is_some_and(|(at_ns, _)| *at_ns < call.began_ns);
        assert!(!order[rank + 1..].iter().any(was_over), "{order:?} is against real time: {calls:?}");
        match &call.returned {
            Some((_, ret)) => assert!(object.is_valid_step(&call.op, ret), "{order:?} explains nothing: {calls:?}"),
            None => drop(object.invoke(&call.op)),
        }
    }
    let missing = (0..calls.len()).find(|at| calls[*at].returned.is_some() && !order.contains(at));
    assert_eq!(missing, None, "{order:?} leaves a call out");
}

#[test]
fn both_searches_agree() {
    let mut rng = Rng::new(1, "histories");
    let (mut yes, mut no, mut open) = (0, 0, 0);
    for history in 0..HISTORIES {
        let mut events = play(&mut rng);
        let changes = history % 6;
        (0..changes).for_each(|_| mutate(&mut events, &mut rng));
        let calls = calls_of(&events);
        let linearizable = match check(&Log::default(), &calls, MAX_STATES) {
            Verdict::Linearizable(order) => {
                explains(&order, &calls);
                true
            }
            Verdict::NotLinearizable(_) => false,
            Verdict::GaveUp => panic!("gave up on {calls:?}"),
        };
        assert_eq!(linearizable, stateright_agrees(&events), "history {history}: {events:?}");
        assert!(linearizable || changes > 0, "history {history} is what an object did: {events:?}");
        yes += u64::from(linearizable);
        no += u64::from(!linearizable);
        open += u64::from(calls.iter().any(|call| call.returned.is_none()));
    }
    assert!(yes > HISTORIES / 4 && no > HISTORIES / 4, "{yes} histories are linearizable, {no} are not");
    assert!(open > HISTORIES / 10, "only {open} histories have calls that never returned");
}
