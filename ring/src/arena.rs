//! Memory that the kernel reads from: mapped once, page-aligned, shared with the reactor by reference count.

use crate::give_way;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

/// Pages that get their memory at once.
const POPULATE_BYTES: usize = 64 << 10;

/// A fixed piece of zeroed, page-aligned memory. Clones of the mapping inside keep it alive while the kernel may read it.
#[derive(Debug)]
pub struct Arena {
    mapping: Arc<Mapping>,
}

#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory with no thread affinity; it is written only through `&mut Arena`.
unsafe impl Send for Mapping {}
// SAFETY: shared access only reads (see `Arena::get`); writes need `&mut Arena`, and a mapping has exactly one `Arena`.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and bytes are those of the mmap in `Arena::new`, unmapped once, here.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
        assert_eq!(result, 0, "munmap of an arena failed");
    }
}

/// Some bytes of an arena.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

impl<'a> Slice<'a> {
    /// The bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.arena.get(self.start, self.len)
    }

    /// What a reactor keeps of it beyond this call: as the kernel does, it sees the memory as it is when it looks.
    pub fn lend(self) -> Loan {
        Loan { mapping: self.arena.mapping(), start: self.start, len: self.len, thread: PhantomData }
    }
}

/// Bytes of an arena that were handed to a reactor and may still be read (see the ownership rules on top of this crate).
/// Stays in the thread that writes the arena.
#[derive(Clone, Debug)]
pub struct Loan {
    mapping: Arc<Mapping>,
    start: usize,
    len: usize,
    thread: PhantomData<*const ()>,
}

impl Loan {
    /// What the memory holds now.
    ///
    /// # Safety
    /// The arena is not written while the bytes are borrowed: its owner lives in this thread, and holds no borrow of
    /// [`Arena::get_mut`] meanwhile.
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: in bounds (the slice was), initialised (mmap zeroes), mapped (by the reference count), and by the
        // caller's promise nobody writes while this borrow lasts.
        unsafe { std::slice::from_raw_parts(self.mapping.base().add(self.start), self.len) }
    }
}

impl Arena {
    /// Maps `bytes` of zeroed memory, rounded up to whole pages. Pages are touched by their first use, so that a large arena
    /// costs what is used of it.
    pub fn new(bytes: usize) -> std::io::Result<Arena> {
        let bytes = bytes.next_multiple_of(4096).max(4096);
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| std::io::Error::other("mmap returned the null page"))?;
        Ok(Arena { mapping: Arc::new(Mapping { base, bytes }) })
    }

    /// As [`Arena::new`], for memory that will be used all over: asks the kernel to back it with huge pages, so that first
    /// uses fault once each 2 MiB instead of 512 times.
    pub fn of_huge_pages(bytes: usize) -> std::io::Result<Arena> {
        let arena = Arena::new(bytes)?;
        let mapping = &arena.mapping;
        // A hint: a kernel without huge pages refuses it, and all is as without.
        // SAFETY: the range is the mapping just made, which nobody else knows yet; its contents do not change.
        unsafe { libc::madvise(mapping.base.as_ptr().cast(), mapping.bytes, libc::MADV_HUGEPAGE) };
        Ok(arena)
    }

    /// Gives every page its memory now, so that no later use faults; leaves the contents as they are. Long work, which gives way: a
    /// virtual machine may have to get each page of its host.
    pub fn populate(&self) -> std::io::Result<()> {
        self.mapping.populate()
    }

    /// Bytes of the arena.
    pub fn len(&self) -> usize {
        self.mapping.bytes
    }

    /// Never: an arena has at least a page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// `len` bytes from `start`.
    ///
    /// # Panics
    /// If they do not lie in the arena.
    pub fn get(&self, start: usize, len: usize) -> &[u8] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.mapping.bytes), "outside of the arena");
        // SAFETY: in bounds (above), initialised (mmap zeroes), and no `&mut` exists while `&self` does.
        unsafe { std::slice::from_raw_parts(self.mapping.base.as_ptr().add(start), len) }
    }

    /// `len` bytes from `start`, to write. The caller answers for not touching bytes that the reactor still reads (see the
    /// ownership rules on top of this crate).
    ///
    /// # Panics
    /// If they do not lie in the arena.
    pub fn get_mut(&mut self, start: usize, len: usize) -> &mut [u8] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.mapping.bytes), "outside of the arena");
        // SAFETY: in bounds (above), initialised, and `&mut self` is the only way to a `&mut` of this memory. The kernel may
        // read it at the same time; that is no Rust reference, and the crate's rules keep such bytes unchanged.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.base.as_ptr().add(start), len) }
    }

    /// A part of the arena as the reactor takes it.
    pub fn slice(&self, start: usize, len: usize) -> Slice<'_> {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.mapping.bytes), "outside of the arena");
        Slice { arena: self, start, len }
    }

    /// Where the memory starts, for registration with the kernel.
    pub(crate) fn mapping(&self) -> Arc<Mapping> {
        self.mapping.clone()
    }
}

/// The address and length of bytes that a reactor keeps mapped, in its log arena or, where they may be there, in the other.
///
/// # Panics
/// If they lie in neither: nothing would keep them.
pub(crate) fn kept(bytes: Slice<'_>, log: &Mapping, send: Option<&Mapping>) -> (*const u8, u32) {
    let bytes = bytes.bytes();
    assert!(
        log.holds(bytes) || send.is_some_and(|send| send.holds(bytes)),
        "bytes from an arena that this reactor was not made with"
    );
    (bytes.as_ptr(), u32::try_from(bytes.len()).expect("arenas are smaller than 4 GiB"))
}

impl Mapping {
    pub(crate) fn base(&self) -> *const u8 {
        self.base.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Keeps every page in memory from now on; the errno where the kernel does not let it.
    pub(crate) fn lock(&self) -> Result<(), i32> {
        // SAFETY: base and bytes are those of this mapping; locking changes no byte.
        let result = unsafe { libc::mlock(self.base.as_ptr().cast(), self.bytes) };
        if result == 0 {
            return Ok(());
        }
        Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }

    fn holds(&self, bytes: &[u8]) -> bool {
        let (start, base) = (bytes.as_ptr().addr(), self.base().addr());
        start >= base && start + bytes.len() <= base + self.bytes
    }

    fn populate(&self) -> std::io::Result<()> {
        for start in (0..self.bytes).step_by(POPULATE_BYTES) {
            let bytes = POPULATE_BYTES.min(self.bytes - start);
            // SAFETY: a part of this mapping; populating changes no byte.
            let result =
                unsafe { libc::madvise(self.base.as_ptr().add(start).cast(), bytes, libc::MADV_POPULATE_WRITE) };
            if result != 0 {
                return Err(std::io::Error::last_os_error());
            }
            give_way();
        }
        Ok(())
    }
}
