//! Trimming: a sans-I/O core that asks the leader until it answers, and a blocking call around it. A trim has its effect once however
//! often it is asked for, so it is sent again whenever an answer stays out.

use crate::error::{ClientError, Unavailable};
use crate::line::Line;
use crate::options::{OptionsError, ReadOptions, check_members, nanos};
use crate::reply::{Rejection, Reply, finish_request};
use crate::retransmit::{Jitter, Timeout, pause_ns};
use crate::route::Route;
use std::net::SocketAddrV4;
use std::time::Duration;
use synod_wire::client::Refusal;
use synod_wire::frame::{Frames, HEADER_BYTES, Kind, frame_bytes};
use synod_wire::trim::{TrimBody, TrimLimit, TrimReplyBody};
use synod_wire::{ClusterId, GroupId, NodeId, Sequence};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

/// The longest datagram that is sent.
const DATAGRAM_BYTES: usize = frame_bytes(size_of::<TrimBody>());

/// What a trim came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trimmed {
    /// The first sequence that can be read now: above what was asked for, if more had been trimmed before.
    pub first: Sequence,
    /// Why less was trimmed than was asked for.
    pub limit: TrimLimit,
    /// The member that lacks the next entries, where that is why.
    pub member: Option<NodeId>,
}

/// See the module. Poll as with [`crate::ReadCore`] until [`TrimCore::trimmed`] has an answer.
#[derive(Debug)]
pub struct TrimCore {
    cluster: ClusterId,
    group: GroupId,
    before: Sequence,
    route: Route,
    timeout: Timeout,
    jitter: Jitter,
    request_id: u64,
    /// When what was sent is given up, if something was.
    expires_ns: Option<u64>,
    pause_until_ns: u64,
    last_contact_ns: Option<u64>,
    last_refusal: Option<(SocketAddrV4, Refusal)>,
    trimmed: Option<Trimmed>,
}

impl TrimCore {
    /// Asks for the entries below `before` to be given up. `members` (client addresses) are asked in this order.
    pub fn new(
        cluster: ClusterId,
        group: GroupId,
        members: Vec<SocketAddrV4>,
        options: &ReadOptions,
        before: Sequence,
    ) -> Result<TrimCore, OptionsError> {
        options.validate()?;
        check_members(members.len())?;
        let (initial, min, max) = (options.retransmit_initial_us, options.retransmit_min_us, options.retransmit_max_us);
        Ok(TrimCore {
            cluster,
            group,
            before: before.max(Sequence(1)),
            route: Route::new(members.into_boxed_slice()),
            timeout: Timeout::new(initial, min, max),
            jitter: Jitter::new(options.seed),
            request_id: 0,
            expires_ns: None,
            pause_until_ns: 0,
            last_contact_ns: None,
            last_refusal: None,
            trimmed: None,
        })
    }

    /// The answer, once it has come.
    pub fn trimmed(&self) -> Option<Trimmed> {
        self.trimmed
    }

    /// Writes the next datagram into `out` (at least 128 bytes) if one is due: where it goes and its length.
    pub fn poll_transmit(&mut self, now_ns: u64, out: &mut [u8]) -> Option<(SocketAddrV4, usize)> {
        if self.expires_ns.is_some_and(|expires_ns| expires_ns <= now_ns) {
            self.expires_ns = None;
            self.timeout.back_off();
            self.route.rotate();
        }
        if self.trimmed.is_some() || self.expires_ns.is_some() || now_ns < self.pause_until_ns {
            return None;
        }
        self.request_id += 1;
        self.expires_ns = Some(now_ns.saturating_add(self.timeout.current_ns()));
        let body = TrimBody { request_id: U64::new(self.request_id), before: U64::new(self.before.0) };
        let bytes = size_of::<TrimBody>();
        out[HEADER_BYTES..HEADER_BYTES + bytes].copy_from_slice(body.as_bytes());
        let length = finish_request(out, (Kind::Trim, 0), self.cluster, self.group, self.request_id, bytes);
        Some((self.route.target(), length))
    }

    /// When to call [`TrimCore::poll_transmit`] next even if no datagram comes; `None`: it is answered.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.trimmed.is_none().then(|| self.expires_ns.unwrap_or(self.pause_until_ns))
    }

    /// Takes a datagram that came from `from`. Malformed and foreign ones are ignored, for the request is repeated.
    pub fn handle(&mut self, now_ns: u64, from: SocketAddrV4, datagram: &[u8]) {
        if !self.route.knows(from) {
            return;
        }
        for frame in Frames::new(datagram).flatten() {
            if frame.header.cluster != self.cluster || frame.header.group != self.group {
                continue;
            }
            self.last_contact_ns = Some(now_ns);
            match Reply::parse(&frame) {
                Ok(Reply::Trimmed(body, limit)) => self.on_answer(&body, limit),
                Ok(Reply::Rejected(rejection)) => self.on_rejected(now_ns, from, &rejection),
                _ => {}
            }
        }
    }

    /// The answer to an earlier datagram is as good as one to the last: what is trimmed stays so.
    fn on_answer(&mut self, body: &TrimReplyBody, limit: TrimLimit) {
        let asked = (1..=self.request_id).contains(&body.request_id.get()) && body.before.get() == self.before.0;
        let first = Sequence(body.first.get());
        let whole = limit != TrimLimit::Nothing || first >= self.before;
        if asked && whole && self.trimmed.is_none() {
            let member = (limit == TrimLimit::Member).then_some(NodeId(body.node));
            self.trimmed = Some(Trimmed { first, limit, member });
        }
    }

    fn on_rejected(&mut self, now_ns: u64, from: SocketAddrV4, rejection: &Rejection) {
        if rejection.reference != self.request_id || from != self.route.target() || self.expires_ns.is_none() {
            return;
        }
        self.last_refusal = Some((from, rejection.refusal));
        self.expires_ns = None;
        match (rejection.refusal, rejection.leader) {
            // It leads, and cannot take it just now.
            (Refusal::Busy, _) => return self.pause(now_ns, rejection.retry_after_us),
            (Refusal::NotLeader, Some(leader)) if leader != from => self.route.redirect(leader),
            _ => self.route.rotate(),
        }
        if self.route.in_vain() {
            self.pause(now_ns, rejection.retry_after_us);
        }
    }

    fn pause(&mut self, now_ns: u64, retry_after_us: u32) {
        self.pause_until_ns = now_ns.saturating_add(pause_ns(retry_after_us, &mut self.jitter));
    }
}

/// Gives up the entries of `group` below `before`, for good and at every member, and waits until that is applied. Less is given up
/// where the log ends before, where a member that is heard does not have what comes next, or a subscriber of the leader was not sent
/// it: [`Trimmed::limit`] says so. What holds it back is gone after a while, and the call can be repeated.
pub fn trim(
    cluster: ClusterId,
    group: GroupId,
    members: Vec<SocketAddrV4>,
    before: Sequence,
    deadline: Duration,
) -> Result<Trimmed, ClientError> {
    let options = ReadOptions { deadline, ..ReadOptions::default() };
    let count = members.len();
    let mut core = TrimCore::new(cluster, group, members, &options, before)?;
    let mut line = Line::new(options.spin, DATAGRAM_BYTES)?;
    let since_ns = line.socket().now_ns();
    let until_ns = since_ns.saturating_add(nanos(deadline));
    loop {
        line.transmit(|now_ns, out| core.poll_transmit(now_ns, out))?;
        line.receive(|now_ns, from, datagram| {
            core.handle(now_ns, from, datagram);
            core.trimmed().is_none()
        })?;
        if let Some(trimmed) = core.trimmed() {
            return Ok(trimmed);
        }
        let now_ns = line.socket().now_ns();
        if now_ns >= until_ns {
            let heard: Unavailable =
                line.socket().unavailable(since_ns, count, core.last_contact_ns, core.last_refusal);
            return Err(ClientError::NoAnswer(heard));
        }
        line.wait(now_ns, since_ns, core.poll_timeout().unwrap_or(u64::MAX).min(until_ns))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use synod_wire::frame::parse;
    use synod_wire::guarantee::Guarantee;
    use zerocopy::FromBytes;

    fn core() -> TrimCore {
        let members = vec![address(1), address(2)];
        TrimCore::new(CLUSTER, GROUP, members, &ReadOptions::default(), Sequence(9)).unwrap()
    }

    fn sent(core: &mut TrimCore, now_ns: u64) -> Option<(u16, TrimBody)> {
        let mut out = [0; DATAGRAM_BYTES];
        let (to, length) = core.poll_transmit(now_ns, &mut out)?;
        let frame = parse(&out[..length]).expect("a client sends valid frames");
        assert_eq!(frame.header.kind, Kind::Trim);
        Some((to.port(), TrimBody::read_from_bytes(frame.payload).unwrap()))
    }

    fn answer(id: u64, before: u64, first: u64, limit: TrimLimit) -> Vec<u8> {
        let body = TrimReplyBody {
            request_id: U64::new(id),
            before: U64::new(before),
            first: U64::new(first),
            limit: limit as u8,
            node: 2,
            reserved: [0; 2],
            guarantee: Guarantee::COMMITTED.encode(),
        };
        datagram(&header(Kind::TrimReply), body.as_bytes())
    }

    #[test]
    fn the_leader_is_found_and_its_answer_ends_it() {
        let mut core = core();
        let (to, body) = sent(&mut core, 0).unwrap();
        assert_eq!((to, body.request_id.get(), body.before.get()), (1, 1, 9));
        assert_eq!(sent(&mut core, 0), None, "one at a time");
        let elsewhere = Refuse { reference: 1, leader: Some(address(2)), ..Refuse::with(Refusal::NotLeader) };
        core.handle(MS, address(1), &elsewhere.datagram());
        assert_eq!(sent(&mut core, MS).unwrap().0, 2);
        core.handle(MS, address(2), &Refuse { reference: 2, ..Refuse::with(Refusal::Busy) }.datagram());
        assert_eq!(sent(&mut core, MS), None, "it waits");
        let due_ns = core.poll_timeout().unwrap();
        assert_eq!(sent(&mut core, due_ns).unwrap().0, 2);
        core.handle(due_ns, address(3), &answer(3, 9, 9, TrimLimit::Nothing));
        core.handle(due_ns, address(2), &answer(4, 9, 9, TrimLimit::Nothing));
        core.handle(due_ns, address(2), &answer(3, 8, 8, TrimLimit::Nothing));
        core.handle(due_ns, address(2), &answer(3, 9, 8, TrimLimit::Nothing));
        assert_eq!(core.trimmed(), None, "a stranger, about nothing that was asked, or not true");
        core.handle(due_ns, address(2), &answer(2, 9, 5, TrimLimit::Member));
        let held = Trimmed { first: Sequence(5), limit: TrimLimit::Member, member: Some(NodeId(2)) };
        assert_eq!((core.trimmed(), core.poll_timeout()), (Some(held), None));
        assert_eq!(sent(&mut core, u64::MAX), None);
    }

    #[test]
    fn silence_leads_to_the_next_member() {
        let mut core = core();
        assert_eq!(sent(&mut core, 0).unwrap().0, 1);
        let due_ns = core.poll_timeout().unwrap();
        assert_eq!(sent(&mut core, due_ns).unwrap().0, 2);
    }
}
