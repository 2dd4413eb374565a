//! What the demo sequences: the lines of a file, over and over, or generated messages. Streaming, and repeatable from the
//! start: the logs are compared with a second reading. Reads the one file.

use super::generator::{self, Generator};
use crate::cli::entries::{EntryReader, InputFormat};
use anyhow::{Context, bail};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// The seed of the generated messages, printed with the report.
pub(super) const SEED: u64 = 20_260_101;

/// Where entries come from.
#[derive(Clone, Debug)]
pub(super) enum Input {
    /// The lines of a file; how many there are, and the longest.
    File { path: PathBuf, lines: u64, longest_bytes: usize },
    /// Order messages.
    Generated,
}

impl Input {
    /// Looks at the file once, or at nothing.
    pub(super) fn new(path: Option<&Path>) -> anyhow::Result<Input> {
        let Some(path) = path else { return Ok(Input::Generated) };
        let mut reader = open(path)?;
        let mut longest_bytes = 0;
        while reader.advance().with_context(|| format!("{}", path.display()))? {
            longest_bytes = longest_bytes.max(reader.current().len());
        }
        if reader.count() == 0 {
            bail!("{} is empty: name a file with at least one line, or none for generated messages", path.display());
        }
        Ok(Input::File { path: path.into(), lines: reader.count(), longest_bytes })
    }

    /// The longest entry.
    pub(super) fn longest_bytes(&self) -> usize {
        match self {
            Input::File { longest_bytes, .. } => *longest_bytes,
            Input::Generated => generator::MAX_BYTES,
        }
    }

    /// From the first entry on.
    pub(super) fn feed(&self) -> anyhow::Result<Feed<'_>> {
        let source = match self {
            Input::File { path, .. } => Source::File(open(path)?),
            Input::Generated => Source::Generated(Generator::new(SEED)),
        };
        Ok(Feed { input: self, source, given: 0 })
    }
}

fn open(path: &Path) -> anyhow::Result<EntryReader<File>> {
    let file = File::open(path).with_context(|| format!("cannot open the input {}", path.display()))?;
    Ok(EntryReader::new(BufReader::with_capacity(64 << 10, file), InputFormat::Lines))
}

enum Source {
    File(EntryReader<File>),
    Generated(Generator),
}

/// An endless row of entries.
pub(super) struct Feed<'a> {
    input: &'a Input,
    source: Source,
    given: u64,
}

impl Feed<'_> {
    /// The next entry; after a file's last comes its first.
    pub(super) fn advance(&mut self) -> anyhow::Result<&[u8]> {
        self.given += 1;
        if let (Source::File(reader), Input::File { path, .. }) = (&mut self.source, self.input)
            && !reader.advance()?
        {
            *reader = open(path)?;
            if !reader.advance()? {
                bail!("{} became empty while it was read", path.display());
            }
        }
        Ok(match &mut self.source {
            Source::File(reader) => reader.current(),
            Source::Generated(generator) => generator.advance(),
        })
    }

    /// Whether the entries given so far are the whole input a whole number of times.
    pub(super) fn is_whole(&self) -> bool {
        match self.input {
            Input::File { lines, .. } => self.given.is_multiple_of(*lines),
            Input::Generated => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_repeated_line_by_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"one\r\n\nlast without end").unwrap();
        let input = Input::new(Some(file.path())).unwrap();
        assert_eq!(input.longest_bytes(), 16);
        let mut feed = input.feed().unwrap();
        for _ in 0..3 {
            for expected in [&b"one\r\n"[..], b"\n", b"last without end"] {
                assert_eq!(feed.advance().unwrap(), expected);
            }
            assert!(feed.is_whole());
        }
    }

    #[test]
    fn an_empty_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Input::new(Some(file.path())).unwrap_err().to_string();
        assert!(error.contains("is empty"), "{error}");
    }
}
