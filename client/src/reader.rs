//! The UDP driver of a reader: blocking, one entry at a time from the datagrams held.

use crate::error::{ClientError, Unavailable};
use crate::held::EntryRef;
use crate::line::Line;
use crate::options::{ReadOptions, nanos};
use crate::read::{REQUEST_BYTES, ReadCore};
use std::net::SocketAddrV4;
use std::time::Duration;
use synod_wire::{ClusterId, GroupId, Sequence};

/// Reads a group's log over UDP: [`Reader::read`] or [`Reader::tail`], then [`Reader::next_entry`] again and again.
#[derive(Debug)]
pub struct Reader {
    core: ReadCore,
    line: Line,
    /// While following: how long [`Reader::next_entry`] waits for a new entry.
    wait: Option<Duration>,
    /// Time that earlier calls waited in vain since the last progress. A caller that stays away does not wait.
    waited_ns: u64,
}

impl Reader {
    /// A reader of `group` that asks `members` (client addresses) in this order: the first as long as it answers.
    pub fn new(
        cluster: ClusterId,
        group: GroupId,
        members: Vec<SocketAddrV4>,
        options: ReadOptions,
    ) -> Result<Reader, ClientError> {
        let line = Line::new(options.spin, REQUEST_BYTES)?;
        let core = ReadCore::new(cluster, group, members, options)?;
        Ok(Reader { core, line, wait: None, waited_ns: 0 })
    }

    /// From now on the entries from `from` on, at most `count` (`u64::MAX`: as far as the node's log reaches now).
    /// A node that lags behind its peers has a shorter log: [`crate::check_tail`] tells how far the group's reaches.
    pub fn read(&mut self, from: Sequence, count: u64) {
        self.wait = None;
        self.waited_ns = 0;
        self.core.read(from, count, self.line.socket().now_ns());
    }

    /// From now on all entries from `from` on, also those to come. [`Reader::next_entry`] waits up to `wait` for one.
    pub fn tail(&mut self, from: Sequence, wait: Duration) {
        self.wait = Some(wait);
        self.waited_ns = 0;
        let wait_ms = u16::try_from(wait.as_millis()).unwrap_or(u16::MAX);
        self.core.follow(from, wait_ms, self.line.socket().now_ns());
    }

    /// The next entry. `None`: after [`Reader::read`] all were read; after [`Reader::tail`] none has come within the
    /// wait, and the next call waits again.
    pub fn next_entry(&mut self) -> Result<Option<EntryRef<'_>>, ClientError> {
        if !self.core.is_ready() && !self.wait_until_ready()? {
            return Ok(None);
        }
        // Fetches ahead before the caller is busy with what it has.
        self.transmit()?;
        Ok(self.core.next_entry())
    }

    /// False if no entry will come, or none has come within the wait.
    fn wait_until_ready(&mut self) -> Result<bool, ClientError> {
        let since_ns = self.line.socket().now_ns();
        let until_ns = self.wait.map_or(u64::MAX, |wait| since_ns.saturating_add(nanos(wait)));
        // A node may hold a request that long before silence means anything.
        let patience_ns = nanos(self.core.options().deadline).saturating_add(self.wait.map_or(0, nanos));
        loop {
            self.transmit()?;
            self.receive()?;
            let now_ns = self.line.socket().now_ns();
            let progress_ns = self.core.last_progress_ns();
            let waited_ns = match progress_ns >= since_ns {
                true => now_ns.saturating_sub(progress_ns),
                false => self.waited_ns.saturating_add(now_ns - since_ns),
            };
            if self.core.is_ready() {
                self.waited_ns = 0;
                return Ok(true);
            }
            if self.core.leases_are_off() {
                return Err(ClientError::LeasesOff);
            }
            if let Some(first) = self.core.trimmed() {
                return Err(ClientError::Trimmed { first });
            }
            if self.core.is_finished() {
                return Ok(false);
            }
            if waited_ns >= patience_ns {
                return Err(ClientError::NoAnswer(self.unavailable(waited_ns)));
            }
            if now_ns >= until_ns {
                self.waited_ns = waited_ns;
                return Ok(false);
            }
            let due_ns = self.core.poll_timeout().unwrap_or(u64::MAX);
            let give_up_ns = now_ns.saturating_add(patience_ns - waited_ns);
            self.line.wait(now_ns, since_ns, due_ns.min(until_ns).min(give_up_ns))?;
        }
    }

    /// The highest tail that a node has told.
    pub fn known_tail(&self) -> Option<Sequence> {
        self.core.tail()
    }

    /// The reader without its socket, for its counters.
    pub fn core(&self) -> &ReadCore {
        &self.core
    }

    fn unavailable(&self, waited_ns: u64) -> Unavailable {
        let (core, socket) = (&self.core, self.line.socket());
        let since_ns = socket.now_ns().saturating_sub(waited_ns);
        socket.unavailable(since_ns, core.members(), core.last_contact_ns(), core.last_refusal())
    }

    fn transmit(&mut self) -> Result<(), ClientError> {
        Ok(self.line.transmit(|now_ns, out| self.core.poll_transmit(now_ns, out))?)
    }

    fn receive(&mut self) -> Result<(), ClientError> {
        let core = &mut self.core;
        self.line.receive(|now_ns, from, datagram| {
            core.handle(now_ns, from, datagram);
            true
        })?;
        Ok(())
    }
}
