//! What takes milliseconds for a whole state in memory, a piece at a time, giving way in between (`synod_ring::give_way`). Called by
//! whoever reads, writes or sends snapshots, in threads that share a core with pipelines.

use synod_ring::give_way;
use synod_wire::frame::checksum_on;

/// Summed or copied at once: some microseconds, or tens where the pages are new.
const PIECE_BYTES: usize = 64 << 10;
/// Given back to the kernel at once.
const FREED_BYTES: usize = 512 << 10;

/// [`checksum`](synod_wire::frame::checksum).
pub fn checksum(bytes: &[u8]) -> u32 {
    bytes.chunks(PIECE_BYTES).fold(0, |sum, piece| {
        give_way();
        checksum_on(sum, piece)
    })
}

/// The parts, one behind the other.
pub fn concat(parts: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    for piece in parts.iter().flat_map(|part| part.chunks(PIECE_BYTES)) {
        all.extend_from_slice(piece);
        give_way();
    }
    all
}

/// Drops it.
pub fn free(mut bytes: Vec<u8>) {
    while bytes.capacity() > FREED_BYTES {
        bytes.truncate((bytes.capacity() - FREED_BYTES).min(bytes.len()));
        bytes.shrink_to(bytes.capacity() - FREED_BYTES);
        give_way();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_to_the_whole() {
        let bytes: Vec<u8> =
            (0..3 * PIECE_BYTES as u32 + 17).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for len in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, bytes.len()] {
            assert_eq!(checksum(&bytes[..len]), synod_wire::frame::checksum(&bytes[..len]), "{len} bytes");
            assert_eq!(concat(&[b"head", &bytes[..len], b"", b"end"]), [&b"head"[..], &bytes[..len], b"end"].concat());
        }
        for len in [0, 1, FREED_BYTES, 3 * FREED_BYTES + 5] {
            free(vec![1; len]);
        }
        free(Vec::with_capacity(3 * FREED_BYTES));
    }
}
