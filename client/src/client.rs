//! The UDP driver of a session: one socket, the caller's thread, no locks. What events mean is [`crate::session`]'s.

use crate::condition::Condition;
use crate::error::{ClientError, Unavailable};
use crate::options::{Options, nanos};
use crate::session::{Core, Event, OfferError};
use crate::socket::{RECEIVE_BYTES, Sent, Socket};
use crate::train::Train;
use std::net::SocketAddrV4;
use std::time::Duration;
use synod_wire::{ClusterId, GroupId, NodeId};

/// A session over UDP. Offer entries, and call [`Client::poll`] often: it sends, receives and reports.
#[derive(Debug)]
pub struct Client {
    core: Core,
    socket: Socket,
    started_ns: u64,
    incoming: Box<[u8]>,
    outgoing: Train,
    /// Nothing was awaited when the last poll ended.
    quiet: bool,
    /// Datagrams that the kernel refused, as the network may lose them.
    datagrams_lost: u64,
}

impl Client {
    /// Binds a socket and starts to open the session; [`Event::Opened`] comes from [`Client::poll`].
    pub fn connect(
        cluster: ClusterId,
        group: GroupId,
        members: Vec<(NodeId, SocketAddrV4)>,
        client_id: u128,
        options: Options,
    ) -> Result<Client, ClientError> {
        let socket = Socket::bind(options.spin)?;
        let started_ns = socket.now_ns();
        let max_datagram_bytes = options.max_datagram_bytes;
        let core = Core::new(cluster, group, client_id, members, options, started_ns)?;
        let outgoing = Train::new(max_datagram_bytes);
        let incoming = vec![0; RECEIVE_BYTES].into_boxed_slice();
        Ok(Client { core, socket, started_ns, incoming, outgoing, quiet: false, datagrams_lost: 0 })
    }

    /// Takes a copy of `entry`; it is sent by the next [`Client::poll`]. Entries offered between two polls share
    /// datagrams.
    pub fn offer(&mut self, entry: &[u8]) -> Result<u64, OfferError> {
        self.core.offer(entry, self.socket.now_ns())
    }

    /// The same for an entry that is appended on a condition.
    pub fn offer_if(&mut self, entry: &[u8], condition: Condition) -> Result<u64, OfferError> {
        self.core.offer_if(entry, condition, self.socket.now_ns())
    }

    /// Sends what is due, receives what has come, and hands events to `on_event`. Waits up to `max_wait` for the first
    /// event; with zero, or when the session is closed, it does not wait. Returns how many events there were.
    pub fn poll(&mut self, max_wait: Duration, on_event: &mut dyn FnMut(Event)) -> Result<usize, ClientError> {
        let since_ns = self.socket.now_ns();
        let until_ns = since_ns.saturating_add(nanos(max_wait));
        let mut now_ns = since_ns;
        // The answer to what leaves only now takes its time: a look for it at once is a system call that finds nothing.
        let mut looks = !std::mem::take(&mut self.quiet) || max_wait.is_zero();
        loop {
            self.transmit(now_ns)?;
            let came = looks && self.receive()?;
            looks = true;
            let events = self.report(on_event);
            if came {
                // What the received acknowledgements made room for must not wait until the caller comes back.
                self.transmit(self.socket.now_ns())?;
            }
            // Once a round: while it waits for an answer, a caller that spins may keep the one who has it from the processor.
            now_ns = self.socket.now_ns();
            if events > 0 || now_ns >= until_ns || self.core.closed().is_some() {
                self.quiet = self.core.is_quiet();
                return Ok(events);
            }
            let due_ns = self.core.poll_timeout().unwrap_or(u64::MAX);
            self.socket.wait(now_ns, since_ns, until_ns.min(due_ns), self.outgoing.is_loaded())?;
        }
    }

    /// The session.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Datagrams that the kernel refused to send for the network's sake: no route, a firewall, a full queue.
    pub fn datagrams_lost(&self) -> u64 {
        self.datagrams_lost
    }

    /// Monotonic nanoseconds since the client was made, the clock of its session.
    pub fn now_ns(&self) -> u64 {
        self.socket.now_ns()
    }

    /// What was heard from the members while a caller waited since `since_ns`, for error texts.
    pub fn unavailable(&self, since_ns: u64) -> Unavailable {
        let core = &self.core;
        self.socket.unavailable(since_ns, core.members(), core.last_contact_ns(), core.last_refusal())
    }

    /// When the client was made.
    pub(crate) fn started_ns(&self) -> u64 {
        self.started_ns
    }

    fn transmit(&mut self, mut now_ns: u64) -> Result<(), ClientError> {
        loop {
            self.outgoing.load(|out| self.core.poll_transmit(now_ns, out));
            let Some(ready) = self.outgoing.ready() else {
                return Ok(());
            };
            let gone = match self.socket.send(ready.datagrams, ready.segment, ready.to)? {
                Sent::Taken(bytes) => bytes,
                Sent::Lost(bytes) => {
                    self.datagrams_lost += bytes.div_ceil(ready.segment) as u64;
                    bytes
                }
                Sent::Full => return Ok(()),
            };
            self.outgoing.sent(gone);
            now_ns = self.socket.now_ns();
        }
    }

    /// Whether anything came. What came when nothing is awaited any more stays for the next call.
    fn receive(&mut self) -> Result<bool, ClientError> {
        let core = &mut self.core;
        let datagrams = self.socket.receive_batch(&mut self.incoming, |now_ns, from, datagram| {
            core.handle(now_ns, from, datagram);
            !core.is_quiet()
        })?;
        Ok(datagrams > 0)
    }

    fn report(&mut self, on_event: &mut dyn FnMut(Event)) -> usize {
        let mut events = 0;
        while let Some(event) = self.core.poll_event() {
            on_event(event);
            events += 1;
        }
        events
    }
}
