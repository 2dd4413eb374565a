//! Several datagrams to one receiver in one piece: UDP segmentation offload (`UDP_SEGMENT`, "GSO").
//!
//! The cost of a datagram is mostly the way through the network stack, not the system call. A train of datagrams of one length
//! (the last may be shorter) goes down that way once, and is cut up at its end: by the network card, or just in front of the
//! receiving socket on loopback. Each datagram stays a piece of its arena: the train is a list of pieces. What the kernel reads
//! besides (headers, lists, the segment's length) lies here until it took the submission. Called by: the reactors. May touch: their
//! own tables.

use crate::socket::ADDRESS_BYTES;
use crate::{SEGMENTS_MAX, TRAIN_BYTES_MAX};

/// Trains between two entries of the kernel; for one more, it is entered.
const TRAINS: usize = 64;

/// `CMSG_SPACE` of a 16-bit number, in words of the alignment that a control message needs.
const CONTROL_WORDS: usize = 3;

/// One train, as the kernel reads it.
struct Train {
    message: libc::msghdr,
    pieces: [libc::iovec; SEGMENTS_MAX],
    control: [u64; CONTROL_WORDS],
}

/// The table of trains.
pub(crate) struct Trains {
    table: Box<[Train]>,
    used: usize,
}

impl Trains {
    pub(crate) fn new() -> Trains {
        // SAFETY: all bytes zero is a valid msghdr and iovec.
        let empty = || unsafe { std::mem::zeroed::<Train>() };
        Trains { table: (0..TRAINS).map(|_| empty()).collect(), used: 0 }
    }

    /// Whether the next train must wait until the kernel took those that are queued.
    pub(crate) fn is_full(&self) -> bool {
        self.used == TRAINS
    }

    /// The kernel took every submission: all places are free.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }

    /// Puts a train together: what to submit.
    ///
    /// # Panics
    /// If the table is full, or the pieces are no train.
    pub(crate) fn couple(
        &mut self,
        to: *const libc::sockaddr_in,
        pieces: impl Iterator<Item = (*const u8, u32)>,
    ) -> *const libc::msghdr {
        let train = &mut self.table[self.used];
        self.used += 1;
        let mut count = 0;
        let (mut bytes, mut ended) = (0, false);
        for (address, len) in pieces {
            assert!(count < SEGMENTS_MAX, "a train of more than SEGMENTS_MAX datagrams");
            train.pieces[count] = libc::iovec { iov_base: address.cast_mut().cast(), iov_len: len as usize };
            let (first, len) = (train.pieces[0].iov_len, len as usize);
            assert!(!ended && len > 0 && len <= first, "datagrams of different lengths in one train");
            ended = len < first;
            bytes += len;
            count += 1;
        }
        assert!(count > 0 && bytes <= TRAIN_BYTES_MAX, "a train of {count} datagrams and {bytes} bytes");
        let segment = u16::try_from(train.pieces[0].iov_len).expect("a train is shorter than 64 KiB");
        train.control = segment_control(segment);
        train.message.msg_name = to.cast_mut().cast();
        train.message.msg_namelen = ADDRESS_BYTES;
        train.message.msg_iov = train.pieces.as_mut_ptr();
        train.message.msg_iovlen = count as _;
        train.message.msg_control = train.control.as_mut_ptr().cast();
        train.message.msg_controllen = size_of_val(&train.control) as _;
        &raw const train.message
    }
}

/// The control message that says where to cut: `struct cmsghdr`, then the length.
fn segment_control(segment: u16) -> [u64; CONTROL_WORDS] {
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: takes no pointer.
    let len = unsafe { libc::CMSG_LEN(size_of::<u16>() as u32) };
    let header = control.as_mut_ptr().cast::<libc::cmsghdr>();
    // SAFETY: 24 bytes, aligned to 8, hold a header of 16 and the number behind it.
    unsafe {
        (*header).cmsg_len = len as _;
        (*header).cmsg_level = libc::SOL_UDP;
        (*header).cmsg_type = libc::UDP_SEGMENT;
        libc::CMSG_DATA(header).cast::<u16>().write_unaligned(segment);
    }
    control
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_message_fits_its_words() {
        // SAFETY: takes no pointer.
        assert_eq!(unsafe { libc::CMSG_SPACE(2) } as usize, CONTROL_WORDS * 8);
    }

    #[test]
    #[should_panic(expected = "datagrams of different lengths")]
    fn a_short_datagram_ends_a_train() {
        let byte = 0u8;
        Trains::new().couple(std::ptr::null(), [10, 9, 9].into_iter().map(|len| (&raw const byte, len)));
    }

    #[test]
    fn places_are_used_up_and_come_back() {
        let byte = 0u8;
        let mut trains = Trains::new();
        for _ in 0..TRAINS {
            assert!(!trains.is_full());
            trains.couple(std::ptr::null(), [10, 10, 4].into_iter().map(|len| (&raw const byte, len)));
        }
        assert!(trains.is_full());
        trains.clear();
        assert!(!trains.is_full());
    }
}
