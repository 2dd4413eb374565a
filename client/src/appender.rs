//! The blocking façade: append and wait, one entry or many. Events become results; nothing is retried behind the
//! caller's back beyond what the session does.

use crate::client::Client;
use crate::condition::{Condition, Unmet};
use crate::error::ClientError;
use crate::options::{Options, nanos};
use crate::receipt::Receipt;
use crate::session::{CloseReason, Event, OfferError};
use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::Duration;
use synod_wire::client::{Durability, Refusal};
use synod_wire::guarantee::Guarantee;
use synod_wire::{ClusterId, GroupId, NodeId, Sequence};

/// An entry's place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The client's sequence of the entry.
    pub client_seq: u64,
    /// Its place in the group's total order.
    pub sequence: Sequence,
    /// The leader's timestamp, nanoseconds since the Unix epoch.
    pub timestamp_ns: u64,
    /// What the acknowledgement rests on.
    pub durability: Durability,
    /// What it promises.
    pub guarantee: Guarantee,
    /// Where its time went on the leader, if [`Options::receipts`] asks and the leader could tell.
    pub receipt: Option<Receipt>,
}

/// An open session that appends and waits.
///
/// After an error other than [`ClientError::NotAppended`], [`ClientError::TooLarge`] of an entry not sent, or
/// [`ClientError::EmptyEntry`], the session is closed: connect anew, with the same client id and [`Resume::Session`] to
/// resume (see [`crate::Core`]).
///
/// [`Resume::Session`]: crate::Resume::Session
#[derive(Debug)]
pub struct Appender {
    client: Client,
    last_committed: u64,
    /// Entries that were not appended, and not told yet: first, last, and why. No more than the session holds entries.
    not_appended: VecDeque<(u64, u64, Unmet, Guarantee)>,
    /// The entries reported unknown: (first, last).
    unknown: Option<(u64, u64)>,
    /// Receipts whose entries are not all reported: no more than the session holds entries.
    receipts: Vec<Receipt>,
}

impl Appender {
    /// Opens a session; waits for it up to `options.deadline`.
    pub fn connect(
        cluster: ClusterId,
        group: GroupId,
        members: Vec<(NodeId, SocketAddrV4)>,
        client_id: u128,
        options: Options,
    ) -> Result<Appender, ClientError> {
        let client = Client::connect(cluster, group, members, client_id, options)?;
        let mut appender =
            Appender { client, last_committed: 0, not_appended: VecDeque::new(), unknown: None, receipts: Vec::new() };
        appender.wait_until_open()?;
        Ok(appender)
    }

    /// The last client sequence that was decided on when the session opened: a caller that resumes goes on behind it, unless
    /// [`Options::repeat_decided`] says otherwise.
    pub fn last_committed(&self) -> u64 {
        self.last_committed
    }

    /// The client sequence that the next entry gets.
    pub fn next_client_seq(&self) -> u64 {
        self.client.core().next_client_seq()
    }

    /// The session's number: kept beside the client id it resumes this session ([`crate::Resume::Session`]).
    pub fn session(&self) -> u64 {
        self.client.core().session().expect("an appender waited until its session was open")
    }

    /// The longest entry.
    pub fn max_entry_bytes(&self) -> usize {
        self.client.core().max_entry_bytes()
    }

    /// The driver, for its counters and the session's.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Appends one entry and waits for its place. Entries pushed before it get theirs first, and are not reported.
    pub fn append(&mut self, entry: &[u8]) -> Result<Ack, ClientError> {
        self.append_if(entry, Condition::default())
    }

    /// Appends one entry if a condition is met when its turn comes, else tells why it was not appended
    /// ([`ClientError::NotAppended`]); a retry would be told the same. An earlier entry that was pushed and not appended is told
    /// first, by whichever call learns of it.
    pub fn append_if(&mut self, entry: &[u8], condition: Condition) -> Result<Ack, ClientError> {
        let mut newest = None;
        let client_seq = self.push_if(entry, condition, &mut |_| {})?;
        loop {
            let turned = self.turn(Duration::MAX, &mut |ack| {
                if ack.client_seq == client_seq {
                    newest = Some(ack);
                }
            });
            // Acknowledged is acknowledged, even if the session closed in the same breath.
            match newest {
                Some(ack) => return Ok(ack),
                None => turned?,
            }
        }
    }

    /// Appends all entries, as many at once as the window and the server's credit allow; `on_ack` gets each one's place
    /// in order. Returns how many there were.
    pub fn append_all<I>(&mut self, entries: I, mut on_ack: impl FnMut(Ack)) -> Result<u64, ClientError>
    where
        I: IntoIterator,
        I::Item: AsRef<[u8]>,
    {
        let mut count = 0;
        for entry in entries {
            self.push(entry.as_ref(), &mut on_ack)?;
            count += 1;
        }
        self.flush(Duration::MAX, &mut on_ack)?;
        Ok(count)
    }

    /// Offers an entry; waits only while the window is full. `on_ack` gets the places that become known meanwhile.
    /// Returns the entry's client sequence.
    pub fn push(&mut self, entry: &[u8], on_ack: &mut dyn FnMut(Ack)) -> Result<u64, ClientError> {
        self.push_if(entry, Condition::default(), on_ack)
    }

    /// The same for an entry that is appended on a condition. That it was not is an error of a later call, which may go on.
    pub fn push_if(
        &mut self,
        entry: &[u8],
        condition: Condition,
        on_ack: &mut dyn FnMut(Ack),
    ) -> Result<u64, ClientError> {
        loop {
            match self.client.offer_if(entry, condition) {
                Ok(client_seq) => return Ok(client_seq),
                Err(OfferError::Full) => self.turn(Duration::MAX, on_ack)?,
                Err(OfferError::Empty) => return Err(ClientError::EmptyEntry),
                Err(OfferError::TooLarge { limit_bytes }) => return Err(ClientError::TooLarge { limit_bytes }),
                Err(OfferError::Closed(reason)) => return Err(ClientError::Closed(reason)),
            }
        }
    }

    /// Waits until every entry offered has its place, at most for `wait`. If that time passes first the error is a
    /// [`ClientError::Timeout`], but the session goes on, and so may the caller: flush again. Each entry's own deadline
    /// (`Options::deadline`) ends the session.
    pub fn flush(&mut self, wait: Duration, on_ack: &mut dyn FnMut(Ack)) -> Result<(), ClientError> {
        let since_ns = self.client.now_ns();
        let until_ns = since_ns.saturating_add(nanos(wait));
        // Lets go what was pushed even if there is no time to wait for it.
        self.turn(Duration::ZERO, on_ack)?;
        while self.client.core().outstanding() > 0 {
            let left_ns = until_ns.saturating_sub(self.client.now_ns());
            if left_ns == 0 {
                let last = self.client.core().next_client_seq() - 1;
                let first = last + 1 - self.client.core().outstanding();
                return Err(ClientError::Timeout { first, last, cause: self.client.unavailable(since_ns) });
            }
            self.turn(Duration::from_nanos(left_ns), on_ack)?;
        }
        Ok(())
    }

    fn wait_until_open(&mut self) -> Result<(), ClientError> {
        let until_ns = self.client.started_ns().saturating_add(nanos(self.client.core().options().deadline));
        while !self.client.core().is_open() {
            let left_ns = until_ns.saturating_sub(self.client.now_ns());
            if left_ns == 0 {
                return Err(self.client.unavailable(self.client.started_ns()).into_error());
            }
            self.turn(Duration::from_nanos(left_ns), &mut |_| {})?;
        }
        Ok(())
    }

    /// One poll of the driver. An error once the session has closed, after all that was acknowledged was reported.
    fn turn(&mut self, wait: Duration, on_ack: &mut dyn FnMut(Ack)) -> Result<(), ClientError> {
        let (last_committed, unknown) = (&mut self.last_committed, &mut self.unknown);
        let not_appended = &mut self.not_appended;
        let receipts = &mut self.receipts;
        self.client.poll(wait, &mut |event| match event {
            Event::Opened { last_committed: last, .. } => *last_committed = last,
            Event::Acked { client_seq, sequence, timestamp_ns, durability, guarantee, entries } => {
                for i in 0..u64::from(entries) {
                    let (client_seq, sequence) = (client_seq + i, Sequence(sequence.0 + i));
                    let receipt = receipts.iter().find(|receipt| receipt.covers(client_seq)).copied();
                    on_ack(Ack { client_seq, sequence, timestamp_ns, durability, guarantee, receipt });
                }
                let next = client_seq + u64::from(entries);
                receipts.retain(|receipt| receipt.client_seq + u64::from(receipt.entries) > next);
            }
            Event::NotAppended { client_seq, unmet, guarantee, entries, .. } => {
                let next = client_seq + u64::from(entries);
                not_appended.push_back((client_seq, next - 1, unmet, guarantee));
                receipts.retain(|receipt| receipt.client_seq + u64::from(receipt.entries) > next);
            }
            Event::Receipt(receipt) => receipts.push(receipt),
            Event::Unknown { first, last } => *unknown = Some((unknown.map_or(first, |(earlier, _)| earlier), last)),
            // The session is closed then, and says why itself.
            Event::SessionLost | Event::Refused { .. } => {}
        })?;
        if let Some((first, last, unmet, guarantee)) = self.not_appended.pop_front() {
            return Err(ClientError::NotAppended { first, last, unmet, guarantee });
        }
        match self.client.core().closed() {
            None => Ok(()),
            Some(reason) => Err(self.closed(reason)),
        }
    }

    fn closed(&self, reason: CloseReason) -> ClientError {
        let next = self.client.core().next_client_seq();
        let (first, last) = self.unknown.unwrap_or((next, next - 1));
        match reason {
            CloseReason::Refused { refusal, detail } if self.unknown.is_some() => {
                ClientError::ClosedByRefusal { refusal, detail, first, last }
            }
            CloseReason::DeadlinePassed => {
                let waited_ns = nanos(self.client.core().options().deadline);
                let cause = self.client.unavailable(self.client.now_ns().saturating_sub(waited_ns));
                ClientError::Timeout { first, last, cause }
            }
            CloseReason::SessionEvicted => ClientError::SessionEvicted { first, last },
            CloseReason::Refused { refusal: Refusal::TooLarge, detail } => {
                ClientError::TooLarge { limit_bytes: usize::try_from(detail).unwrap_or(usize::MAX) }
            }
            CloseReason::Refused { refusal, detail } => ClientError::Refused { refusal, detail },
        }
    }
}
