//! What is going to happen, in order of (time, number): the number is given when it is arranged, so that nothing else
//! decides between two happenings of one moment. Used by the engine; knows nothing of what it holds.
//!
//! The heap moves small keys only, what they stand for lies still. Turns of nodes and wakes of clients, of which each has
//! at most one, are no happenings: the engine keeps a [`Due`] for each, which can be moved without leaving a
//! superseded one behind.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// When something is due, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due {
    pub(crate) at_ns: u64,
    number: u64,
}

/// Later than everything.
pub(crate) const NEVER: Due = Due { at_ns: u64::MAX, number: u64::MAX };

/// See the module.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    heap: BinaryHeap<Reverse<(Due, u32)>>,
    items: Vec<Option<T>>,
    free: Vec<u32>,
    next_number: u64,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Queue<T> {
        Queue { heap: BinaryHeap::with_capacity(4_096), items: Vec::new(), free: Vec::new(), next_number: 0 }
    }

    /// A number for something that is due at `at_ns`, and is kept elsewhere.
    pub(crate) fn due(&mut self, at_ns: u64) -> Due {
        self.next_number += 1;
        Due { at_ns, number: self.next_number }
    }

    pub(crate) fn push(&mut self, at_ns: u64, item: T) {
        let due = self.due(at_ns);
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                self.items.push(None);
                self.items.len() as u32 - 1
            }
        };
        self.items[at as usize] = Some(item);
        self.heap.push(Reverse((due, at)));
    }

    /// When the first is due.
    pub(crate) fn first(&self) -> Due {
        self.heap.peek().map_or(NEVER, |Reverse((due, _))| *due)
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let Reverse((_, at)) = self.heap.pop()?;
        self.free.push(at);
        let item = self.items[at as usize].take();
        assert!(item.is_some(), "each key stands for one item");
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_time_and_then_of_arrangement() {
        let mut queue = Queue::new();
        let kept = queue.due(20);
        for (at_ns, item) in [(20, "c"), (10, "a"), (20, "d"), (10, "b")] {
            queue.push(at_ns, item);
        }
        assert_eq!([queue.pop(), queue.pop()], [Some("a"), Some("b")]);
        assert!(kept < queue.first() && queue.first() < queue.due(20) && kept < NEVER);
        queue.push(15, "again");
        assert_eq!([queue.pop(), queue.pop(), queue.pop(), queue.pop()], [Some("again"), Some("c"), Some("d"), None]);
        assert_eq!(queue.first(), NEVER);
    }
}
