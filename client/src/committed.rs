//! One question about a session: how far did it get? A client that lost its memory asks it before it goes on. The call has a
//! socket of its own and ends with it; the asking itself is a session's opening, [`crate::session`].

use crate::client::Client;
use crate::error::ClientError;
use crate::options::{Options, Resume, nanos};
use crate::session::CloseReason;
use std::net::SocketAddrV4;
use std::time::Duration;
use synod_wire::{ClusterId, GroupId, NodeId};

/// How far a session got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its number: with it, and not by its client's id alone, the session is resumed ([`Resume::Session`]).
    pub session: u64,
    /// The last client sequence that was decided on; 0: none yet. Every entry up to it has its place, or was refused by its
    /// condition, and is decided on for good; no entry behind it is, though datagrams sent earlier may still bring some.
    pub last_committed: u64,
}

/// Asks how far the session of `client_id` got; `None`: it has none, either because none was opened or because it was evicted.
/// Opens none. The question goes through the log, so that the answer covers all that was acknowledged before it was asked, and
/// counts as a use of the session. Waits up to `options.deadline`; `options.resume` may name one session by its number.
pub fn last_committed(
    cluster: ClusterId,
    group: GroupId,
    members: Vec<(NodeId, SocketAddrV4)>,
    client_id: u128,
    options: Options,
) -> Result<Option<Committed>, ClientError> {
    let resume = match options.resume {
        Resume::OrCreate => Resume::Existing,
        named => named,
    };
    let mut client = Client::connect(cluster, group, members, client_id, Options { resume, ..options })?;
    let until_ns = client.started_ns().saturating_add(nanos(client.core().options().deadline));
    loop {
        if let (Some(session), Some(last_committed)) = (client.core().session(), client.core().last_committed()) {
            return Ok(Some(Committed { session, last_committed }));
        }
        match client.core().closed() {
            Some(CloseReason::SessionEvicted) => return Ok(None),
            Some(reason) => return Err(ClientError::Closed(reason)),
            None => {}
        }
        let left_ns = until_ns.saturating_sub(client.now_ns());
        if left_ns == 0 {
            return Err(client.unavailable(client.started_ns()).into_error());
        }
        client.poll(Duration::from_nanos(left_ns), &mut |_| {})?;
    }
}
