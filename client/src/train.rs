//! Datagrams that leave together: those of one length that go to one member, built one behind the other.
//!
//! The kernel takes such a train in one call and cuts it up at the end of its way (UDP segmentation offload): a datagram costs
//! some microseconds there, whatever it holds. The last may be shorter; one that does not belong begins the next train. Pure
//! bookkeeping, called by [`crate::client`] only.

use std::net::SocketAddrV4;

/// Datagrams of one train: what the oldest kernels take.
const SEGMENTS_MAX: usize = 64;
/// Bytes of one train: the longest UDP payload is 65,507.
const TRAIN_BYTES_MAX: usize = 65_472;

/// The train that is built or sent, and the datagram that begins the next.
#[derive(Debug)]
pub(crate) struct Train {
    buffer: Box<[u8]>,
    max_datagram_bytes: usize,
    /// Where the datagrams lie that are not sent yet.
    start: usize,
    end: usize,
    /// The length of each but the last.
    segment: usize,
    to: SocketAddrV4,
    /// A datagram that lies behind the train, and does not belong to it.
    next: Option<(SocketAddrV4, usize)>,
}

/// What is to be sent: to one member, each datagram as long as `segment` but the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready<'a> {
    pub(crate) datagrams: &'a [u8],
    pub(crate) segment: usize,
    pub(crate) to: SocketAddrV4,
}

impl Train {
    pub(crate) fn new(max_datagram_bytes: usize) -> Train {
        assert!((1..=TRAIN_BYTES_MAX).contains(&max_datagram_bytes), "no UDP datagram is that long");
        let nowhere = SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0);
        // Room for a full train and the datagram that shows that it is full.
        let buffer = vec![0; TRAIN_BYTES_MAX + max_datagram_bytes].into_boxed_slice();
        Train { buffer, max_datagram_bytes, start: 0, end: 0, segment: 0, to: nowhere, next: None }
    }

    /// Whether something is to be sent.
    pub(crate) fn is_loaded(&self) -> bool {
        self.start < self.end
    }

    /// Builds a train of what `build` yields, unless one is still to be sent: `build` gets room for the largest datagram,
    /// and says where the datagram goes and how long it is.
    pub(crate) fn load(&mut self, mut build: impl FnMut(&mut [u8]) -> Option<(SocketAddrV4, usize)>) {
        if self.is_loaded() {
            return;
        }
        let mut count = 0;
        (self.start, self.end) = match self.next.take() {
            Some((to, length)) => {
                (self.to, self.segment, count) = (to, length, 1);
                (self.end, self.end + length)
            }
            None => (0, 0),
        };
        let mut is_full = false;
        while !is_full && self.end + self.max_datagram_bytes <= self.buffer.len() {
            let room = &mut self.buffer[self.end..self.end + self.max_datagram_bytes];
            let Some((to, length)) = build(room) else { return };
            assert!((1..=self.max_datagram_bytes).contains(&length), "a datagram of {length} bytes");
            if count == 0 {
                (self.to, self.segment) = (to, length);
            }
            let bytes = self.end + length - self.start;
            if to != self.to || length > self.segment || bytes > TRAIN_BYTES_MAX {
                self.next = Some((to, length));
                return;
            }
            self.end += length;
            count += 1;
            is_full = length < self.segment || count == SEGMENTS_MAX;
        }
    }

    /// What is to be sent.
    pub(crate) fn ready(&self) -> Option<Ready<'_>> {
        let datagrams = &self.buffer[self.start..self.end];
        self.is_loaded().then_some(Ready { datagrams, segment: self.segment, to: self.to })
    }

    /// The first `bytes` of it are gone.
    pub(crate) fn sent(&mut self, bytes: usize) {
        assert!(bytes <= self.end - self.start, "more was sent than there is");
        self.start += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: u8) -> SocketAddrV4 {
        SocketAddrV4::new([10, 0, 0, node].into(), 7_500)
    }

    /// Loads and sends all of these datagrams (to which node, how long, each filled with its number): the trains.
    fn trains(max_datagram_bytes: usize, datagrams: &[(u8, usize)]) -> Vec<(SocketAddrV4, Vec<usize>)> {
        let mut train = Train::new(max_datagram_bytes);
        let mut left = datagrams.iter().enumerate();
        let mut trains = Vec::new();
        let mut number = 0;
        for _ in 0..=datagrams.len() {
            train.load(|out| {
                let (number, (node, length)) = left.next()?;
                out[..*length].fill(number as u8);
                Some((member(*node), *length))
            });
            let Some(Ready { datagrams, segment, to }) = train.ready() else { break };
            let all: Vec<&[u8]> = datagrams.chunks(segment).collect();
            for datagram in &all {
                assert!(datagram.iter().all(|byte| *byte == number as u8), "in order, each whole");
                number += 1;
            }
            let bytes = datagrams.len();
            trains.push((to, all.iter().map(|datagram| datagram.len()).collect()));
            train.sent(bytes);
        }
        assert_eq!(number, datagrams.len(), "none is left");
        trains
    }

    #[test]
    fn datagrams_of_one_length_leave_together_and_a_shorter_one_ends_them() {
        assert_eq!(trains(200, &[(1, 100)]), [(member(1), vec![100])]);
        assert_eq!(
            trains(200, &[(1, 100), (1, 100), (1, 60), (1, 60), (1, 100), (1, 101)]),
            [(member(1), vec![100, 100, 60]), (member(1), vec![60]), (member(1), vec![100]), (member(1), vec![101])]
        );
    }

    #[test]
    fn a_datagram_for_another_member_begins_the_next_train() {
        assert_eq!(
            trains(200, &[(1, 100), (2, 100), (2, 100), (1, 100)]),
            [(member(1), vec![100]), (member(2), vec![100, 100]), (member(1), vec![100])]
        );
    }

    #[test]
    fn trains_keep_the_kernels_bounds() {
        let small: Vec<usize> = trains(64, &[(1, 64); 150]).into_iter().map(|(_, all)| all.len()).collect();
        assert_eq!(small, [64, 64, 22]);
        for (_, all) in trains(1_472, &[(1, 1_472); 150]) {
            assert!(all.iter().sum::<usize>() <= TRAIN_BYTES_MAX);
        }
        let count = |all: &[(SocketAddrV4, Vec<usize>)]| all.iter().map(|(_, all)| all.len()).collect::<Vec<_>>();
        assert_eq!(count(&trains(1_472, &[(1, 1_472); 44])), [44], "64,768 bytes are a train");
        assert_eq!(count(&trains(65_472, &[(1, 65_472); 3])), [1, 1, 1]);
        assert_eq!(count(&trains(65_472, &[(1, 30_000); 3])), [2, 1]);
    }

    #[test]
    fn what_the_socket_had_no_room_for_goes_before_anything_new() {
        let mut train = Train::new(100);
        let mut builds = [(member(1), 100), (member(1), 100), (member(1), 30)].into_iter();
        train.load(|_| builds.next());
        train.sent(100);
        train.load(|_| panic!("a train is on its way"));
        let rest = train.ready().unwrap();
        assert_eq!((rest.datagrams.len(), rest.segment), (130, 100));
        train.sent(130);
        assert_eq!(train.ready(), None);
    }
}
