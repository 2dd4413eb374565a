//! Who votes in a group: what a slot's value of kind [`crate::batch::RunKind::Configuration`] says. It governs the slots above its own.
//!
//! A configuration is one run in a batch of its own: [`ConfigurationHead`], then a [`MemberRow`] for each member.

use crate::frame::FrameError;
use crate::ids::{Epoch, NodeId, NodeSet, Quorums};
use core::net::{Ipv4Addr, SocketAddrV4};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Voters at most.
pub const MAX_VOTERS: usize = 7;
/// Members at most, learners included.
pub const MAX_MEMBERS: usize = 9;

/// Starts a configuration: 16 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct ConfigurationHead {
    /// Its number.
    pub epoch: U32,
    /// The number of the one that it replaces.
    pub parent: U32,
    /// Promises that elect a leader.
    pub phase1: u8,
    /// Durable votes that choose a value.
    pub phase2: u8,
    /// Rows that follow.
    pub members: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// One member: 32 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct MemberRow {
    /// The node.
    pub node: u8,
    /// 1: it votes; 0: it learns.
    pub voter: u8,
    /// Where members reach it: the port; 0: where the configuration file says.
    pub peer_port: U16,
    /// And the address.
    pub peer_ip: [u8; 4],
    /// Where clients reach it: the address.
    pub client_ip: [u8; 4],
    /// And the port.
    pub client_port: U16,
    /// Zero.
    pub reserved: [u8; 6],
    /// The first configuration with this life of its log: what it says while it knows earlier ones only is not counted.
    pub since: U32,
    /// Which life of its log votes or learns; 0 in the founding configuration, whose founding record says it.
    pub incarnation: U64,
}

/// Bytes of the longest configuration.
pub const MAX_CONFIGURATION_BYTES: usize = size_of::<ConfigurationHead>() + MAX_MEMBERS * size_of::<MemberRow>();

/// Where a member of the founding configuration is reached: the configuration file says so.
pub const ADDRESS_OF_FILE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

/// One member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Whether it votes; else it learns.
    pub voter: bool,
    /// Which life of its log; 0: the one that the founding record names.
    pub incarnation: u64,
    /// The first configuration with this life: another may still be heard that knows earlier ones only.
    pub since: Epoch,
    /// Where members reach it, or [`ADDRESS_OF_FILE`].
    pub peers_at: SocketAddrV4,
    /// Where clients reach it, or [`ADDRESS_OF_FILE`].
    pub clients_at: SocketAddrV4,
}

impl Member {
    /// A founding voter.
    pub const fn founding(node: NodeId) -> Member {
        Member {
            node,
            voter: true,
            incarnation: 0,
            since: Epoch(1),
            peers_at: ADDRESS_OF_FILE,
            clients_at: ADDRESS_OF_FILE,
        }
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Its number; the founding one is 1.
    pub epoch: Epoch,
    /// The number of the one that it replaces; 0 for the founding one.
    pub parent: Epoch,
    /// How many voters must answer.
    pub quorums: Quorums,
    /// Those who vote: asked for with every vote.
    voters: NodeSet,
    len: usize,
    all: [Member; MAX_MEMBERS],
}

impl Configuration {
    /// The one that a group begins with. Members past [`MAX_MEMBERS`] are left out: a file that names more is refused.
    pub fn founding(members: &[NodeId], quorums: Quorums) -> Configuration {
        let members = members.iter().map(|node| Member::founding(*node));
        Configuration::new(Epoch(1), Epoch(0), quorums, members)
    }

    /// With these members, in the order of their numbers; those past [`MAX_MEMBERS`] are left out.
    pub fn new(epoch: Epoch, parent: Epoch, quorums: Quorums, members: impl Iterator<Item = Member>) -> Configuration {
        let mut all = [Member::founding(NodeId(0)); MAX_MEMBERS];
        let mut len = 0;
        for (place, member) in all.iter_mut().zip(members) {
            *place = member;
            len += 1;
        }
        all[..len].sort_unstable_by_key(|member| member.node);
        let voters = all[..len].iter().filter(|member| member.voter).map(|member| member.node).collect();
        Configuration { epoch, parent, quorums, voters, len, all }
    }

    /// The members, by number.
    pub fn members(&self) -> &[Member] {
        &self.all[..self.len]
    }

    /// The member with this number.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members().iter().find(|member| member.node == node)
    }

    /// Those who vote.
    pub fn voters(&self) -> NodeSet {
        self.voters
    }

    /// All of them.
    pub fn nodes(&self) -> NodeSet {
        self.members().iter().map(|member| member.node).collect()
    }

    /// Whether this node votes.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(node)
    }

    /// Whether it can govern: at least one voter, none twice, not too many, and quorums that meet.
    pub fn is_sound(&self) -> bool {
        let voters = self.voters().len();
        (1..=MAX_VOTERS).contains(&voters) && self.nodes().len() == self.len && self.quorums.intersect(voters)
    }

    /// Writes it; gives the bytes used, [`MAX_CONFIGURATION_BYTES`] at most.
    ///
    /// # Panics
    /// If `out` is shorter: a bug of the caller.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let head = ConfigurationHead {
            epoch: U32::new(self.epoch.0),
            parent: U32::new(self.parent.0),
            phase1: self.quorums.phase1 as u8,
            phase2: self.quorums.phase2 as u8,
            members: self.len as u8,
            reserved: [0; 5],
        };
        let mut used = size_of::<ConfigurationHead>();
        out[..used].copy_from_slice(head.as_bytes());
        for member in self.members() {
            let end = used + size_of::<MemberRow>();
            out[used..end].copy_from_slice(MemberRow::from(member).as_bytes());
            used = end;
        }
        used
    }

    /// Parses what [`Configuration::encode`] wrote; refuses one that cannot govern.
    pub fn parse(bytes: &[u8]) -> Result<Configuration, FrameError> {
        let (head, rest) = ConfigurationHead::ref_from_prefix(bytes).map_err(|_| FrameError::Truncated)?;
        let rows = <[MemberRow]>::ref_from_bytes(rest).map_err(|_| FrameError::Body)?;
        let known = |row: &MemberRow| row.node < NodeId::LIMIT && row.voter <= 1;
        if rows.len() != usize::from(head.members) || rows.len() > MAX_MEMBERS || !rows.iter().all(known) {
            return Err(FrameError::Body);
        }
        let quorums = Quorums { phase1: head.phase1.into(), phase2: head.phase2.into() };
        let (epoch, parent) = (Epoch(head.epoch.get()), Epoch(head.parent.get()));
        let configuration = Configuration::new(epoch, parent, quorums, rows.iter().map(Member::from));
        if !configuration.is_sound() || parent >= epoch {
            return Err(FrameError::Body);
        }
        Ok(configuration)
    }
}

impl From<&Member> for MemberRow {
    fn from(member: &Member) -> MemberRow {
        MemberRow {
            node: member.node.0,
            voter: u8::from(member.voter),
            peer_port: U16::new(member.peers_at.port()),
            peer_ip: member.peers_at.ip().octets(),
            client_ip: member.clients_at.ip().octets(),
            client_port: U16::new(member.clients_at.port()),
            reserved: [0; 6],
            since: U32::new(member.since.0),
            incarnation: U64::new(member.incarnation),
        }
    }
}

impl From<&MemberRow> for Member {
    fn from(row: &MemberRow) -> Member {
        Member {
            node: NodeId(row.node),
            voter: row.voter == 1,
            incarnation: row.incarnation.get(),
            since: Epoch(row.since.get()),
            peers_at: SocketAddrV4::new(row.peer_ip.into(), row.peer_port.get()),
            clients_at: SocketAddrV4::new(row.client_ip.into(), row.client_port.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Configuration {
        let learner = Member {
            node: NodeId(4),
            voter: false,
            incarnation: 99,
            since: Epoch(3),
            peers_at: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 4), 7_004),
            clients_at: SocketAddrV4::new(Ipv4Addr::new(10, 0, 1, 4), 8_004),
        };
        let members = [learner, Member::founding(NodeId(2)), Member::founding(NodeId(0))];
        Configuration::new(Epoch(3), Epoch(2), Quorums::majority(2), members.into_iter())
    }

    #[test]
    fn a_configuration_comes_back_as_it_was_written() {
        let configuration = some();
        let mut bytes = [0; MAX_CONFIGURATION_BYTES];
        let used = configuration.encode(&mut bytes);
        assert_eq!(used, 16 + 3 * 32);
        assert_eq!(Configuration::parse(&bytes[..used]), Ok(configuration));
        let nodes: Vec<u8> = configuration.members().iter().map(|member| member.node.0).collect();
        assert_eq!((nodes, configuration.voters().len()), (vec![0, 2, 4], 2));
        assert!(configuration.is_voter(NodeId(2)) && !configuration.is_voter(NodeId(4)));
    }

    #[test]
    fn what_cannot_govern_is_refused() {
        let mut bytes = [0; MAX_CONFIGURATION_BYTES];
        let used = some().encode(&mut bytes);
        let broken = |at: usize, value: u8| {
            let mut bytes = bytes;
            bytes[at] = value;
            Configuration::parse(&bytes[..used])
        };
        assert_eq!(broken(8, 0), Err(FrameError::Body), "quorums that do not meet");
        assert_eq!(broken(10, 4), Err(FrameError::Body), "a member that is not there");
        assert_eq!(broken(16, 2), Err(FrameError::Body), "a member that is there twice");
        assert_eq!(broken(17, 2), Err(FrameError::Body), "no role");
        assert_eq!(broken(4, 3), Err(FrameError::Body), "its own parent");
        assert_eq!(Configuration::parse(&bytes[..used - 1]), Err(FrameError::Body));
        assert_eq!(Configuration::parse(&bytes[..15]), Err(FrameError::Truncated));
    }
}
