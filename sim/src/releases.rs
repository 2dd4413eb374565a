//! Mixed releases (FAULTS 32): each time that a node starts it may be of the next release, as in an upgrade node by node and in one
//! that is taken back. What such a release says is this one's, and more: a later revision in each header, a flag that nobody here
//! knows, and frames of a kind that nobody here knows, in front of the others or behind them. From a stream of chance of its own.

use crate::fault::Fault;
use crate::sim::Sim;
use crate::trace::{End, What};
use std::rc::Rc;
use synod_wire::frame::{
    Frames, HEADER_BYTES, Kind, REVISION, VERSION, VERSION_BITS, VERSION_OFFSET, aligned, checksum, frame_bytes,
};

/// A kind that no release here has.
const UNKNOWN_KIND: u8 = 0xfe;
const KIND_OFFSET: usize = VERSION_OFFSET + 1;
const FLAGS_OFFSET: usize = VERSION_OFFSET + 2;
/// A flag that no release here has.
const UNKNOWN_FLAG: u8 = 0x80;
/// The longest payload of a frame of that kind.
const UNKNOWN_BYTES: u64 = 24;
/// Datagrams with such a frame, of a hundred.
const WITH_UNKNOWN_PERCENT: u64 = 10;

impl Sim {
    /// A node starts: of this release, or the next.
    pub(crate) fn choose_release(&mut self, node: usize) {
        let rate = self.plan.rate(Fault::MixedReleases);
        if rate == 0 {
            return;
        }
        let was = self.nodes[node].next_release;
        self.nodes[node].next_release = self.releases.ppm(rate);
        if self.nodes[node].next_release {
            self.coverage.fault(Fault::MixedReleases);
            self.note(What::World(format!("n{node} starts with the next release")));
        } else if was {
            self.coverage.mark("a node went back to the release before");
        }
    }

    /// What a node sends, as its release says it.
    pub(crate) fn as_released(&mut self, from: End, bytes: Rc<[u8]>) -> Rc<[u8]> {
        let End::Node(node) = from else { return bytes };
        if !self.nodes[node].next_release {
            return bytes;
        }
        let mut known = bytes.to_vec();
        let mut at = 0;
        for frame in Frames::new(&bytes).map_while(Result::ok) {
            let header = &mut known[at..at + HEADER_BYTES];
            header[VERSION_OFFSET] = VERSION | (REVISION + 1) << VERSION_BITS.count_ones();
            header[FLAGS_OFFSET] |= UNKNOWN_FLAG;
            seal(header);
            at += frame_bytes(frame.payload.len());
        }
        let unknown = self.unknown_frame(&known);
        let fits = known.len() + unknown.len() <= HEADER_BYTES + self.plan.max_batch_bytes;
        if !fits || !self.releases.percent(WITH_UNKNOWN_PERCENT) {
            return known.into();
        }
        self.coverage.mark("a frame of an unknown kind was sent");
        match self.releases.percent(50) {
            true => [unknown, known].concat().into(),
            false => [known, unknown].concat().into(),
        }
    }

    /// A frame like the datagram's first, of a kind that nobody knows.
    fn unknown_frame(&mut self, datagram: &[u8]) -> Vec<u8> {
        let payload = vec![0xa5; self.releases.below(UNKNOWN_BYTES + 1) as usize];
        let mut bytes = datagram[..HEADER_BYTES].to_vec();
        debug_assert_eq!(Kind::from_u8(UNKNOWN_KIND), None);
        bytes[KIND_OFFSET] = UNKNOWN_KIND;
        bytes[4..8].copy_from_slice(&checksum(&payload).to_le_bytes());
        bytes[LENGTH].copy_from_slice(&(payload.len() as u16).to_le_bytes());
        seal(&mut bytes);
        bytes.extend_from_slice(&payload);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }
}

/// Where a header has its payload's length.
const LENGTH: std::ops::Range<usize> = 22..24;

/// Makes a header's checksum that of what it says now.
fn seal(header: &mut [u8]) {
    let crc = checksum(&header[4..HEADER_BYTES]);
    header[..4].copy_from_slice(&crc.to_le_bytes());
}
