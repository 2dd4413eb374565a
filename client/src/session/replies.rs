//! What datagrams do to a session: acknowledgements, the opening, refusals. Total: whatever the bytes are, they are
//! obeyed, or counted and ignored. Entered through [`Core::handle`] only.

use super::{CloseReason, Core, Event, OpenSent, Phase, WentBack};
use crate::options::Resume;
use crate::receipt::Receipt;
use crate::reply::{Rejection, Reply, told};
use crate::window::{Mark, Placed};
use std::net::SocketAddrV4;
use synod_wire::batch::open;
use synod_wire::client::{self, AckHeader, AckRun, Decision, Durability, Refusal, SessionBody};
use synod_wire::frame::Frames;

/// A client sequence beyond this is a garbled number, not a session that appended for ten thousand years.
const MAX_CLIENT_SEQ: u64 = 1 << 62;

impl Core {
    /// Takes a datagram that came from `from`. Malformed, foreign and stale ones are counted and ignored.
    pub fn handle(&mut self, now_ns: u64, from: SocketAddrV4, datagram: &[u8]) {
        if !self.route.knows(from) {
            self.counters.foreign += 1;
            return;
        }
        for frame in Frames::new(datagram) {
            let Ok(frame) = frame else {
                self.counters.malformed += 1;
                continue;
            };
            if frame.header.cluster != self.cluster || frame.header.group != self.group {
                self.counters.foreign += 1;
                continue;
            }
            self.last_contact_ns = Some(now_ns);
            if from == self.route.target() {
                self.silences = 0;
            }
            match Reply::parse(&frame) {
                Ok(Reply::Appended(header, runs, receipts)) => {
                    self.on_receipts(&header, receipts);
                    self.on_appended(now_ns, from, &header, runs);
                }
                Ok(Reply::SessionOpened(body)) => self.on_opened(now_ns, from, &body),
                Ok(Reply::Rejected(rejection)) => self.on_rejected(now_ns, from, &rejection),
                Ok(
                    Reply::Read(..)
                    | Reply::Query(..)
                    | Reply::Status(..)
                    | Reply::Evidence(_)
                    | Reply::Trimmed(..)
                    | Reply::Transfer(_)
                    | Reply::Stream(..)
                    | Reply::StreamEnd(..),
                )
                | Err(_) => self.counters.malformed += 1,
            }
        }
    }

    fn on_opened(&mut self, now_ns: u64, from: SocketAddrV4, body: &SessionBody) {
        if body.client_id.get() != self.client_id {
            self.counters.foreign += 1;
            return;
        }
        if self.phase != Phase::Opening {
            self.counters.stale += 1;
            return;
        }
        let session = body.session.get();
        let wanted = self.options.resume;
        if matches!(wanted, Resume::Session(number) if number != session) {
            self.counters.stale += 1;
            return;
        }
        let last_committed = body.last_committed.get();
        let no_number = session == open::OR_CREATE || session == open::EXISTING;
        if no_number
            || last_committed > MAX_CLIENT_SEQ
            || !self.take_limits(body.max_run_bytes.get(), body.max_entry_bytes.get())
        {
            self.counters.malformed += 1;
            return;
        }
        if let OpenSent::Once(sent_ns) = self.open_sent {
            self.timeout.sample(now_ns.saturating_sub(sent_ns));
        }
        self.succeeded(from);
        self.phase = Phase::Open;
        self.session = Some(session);
        self.timer_ns = None;
        self.pause_until_ns = now_ns;
        self.burst = self.window.capacity();
        self.credit = u64::from(body.credit.get().max(1));
        let repeated = if self.options.repeat_decided { last_committed.min(self.credit) } else { 0 };
        self.window.renumber(last_committed - repeated);
        self.next_send = self.window.first_unacked();
        self.sent_end = self.next_send;
        self.last_committed = Some(last_committed);
        let (credit, max_entry_bytes) = (body.credit.get(), self.max_entry_bytes);
        self.opened_event = Some(Event::Opened { session, last_committed, credit, max_entry_bytes });
        if self.window.longest_entry() > max_entry_bytes {
            self.refused_for_good(Refusal::TooLarge, max_entry_bytes as u64);
        }
    }

    fn on_appended(&mut self, now_ns: u64, from: SocketAddrV4, header: &AckHeader, runs: &[AckRun]) {
        if header.client_id.get() != self.client_id {
            self.counters.foreign += 1;
            return;
        }
        if self.phase != Phase::Open || self.session != Some(header.session.get()) {
            self.counters.stale += 1;
            return;
        }
        let Some(durability) = Durability::from_u8(header.durability) else {
            self.counters.malformed += 1;
            return;
        };
        self.credit = u64::from(header.credit.get().max(1));
        let first_unacked = self.window.first_unacked();
        let mut acked = 0;
        let mut newest = None;
        for run in runs {
            let Some(new) = self.on_ack_run(run, durability, &mut newest) else {
                self.counters.malformed += 1;
                continue;
            };
            self.counters.stale += u64::from(new == 0);
            acked += new;
        }
        if acked == 0 {
            return;
        }
        match newest.and_then(|client_seq| Some((self.window.sent_once_ns(client_seq)?, client_seq))) {
            Some((sent_ns, client_seq)) => {
                self.timeout.sample(now_ns.saturating_sub(sent_ns));
                self.youngest_acked = self.youngest_acked.max((sent_ns, client_seq));
            }
            None => self.timeout.progress(),
        }
        self.succeeded(from);
        self.burst = self.burst.saturating_add(acked).min(self.window.capacity());
        self.move_cursor(self.next_send);
        self.second_try_was_answered(now_ns);
        self.look_for_overtaken(now_ns);
        if self.window.first_unacked() > first_unacked {
            self.timer_ns = None;
        }
        if self.in_flight() == 0 {
            self.timer_ns = None;
        } else if self.timer_ns.is_none() {
            self.arm(now_ns);
        }
    }

    /// Whether the first unacknowledged entry should have been answered before what was. See "Lost acknowledgements" in [`super`].
    fn look_for_overtaken(&mut self, now_ns: u64) {
        let first = self.window.first_unacked();
        self.trim_repair();
        if first >= self.next_send || (self.window.sent_ns(first), first) > self.youngest_acked {
            self.overtaken = None;
        } else if self.overtaken.is_none_or(|(client_seq, _)| client_seq != first) {
            self.overtaken = Some((first, now_ns + self.timeout.round_trip_ns() / 4));
        }
    }

    /// No answer came after all: its run goes again, up to what was acknowledged.
    pub(super) fn on_overtaken(&mut self) {
        let Some((first, _)) = self.overtaken.take() else { return };
        let end = (first..self.next_send).find(|client_seq| self.window.is_acked(*client_seq));
        self.repair = first..end.unwrap_or(self.next_send);
    }

    /// Keeps the receipts of entries that are held: as many as there is room for, since each was asked for with an entry.
    fn on_receipts(&mut self, header: &AckHeader, receipts: &[client::Receipt]) {
        let ours = header.client_id.get() == self.client_id && self.session == Some(header.session.get());
        if !ours || self.phase != Phase::Open || !self.options.receipts {
            return;
        }
        for receipt in receipts {
            let Some(receipt) = Receipt::parse(receipt) else {
                self.counters.malformed += 1;
                continue;
            };
            let end_seq = receipt.client_seq + u64::from(receipt.entries);
            let held = end_seq > self.window.base() && receipt.client_seq < self.sent_end;
            if !held || self.receipts.len() == self.options.window_entries {
                self.counters.stale += 1;
                continue;
            }
            self.receipts.push_back(receipt);
        }
    }

    /// Marks the entries of `run` that were sent and are still open; returns how many, and the newest of them in
    /// `newest`. `None` if the run's numbers are impossible.
    fn on_ack_run(&mut self, run: &AckRun, durability: Durability, newest: &mut Option<u64>) -> Option<u64> {
        let (first_seq, first_sequence) = (run.first_seq.get(), run.first_sequence.get());
        let entries = u64::from(run.entries.get());
        let decision = Decision::from_u8(run.decision)?;
        let appended = decision == Decision::Appended;
        let end_seq = first_seq.checked_add(entries)?;
        first_sequence.checked_add(entries)?;
        if first_seq == 0 || (appended && first_sequence == 0) || entries == 0 {
            return None;
        }
        // An earlier incarnation may have sent longer runs; what this one did not send, it does not know.
        let end_seq = end_seq.min(self.sent_end);
        let guarantee = told(run.guarantee);
        let mut new = 0;
        for client_seq in first_seq.max(self.window.base())..end_seq {
            let value = if appended { first_sequence + (client_seq - first_seq) } else { first_sequence };
            let place = Placed { decision, value, timestamp_ns: run.timestamp_ns.get(), durability, guarantee };
            match self.window.acknowledge(client_seq, place) {
                Mark::New => {
                    new += 1;
                    *newest = Some(client_seq);
                }
                Mark::Known => {}
                Mark::Conflict => self.counters.conflicting_acks += 1,
            }
        }
        Some(new)
    }

    /// `from` opened the session or acknowledged an entry: it leads, or led until now.
    fn succeeded(&mut self, from: SocketAddrV4) {
        self.route.settle(from);
        self.silences = 0;
        self.last_refusal = None;
    }

    /// Refusals count only from the node that is asked now: one that was left may still answer older datagrams.
    fn on_rejected(&mut self, now_ns: u64, from: SocketAddrV4, rejection: &Rejection) {
        let ours = rejection.client_id == self.client_id;
        if !ours && rejection.client_id != 0 {
            self.counters.foreign += 1;
            return;
        }
        if from != self.route.target() || matches!(self.phase, Phase::Closed(_)) {
            self.counters.stale += 1;
            return;
        }
        let open = self.phase == Phase::Open;
        match rejection.refusal {
            Refusal::SessionEvicted | Refusal::ResendFrom | Refusal::TooLarge if !ours => self.counters.foreign += 1,
            Refusal::ResendFrom if !open => self.counters.stale += 1,
            // It may be about an earlier session of this client.
            Refusal::SessionEvicted if !self.is_of_this_session(rejection.detail) => self.counters.stale += 1,
            Refusal::ResendFrom => self.on_resend_from(now_ns, rejection.detail),
            refusal => {
                self.counters.refusals += 1;
                self.last_refusal = Some((from, refusal));
                self.on_refusal(now_ns, rejection);
            }
        }
    }

    /// Whether a number is what this session goes by: its own, or, while it opens, what it asks for.
    fn is_of_this_session(&self, number: u64) -> bool {
        let asked = self.options.resume.to_wire();
        self.session.map_or(asked != open::OR_CREATE && asked == number, |session| session == number)
    }

    fn on_refusal(&mut self, now_ns: u64, rejection: &Rejection) {
        match (rejection.refusal, rejection.leader) {
            (Refusal::Busy, _) => self.on_busy(now_ns, rejection),
            (Refusal::SessionEvicted, _) => self.close(CloseReason::SessionEvicted, Some(Event::SessionLost)),
            (Refusal::TooLarge, _) => self.refused_for_good(Refusal::TooLarge, rejection.detail),
            (Refusal::NotLeader, Some(leader)) if leader != self.route.target() => {
                self.route.redirect(leader);
                self.ask_anew(now_ns, rejection.retry_after_us);
            }
            // A node that calls itself the leader and says that it is not is as good as one that knows none.
            (
                Refusal::NotLeader
                | Refusal::NoLeader
                | Refusal::NoLease
                | Refusal::QuorumUnavailable
                | Refusal::Recovering
                | Refusal::ManualIntervention,
                _,
            ) => {
                self.route.rotate();
                self.ask_anew(now_ns, rejection.retry_after_us);
            }
            // They answer no append.
            (Refusal::BadQuestion | Refusal::Trimmed, _) => self.counters.foreign += 1,
            (Refusal::ResendFrom, _) => unreachable!("on_rejected handles it"),
        }
    }

    /// The target has changed: everything open goes there, at once unless a whole round was in vain.
    fn ask_anew(&mut self, now_ns: u64, retry_after_us: u32) {
        if self.route.in_vain() {
            self.pause(now_ns, retry_after_us);
        }
        self.silences = 0;
        self.start_over();
    }

    /// Nothing is lost: the refused run goes again after the pause, behind at most half of what was in flight.
    fn on_busy(&mut self, now_ns: u64, rejection: &Rejection) {
        self.pause(now_ns, rejection.retry_after_us);
        if self.phase == Phase::Opening {
            self.timer_ns = None;
            return;
        }
        let refused = rejection.reference.max(self.window.first_unacked());
        if refused < self.next_send {
            self.burst = (self.in_flight() / 2).max(1);
            self.move_cursor(refused);
        }
        self.timer_ns = None;
        if self.in_flight() > 0 {
            self.arm(now_ns);
        }
    }

    /// A datagram was lost, or overtaken by a later one. See "Gaps" in [`super`].
    fn on_resend_from(&mut self, now_ns: u64, client_seq: u64) {
        if client_seq < self.window.first_unacked() || client_seq >= self.next_send {
            self.counters.stale += 1;
            return;
        }
        if let Some(back) = &mut self.went_back
            && (back.from..back.upto).contains(&client_seq)
            && now_ns.saturating_sub(back.at_ns) < self.timeout.round_trip_ns()
        {
            back.again = Some(client_seq);
            self.counters.stale += 1;
            return;
        }
        self.counters.refusals += 1;
        self.go_back(now_ns, client_seq);
    }

    /// When a gap that was reported again should have been closed by the second try.
    pub(super) fn gap_due_ns(&self) -> Option<u64> {
        let back = self.went_back.filter(|back| back.again.is_some())?;
        Some(back.at_ns.saturating_add(self.timeout.answer_within_ns()))
    }

    /// The second try was not answered either.
    pub(super) fn on_gap_overdue(&mut self, now_ns: u64) {
        let Some(WentBack { again: Some(client_seq), .. }) = self.went_back else { return };
        if client_seq < self.window.first_unacked() || client_seq >= self.next_send {
            self.went_back = None;
            return;
        }
        self.go_back(now_ns, client_seq);
    }

    /// Some of what went again is acknowledged: if the server reported a gap in the rest, it knew of the second try.
    fn second_try_was_answered(&mut self, now_ns: u64) {
        let first_unacked = self.window.first_unacked();
        let Some(back) = self.went_back.filter(|back| back.from < first_unacked) else { return };
        match back.again {
            Some(client_seq) if (first_unacked..self.next_send).contains(&client_seq) => {
                self.go_back(now_ns, client_seq)
            }
            _ => self.went_back = None,
        }
    }

    /// Everything from `client_seq` on goes again; half as much at once if the last try was in vain.
    fn go_back(&mut self, now_ns: u64, client_seq: u64) {
        if self.went_back.is_some() {
            self.burst = (self.in_flight() / 2).max(1);
        }
        self.went_back = Some(WentBack { from: client_seq, upto: self.sent_end, at_ns: now_ns, again: None });
        self.move_cursor(client_seq);
    }

    fn refused_for_good(&mut self, refusal: Refusal, detail: u64) {
        self.close(CloseReason::Refused { refusal, detail }, Some(Event::Refused { refusal, detail }));
    }
}
