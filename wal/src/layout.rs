//! Where things lie: the arithmetic of positions, strides, blocks and flushes. Pure; the writer and the scanner share it, so
//! that what one places the other finds.

use crate::MIN_FLUSH_BYTES;
use synod_wire::frame::frame_bytes;
use synod_wire::record::{MAX_FLUSH_RECORDS, Trailer, TrailerEntry};

/// The sizes that a log was formatted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) segment_bytes: u64,
    pub(crate) stride_bytes: u64,
    pub(crate) block_bytes: u64,
}

/// The bytes of a trailer frame that names `records` records.
pub(crate) const fn trailer_bytes(records: usize) -> u64 {
    frame_bytes(size_of::<Trailer>() + records * size_of::<TrailerEntry>()) as u64
}

impl Geometry {
    /// The start of the stride that holds `pos`.
    pub(crate) fn stride_start(&self, pos: u64) -> u64 {
        pos / self.stride_bytes * self.stride_bytes
    }

    /// The end of the stride that holds `pos`.
    pub(crate) fn stride_end(&self, pos: u64) -> u64 {
        self.stride_start(pos) + self.stride_bytes
    }

    /// The segment that holds `pos`.
    pub(crate) fn segment(&self, pos: u64) -> u64 {
        pos / self.segment_bytes
    }

    /// Where `pos` lies in its segment's file.
    pub(crate) fn offset(&self, pos: u64) -> u64 {
        pos % self.segment_bytes
    }

    /// The first position of the stride at `start` that a flush may use: behind the header block where a segment starts.
    pub(crate) fn first(&self, start: u64) -> u64 {
        if start.is_multiple_of(self.segment_bytes) { start + self.block_bytes } else { start }
    }

    /// `pos` rounded up to a block.
    pub(crate) fn block_ceil(&self, pos: u64) -> u64 {
        pos.next_multiple_of(self.block_bytes)
    }

    /// Where a flush ends on disk whose `records` records end at `records_end`.
    pub(crate) fn sealed_end(&self, records_end: u64, records: usize) -> u64 {
        self.block_ceil(records_end + trailer_bytes(records))
    }

    /// Whether a flush in the stride that ends at `stride_end` may hold `records` records that end at `records_end`: its trailer
    /// fits, and so would one in blocks of its own, which recovery writes when it cuts.
    pub(crate) fn fits(&self, records_end: u64, records: usize, stride_end: u64) -> bool {
        records <= MAX_FLUSH_RECORDS
            && self.block_ceil(records_end) + self.block_ceil(trailer_bytes(records)) <= stride_end
    }

    /// Where the next flush starts if one ends at `end` (a block boundary of the stride that ends at `stride_end`).
    pub(crate) fn next_start(&self, end: u64, stride_end: u64) -> u64 {
        if stride_end - end >= MIN_FLUSH_BYTES { end } else { self.first(stride_end) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, STRIDE_BYTES};
    use synod_wire::frame::MAX_PAYLOAD_BYTES;

    #[test]
    fn any_record_fits_where_a_flush_may_start() {
        for block_bytes in [MIN_BLOCK_BYTES, 8192, MAX_BLOCK_BYTES].map(u64::from) {
            let geometry = Geometry { segment_bytes: STRIDE_BYTES, stride_bytes: STRIDE_BYTES, block_bytes };
            let last_start = STRIDE_BYTES - MIN_FLUSH_BYTES;
            assert!(geometry.fits(last_start + frame_bytes(MAX_PAYLOAD_BYTES) as u64, 1, STRIDE_BYTES));
            assert_eq!(geometry.next_start(last_start, STRIDE_BYTES), last_start);
            assert_eq!(geometry.next_start(last_start + block_bytes, STRIDE_BYTES), STRIDE_BYTES + block_bytes);
        }
    }

    #[test]
    fn a_full_flush_that_cannot_take_a_record_ends_in_the_last_part_of_its_stride() {
        // The seal that a record forces always skips to the next stride; otherwise `append` would have to seal twice.
        let geometry = Geometry {
            segment_bytes: STRIDE_BYTES,
            stride_bytes: STRIDE_BYTES,
            block_bytes: u64::from(MAX_BLOCK_BYTES),
        };
        let need = frame_bytes(MAX_PAYLOAD_BYTES) as u64;
        for records in [1, 100, MAX_FLUSH_RECORDS - 1] {
            let mut records_end = STRIDE_BYTES;
            while !geometry.fits(records_end, records, STRIDE_BYTES) {
                records_end -= 64;
            }
            while !geometry.fits(records_end + need, records + 1, STRIDE_BYTES) {
                let end = geometry.sealed_end(records_end, records);
                assert!(end <= STRIDE_BYTES);
                assert_eq!(geometry.next_start(end, STRIDE_BYTES), STRIDE_BYTES + geometry.block_bytes);
                records_end -= 64;
            }
        }
    }

    #[test]
    fn whatever_fits_can_be_sealed_and_cut_within_its_stride() {
        for block_bytes in [MIN_BLOCK_BYTES, MAX_BLOCK_BYTES].map(u64::from) {
            let geometry = Geometry { segment_bytes: STRIDE_BYTES, stride_bytes: STRIDE_BYTES, block_bytes };
            for records in [1, 2, 100, MAX_FLUSH_RECORDS] {
                for records_end in (STRIDE_BYTES - 2 * MIN_FLUSH_BYTES..=STRIDE_BYTES).step_by(64) {
                    if geometry.fits(records_end, records, STRIDE_BYTES) {
                        assert!(geometry.sealed_end(records_end, records) <= STRIDE_BYTES);
                        assert!(geometry.sealed_end(geometry.block_ceil(records_end), records) <= STRIDE_BYTES);
                    }
                }
            }
            assert!(!geometry.fits(4096, MAX_FLUSH_RECORDS + 1, STRIDE_BYTES));
        }
    }

    #[test]
    fn strides_in_the_middle_of_a_segment_have_no_header() {
        let geometry = Geometry { segment_bytes: 2 * STRIDE_BYTES, stride_bytes: STRIDE_BYTES, block_bytes: 4096 };
        assert_eq!(geometry.first(0), 4096);
        assert_eq!(geometry.first(STRIDE_BYTES), STRIDE_BYTES);
        assert_eq!(geometry.first(2 * STRIDE_BYTES), 2 * STRIDE_BYTES + 4096);
        assert_eq!(
            (geometry.stride_start(STRIDE_BYTES), geometry.stride_end(STRIDE_BYTES)),
            (STRIDE_BYTES, 2 * STRIDE_BYTES)
        );
    }
}
