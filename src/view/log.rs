//! A group's log as it lies on its members: where it begins, what is chosen, what is accepted, and how far each member is. Pure.

use super::Cell;
use synod_wire::{NodeId, Slot};

/// The least that is drawn of the log's end, slots.
const LEAST_SLOTS: u64 = 20;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPicture {
    /// The first slot that the leader's log has, or that of the node that is farthest.
    pub first: Option<Slot>,
    /// The newest snapshot of that node.
    pub snapshot: Option<Slot>,
    /// Chosen up to here, by the word of the node that is farthest.
    pub committed: Slot,
    /// The highest slot that any node holds something at.
    pub accepted: Slot,
    /// How far each node is.
    pub positions: Vec<Position>,
    /// The part of the log that is drawn: what lies between the last of the nodes and the end.
    pub drawn: (Slot, Slot),
}

/// How far a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The node.
    pub node: NodeId,
    /// Whether it leads.
    pub leads: bool,
    /// Up to here it knows all chosen, by its own word; `None`: it does not answer.
    pub chosen: Option<Slot>,
    /// The highest slot that it holds something at, by its own word.
    pub accepted: Option<Slot>,
    /// Up to here it has delivered everything, as the leader knows; `None`: no leader says so.
    pub matched: Option<Slot>,
}

impl Position {
    /// Where it is drawn: by its own word, or else by the leader's.
    pub fn at(&self) -> Option<Slot> {
        self.chosen.or(self.matched)
    }
}

impl LogPicture {
    /// Of a group's cells; `None`: nothing is known of any.
    pub fn of(cells: &[Cell], leader: Option<NodeId>) -> Option<LogPicture> {
        let farthest =
            cells.iter().filter_map(Cell::current).max_by_key(|status| (Some(status.node) == leader, status.chosen))?;
        let led = cells.iter().filter_map(Cell::current).find(|status| Some(status.node) == leader);
        let told = led.and_then(|status| status.picture.as_ref()).map_or(&[][..], |picture| &picture.positions);
        let matched = |node| told.iter().find(|(member, _)| *member == node).and_then(|(_, slot)| *slot);
        let mut positions: Vec<Position> = cells
            .iter()
            .map(|cell| {
                let (status, node) = (cell.current(), cell.node);
                let (chosen, accepted) = (status.map(|status| status.chosen), status.map(|status| status.accepted));
                Position { node, leads: leader == Some(node), chosen, accepted, matched: matched(node) }
            })
            .collect();
        // Members that the file does not name: the leader knows them.
        let strangers = told.iter().filter(|(member, _)| !cells.iter().any(|cell| cell.node == *member));
        positions.extend(strangers.map(|(node, slot)| Position {
            node: *node,
            leads: false,
            chosen: None,
            accepted: None,
            matched: *slot,
        }));
        let committed = positions.iter().filter_map(|position| position.chosen).max().unwrap_or(farthest.chosen);
        let accepted =
            positions.iter().filter_map(|position| position.accepted).max().unwrap_or(committed).max(committed);
        let last = positions.iter().filter_map(Position::at).min().unwrap_or(committed);
        let from = last.0.min(accepted.0.saturating_sub(LEAST_SLOTS));
        let picture = farthest.picture.as_ref();
        Some(LogPicture {
            first: picture.map(|picture| picture.first_slot),
            snapshot: picture.and_then(|picture| picture.snapshot),
            committed,
            accepted,
            positions,
            drawn: (Slot(from), accepted),
        })
    }

    /// Where a slot is drawn: 0 at the beginning of what is, 1 at its end.
    pub fn share(&self, slot: Slot) -> f64 {
        let (from, to) = (self.drawn.0.0, self.drawn.1.0);
        let span = to.saturating_sub(from).max(1) as f64;
        (slot.0.saturating_sub(from) as f64 / span).clamp(0.0, 1.0)
    }

    /// How many chosen slots a node is behind the one that is farthest.
    pub fn behind(&self, position: &Position) -> Option<u64> {
        position.at().map(|slot| self.committed.0.saturating_sub(slot.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Word;
    use crate::view::testing::status;

    fn cell(node: u8, answers: bool) -> Cell {
        let word = if answers { Word::Said(Box::new(status(node, Some(0), 1))) } else { Word::Unknown };
        Cell { node: NodeId(node), word, heard_ns: None }
    }

    #[test]
    fn who_is_silent_is_drawn_where_the_leader_knows_it() {
        let cells = [cell(0, true), cell(1, true), cell(2, false)];
        let log = LogPicture::of(&cells, Some(NodeId(0))).expect("two answer");
        assert_eq!(
            (log.first, log.snapshot, log.committed, log.accepted),
            (Some(Slot(1)), Some(Slot(500)), Slot(1_000), Slot(1_010))
        );
        let known: Vec<_> = log.positions.iter().map(|position| (position.chosen, position.matched)).collect();
        let slot = |slot| Some(Slot(slot));
        assert_eq!(known, [(slot(1_000), slot(1_000)), (slot(999), slot(990)), (None, slot(980))]);
        assert_eq!(log.drawn, (Slot(980), Slot(1_010)));
        assert_eq!((log.share(Slot(980)), log.share(Slot(995)), log.share(Slot(1_010))), (0.0, 0.5, 1.0));
        assert_eq!(
            log.positions.iter().map(|position| log.behind(position)).collect::<Vec<_>>(),
            [Some(0), Some(1), Some(20)]
        );
    }

    #[test]
    fn without_a_leader_each_is_drawn_by_its_own_word_and_the_end_is_never_too_short() {
        let mut cells = [cell(1, true), cell(2, true)];
        for cell in &mut cells {
            let Word::Said(status) = &mut cell.word else { panic!("it answers") };
            (status.chosen, status.accepted) = (Slot(5), Slot(5));
        }
        let log = LogPicture::of(&cells, None).expect("two answer");
        assert_eq!((log.drawn, log.positions[0].matched), ((Slot(0), Slot(5)), None));
        assert_eq!(LogPicture::of(&[cell(2, false)], None), None);
    }
}
