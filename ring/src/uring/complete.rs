//! Completions into events.
//!
//! A poll's bound on events bounds what it takes from the queue; the rest waits there for the next poll. A completion makes one
//! event at most, but for one that brought several datagrams: those that are too many are `rest`, and go first in the next poll.
//! Called by: the reactor's turn, and its closing.

use super::UringIo;
use crate::buffers::Piece;
use crate::socket::refuses_trains;
use crate::wake::{DONE, WOKEN, WRITER_GONE, WRITTEN};
use crate::writes::Ended;
use crate::{Event, IoError, Socket, clock};
use io_uring::cqueue::{self, Entry};

/// What a completion is about, in the upper half of its user data; in the lower a write's number, or a train's socket.
pub(super) const RECEIVE_PEERS: u64 = 1 << 32;
pub(super) const RECEIVE_CLIENTS: u64 = 2 << 32;
pub(super) const SEND: u64 = 3 << 32;
pub(super) const WRITE: u64 = 4 << 32;
pub(super) const WAKE: u64 = 5 << 32;
pub(super) const CANCEL: u64 = 6 << 32;
pub(super) const TRAIN: u64 = 7 << 32;
const KIND: u64 = u64::MAX << 32;

impl<J, D> UringIo<J, D> {
    /// Appends events until `limit` or until there is nothing more.
    pub(super) fn reap(&mut self, events: &mut Vec<Event<D>>, limit: usize) {
        // What the last poll had no room for goes first, or datagrams could keep answers waiting for ever.
        self.take_answers(events, limit);
        self.take_reasons(events, limit);
        if let Some(piece) = self.rest.take() {
            self.hand_out(piece, events, limit);
        }
        while events.len() < limit
            && let Some(entry) = self.ring.next()
        {
            self.complete(&entry, events, limit);
        }
        self.take_answers(events, limit);
    }

    fn take_answers(&mut self, events: &mut Vec<Event<D>>, limit: usize) {
        while self.answers && events.len() < limit {
            match self.port.next_done() {
                Some(done) => events.push(Event::Done(done)),
                None => self.answers = false,
            }
        }
        while self.written && events.len() < limit {
            match self.writers.next_done() {
                Some(done) => self.wrote(done.place, done.result, events),
                None => self.written = false,
            }
        }
    }

    /// What other threads woke this one for. Taken before the queues are looked at: see [`crate::wake`].
    fn take_reasons(&mut self, events: &mut Vec<Event<D>>, limit: usize) {
        if events.len() == limit || !self.port.wake().has_reasons() {
            return;
        }
        self.stats.wakes += 1;
        let reasons = self.port.wake().take();
        self.answers |= reasons & DONE != 0;
        self.written |= reasons & WRITTEN != 0;
        if reasons & WRITER_GONE != 0 {
            let gone = self.writers.is_gone();
            self.note(gone);
        }
        if reasons & WOKEN != 0 {
            events.push(Event::Woken);
        }
    }

    fn complete(&mut self, entry: &Entry, events: &mut Vec<Event<D>>, limit: usize) {
        let user_data = entry.user_data();
        match user_data & KIND {
            RECEIVE_PEERS => self.received(Socket::Peers, entry, events, limit),
            RECEIVE_CLIENTS => self.received(Socket::Clients, entry, events, limit),
            SEND => {
                // A success makes no completion.
                self.stats.sends_failed += 1;
                events.push(Event::SendFailed(-entry.result()));
            }
            TRAIN => {
                self.stats.sends_failed += 1;
                self.segmentation[user_data as u32 as usize] &= !refuses_trains(-entry.result());
                events.push(Event::SendFailed(-entry.result()));
            }
            WRITE => self.wrote(user_data as u8, entry.result(), events),
            WAKE => self.woken(entry.result()),
            CANCEL => {}
            kind => panic!("a completion of an unknown kind {kind:#x}"),
        }
    }

    fn received(&mut self, socket: Socket, entry: &Entry, events: &mut Vec<Event<D>>, limit: usize) {
        let pool = &mut self.rx[socket as usize];
        if !cqueue::more(entry.flags()) {
            // Over, whatever the reason; the next poll arms it anew.
            pool.armed = false;
            self.stats.receives_rearmed += 1;
        }
        let buffer = cqueue::buffer_select(entry.flags());
        match (usize::try_from(entry.result()), buffer) {
            (Ok(bytes), Some(id)) => {
                let piece = pool.filled(id, bytes);
                self.stats.trains_received += u64::from(piece.datagrams > 1);
                self.hand_out(piece, events, limit);
            }
            // An empty datagram: ends a multishot receive, takes no buffer, tells nothing.
            (Ok(_), None) => {}
            (Err(_), buffer) => {
                if let Some(id) = buffer {
                    pool.give_back(id);
                }
                self.receive_failed(socket, -entry.result(), events);
            }
        }
    }

    /// Makes an event of each datagram of a piece, up to the bound.
    fn hand_out(&mut self, piece: Piece, events: &mut Vec<Event<D>>, limit: usize) {
        let buffers = &self.rx[piece.socket as usize].buffers;
        self.rest = buffers.hand_out(piece, events, limit, &mut self.stats);
    }

    /// Nothing that the network does ends receiving: an ICMP error of an earlier send (ECONNREFUSED and its kin) surfaces here
    /// once and is over, and so is a shortage of memory. What says that the request itself is wrong ends the reactor.
    fn receive_failed(&mut self, socket: Socket, errno: i32, events: &mut Vec<Event<D>>) {
        match errno {
            libc::ENOBUFS => {
                self.stats.overruns += 1;
                events.push(Event::Overrun(socket));
            }
            libc::EBADF | libc::EFAULT | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP => {
                let source = std::io::Error::from_raw_os_error(errno);
                self.note(Err(IoError::System { call: "receive on a UDP socket", source }));
            }
            _ => self.stats.receive_errors += 1,
        }
    }

    fn wrote(&mut self, place: u8, result: i32, events: &mut Vec<Event<D>>) {
        let write = self.writes.get(place);
        let Ended::Written { token, result } = self.writes.end(place, result) else { return };
        if let Some(from_ns) = write.timed_from_ns {
            let took_ns = clock::monotonic_ns() - from_ns;
            self.stats.writer_changes += u64::from(self.choice.took(write.route, took_ns));
        }
        events.push(Event::Written { token, result });
    }

    /// The eventfd was read, which ended a sleep. Why it was written, the reasons tell.
    fn woken(&mut self, result: i32) {
        self.wake_armed = false;
        // Where nothing was read, it is armed anew.
        if result != 8 && ![libc::EINTR, libc::EAGAIN, libc::ECANCELED].contains(&-result) {
            let source = std::io::Error::from_raw_os_error(-result);
            self.note(Err(IoError::System { call: "read of an eventfd", source }));
        }
    }
}
