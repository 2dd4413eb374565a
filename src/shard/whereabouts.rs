//! Where members are reached that the configuration file does not name. The log says it, with the configuration that brings them; but
//! a member that was away while all that it knows were replaced by others hears of those that it cannot answer, and cannot come to
//! that place of the log without them. So whoever asks something of a member that it has not heard for a while says beside it where
//! its configuration's members are. A member that was removed while it was away is told so in the same way, by those who have restarted
//! since.
//!
//! Addresses alone are taken from such a frame: what it names governs when it is delivered, like any other configuration. Who gets
//! no answer would otherwise ask for ever, and the group stand still with it, when it needs both.

use super::jobs::{Done, Job};
use super::{Fatal, Shard};
use synod_paxos::Message;
use synod_ring::{Io, RxBuf};
use synod_wire::configuration::{ADDRESS_OF_FILE, MAX_CONFIGURATION_BYTES};
use synod_wire::frame::Kind;
use synod_wire::mutant::mutant;
use synod_wire::{Configuration, Epoch, Member, NodeId, NodeSet};

/// See the module.
#[derive(Debug)]
pub(super) struct Whereabouts {
    /// So many of the settings' members are the file's: their addresses are where it says.
    of_file: usize,
    /// The latest configuration that said where its members are.
    epoch: Epoch,
}

impl Whereabouts {
    pub(super) fn new(of_file: usize) -> Whereabouts {
        Whereabouts { of_file, epoch: Epoch(0) }
    }
}

/// Whether somebody who cannot be answered asks in vain.
fn awaits_answer(message: &Message) -> bool {
    matches!(
        message,
        Message::Hello { .. } | Message::PreVote { .. } | Message::Prepare { .. } | Message::Heartbeat { .. }
    )
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// Takes the addresses that a configuration has.
    pub(super) fn learn_addresses(&mut self, configuration: &Configuration) -> Result<(), Fatal> {
        if configuration.epoch < self.whereabouts.epoch {
            // From the log, which is behind what was heard: they have moved since.
            return Ok(());
        }
        self.whereabouts.epoch = configuration.epoch;
        let me = self.settings.me;
        let of_log = |member: &&Member| member.node != me && member.peers_at != ADDRESS_OF_FILE;
        configuration.members().iter().filter(of_log).try_for_each(|member| self.learn_address(member))
    }

    fn learn_address(&mut self, member: &Member) -> Result<(), Fatal> {
        let members = &mut self.settings.members;
        let known = members.iter().position(|(node, _)| *node == member.node);
        let index = known.unwrap_or(members.len());
        if index < self.whereabouts.of_file {
            return Ok(());
        }
        match members.get_mut(index) {
            Some((_, clients_at)) => *clients_at = member.clients_at,
            None => members.push((member.node, member.clients_at)),
        }
        self.io.set_peer(index, member.peers_at)?;
        self.outbox.add_peer(member.node, index);
        Ok(())
    }

    /// Beside a message that asks something: those who were not heard for a while may not know where this node is.
    pub(super) fn say_where(&mut self, to: NodeSet, message: &Message) {
        // Most messages are answers, and most groups are of those who founded them.
        let later = |member: &Member| member.peers_at != ADDRESS_OF_FILE;
        let concerns = awaits_answer(message) && self.core.configuration().members().iter().any(later);
        if !concerns || mutant("whereabouts_not_said") {
            return;
        }
        let configuration = *self.core.configuration();
        let since_ns = self.io.now_ns().saturating_sub(self.core.election_max_ns());
        let heard = |node| self.core.heard_ns(node).is_some_and(|heard_ns| heard_ns >= since_ns);
        let silent: NodeSet = to.iter().filter(|node| !heard(*node)).collect();
        for node in silent.iter() {
            self.send_frame(node, Kind::Whereabouts, |out| configuration.encode(&mut out[..MAX_CONFIGURATION_BYTES]));
        }
    }

    /// Somebody says where members are: at the place in the datagram.
    pub(super) fn on_whereabouts(
        &mut self,
        from: NodeId,
        buf: &RxBuf,
        (start, bytes): (usize, usize),
    ) -> Result<(), Fatal> {
        let said = match Configuration::parse(&self.io.datagram(buf)[start..start + bytes]) {
            Ok(said) => said,
            Err(error) => {
                self.count_bad_frame(error.into());
                return Ok(());
            }
        };
        let mine = self.core.configuration();
        if said.epoch > mine.epoch {
            // It is said again until it is answered; what changes the reactor's table costs a system call.
            let is_news = said.epoch > self.whereabouts.epoch;
            return if is_news { self.learn_addresses(&said) } else { Ok(()) };
        }
        // One that was removed is told so, where it says it is.
        let stranger = said.member(from).filter(|it| mine.member(from).is_none() && it.peers_at != ADDRESS_OF_FILE);
        stranger.map_or(Ok(()), |it| self.learn_address(it))
    }
}
