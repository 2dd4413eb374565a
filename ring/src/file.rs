//! Files of a log: what the log, its recovery and the reactor ask of one. [`std::fs::File`] is the real one; the simulator
//! brings its own, so that recovery and segment preparation run there unchanged. All calls but [`BlockFile::descriptor`] block,
//! and are for start-up, housekeeping threads and offline tools; a pipeline's core writes through [`Io`](crate::Io).

use memmap2::{Advice, Mmap, MmapOptions};
use rustix::fs::{AtFlags, FallocateFlags, StatxFlags};
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::{Arena, give_way};

/// Pages are the unit of what can be unreadable.
const PAGE: usize = 4096;
/// Zeros are written in pieces of this size. A log write of 20 KiB beside such writes took 0.20 ms, beside those of 256 KiB 0.34, with
/// nothing beside it 0.10; beside those of 16 KiB not much less than here.
const ZERO_BYTES: usize = 64 << 10;
/// Between two of them a writer without haste rests for as long as the last took, and no longer than this.
const LONGEST_REST: Duration = Duration::from_millis(5);

/// The same for what a view reads, two of them at a time: a stretch of 4 MiB asked for at once kept a log write on the same disk
/// waiting for 2.7 ms.
const READ_BYTES: usize = 64 << 10;

/// Whether somebody waits for long work that rests in between, or soon will. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Haste(Arc<AtomicBool>);

impl Haste {
    /// What is waited for already.
    pub fn at_once() -> Haste {
        Haste(Arc::new(AtomicBool::new(true)))
    }

    /// From now on it is as told.
    pub fn set(&self, called_for: bool) {
        self.0.store(called_for, Ordering::Relaxed);
    }

    /// Whether it is.
    pub fn is_called_for(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A file of a log. Offsets and lengths are bytes.
pub trait BlockFile: Debug + Send + Sync {
    /// Its length.
    fn len_bytes(&self) -> io::Result<u64>;
    /// Makes it longer (or shorter).
    fn set_len_bytes(&self, bytes: u64) -> io::Result<()>;
    /// Takes the space for its first `bytes`, where the file system can.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Reads all of `out` at `offset`.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`, both as the way it was opened asks for. Does not sync.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Writes zeros over `[from, to)`, both multiples of the block size, and leaves the disk to others for half of the time until there
    /// is haste. Does not sync.
    fn zero(&self, from: u64, to: u64, haste: &Haste) -> io::Result<()>;
    /// Makes all that was written durable.
    fn sync(&self) -> io::Result<()>;
    /// Its bytes `[offset, offset + bytes)`, which must exist and must not change while the view lives. `offset` is a multiple of the
    /// page size.
    fn view(&self, offset: u64, bytes: usize) -> io::Result<View>;
    /// No more of it is read from now on than is asked for: its end is being written.
    fn never_read_ahead(&self) -> io::Result<()>;
    /// Drops what is cached of it.
    fn forget(&self) -> io::Result<()>;
    /// The unit of direct reads and writes, bytes; 0: there are none; None: the file system does not say.
    fn direct_bytes(&self) -> io::Result<Option<u32>>;
    /// Whether it is read and written around the page cache. What the kernel does not know has none.
    fn is_direct(&self) -> io::Result<bool> {
        Ok(true)
    }
    /// The descriptor, if the kernel knows the file.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
}

/// Bytes of a file, read-only. Those of pages that cannot be read must not be touched.
#[derive(Debug, Default)]
pub struct View {
    bytes: Bytes,
    unreadable: Vec<Range<usize>>,
    /// Where zeros begin that need not be looked at, if that is known.
    zeros: Option<usize>,
}

#[derive(Debug, Default)]
enum Bytes {
    #[default]
    None,
    Map(Mmap),
    Shared(Arc<Vec<u8>>, Range<usize>),
    Arena(Arc<Arena>, usize),
}

impl View {
    /// A view of memory, with the ranges of it that count as unreadable.
    pub fn shared(bytes: Arc<Vec<u8>>, range: Range<usize>, unreadable: Vec<Range<usize>>) -> View {
        View { bytes: Bytes::Shared(bytes, range), unreadable, zeros: None }
    }

    /// The first bytes of memory that was read into.
    pub fn arena(arena: Arc<Arena>, bytes: usize) -> View {
        View { bytes: Bytes::Arena(arena, bytes), unreadable: Vec::new(), zeros: None }
    }

    /// The same view, with nothing but readable zeros from `from` on.
    pub fn with_zeros(self, from: usize) -> View {
        View { zeros: Some(from), ..self }
    }

    /// How many bytes it has in front of what is known to be zeros.
    pub fn used(&self) -> usize {
        self.zeros.map_or(self.len(), |zeros| zeros.min(self.len()))
    }

    /// How many bytes it has, unreadable ones included.
    pub fn len(&self) -> usize {
        match &self.bytes {
            Bytes::None => 0,
            Bytes::Map(map) => map.len(),
            Bytes::Shared(_, range) => range.len(),
            Bytes::Arena(_, bytes) => *bytes,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of the bytes, if all of them are there and can be read.
    pub fn get(&self, range: Range<usize>) -> Option<&[u8]> {
        let hit = |bad: &Range<usize>| bad.start < range.end && range.start < bad.end;
        if self.unreadable.iter().any(hit) {
            return None;
        }
        match &self.bytes {
            Bytes::None => None,
            Bytes::Map(map) => map.get(range),
            Bytes::Shared(bytes, whole) => bytes[whole.clone()].get(range),
            Bytes::Arena(arena, bytes) => arena.get(0, *bytes).get(range),
        }
    }
}

impl BlockFile for File {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len_bytes(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, FallocateFlags::empty(), 0, bytes) {
            // Whoever zeroes it next takes the space, too.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn zero(&self, from: u64, to: u64, haste: &Haste) -> io::Result<()> {
        zero_in_pieces(self, from..to, haste, std::thread::sleep)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn view(&self, offset: u64, bytes: usize) -> io::Result<View> {
        if bytes == 0 {
            return Ok(View::default());
        }
        let mut options = MmapOptions::new();
        options.offset(offset).len(bytes);
        // SAFETY: by the trait's contract these bytes exist and do not change while the view lives. What a foreign process could do
        // to the file is discussed where the log maps it (synod-wal, "Reading through maps").
        let map = unsafe { options.map(self) }?;
        // What is read ahead is asked for here. The kernel would read up to megabytes at once, and beyond the end of a live log
        // pages that are about to be written directly.
        map.advise(Advice::Random)?;
        let unreadable = populate(&map)?;
        if unreadable.is_empty() {
            // Refused where RLIMIT_MEMLOCK is lower than the view: then eviction stays possible.
            let _locked: bool = map.lock().is_ok();
        }
        Ok(View { bytes: Bytes::Map(map), unreadable, zeros: None })
    }

    fn never_read_ahead(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::Random)?)
    }

    fn forget(&self) -> io::Result<()> {
        for at in (0..self.len_bytes()?).step_by(READ_BYTES) {
            rustix::fs::fadvise(self, at, NonZeroU64::new(READ_BYTES as u64), rustix::fs::Advice::DontNeed)?;
            give_way();
        }
        Ok(())
    }

    fn direct_bytes(&self) -> io::Result<Option<u32>> {
        let stat = rustix::fs::statx(self, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
        let says = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN);
        Ok(says.then_some(stat.stx_dio_offset_align))
    }

    fn is_direct(&self) -> io::Result<bool> {
        Ok(rustix::fs::fcntl_getfl(self)?.contains(rustix::fs::OFlags::DIRECT))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

fn zero_in_pieces(file: &File, range: Range<u64>, haste: &Haste, mut rest: impl FnMut(Duration)) -> io::Result<()> {
    let zeros = Arena::new(ZERO_BYTES)?;
    let mut at = range.start;
    while at < range.end {
        let bytes = ((range.end - at) as usize).min(ZERO_BYTES);
        let begun = Instant::now();
        file.write_all_at(zeros.get(0, bytes), at)?;
        at += bytes as u64;
        if !haste.is_called_for() {
            rest(begun.elapsed().min(LONGEST_REST));
        }
    }
    Ok(())
}

/// Brings all pages in, piece by piece; the ranges that cannot be read.
fn populate(map: &Mmap) -> io::Result<Vec<Range<usize>>> {
    let ask = |start: usize| match map.len().saturating_sub(start).min(READ_BYTES) {
        0 => Ok(()),
        len => map.advise_range(Advice::WillNeed, start, len),
    };
    let mut unreadable = Vec::new();
    ask(0)?;
    for start in (0..map.len()).step_by(READ_BYTES) {
        ask(start + READ_BYTES)?;
        let piece = start..(start + READ_BYTES).min(map.len());
        if !is_readable(map.advise_range(Advice::PopulateRead, piece.start, piece.len()))? {
            populate_pages(map, piece, &mut unreadable)?;
        }
    }
    Ok(unreadable)
}

/// The same, page by page; adds the ranges that cannot be read.
fn populate_pages(map: &Mmap, range: Range<usize>, unreadable: &mut Vec<Range<usize>>) -> io::Result<()> {
    for start in range.clone().step_by(PAGE) {
        let len = PAGE.min(range.end - start);
        if !is_readable(map.advise_range(Advice::PopulateRead, start, len))? {
            unreadable.push(start..start + len);
        }
    }
    Ok(())
}

/// EFAULT stands where touching would raise SIGBUS (an I/O error, a shortened file), EHWPOISON for broken memory; anything
/// else is not about a page.
fn is_readable(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EFAULT | libc::EHWPOISON | libc::EIO)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        file
    }

    #[test]
    fn a_page_that_vanished_under_the_map_is_told_before_it_is_touched() {
        let file = file(16_384);
        // SAFETY: the map is only given to madvise, never read.
        let map = unsafe { MmapOptions::new().len(16_384).map(&file) }.unwrap();
        file.set_len(8_192).unwrap();
        assert_eq!(populate(&map).unwrap(), [8_192..12_288, 12_288..16_384]);
    }

    #[test]
    fn zeros_are_written_with_rests_until_there_is_haste() {
        let bytes = 4 * ZERO_BYTES as u64 + 4_096;
        let file = file(bytes + 1);
        FileExt::write_all_at(&file, &vec![7; bytes as usize + 1], 0).unwrap();
        let (haste, mut rests) = (Haste::default(), 0);
        zero_in_pieces(&file, 4_096..bytes, &haste, |_| {
            rests += 1;
            haste.set(rests == 2);
        })
        .unwrap();
        assert_eq!(rests, 2);
        let mut found = vec![1; bytes as usize + 1];
        file.read_exact_at(&mut found, 0).unwrap();
        let (front, zeros) = found.split_at(4_096);
        assert!(front.iter().all(|byte| *byte == 7) && zeros[..zeros.len() - 1].iter().all(|byte| *byte == 0));
        assert_eq!(zeros.last(), Some(&7));
    }

    #[test]
    fn a_view_gives_what_is_there_and_readable() {
        let file = file(12_288);
        FileExt::write_at(&file, &[7; 100], 4_096).unwrap();
        let mapped = file.view(4_096, 8_192).unwrap();
        assert_eq!((mapped.len(), mapped.get(0..100)), (8_192, Some(&[7; 100][..])));
        assert_eq!(mapped.get(8_190..8_193), None);
        assert!(file.view(0, 0).unwrap().is_empty());
        let unreadable = std::iter::once(4_096..8_192).collect();
        let shared = View::shared(Arc::new(vec![1; 12_288]), 4_096..12_288, unreadable);
        assert_eq!((shared.len(), shared.get(4_000..4_096).map(<[u8]>::len)), (8_192, Some(96)));
        assert_eq!((shared.get(4_000..4_097), shared.get(8_191..8_192)), (None, None));
    }
}
