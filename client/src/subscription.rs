//! The UDP driver of a stream: blocking, one entry at a time.

use crate::error::{ClientError, Unavailable};
use crate::held::EntryRef;
use crate::line::Line;
use crate::options::{ReadOptions, nanos};
use crate::subscribe::{SUBSCRIBE_BYTES, SubscribeCore};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddrV4;
use std::time::Duration;
use synod_wire::{ClusterId, GroupId, Sequence};

/// Committed entries of a group's log as a member pushes them, from a sequence on, in order, each once: over lost datagrams, and
/// over the member's end by going on at the next.
///
/// ```no_run
/// # use synod_client::{ClusterId, GroupId, ReadOptions, Sequence, Subscription};
/// # use std::time::Duration;
/// # fn f(members: Vec<std::net::SocketAddrV4>) -> Result<(), synod_client::ClientError> {
/// let options = ReadOptions::default();
/// let mut stream = Subscription::new(ClusterId(1), GroupId(0), members, options, Sequence(1))?;
/// while let Some(entry) = stream.next_entry(Duration::from_secs(1))? {
///     println!("{} {:?}", entry.sequence, entry.payload);
/// }
/// stream.close()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Subscription {
    core: SubscribeCore,
    line: Line,
}

impl Subscription {
    /// All entries of `group` from `from` on. `members` (client addresses) are asked in this order: the first as long as it
    /// serves. Nothing is sent before the first entry is asked for.
    pub fn new(
        cluster: ClusterId,
        group: GroupId,
        members: Vec<SocketAddrV4>,
        options: ReadOptions,
        from: Sequence,
    ) -> Result<Subscription, ClientError> {
        let line = Line::new(options.spin, SUBSCRIBE_BYTES)?;
        // The standard library seeds its hashers from the system's randomness.
        let stream = RandomState::new().build_hasher().finish();
        let core = SubscribeCore::new((cluster, group), members, options, stream, from)?;
        Ok(Subscription { core, line })
    }

    /// The next entry; `None`: none has come within `wait`. Credit and signs of life are sent from here alone: a caller that
    /// stays away for seconds is dropped by the node, and goes on where it was when it comes back.
    pub fn next_entry(&mut self, wait: Duration) -> Result<Option<EntryRef<'_>>, ClientError> {
        if !self.core.is_ready() && !self.wait_until_ready(wait)? {
            return Ok(None);
        }
        self.transmit()?;
        Ok(self.core.next_entry())
    }

    /// Says to the member that serves that it need not send any more. To drop the subscription does as well: the member finds
    /// out by itself within seconds.
    pub fn close(mut self) -> Result<(), ClientError> {
        self.core.leave();
        self.transmit()
    }

    /// The subscriber without its socket: who serves, why a stream ended last, counters.
    pub fn core(&self) -> &SubscribeCore {
        &self.core
    }

    /// False if no entry has come within the wait.
    fn wait_until_ready(&mut self, wait: Duration) -> Result<bool, ClientError> {
        let since_ns = self.line.socket().now_ns();
        let until_ns = since_ns.saturating_add(nanos(wait));
        let patience_ns = nanos(self.core.options().deadline);
        loop {
            self.receive()?;
            self.transmit()?;
            if self.core.is_ready() {
                return Ok(true);
            }
            if let Some(first) = self.core.trimmed() {
                return Err(ClientError::Trimmed { first });
            }
            let now_ns = self.line.socket().now_ns();
            if now_ns >= until_ns {
                return Ok(false);
            }
            // Only what passed in this call counts: a caller that stays away does not wait.
            let heard_ns = self.core.last_contact_ns().unwrap_or(0).max(since_ns);
            if now_ns.saturating_sub(heard_ns) >= patience_ns {
                return Err(ClientError::NoAnswer(self.unavailable(heard_ns)));
            }
            let due_ns = self.core.poll_timeout().unwrap_or(u64::MAX);
            self.line.wait(now_ns, since_ns, due_ns.min(until_ns).min(heard_ns.saturating_add(patience_ns)))?;
        }
    }

    fn unavailable(&self, since_ns: u64) -> Unavailable {
        self.line.socket().unavailable(since_ns, self.core.members(), self.core.last_contact_ns(), None)
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
