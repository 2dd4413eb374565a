//! What a command answers with: text or JSON on stdout, and an exit code. A closed stdout (`| head`) ends a command
//! quietly. Called by every command.

use serde::Serialize;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::process::ExitCode;

/// How a command prints data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON value (or one a line, where there are many).
    Json,
}

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1, with a message.
    Failed(anyhow::Error),
    /// Exit code 1; the command's own output says why.
    Told,
    /// Exit code 2: the arguments contradict the configuration.
    Usage(anyhow::Error),
    /// Exit code 3: no leader, or no quorum.
    Unavailable(anyhow::Error),
    /// Nobody reads our output any more: exit code 0, as nothing went wrong.
    OutputClosed,
}

/// What a command returns.
pub type Outcome = Result<(), Failure>;

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Failed(error)
    }
}

/// Stdout cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to stdout: {0}")]
pub struct OutputError(#[source] pub io::Error);

impl From<OutputError> for Failure {
    fn from(OutputError(error): OutputError) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::OutputClosed
        } else {
            Failure::Failed(OutputError(error).into())
        }
    }
}

/// Buffered stdout.
pub fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(64 << 10, io::stdout().lock())
}

/// Prints a text as it is.
pub fn print(text: &str) -> Outcome {
    let mut out = stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(OutputError)?;
    Ok(())
}

/// Prints one JSON value and an LF.
pub fn print_json(value: &impl Serialize) -> Outcome {
    let mut out = stdout();
    json_line(&mut out, value)?;
    out.flush().map_err(OutputError)?;
    Ok(())
}

/// Writes one JSON value and an LF.
pub fn json_line(out: &mut impl Write, value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string(value).map_err(|error| Failure::Failed(error.into()))?;
    writeln!(out, "{text}").map_err(OutputError)?;
    Ok(())
}

/// Ends the process's work: prints what is to be said and gives the code.
pub fn exit_code(outcome: Outcome) -> ExitCode {
    let (error, code) = match outcome {
        Ok(()) | Err(Failure::OutputClosed) => return ExitCode::SUCCESS,
        Err(Failure::Told) => return ExitCode::from(1),
        Err(Failure::Failed(error)) => (error, 1),
        Err(Failure::Usage(error)) => (error, 2),
        Err(Failure::Unavailable(error)) => (error, 3),
    };
    // With stderr gone too there is nobody left to tell; the code still says it.
    let _ = writeln!(io::stderr(), "synod: {}", told(&error));
    ExitCode::from(code)
}

/// An error and what is behind it. Errors that end with a mend name their cause in front of it: it is not said again behind.
fn told(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !told.contains(&cause) {
            told += if told.is_empty() { "" } else { ": " };
            told += &cause;
        }
    }
    told
}

/// A table whose columns are as wide as their widest cell.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with these headings; those that start with `>` are set to the right.
    pub fn new(headings: &[&str]) -> Table {
        let right = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let names = headings.iter().map(|heading| heading.trim_start_matches('>').to_string()).collect();
        Table { rows: vec![names], right }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let row: Vec<String> = cells.into_iter().collect();
        assert_eq!(row.len(), self.right.len(), "a row has as many cells as there are headings");
        self.rows.push(row);
    }

    /// The table as text, a line a row.
    pub fn render(&self) -> String {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                let cell = if self.right[column] { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
                line.push_str(&cell);
                line.push_str("  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let cause = anyhow::anyhow!("no such file");
        let error = cause.context("cannot read \"f\": no such file. Name another").context("no log");
        assert_eq!(told(&error), "no log: cannot read \"f\": no such file. Name another");
        assert_eq!(told(&anyhow::anyhow!("why").context("what")), "what: why");
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let mut table = Table::new(&["name", ">count"]);
        table.row(["a".into(), "1".into()]);
        table.row(["longer".into(), "1234567".into()]);
        assert_eq!(table.render(), "name      count\na             1\nlonger  1234567\n");
    }

    #[test]
    fn a_closed_stdout_is_no_failure_and_a_full_one_is() {
        let closed = Failure::from(OutputError(io::ErrorKind::BrokenPipe.into()));
        assert!(matches!(closed, Failure::OutputClosed));
        let full = Failure::from(OutputError(io::ErrorKind::StorageFull.into()));
        assert!(matches!(full, Failure::Failed(_)));
    }
}
