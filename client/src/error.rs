//! What goes wrong for a caller who waits: the errors of the drivers and the façade.

use crate::condition::Unmet;
use crate::options::OptionsError;
use std::fmt;
use std::io;
use std::net::SocketAddrV4;
use std::time::Duration;
use synod_wire::client::Refusal;
use synod_wire::guarantee::{Guarantee, Idempotence};

/// Why a call failed. The texts say what happened and what can be done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No member leads, or none answered at all. Nothing was appended by this session.
    #[error(
        "no leader found: {0}; check that the nodes run, that the addresses are their client ports, and the cluster id"
    )]
    NoLeader(Unavailable),
    /// The members that answered cannot reach a quorum, or need an operator. Nothing was appended by this session.
    #[error("no quorum: {0}; bring back enough members for a quorum, `synod status` shows which are missing")]
    NoQuorum(Unavailable),
    /// Entries were sent, and their deadline passed: they may be in the log, now or later, or not.
    #[error(
        "outcome unknown for entries {first}..={last}: {cause}; reopen the session with the same client id to learn \
         which were committed"
    )]
    Timeout {
        /// The client sequence of the first such entry.
        first: u64,
        /// The last one's.
        last: u64,
        /// What was heard from the members meanwhile.
        cause: Unavailable,
    },
    /// A read, status or tail request went without an answer for its whole deadline. It can be repeated.
    #[error("no answer: {0}; try again, or name another member")]
    NoAnswer(Unavailable),
    /// The entry is longer than allowed. It was not appended.
    #[error(
        "the entry is longer than the limit of {limit_bytes} bytes: split it, or raise max_batch_bytes on the nodes"
    )]
    TooLarge {
        /// The longest entry.
        limit_bytes: usize,
    },
    /// The condition of entries was not met: they are not in the log and never will be. The session goes on.
    #[error("entries {first}..={last} were not appended: {unmet}")]
    NotAppended {
        /// The client sequence of the first such entry.
        first: u64,
        /// The last one's.
        last: u64,
        /// Why.
        unmet: Unmet,
        /// What the refusal promises: it is as final as an append.
        guarantee: Guarantee,
    },
    /// Entries hold at least one byte.
    #[error("an entry must hold at least one byte")]
    EmptyEntry,
    /// The server no longer knows the session. Entries without acknowledgement may have been sequenced.
    #[error(
        "the server evicted the session, so whether entries {first}..={last} were sequenced cannot be told; open one \
         with a new client id and compare with the log"
    )]
    SessionEvicted {
        /// The client sequence of the first entry without acknowledgement; above `last` if there is none.
        first: u64,
        /// The last one's.
        last: u64,
    },
    /// A refusal that retrying does not mend.
    #[error("the server refused: {} (detail {detail})", refusal.name())]
    Refused {
        /// Why.
        refusal: Refusal,
        /// What the refusal says.
        detail: u64,
    },
    /// A refusal that retrying does not mend came while entries were under way: those before the refused one may be in the log,
    /// now or later, or not.
    #[error(
        "the server refused for good: {} (detail {detail}), and the outcome of entries {first}..={last} is unknown; reopen the \
         session with the same client id to learn which were committed",
        refusal.name()
    )]
    ClosedByRefusal {
        /// Why.
        refusal: Refusal,
        /// What the refusal says: for `TooLarge` the limit of an entry in bytes.
        detail: u64,
        /// The client sequence of the first entry without an answer.
        first: u64,
        /// The last one's.
        last: u64,
    },
    /// A read by lease: the leader never has one.
    #[error(
        "NO_LEASE: leases are off at the leader; say how far the nodes' clocks may drift (reads.lease_clock_drift_ppm), or read \
         with read_index"
    )]
    LeasesOff,
    /// The entries that come next were trimmed: no member has them any more.
    #[error("TRIMMED: entries before {first} were trimmed; begin at {first}")]
    Trimmed {
        /// The first sequence that can be read.
        first: synod_wire::Sequence,
    },
    /// A question to a state machine is longer than a node takes.
    #[error(
        "the question has {bytes} bytes, but {} is the most that a node takes",
        synod_wire::client::MAX_QUESTION_BYTES
    )]
    QuestionTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A key or a value has not an allowed length.
    #[error(
        "a key has 1 to {} bytes, a value at most {}",
        synod_wire::kv::MAX_KEY_BYTES,
        synod_wire::kv::MAX_VALUE_BYTES
    )]
    KeyOrValueLength,
    /// An answer is not what the key-value map says: the group has another machine.
    #[error(
        "node {node} answers as no key-value map does: its group has another state machine, or another version of it"
    )]
    AnswerMalformed {
        /// The node.
        node: synod_wire::NodeId,
    },
    /// A put or delete is committed, but what it did could not be asked: ask again, [`crate::KvReader::outcome`].
    #[error("the write is committed at sequence {sequence}, but nobody told what it did: {cause}")]
    OutcomeNotTold {
        /// Its place in the total order.
        sequence: synod_wire::Sequence,
        /// Why not.
        cause: Box<ClientError>,
    },
    /// The session had ended before this call; the earlier error said why.
    #[error("the session is closed: {0}")]
    Closed(crate::session::CloseReason),
    /// A bad option or list of members.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The socket failed.
    #[error("client socket: {0}")]
    Io(#[from] io::Error),
}

impl ClientError {
    /// Whether the service as such was not to be had: no leader, no quorum, nobody there. What was asked for did not
    /// happen, and can be tried again later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, ClientError::NoLeader(_) | ClientError::NoQuorum(_) | ClientError::NoAnswer(_))
    }

    /// What may still be relied on: nothing of the log is shown, and the vector says what sending the same again does.
    /// [`Idempotence::Session`] takes the same client id and client sequences.
    pub fn guarantee(&self) -> Guarantee {
        let idempotence = match self {
            ClientError::NoLeader(_) | ClientError::NoQuorum(_) | ClientError::Timeout { .. } => Idempotence::Session,
            ClientError::TooLarge { .. } | ClientError::EmptyEntry | ClientError::ClosedByRefusal { .. } => {
                Idempotence::Session
            }
            ClientError::NoAnswer(_)
            | ClientError::LeasesOff
            | ClientError::Trimmed { .. }
            | ClientError::QuestionTooLong { .. }
            | ClientError::AnswerMalformed { .. } => Idempotence::Harmless,
            ClientError::NotAppended { guarantee, .. } => return *guarantee,
            ClientError::SessionEvicted { first, last } if first > last => Idempotence::Session,
            _ => Idempotence::None,
        };
        Guarantee { idempotence, ..Guarantee::NONE }
    }

    /// Whether entries may or may not have been appended.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            ClientError::Timeout { .. } | ClientError::ClosedByRefusal { .. } => true,
            ClientError::SessionEvicted { first, last } => first <= last,
            _ => false,
        }
    }
}

/// What was heard, or not, while a call waited in vain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unavailable {
    /// The members asked.
    pub members: usize,
    /// How long.
    pub waited: Duration,
    /// Whether any of them said anything during that time.
    pub answered: bool,
    /// The last refusal since the last success.
    pub last_refusal: Option<(SocketAddrV4, Refusal)>,
    /// The last datagram that the kernel would not send, and why.
    pub send_error: Option<String>,
}

impl Unavailable {
    /// The error of a session that never opened: by what the last refusal said.
    pub(crate) fn into_error(self) -> ClientError {
        match self.last_refusal {
            Some((_, Refusal::QuorumUnavailable | Refusal::ManualIntervention)) => ClientError::NoQuorum(self),
            _ => ClientError::NoLeader(self),
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whom = if self.members == 1 { "1 member".to_string() } else { format!("{} members", self.members) };
        write!(f, "{whom} asked for {:.1} s", self.waited.as_secs_f64())?;
        match &self.last_refusal {
            Some((from, refusal)) => write!(f, ", last answer {} from {from}", refusal.name())?,
            None if self.answered => write!(f, ", answers came, but not the one needed")?,
            None => write!(f, ", none answered")?,
        }
        match &self.send_error {
            Some(error) => write!(f, " (last send error: {error})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn texts_say_what_was_heard() {
        let mut cause = Unavailable { members: 3, waited: Duration::from_secs(5), ..Unavailable::default() };
        assert_eq!(cause.to_string(), "3 members asked for 5.0 s, none answered");
        cause.send_error = Some("Network is unreachable".into());
        assert!(cause.to_string().ends_with("none answered (last send error: Network is unreachable)"));
        cause.last_refusal = Some((SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7), Refusal::QuorumUnavailable));
        let error = cause.into_error();
        assert!(matches!(error, ClientError::NoQuorum(_)) && error.is_unavailable());
        assert!(error.to_string().contains("QUORUM_UNAVAILABLE from 127.0.0.1:7"), "{error}");
    }

    #[test]
    fn an_eviction_without_open_entries_leaves_nothing_unknown() {
        assert!(ClientError::SessionEvicted { first: 4, last: 4 }.is_outcome_unknown());
        assert!(!ClientError::SessionEvicted { first: 5, last: 4 }.is_outcome_unknown());
    }

    #[test]
    fn what_may_be_sent_again_is_said_by_the_vector() {
        let told = |error: ClientError| error.guarantee();
        let timeout = ClientError::Timeout { first: 1, last: 2, cause: Unavailable::default() };
        assert_eq!(told(timeout).idempotence, Idempotence::Session);
        let (unmet, guarantee) = (Unmet::Fenced { highest: 2 }, Guarantee::COMMITTED);
        assert_eq!(told(ClientError::NotAppended { first: 1, last: 1, unmet, guarantee }), Guarantee::COMMITTED);
        assert_eq!(told(ClientError::NoAnswer(Unavailable::default())).idempotence, Idempotence::Harmless);
        assert_eq!(
            told(ClientError::SessionEvicted { first: 1, last: 2 }),
            Guarantee::NONE,
            "a new session appends again"
        );
    }
}
