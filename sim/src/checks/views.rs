//! What a node shows of the log grows while it lives: a reader that asks it after anybody heard of a sequence from it
//! hears of that sequence, too (S7).
//!
//! Source: SEMANTICS, reads: a local read is the committed prefix. It may be old, for the node does not ask how far the log
//! reaches; but a replica applies in order and forgets nothing before its process ends, so its own readers never see it
//! go back ("monotonic reads" and, at the node that acknowledged, "read your writes" of Terry et al., "Session guarantees
//! for weakly consistent replicated data", 1994).

use super::{Violation, violated};
use synod_wire::client::Consistency;

/// Requests of the simulator's own are numbered from here, those of a reader's core from 1.
pub(crate) const OWN_REQUESTS: u64 = 1 << 32;

/// A request, as it left.
#[derive(Clone, Copy, Debug)]
struct Asked {
    node: usize,
    at_ns: u64,
    consistency: Consistency,
    /// Of the node, at that moment.
    life: u64,
    least_tail: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct View {
    life: u64,
    since_ns: u64,
    /// The highest sequence that anybody heard of from it in this life.
    tail: u64,
}

#[derive(Clone, Debug, Default)]
struct Requests {
    of_core: Vec<Asked>,
    own: Vec<Asked>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Views {
    nodes: Vec<View>,
    readers: Vec<Requests>,
}

impl Views {
    pub(crate) fn new(nodes: usize, clients: usize) -> Views {
        Views { nodes: vec![View::default(); nodes], readers: vec![Requests::default(); clients] }
    }

    /// A process starts, and shows what its log has for it.
    pub(crate) fn restarted(&mut self, node: usize, now_ns: u64) {
        self.nodes[node] = View { life: self.nodes[node].life + 1, since_ns: now_ns, tail: 0 };
    }

    /// A reader sends a request. Each has the next number.
    pub(crate) fn asked(
        &mut self,
        client: usize,
        (request_id, consistency): (u64, Consistency),
        node: usize,
        now_ns: u64,
    ) {
        let view = self.nodes[node];
        let requests = &mut self.readers[client];
        let (requests, first_id) =
            if request_id < OWN_REQUESTS { (&mut requests.of_core, 1) } else { (&mut requests.own, OWN_REQUESTS) };
        assert_eq!(request_id, first_id + requests.len() as u64, "a reader's requests are numbered");
        requests.push(Asked { node, at_ns: now_ns, consistency, life: view.life, least_tail: view.tail });
    }

    /// A node acknowledged `sequence`, for an entry offered at `offered_ns`.
    pub(crate) fn acked(&mut self, node: usize, sequence: u64, offered_ns: u64) {
        let view = &mut self.nodes[node];
        // What was offered before this life may have been acknowledged before it.
        if offered_ns > view.since_ns {
            view.tail = view.tail.max(sequence);
        }
    }

    /// A reader hears how far the log of a node reaches: what it asked for, and when.
    pub(crate) fn told(
        &mut self,
        client: usize,
        node: usize,
        request_id: u64,
        tail: u64,
    ) -> Result<(Consistency, u64), Violation> {
        let requests = &self.readers[client];
        let asked = match request_id.checked_sub(OWN_REQUESTS) {
            Some(at) => requests.own.get(at as usize),
            None => requests.of_core.get((request_id as usize).wrapping_sub(1)),
        };
        let Some(asked) = asked.filter(|asked| asked.node == node).copied() else {
            let detail = format!("n{node} answers request {request_id} of c{client}, which it was not asked");
            return violated("answers have questions", detail);
        };
        let view = &mut self.nodes[node];
        // An answer from an earlier life says nothing about this one.
        if asked.life != view.life {
            return Ok((asked.consistency, asked.at_ns));
        }
        if tail < asked.least_tail {
            let detail = format!(
                "n{node} showed sequence {}, and then told c{client}, which asked later, that its log ends at {tail}",
                asked.least_tail
            );
            return violated("what a node shows does not go back", detail);
        }
        view.tail = view.tail.max(tail);
        Ok((asked.consistency, asked.at_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(request_id: u64) -> (u64, Consistency) {
        (request_id, Consistency::Local)
    }

    /// Two nodes up since 5; client 0 asks n0 first at 10, as request 1.
    fn views() -> Views {
        let mut views = Views::new(2, 2);
        views.restarted(0, 5);
        views.restarted(1, 5);
        views.asked(0, local(1), 0, 10);
        views
    }

    #[test]
    fn a_view_that_goes_back_is_found() {
        let mut views = views();
        assert_eq!(views.told(0, 0, 1, 7), Ok((Consistency::Local, 10)));
        views.asked(1, local(1), 0, 20);
        assert!(views.told(1, 0, 1, 7).is_ok(), "no further, for another reader");
        assert!(views.told(0, 0, 1, 3).is_ok(), "the first request's answer, come again and late");
        assert!(views.told(1, 0, 1, 6).is_err());
        views.asked(1, local(2), 1, 30);
        assert!(views.told(1, 1, 2, 0).is_ok(), "the other node may be behind");
    }

    #[test]
    fn a_restart_may_forget_and_what_came_before_it_does_not_count() {
        let mut views = views();
        views.asked(1, local(1), 0, 11);
        assert!(views.told(0, 0, 1, 7).is_ok());
        views.restarted(0, 20);
        views.asked(0, local(2), 0, 30);
        assert!(views.told(1, 0, 1, 9).is_ok(), "an answer from the life before");
        assert!(views.told(0, 0, 2, 4).is_ok());
        views.asked(0, local(3), 0, 40);
        assert!(views.told(0, 0, 3, 3).is_err());
    }

    #[test]
    fn who_acknowledged_shows_what() {
        let mut views = views();
        views.acked(0, 6, 4);
        views.asked(0, local(2), 0, 30);
        assert!(views.told(0, 0, 2, 5).is_ok(), "that may have been an earlier life");
        views.acked(0, 6, 8);
        views.asked(0, local(3), 0, 40);
        assert!(views.told(0, 0, 3, 5).is_err());
    }

    #[test]
    fn an_answer_that_nobody_asked_for_is_found() {
        let mut views = views();
        assert!(views.told(0, 1, 1, 0).is_err(), "another node was asked");
        assert!(views.told(0, 0, 2, 0).is_err(), "not asked yet");
        views.asked(0, local(OWN_REQUESTS), 1, 20);
        assert!(views.told(0, 1, OWN_REQUESTS, 0).is_ok());
    }
}
