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
        Ok(Client { core, socket, started_ns, incoming, outgoing, datagrams_lost: 0 })
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
        loop {
            self.transmit()?;
            self.receive()?;
            let events = self.report(on_event);
            // What the received acknowledgements made room for must not wait until the caller comes back.
            self.transmit()?;
            let now_ns = self.socket.now_ns();
            if events > 0 || now_ns >= until_ns || self.core.closed().is_some() {
                return Ok(events);
            }
            let due_ns = self.core.poll_timeout().unwrap_or(u64::MAX);
            self.socket.wait(since_ns, until_ns.min(due_ns), self.outgoing.is_loaded())?;
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
        Unavailable {
            members: self.core.members(),
            waited: Duration::from_nanos(self.socket.now_ns().saturating_sub(since_ns)),
            answered: self.core.last_contact_ns().is_some_and(|at_ns| at_ns >= since_ns),
            last_refusal: self.core.last_refusal(),
            send_error: self.socket.send_error(),
        }
    }

    /// When the client was made.
    pub(crate) fn started_ns(&self) -> u64 {
        self.started_ns
    }

    fn transmit(&mut self) -> Result<(), ClientError> {
        loop {
            let now_ns = self.socket.now_ns();
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
        }
    }

    fn receive(&mut self) -> Result<(), ClientError> {
        self.socket
            .receive_batch(&mut self.incoming, |now_ns, from, datagram| self.core.handle(now_ns, from, datagram))?;
        Ok(())
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
