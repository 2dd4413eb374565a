//! Whom to ask: the members, the one believed to lead, and how often asking was in vain. Used by both cores.

use std::net::SocketAddrV4;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    members: Box<[SocketAddrV4]>,
    /// The member that the last rotation chose.
    at: usize,
    target: SocketAddrV4,
    /// Whether the target has answered as a leader does.
    settled: bool,
    /// Refusals, redirects and silences since the last success.
    in_vain: usize,
}

impl Route {
    /// Starts at the first member.
    pub(crate) fn new(members: Box<[SocketAddrV4]>) -> Route {
        let target = members[0];
        Route { members, at: 0, target, settled: false, in_vain: 0 }
    }

    /// Where requests go.
    pub(crate) fn target(&self) -> SocketAddrV4 {
        self.target
    }

    /// How many members are listed.
    pub(crate) fn members(&self) -> usize {
        self.members.len()
    }

    /// The leader, if one has answered as such and has not been given up.
    pub(crate) fn leader(&self) -> Option<SocketAddrV4> {
        self.settled.then_some(self.target)
    }

    /// Whether a datagram from `address` may be an answer: a member's, or of the node that we were sent to.
    pub(crate) fn knows(&self, address: SocketAddrV4) -> bool {
        address == self.target || self.members.contains(&address)
    }

    /// `from` did what was asked: it is the one to ask.
    pub(crate) fn settle(&mut self, from: SocketAddrV4) {
        self.target = from;
        self.settled = true;
        self.in_vain = 0;
    }

    /// On to the next member.
    pub(crate) fn rotate(&mut self) {
        self.at = (self.at + 1) % self.members.len();
        self.target = self.members[self.at];
        self.settled = false;
    }

    /// To the node that a member called the leader. It need not be listed: members change.
    pub(crate) fn redirect(&mut self, leader: SocketAddrV4) {
        self.target = leader;
        self.settled = false;
    }

    /// Counts an attempt in vain. True once all members and one redirect were tried: time for a pause. Without that
    /// bound two nodes that each take the other for the leader would keep a client busy at full speed.
    pub(crate) fn in_vain(&mut self) -> bool {
        self.in_vain += 1;
        let round_over = self.in_vain > self.members.len();
        if round_over {
            self.in_vain = 0;
        }
        round_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
    }

    #[test]
    fn rotation_visits_every_member_and_a_redirect_does_not_disturb_it() {
        let mut route = Route::new([1, 2, 3].map(address).into());
        let mut visited = vec![route.target()];
        for _ in 0..3 {
            route.redirect(address(9));
            assert!(route.knows(address(9)));
            route.rotate();
            visited.push(route.target());
        }
        assert_eq!(visited, [1, 2, 3, 1].map(address));
        assert!(!route.knows(address(9)), "a redirect is forgotten when it is left");
    }

    #[test]
    fn a_pause_is_due_once_a_round_and_success_starts_a_new_one() {
        let mut route = Route::new([1, 2, 3].map(address).into());
        assert_eq!([0; 8].map(|_| route.in_vain()), [false, false, false, true, false, false, false, true]);
        route.in_vain();
        route.settle(address(2));
        assert_eq!(route.leader(), Some(address(2)));
        assert_eq!([0; 4].map(|_| route.in_vain()), [false, false, false, true]);
    }
}
