//! CRC-32C (Castagnoli), as iSCSI and ext4 use it: of frames, whose headers and small bodies are most of what is summed. Pure;
//! called by `frame`, and through it by all who read or write one.
//!
//! The crc32c crate is made for long pieces: it aligns, and computes three parts side by side from 768 bytes on. For a header
//! of 60 bytes that takes 150 instructions around the eight that do the work, and a commit sums some forty of them. So
//! shorter pieces go straight through the processor's instruction.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64};

/// From here on the crate's three parts side by side are faster.
#[cfg(target_arch = "x86_64")]
const LONG_BYTES: usize = 768;

/// The CRC-32C of these bytes.
#[inline]
pub fn checksum(bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() < LONG_BYTES && std::arch::is_x86_feature_detected!("sse4.2") {
        // The crate's one exception: a function for some processors only is unsafe to call from one for all.
        // SAFETY: the processor has SSE 4.2; nothing else is asked of it.
        #[allow(unsafe_code)]
        return unsafe { short(bytes) };
    }
    crc32c::crc32c(bytes)
}

/// The CRC-32C of what has the sum `before`, and these bytes behind it.
pub fn checksum_on(before: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(before, bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn short(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks();
    let crc = words.iter().fold(u64::from(u32::MAX), |crc, word| _mm_crc32_u64(crc, u64::from_le_bytes(*word)));
    let (halves, rest) = rest.as_chunks();
    // The instruction leaves the upper half zero.
    let crc = halves.iter().fold(crc as u32, |crc, half| _mm_crc32_u32(crc, u32::from_le_bytes(*half)));
    !rest.iter().fold(crc, |crc, byte| _mm_crc32_u8(crc, *byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_the_standard() {
        // RFC 3720, appendix B.4.
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        let sums = [&[0; 32][..], &[0xff; 32], &ascending, &descending].map(checksum);
        assert_eq!(sums, [0x8a91_36aa, 0x62a8_ab43, 0x46dd_794e, 0x113f_db5c]);
        assert_eq!((checksum(b""), checksum(b"123456789")), (0, 0xe306_9283));
    }

    #[test]
    fn every_length_at_every_alignment_has_the_sum_that_the_crate_computes() {
        let bytes: Vec<u8> = (0..2_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for start in 0..9 {
            for len in (0..200).chain(740..800).chain([1_472]) {
                let piece = &bytes[start..start + len];
                assert_eq!(checksum(piece), crc32c::crc32c(piece), "{len} bytes at {start}");
                let (front, back) = piece.split_at(len / 3);
                assert_eq!(checksum_on(checksum(front), back), checksum(piece), "{len} bytes at {start}");
            }
        }
    }
}
