//! Segment files: making them (housekeeping, blocking), naming their owner, and the set of them that readers scan.

use crate::directory::{
    Listing, block_bytes, list, open_direct, open_read, preparation_name, segment_name, segment_path, snapshot_name,
    sync_dir, take_lock,
};
use crate::layout::{Geometry, trailer_bytes};
use crate::trailer::{self, TrailerFields};
use crate::window::Window;
use crate::{
    Dir, Expect, Identity, LogError, MAX_BLOCK_BYTES, MAX_SEGMENT_BYTES, MIN_BLOCK_BYTES, Settings, is_stride,
};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use synod_ring::{Arena, BlockFile, Haste};
use synod_wire::frame::{self, FrameError, HEADER_BYTES, Header, Kind};
use synod_wire::record::SegmentHeader;
use synod_wire::{Ballot, ClusterId, Epoch, GroupId, Lsn, NodeId, Slot};
use zerocopy::{FromBytes, IntoBytes};

/// How often a directory that is in use is listed before a segment that is not there counts as missing.
const LIVE_LISTINGS: usize = 8;

/// A segment to be prepared: hand it to a housekeeping thread.
#[derive(Clone, Debug)]
pub struct SegmentSpec {
    pub(crate) dir: Dir,
    pub(crate) index: u64,
    pub(crate) geometry: Geometry,
    pub(crate) identity: Identity,
    /// Once the log is about to need it.
    pub(crate) haste: Haste,
}

/// A segment that is whole on disk and open for direct writes: hand it to [`Log::segment_ready`](crate::Log::segment_ready).
#[derive(Debug)]
pub struct PreparedSegment {
    pub(crate) index: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn BlockFile>,
}

impl SegmentSpec {
    /// Whether the log is about to need it: until then its preparation leaves the disk to others in between.
    pub fn is_urgent(&self) -> bool {
        self.haste.is_called_for()
    }

    /// Creates, zeroes and names the segment, all synced. Blocks for as long as the disk needs. After an error it may be tried
    /// again; what the failed attempt left is removed or overwritten.
    pub fn prepare(&self) -> Result<PreparedSegment, LogError> {
        self.prepare_with(&[])
    }

    /// As [`SegmentSpec::prepare`], with `flush` (whole blocks) behind the header block.
    fn prepare_with(&self, flush: &[u8]) -> Result<PreparedSegment, LogError> {
        let (name, preparation) = (segment_name(self.index), preparation_name(self.index));
        let path = self.dir.path().join(&name);
        let file = open_direct(&self.dir, &preparation, true)?;
        let filled = self.fill(&*file, &self.dir.path().join(&preparation), flush);
        if let Err(error) = filled.map_err(|error| self.out_of_space(error)) {
            // The first error is the one to report; a file that cannot be removed is overwritten by the next attempt.
            let _removed: bool = self.dir.remove(&preparation).is_ok();
            return Err(error);
        }
        // The rename replaces nothing: no mistake of ours may put zeros in the place of a log.
        self.dir.rename(&preparation, &name).map_err(LogError::file("name the prepared segment", &path))?;
        sync_dir(&self.dir)?;
        Ok(PreparedSegment { index: self.index, path, file })
    }

    fn fill(&self, file: &dyn BlockFile, path: &Path, flush: &[u8]) -> Result<(), LogError> {
        let bytes = self.geometry.segment_bytes;
        // Asked first: an allocation that must fail would take all that is left from others for a while.
        if self.dir.free_bytes().map_err(LogError::file("statvfs", self.dir.path()))? < bytes {
            return Err(LogError::NoSpace { path: path.to_path_buf(), bytes });
        }
        file.allocate(bytes).map_err(LogError::file("allocate", path))?;
        file.zero(0, bytes, &self.haste).map_err(LogError::file("zero", path))?;
        let block_bytes = self.geometry.block_bytes as usize;
        let head_bytes = block_bytes + flush.len();
        let mut head = Arena::new(head_bytes).map_err(LogError::file("map a buffer to write", path))?;
        write_header(head.get_mut(0, block_bytes), self);
        head.get_mut(block_bytes, flush.len()).copy_from_slice(flush);
        file.write_at(head.get(0, head_bytes), 0).map_err(LogError::file("write the header of", path))?;
        file.sync().map_err(LogError::file("sync", path))
    }

    fn out_of_space(&self, error: LogError) -> LogError {
        match error {
            LogError::File { path, source, .. }
                if matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) =>
            {
                LogError::NoSpace { path, bytes: self.geometry.segment_bytes }
            }
            other => other,
        }
    }
}

fn write_header(block: &mut [u8], spec: &SegmentSpec) {
    let body = SegmentHeader {
        index: spec.index.into(),
        segment_bytes: spec.geometry.segment_bytes.into(),
        stride_bytes: spec.geometry.stride_bytes.into(),
        block_bytes: (spec.geometry.block_bytes as u32).into(),
        node: spec.identity.node.0,
        reserved: [0; 3],
        incarnation: spec.identity.incarnation.into(),
    };
    let header = Header {
        kind: Kind::Segment,
        flags: 0,
        from: spec.identity.node,
        group: spec.identity.group,
        cluster: spec.identity.cluster,
        epoch: Epoch(0),
        slot: Slot(0),
        ballot: Ballot::ZERO,
        promised: Ballot::ZERO,
        lsn: Lsn(0),
    };
    let used = frame::write_frame(block, &header, body.as_bytes());
    block[used..].fill(0);
}

/// Makes the log of a new node in `dir`: the lock, segment 0, and in it `first_record` (the founding configuration, Lsn 1), all
/// synced, names included. Refuses a directory that holds a log. If it is interrupted, it can be run again.
pub fn format(
    dir: impl Into<Dir>,
    identity: &Identity,
    first_record: (&Header, &[u8]),
    settings: &Settings,
) -> Result<(), LogError> {
    settings.check()?;
    let (header, payload) = first_record;
    assert_eq!(header.lsn, Lsn(1), "the first record has Lsn 1");
    assert!(header.cluster == identity.cluster && header.group == identity.group, "the first record is of another log");
    let dir = dir.into();
    dir.create().map_err(LogError::file("create", dir.path()))?;
    let _lock = take_lock(&dir)?;
    let Listing { segments, snapshots, .. } = list(&dir)?;
    let segment = segments.first().map(|index| segment_path(&dir, *index));
    if let Some(found) = segment.or(snapshots.first().map(|slot| dir.path().join(snapshot_name(*slot)))) {
        return Err(LogError::Formatted { dir: dir.path().to_path_buf(), found });
    }
    let block_bytes = u64::from(format_block_bytes(&dir)?);
    let geometry = Geometry { segment_bytes: settings.segment_bytes, stride_bytes: settings.stride_bytes, block_bytes };
    let spec = SegmentSpec { dir: dir.clone(), index: 0, geometry, identity: *identity, haste: Haste::at_once() };
    spec.prepare_with(&first_flush(&geometry, identity, header, payload))?;
    dir.sync_parent().map_err(LogError::file("sync the directory above", dir.path()))
}

/// statx tells the alignment of direct I/O for files only, so a probe is opened under the lock's protection.
fn format_block_bytes(dir: &Dir) -> Result<u32, LogError> {
    let name = preparation_name(0);
    let probe = dir.path().join(&name);
    let file = open_direct(dir, &name, true)?;
    let bytes = block_bytes(&*file, &probe)?;
    dir.remove(&name).map_err(LogError::file("remove", &probe))?;
    sync_dir(dir)?;
    Ok(bytes)
}

fn first_flush(geometry: &Geometry, identity: &Identity, header: &Header, payload: &[u8]) -> Vec<u8> {
    let start = geometry.first(0);
    let record_bytes = frame::frame_bytes(payload.len());
    let end = geometry.sealed_end(start + record_bytes as u64, 1);
    let mut flush = vec![0; (end - start) as usize];
    frame::write_frame(&mut flush, header, payload);
    let header_crc = u32::from_le_bytes([flush[0], flush[1], flush[2], flush[3]]);
    let fields = TrailerFields {
        start,
        next: geometry.next_start(end, geometry.stride_bytes),
        lsn: header.lsn,
        // Segment 0 gets its name only after this flush was synced: whoever reads the mark reads the truth.
        mark: header.lsn,
        promised: header.promised,
        is_cut_mark: false,
    };
    let entry = trailer::entry(header, header_crc, payload.len());
    let trailer_end = record_bytes + trailer_bytes(1) as usize;
    trailer::write(&mut flush[record_bytes..trailer_end], identity, &fields, &[entry]);
    flush
}

/// One segment file, open to be read.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn BlockFile>,
    /// Whether its header is whole. A damaged one loses nothing: the others say the same.
    pub(crate) header_is_whole: bool,
}

/// All segments of a directory, without a gap: from 0 on, or from a later one if the log's front was removed.
#[derive(Debug)]
pub(crate) struct Segments {
    pub(crate) dir: Dir,
    /// The number of the first one.
    pub(crate) first: u64,
    pub(crate) files: Vec<SegmentFile>,
    pub(crate) geometry: Geometry,
    pub(crate) identity: Identity,
}

impl Segments {
    /// Opens the segments in `dir` and checks that they belong together. `live`: a process may be appending, and removing the
    /// front: a directory is not listed in one moment, so a segment that is not there is looked for again.
    pub(crate) fn open(dir: &Dir, live: bool) -> Result<Segments, LogError> {
        let listings = if live { LIVE_LISTINGS } else { 1 };
        for _ in 1..listings {
            match Segments::open_listed(dir, live) {
                Err(LogError::MissingSegment { .. }) => {}
                Err(LogError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
        }
        Segments::open_listed(dir, live)
    }

    fn open_listed(dir: &Dir, live: bool) -> Result<Segments, LogError> {
        let mut files = Vec::new();
        let mut first: Option<(Geometry, Identity)> = None;
        let listed = list(dir)?.segments;
        let first_index = listed.first().copied().unwrap_or(0);
        for (offset, index) in (0..).zip(listed) {
            let expected_index = first_index + offset;
            if index != expected_index {
                let path = segment_path(dir, expected_index);
                return Err(LogError::MissingSegment { path, why: "earlier and later ones exist" });
            }
            let name = segment_name(index);
            let (path, file) = (dir.path().join(&name), open_read(dir, &name)?);
            if live {
                // Reading the header must not read ahead into what the log is about to write directly.
                file.never_read_ahead().map_err(LogError::file("fadvise", &path))?;
            }
            let header = read_header(&*file, &path)?;
            if let Some((frame_header, body)) = &header {
                let found = check_header(&path, index, frame_header, body)?;
                same_log(&path, &found, first.get_or_insert(found))?;
            }
            files.push(SegmentFile { path, file, header_is_whole: header.is_some() });
        }
        if files.is_empty() {
            return Err(LogError::NotFormatted { dir: dir.path().to_path_buf() });
        }
        let (geometry, identity) = first.ok_or_else(|| LogError::NoHeader { dir: dir.path().to_path_buf() })?;
        for segment in &files {
            let bytes = segment.file.len_bytes().map_err(LogError::file("stat", &segment.path))?;
            if bytes > geometry.segment_bytes {
                let mend = "It is longer than this program makes it: restore the file";
                return mismatch(&segment.path, "bytes", bytes, geometry.segment_bytes, mend);
            }
        }
        let end_index = first_index.checked_add(files.len() as u64);
        if end_index.and_then(|end| end.checked_mul(geometry.segment_bytes)).is_none() {
            let mend = "No log is that long: the file was renamed, restore it";
            return mismatch(&files[0].path, "index", first_index, 0, mend);
        }
        Ok(Segments { dir: dir.clone(), first: first_index, files, geometry, identity })
    }

    /// Prepares the segment behind the last one, and takes it in.
    pub(crate) fn prepare_next(&mut self) -> Result<(), LogError> {
        let (dir, index) = (self.dir.clone(), self.end_index());
        let spec =
            SegmentSpec { dir, index, geometry: self.geometry, identity: self.identity, haste: Haste::at_once() };
        let path = spec.prepare()?.path;
        let file = open_read(&self.dir, &segment_name(index))?;
        self.files.push(SegmentFile { path, file, header_is_whole: true });
        Ok(())
    }

    /// Checks that the log is the expected one.
    pub(crate) fn check(&self, expect: &Expect, settings: &Settings) -> Result<(), LogError> {
        let path = &self.files[0].path;
        let foreign = "The directory belongs to another log: mend the configuration, or mount the right disk";
        let pairs = [
            ("cluster", u64::from(self.identity.cluster.0), u64::from(expect.cluster.0)),
            ("group", u64::from(self.identity.group.0), u64::from(expect.group.0)),
            ("node", u64::from(self.identity.node.0), u64::from(expect.node.0)),
        ];
        for (field, found, expected) in pairs {
            if found != expected {
                return mismatch(path, field, found, expected, foreign);
            }
        }
        let fixed = "The size is fixed when a log is formatted: set it to what the file has";
        let sizes = [
            ("segment_bytes", self.geometry.segment_bytes, settings.segment_bytes),
            ("stride_bytes", self.geometry.stride_bytes, settings.stride_bytes),
        ];
        for (field, found, expected) in sizes {
            if found != expected {
                return mismatch(path, field, found, expected, fixed);
            }
        }
        Ok(())
    }

    /// Whether the segment of `pos` exists.
    pub(crate) fn holds(&self, pos: u64) -> bool {
        (self.first..self.end_index()).contains(&self.geometry.segment(pos))
    }

    /// The file of the segment of `pos`, which must exist.
    pub(crate) fn file_at(&self, pos: u64) -> &SegmentFile {
        self.file(self.geometry.segment(pos))
    }

    /// The file of segment `index`, which must exist.
    pub(crate) fn file(&self, index: u64) -> &SegmentFile {
        &self.files[(index - self.first) as usize]
    }

    /// The number behind the last segment's.
    pub(crate) fn end_index(&self) -> u64 {
        self.first + self.files.len() as u64
    }

    /// The start of the first segment.
    pub(crate) fn start(&self) -> u64 {
        self.first * self.geometry.segment_bytes
    }

    /// The end of the last segment.
    pub(crate) fn end(&self) -> u64 {
        self.end_index() * self.geometry.segment_bytes
    }

    /// Maps from `start` (a page boundary) to the end of its stride, or to `to`. The segment must exist.
    pub(crate) fn window(&self, start: u64, to: u64) -> Result<Window, LogError> {
        let segment = self.file_at(start);
        Window::open(&self.geometry, &*segment.file, &segment.path, start, to)
    }
}

/// The header frame of a segment, if it is whole. Another format version that is whole in its own right is an error.
fn read_header(file: &dyn BlockFile, path: &Path) -> Result<Option<(Header, SegmentHeader)>, LogError> {
    let mut bytes = [0; HEADER_BYTES + size_of::<SegmentHeader>()];
    match file.read_at(&mut bytes, 0) {
        Ok(()) => {}
        // Too short or unreadable: damage of a header, which the scanner reports.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(None),
        Err(error) => return Err(LogError::file("read", path)(error)),
    }
    let parsed = match frame::parse(&bytes) {
        Ok(parsed) => parsed,
        Err(FrameError::Version(found)) if header_crc_holds(&bytes) => {
            return Err(LogError::Version { path: path.to_path_buf(), found });
        }
        Err(_) => return Ok(None),
    };
    let body = SegmentHeader::read_from_bytes(parsed.payload).ok();
    Ok(body.filter(|_| parsed.header.kind == Kind::Segment).map(|body| (parsed.header, body)))
}

/// Every version keeps the first four bytes as the checksum of the rest of the header: so a bit flip in the version byte is
/// not taken for another version.
fn header_crc_holds(bytes: &[u8]) -> bool {
    frame::checksum(&bytes[4..HEADER_BYTES]).to_le_bytes() == bytes[..4]
}

fn check_header(
    path: &Path,
    index: u64,
    header: &Header,
    body: &SegmentHeader,
) -> Result<(Geometry, Identity), LogError> {
    let mend = "The file was renamed, or is of no release of this program: restore it";
    if body.index.get() != index {
        return mismatch(path, "index", body.index.get(), index, mend);
    }
    let stride_bytes = body.stride_bytes.get();
    if !is_stride(stride_bytes) {
        return mismatch(path, "stride_bytes", stride_bytes, crate::STRIDE_BYTES, mend);
    }
    let segment_bytes = body.segment_bytes.get();
    if segment_bytes == 0 || !segment_bytes.is_multiple_of(stride_bytes) || segment_bytes > MAX_SEGMENT_BYTES {
        return mismatch(path, "segment_bytes", segment_bytes, stride_bytes, mend);
    }
    let block_bytes = body.block_bytes.get();
    if !block_bytes.is_power_of_two() || !(MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&block_bytes) {
        return mismatch(path, "block_bytes", u64::from(block_bytes), u64::from(MIN_BLOCK_BYTES), mend);
    }
    let identity = Identity {
        cluster: ClusterId(header.cluster.0),
        group: GroupId(header.group.0),
        node: NodeId(body.node),
        incarnation: body.incarnation.get(),
    };
    Ok((Geometry { segment_bytes, stride_bytes, block_bytes: u64::from(block_bytes) }, identity))
}

fn same_log(path: &Path, found: &(Geometry, Identity), first: &(Geometry, Identity)) -> Result<(), LogError> {
    let mend = "Files of two logs are mixed in this directory: restore the right ones";
    let pairs = [
        ("cluster", u64::from(found.1.cluster.0), u64::from(first.1.cluster.0)),
        ("group", u64::from(found.1.group.0), u64::from(first.1.group.0)),
        ("node", u64::from(found.1.node.0), u64::from(first.1.node.0)),
        ("incarnation", found.1.incarnation, first.1.incarnation),
        ("segment_bytes", found.0.segment_bytes, first.0.segment_bytes),
        ("stride_bytes", found.0.stride_bytes, first.0.stride_bytes),
        ("block_bytes", found.0.block_bytes, first.0.block_bytes),
    ];
    match pairs.into_iter().find(|(_, found, first)| found != first) {
        Some((field, found, expected)) => mismatch(path, field, found, expected, mend),
        None => Ok(()),
    }
}

fn mismatch<T>(path: &Path, field: &'static str, found: u64, expected: u64, mend: &'static str) -> Result<T, LogError> {
    Err(LogError::Mismatch { path: path.to_path_buf(), field, found, expected, mend })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::STRIDE_BYTES;

    #[test]
    fn a_full_disk_is_told_with_what_is_needed() {
        let identity = Identity { cluster: ClusterId(1), group: GroupId(0), node: NodeId(0), incarnation: 1 };
        let geometry = Geometry { segment_bytes: STRIDE_BYTES, stride_bytes: STRIDE_BYTES, block_bytes: 4096 };
        let spec =
            SegmentSpec { dir: Dir::from(Path::new("/wal")), index: 3, geometry, identity, haste: Haste::default() };
        for (errno, full) in [(libc::ENOSPC, true), (libc::EDQUOT, true), (libc::EIO, false)] {
            let error = LogError::file("allocate", Path::new("/wal/3"))(io::Error::from_raw_os_error(errno));
            let told = spec.out_of_space(error);
            assert_eq!(matches!(told, LogError::NoSpace { bytes: STRIDE_BYTES, .. }), full, "{told}");
        }
    }
}
