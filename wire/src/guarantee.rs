//! What a reply promises: a vector of six components, its algebra, and its four bytes on the wire.
//!
//! Each component is a chain from the weakest to the strongest, so vectors form a lattice, ordered component by component.
//! [`Guarantee::meet`] is what is left where two replies are used together. Only evidence makes a vector stronger
//! ([`Guarantee::upgrade`], [`Guarantee::extend`]), and what makes one weaker says what was lost ([`Downgraded`]). Pure
//! values, no I/O: shards build the vectors, clients read them.
//!
//! # On the wire
//!
//! One little-endian `u32`. Components have two bits each, the weakest is 0, and four zero bytes therefore promise nothing:
//!
//! | bits | component |
//! |---|---|
//! | 0–1 | [`Scope`] |
//! | 2–3 | [`Order`] |
//! | 4–5 | [`Visibility`] |
//! | 6–7 | [`Idempotence`] |
//! | 8–9 | [`Auth`] |
//! | 10–11 | [`Recency`]: 0 stale possible, 1 bounded stale, 2 fresh by lease, 3 fresh by read-index |
//! | 12–31 | the bound in milliseconds; 0 where recency is not 1 |

use crate::numbered::numbered;
use core::fmt;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bits of one component.
const COMPONENT_BITS: u32 = 2;
const COMPONENT_MASK: u32 = (1 << COMPONENT_BITS) - 1;
/// Where the bound begins: after six components.
const BOUND_SHIFT: u32 = 6 * COMPONENT_BITS;

numbered! {
    /// Whose state the reply speaks of.
    #[derive(Default)]
    Scope {
        /// One node's: what it happens to know.
        #[default]
        Replica = 0, "replica";
        /// The group's: a quorum stands behind it.
        Group = 1, "group";
    }
}

numbered! {
    /// How the entries that the reply speaks of are ordered.
    #[derive(Default)]
    Order {
        /// It speaks of none, or in no order.
        #[default]
        None = 0, "none";
        /// In the group's total order, without gaps.
        Total = 1, "total";
    }
}

numbered! {
    /// What of the log the reply may show.
    #[derive(Default)]
    Visibility {
        /// It shows nothing of it.
        #[default]
        None = 0, "none";
        /// Committed entries only: none of them is ever taken back or changed.
        Committed = 1, "committed";
    }
}

numbered! {
    /// What happens if the same request is sent again.
    #[derive(Default)]
    Idempotence {
        /// Nothing is promised.
        #[default]
        None = 0, "none";
        /// It takes effect once, under the session's client sequence, and gets the same answer, as long as the session lives.
        Session = 1, "session";
        /// It has no effect, however often it is sent.
        Harmless = 2, "harmless";
    }
}

numbered! {
    /// Who vouches for the bytes.
    #[derive(Default)]
    Auth {
        /// Nobody: checksums find damage, not forgery.
        #[default]
        Unauth = 0, "unauth";
        /// The sender's message authentication code was verified.
        Mac = 1, "mac";
    }
}

/// How old the state may be that a reply shows, compared with all that was acknowledged before the request was sent.
///
/// [`Recency::FreshReadIndex`] is above [`Recency::FreshLease`]: both are linearizable, but a lease rests on the bound of the
/// clocks' drift besides, and a quorum's round does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Recency {
    /// Nothing is known about it.
    #[default]
    StalePossible,
    /// At most this many milliseconds old.
    BoundedStale(u32),
    /// Not old: the leader held a lease.
    FreshLease,
    /// Not old: a quorum confirmed the leader after the request arrived.
    FreshReadIndex,
}

impl Recency {
    /// The longest bound that has a form on the wire, about 17 minutes: more is [`Recency::StalePossible`].
    pub const MAX_BOUND_MS: u32 = (1 << (32 - BOUND_SHIFT)) - 1;

    /// A bound of so many milliseconds, or [`Recency::StalePossible`] where it is too long to be told.
    pub fn bounded_ms(ms: u64) -> Recency {
        match u32::try_from(ms) {
            Ok(ms) if ms <= Recency::MAX_BOUND_MS => Recency::BoundedStale(ms),
            _ => Recency::StalePossible,
        }
    }

    /// Whether all that was acknowledged before the request was sent is visible.
    pub fn is_fresh(self) -> bool {
        self >= Recency::FreshLease
    }

    /// As the documentation and the command line write it, without the bound.
    pub fn name(self) -> &'static str {
        match self {
            Recency::StalePossible => "STALE_POSSIBLE",
            Recency::BoundedStale(_) => "BOUNDED_STALE",
            Recency::FreshLease => "FRESH(lease)",
            Recency::FreshReadIndex => "FRESH(read_index)",
        }
    }

    /// One number per place in the order: the kind, then the shorter bound above the longer.
    fn rank(self) -> (u8, u32) {
        match self {
            Recency::StalePossible => (0, 0),
            Recency::BoundedStale(ms) => (1, u32::MAX - ms),
            Recency::FreshLease => (2, 0),
            Recency::FreshReadIndex => (3, 0),
        }
    }

    fn to_bits(self) -> (u32, u32) {
        match self {
            Recency::BoundedStale(ms) if ms > Recency::MAX_BOUND_MS => (0, 0),
            Recency::BoundedStale(ms) => (1, ms),
            other => (u32::from(other.rank().0), 0),
        }
    }

    fn from_bits(kind: u8, bound_ms: u32) -> Option<Recency> {
        match (kind, bound_ms) {
            (0, 0) => Some(Recency::StalePossible),
            (1, ms) => Some(Recency::BoundedStale(ms)),
            (2, 0) => Some(Recency::FreshLease),
            (3, 0) => Some(Recency::FreshReadIndex),
            _ => None,
        }
    }
}

impl PartialOrd for Recency {
    fn partial_cmp(&self, other: &Recency) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Recency {
    fn cmp(&self, other: &Recency) -> core::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl fmt::Display for Recency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recency::BoundedStale(ms) => write!(f, "BOUNDED_STALE({ms} ms)"),
            other => f.write_str(other.name()),
        }
    }
}

/// What a reply promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Guarantee {
    /// Whose state it speaks of.
    pub scope: Scope,
    /// How what it speaks of is ordered.
    pub order: Order,
    /// What of the log it may show.
    pub visibility: Visibility,
    /// How old that may be.
    pub recency: Recency,
    /// What happens if the request is sent again.
    pub idempotence: Idempotence,
    /// Who vouches for the bytes.
    pub auth: Auth,
}

/// What a vector's owner can show, and what therefore becomes stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Slots up to the reply's are chosen, without a gap, and applied: order and visibility.
    ChosenPrefix,
    /// The leader's lease had not run out when the state was read: recency.
    Lease,
    /// A quorum confirmed the leader after the request arrived, and the state covers what was chosen then: recency.
    ReadIndexRound,
    /// The state covers all that was chosen so many milliseconds ago: recency.
    StateOfMsAgo(u32),
    /// The answer is stored in the session's replicated record: idempotence.
    SessionRecord,
    /// The request only reads: idempotence.
    ReadOnly,
    /// The message authentication code was verified: auth.
    MacVerified,
}

/// The evidence that [`Guarantee::extend`] needs: a quorum's votes or replies stand behind what one node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumEvidence;

/// One component of a vector with a value: what [`Guarantee::downgrade`] weakens it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// [`Guarantee::scope`].
    Scope(Scope),
    /// [`Guarantee::order`].
    Order(Order),
    /// [`Guarantee::visibility`].
    Visibility(Visibility),
    /// [`Guarantee::recency`].
    Recency(Recency),
    /// [`Guarantee::idempotence`].
    Idempotence(Idempotence),
    /// [`Guarantee::auth`].
    Auth(Auth),
}

/// A weaker vector, with the one that it came from: a downgrade cannot be mistaken for the original.
#[must_use = "a downgrade is told to whoever relied on the stronger vector"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downgraded {
    /// Before.
    pub from: Guarantee,
    /// What is left.
    pub to: Guarantee,
}

impl Guarantee {
    /// Promises nothing: the bottom of the order, four zero bytes.
    pub const NONE: Guarantee = Guarantee {
        scope: Scope::Replica,
        order: Order::None,
        visibility: Visibility::None,
        recency: Recency::StalePossible,
        idempotence: Idempotence::None,
        auth: Auth::Unauth,
    };

    /// An entry that a phase 2 quorum of its leader's ballot accepted: its place in the order never changes, nothing that is
    /// acknowledged later comes before it, and sending it again gets this answer.
    pub const COMMITTED: Guarantee = Guarantee {
        scope: Scope::Group,
        order: Order::Total,
        visibility: Visibility::Committed,
        recency: Recency::FreshReadIndex,
        idempotence: Idempotence::Session,
        auth: Auth::Unauth,
    };

    /// A read of a committed, applied prefix that is as recent as this. A fresh one speaks for the group, any other for the
    /// replica that answered.
    pub const fn read(recency: Recency) -> Guarantee {
        let scope = match recency {
            Recency::FreshLease | Recency::FreshReadIndex => Scope::Group,
            Recency::BoundedStale(_) | Recency::StalePossible => Scope::Replica,
        };
        Guarantee {
            scope,
            order: Order::Total,
            visibility: Visibility::Committed,
            recency,
            idempotence: Idempotence::Harmless,
            auth: Auth::Unauth,
        }
    }

    /// The weaker component of each: what holds where both replies are relied on.
    #[must_use]
    pub fn meet(self, other: Guarantee) -> Guarantee {
        Guarantee {
            scope: self.scope.min(other.scope),
            order: self.order.min(other.order),
            visibility: self.visibility.min(other.visibility),
            recency: self.recency.min(other.recency),
            idempotence: self.idempotence.min(other.idempotence),
            auth: self.auth.min(other.auth),
        }
    }

    /// Whether every component is at least as strong as in `other`.
    pub fn covers(self, other: Guarantee) -> bool {
        self.meet(other) == other
    }

    /// Strengthens what `evidence` proves; what is stronger already stays.
    #[must_use]
    pub fn upgrade(mut self, evidence: Evidence) -> Guarantee {
        match evidence {
            Evidence::ChosenPrefix => {
                self.order = self.order.max(Order::Total);
                self.visibility = self.visibility.max(Visibility::Committed);
            }
            Evidence::Lease => self.recency = self.recency.max(Recency::FreshLease),
            Evidence::ReadIndexRound => self.recency = self.recency.max(Recency::FreshReadIndex),
            Evidence::StateOfMsAgo(ms) => self.recency = self.recency.max(Recency::bounded_ms(u64::from(ms))),
            Evidence::SessionRecord => self.idempotence = self.idempotence.max(Idempotence::Session),
            Evidence::ReadOnly => self.idempotence = self.idempotence.max(Idempotence::Harmless),
            Evidence::MacVerified => self.auth = self.auth.max(Auth::Mac),
        }
        self
    }

    /// Weakens one component to at most `to`; a component never becomes stronger by it.
    pub fn downgrade(self, to: Component) -> Downgraded {
        let mut weaker = self;
        match to {
            Component::Scope(scope) => weaker.scope = self.scope.min(scope),
            Component::Order(order) => weaker.order = self.order.min(order),
            Component::Visibility(visibility) => weaker.visibility = self.visibility.min(visibility),
            Component::Recency(recency) => weaker.recency = self.recency.min(recency),
            Component::Idempotence(idempotence) => weaker.idempotence = self.idempotence.min(idempotence),
            Component::Auth(auth) => weaker.auth = self.auth.min(auth),
        }
        Downgraded { from: self, to: weaker }
    }

    /// Narrows the scope to at most `scope`; needs no evidence.
    #[must_use]
    pub fn restrict(self, scope: Scope) -> Guarantee {
        Guarantee { scope: self.scope.min(scope), ..self }
    }

    /// Widens the scope to the group, on the word of a quorum.
    #[must_use]
    pub fn extend(self, _evidence: QuorumEvidence) -> Guarantee {
        Guarantee { scope: Scope::Group, ..self }
    }

    /// As on the wire. A bound above [`Recency::MAX_BOUND_MS`] becomes [`Recency::StalePossible`], which is weaker.
    pub fn encode(self) -> GuaranteeBytes {
        let (recency, bound_ms) = self.recency.to_bits();
        let components = [
            u32::from(self.scope as u8),
            u32::from(self.order as u8),
            u32::from(self.visibility as u8),
            u32::from(self.idempotence as u8),
            u32::from(self.auth as u8),
            recency,
        ];
        let kinds = components.into_iter().rev().fold(0, |bits, component| bits << COMPONENT_BITS | component);
        GuaranteeBytes(U32::new(bound_ms << BOUND_SHIFT | kinds))
    }
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "<{}, {}, {}, {}, {}, {}>",
            self.scope.name(),
            self.order.name(),
            self.visibility.name(),
            self.recency,
            self.idempotence.name(),
            self.auth.name()
        )
    }
}

impl fmt::Display for Downgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lowered to {}", self.from, self.to)
    }
}

/// A [`Guarantee`] as replies carry it; see the top of this module.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct GuaranteeBytes(pub U32);

impl GuaranteeBytes {
    /// The vector; `None` if a component has a number that this version does not know.
    pub fn decode(self) -> Option<Guarantee> {
        let bits = self.0.get();
        let at = |component: u32| (bits >> (component * COMPONENT_BITS) & COMPONENT_MASK) as u8;
        Some(Guarantee {
            scope: Scope::from_u8(at(0))?,
            order: Order::from_u8(at(1))?,
            visibility: Visibility::from_u8(at(2))?,
            idempotence: Idempotence::from_u8(at(3))?,
            auth: Auth::from_u8(at(4))?,
            recency: Recency::from_bits(at(5), bits >> BOUND_SHIFT)?,
        })
    }
}
