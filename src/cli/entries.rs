//! How entries stand in files: lines, BinaryFILE, or raw bytes one after the other. Reading is streaming and bounded
//! by the longest entry; writing goes into whatever buffer the caller gives. Called by `append`, `read`, `tail`, `demo`.
//!
//! | format | an entry in the file |
//! |---|---|
//! | `lines` | a line *with* its LF (a CR stays too), so an empty line is one byte; the last line may lack its LF |
//! | `binaryfile` | u16 big-endian length, payload; a zero length ends the file |
//! | `raw` | the payload alone (writing only) |
//!
//! Because a line keeps its LF, the entries put end to end are the input, byte for byte. Written as `lines`, an LF is
//! added only where an entry without one is followed by another: two files that were appended one after the other
//! stay apart.

use std::io::{self, BufRead, BufReader, Read, Write};

/// The longest entry that any format can carry: the wire's length field has 16 bits.
pub const MAX_ENTRY_BYTES: usize = u16::MAX as usize;

/// A format that entries are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum InputFormat {
    /// One entry a line, its LF included.
    Lines,
    /// u16 big-endian length and payload; a zero length ends the file.
    Binaryfile,
}

/// A format that entries are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// As they are; an LF is put between two where the first has none.
    Lines,
    /// u16 big-endian length and payload; a zero length ends the file.
    Binaryfile,
    /// As they are.
    Raw,
}

/// An input that is not in its format.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The file cannot be read.
    #[error("entry {entry}: {source}")]
    Io {
        /// Its number, from 1.
        entry: u64,
        /// Why.
        source: io::Error,
    },
    /// A line is longer than an entry can be.
    #[error(
        "line {entry} is longer than {MAX_ENTRY_BYTES} bytes, the most that an entry can have. Split it, or use another format"
    )]
    TooLong {
        /// Its number, from 1.
        entry: u64,
    },
    /// A BinaryFILE stops inside an entry.
    #[error(
        "entry {entry} is cut short: the file ends inside it. Fetch the rest of the file and append from that entry on"
    )]
    Cut {
        /// Its number, from 1.
        entry: u64,
    },
    /// A BinaryFILE has no end mark.
    #[error(
        "the file ends after entry {entry} without the zero length that closes a BinaryFILE: it may have been cut between two entries"
    )]
    NoEndMark {
        /// The last entry's number.
        entry: u64,
    },
}

/// Entries of a file, one at a time.
pub struct EntryReader<R> {
    input: BufReader<R>,
    format: InputFormat,
    entry: Vec<u8>,
    count: u64,
}

impl<R: Read> EntryReader<R> {
    /// Before the first entry.
    pub fn new(input: BufReader<R>, format: InputFormat) -> EntryReader<R> {
        EntryReader { input, format, entry: Vec::with_capacity(4_096), count: 0 }
    }

    /// Entries read so far; the number of the current one.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The entry that the last [`EntryReader::advance`] read.
    pub fn current(&self) -> &[u8] {
        &self.entry
    }

    /// Whether some of what follows was read already: else the next [`EntryReader::advance`] may wait for the input.
    pub fn has_more_at_hand(&self) -> bool {
        !self.input.buffer().is_empty()
    }

    /// Reads the next entry; false at the end.
    pub fn advance(&mut self) -> Result<bool, InputError> {
        self.entry.clear();
        let more = match self.format {
            InputFormat::Lines => self.line()?,
            InputFormat::Binaryfile => self.framed()?,
        };
        self.count += u64::from(more);
        Ok(more)
    }

    fn line(&mut self) -> Result<bool, InputError> {
        let entry = self.count + 1;
        let mut bounded = (&mut self.input).take(MAX_ENTRY_BYTES as u64);
        let length = bounded.read_until(b'\n', &mut self.entry).map_err(|source| InputError::Io { entry, source })?;
        if length == MAX_ENTRY_BYTES && self.entry.last() != Some(&b'\n') && !self.at_end()? {
            return Err(InputError::TooLong { entry });
        }
        Ok(length > 0)
    }

    fn at_end(&mut self) -> Result<bool, InputError> {
        let entry = self.count + 1;
        loop {
            match self.input.fill_buf() {
                Ok(rest) => return Ok(rest.is_empty()),
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(InputError::Io { entry, source }),
            }
        }
    }

    fn framed(&mut self) -> Result<bool, InputError> {
        if self.at_end()? {
            return Err(InputError::NoEndMark { entry: self.count });
        }
        let entry = self.count + 1;
        let cut = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof => InputError::Cut { entry },
            _ => InputError::Io { entry, source },
        };
        let mut length = [0; 2];
        self.input.read_exact(&mut length).map_err(cut)?;
        self.entry.resize(usize::from(u16::from_be_bytes(length)), 0);
        self.input.read_exact(&mut self.entry).map_err(cut)?;
        Ok(!self.entry.is_empty())
    }
}

/// Writes entries in a format.
pub struct EntryWriter<W> {
    output: W,
    format: OutputFormat,
    /// Whether the last entry was a line without its LF.
    open_line: bool,
}

impl<W: Write> EntryWriter<W> {
    /// Before the first entry.
    pub fn new(output: W, format: OutputFormat) -> EntryWriter<W> {
        EntryWriter { output, format, open_line: false }
    }

    /// Writes one entry.
    pub fn write(&mut self, entry: &[u8]) -> io::Result<()> {
        match self.format {
            OutputFormat::Raw => {}
            OutputFormat::Lines => {
                if self.open_line {
                    self.output.write_all(b"\n")?;
                }
                self.open_line = entry.last() != Some(&b'\n');
            }
            OutputFormat::Binaryfile => {
                let length = u16::try_from(entry.len()).expect("an entry's length has 16 bits on the wire");
                self.output.write_all(&length.to_be_bytes())?;
            }
        }
        self.output.write_all(entry)
    }

    /// Makes what was written visible.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// Writes the end mark, where the format has one, and flushes.
    pub fn finish(mut self) -> io::Result<W> {
        if self.format == OutputFormat::Binaryfile {
            self.output.write_all(&0u16.to_be_bytes())?;
        }
        self.output.flush()?;
        Ok(self.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(input: &[u8], format: InputFormat) -> Result<Vec<Vec<u8>>, InputError> {
        let mut reader = EntryReader::new(BufReader::new(input), format);
        let mut entries = Vec::new();
        while reader.advance()? {
            entries.push(reader.current().to_vec());
        }
        Ok(entries)
    }

    fn written(entries: &[Vec<u8>], format: OutputFormat) -> Vec<u8> {
        let mut writer = EntryWriter::new(Vec::new(), format);
        for entry in entries {
            writer.write(entry).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn lines_keep_their_ends() {
        let entries = all(b"a\r\n\n\nlast", InputFormat::Lines).unwrap();
        assert_eq!(entries, [&b"a\r\n"[..], b"\n", b"\n", b"last"]);
        assert!(all(b"", InputFormat::Lines).unwrap().is_empty());
    }

    #[test]
    fn two_inputs_without_a_last_lf_stay_two_lines() {
        let entries = [b"one".to_vec(), b"two\n".to_vec(), b"three".to_vec()];
        assert_eq!(written(&entries, OutputFormat::Lines), b"one\ntwo\nthree");
        assert_eq!(written(&entries, OutputFormat::Raw), b"onetwo\nthree");
    }

    #[test]
    fn a_line_that_no_entry_can_hold_is_refused_with_its_number() {
        let mut input = b"short\n".to_vec();
        input.extend(vec![b'x'; MAX_ENTRY_BYTES]);
        assert_eq!(all(&input, InputFormat::Lines).unwrap()[1].len(), MAX_ENTRY_BYTES);
        input.push(b'x');
        assert!(matches!(all(&input, InputFormat::Lines), Err(InputError::TooLong { entry: 2 })));
    }

    #[test]
    fn a_cut_binary_file_is_told_from_a_whole_one() {
        let whole = written(&[b"ab".to_vec(), b"c".to_vec()], OutputFormat::Binaryfile);
        assert_eq!(whole, b"\x00\x02ab\x00\x01c\x00\x00");
        assert_eq!(all(&whole, InputFormat::Binaryfile).unwrap(), [&b"ab"[..], b"c"]);
        assert!(matches!(all(&whole[..7], InputFormat::Binaryfile), Err(InputError::NoEndMark { entry: 2 })));
        assert!(matches!(all(&whole[..3], InputFormat::Binaryfile), Err(InputError::Cut { entry: 1 })));
        assert!(matches!(all(&whole[..5], InputFormat::Binaryfile), Err(InputError::Cut { entry: 2 })));
    }

    proptest! {
        #[test]
        fn any_bytes_read_as_lines_come_back_as_they_were(input in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..400)) {
            let entries = all(&input, InputFormat::Lines).unwrap();
            prop_assert_eq!(&entries.concat(), &input);
            prop_assert_eq!(&written(&entries, OutputFormat::Lines), &input);
            prop_assert_eq!(&written(&entries, OutputFormat::Raw), &input);
        }

        #[test]
        fn any_entries_survive_a_binary_file(entries in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..20)) {
            let file = written(&entries, OutputFormat::Binaryfile);
            prop_assert_eq!(all(&file, InputFormat::Binaryfile).unwrap(), entries);
        }
    }
}
