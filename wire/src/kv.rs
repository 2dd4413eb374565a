//! What the key-value machine is told, asked, and says: the payload of an appended command, of a question, and of an answer.
//!
//! Commands are entries of the log, so they outlive every process: their layout is part of the format. All numbers are
//! little-endian.
//!
//! | | bytes |
//! |---|---|
//! | command | [`CommandHead`] (8), key, value |
//! | question | [`QuestionHead`] (16), key |
//! | answer | [`AnswerHead`] (16), value |
//!
//! The *version* of a value is the sequence of the put that wrote it.

use crate::Sequence;
use crate::frame::FrameError;
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The longest key; a key has one byte at least.
pub const MAX_KEY_BYTES: usize = 256;
/// The longest value; it may be empty. The longest command fits an entry of the default `net.max_batch_bytes`.
pub const MAX_VALUE_BYTES: usize = 1_024;

/// Starts a command.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct CommandHead {
    /// 1 put, 2 delete.
    pub operation: u8,
    /// Zero.
    pub reserved: u8,
    /// Bytes of the key.
    pub key_bytes: U16,
    /// Bytes of the value; 0 in a delete.
    pub value_bytes: U16,
    /// Zero.
    pub reserved_too: U16,
}

/// Starts a question.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct QuestionHead {
    /// 1 get, 2 outcome.
    pub operation: u8,
    /// Zero.
    pub reserved: u8,
    /// Bytes of the key; 0 in a question for an outcome.
    pub key_bytes: U16,
    /// Zero.
    pub reserved_too: [u8; 4],
    /// Whose outcome; 0 in a get.
    pub sequence: U64,
}

/// Starts an answer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct AnswerHead {
    /// What follows; see [`Answer`] and [`Outcome`].
    pub status: u8,
    /// Zero.
    pub reserved: [u8; 7],
    /// A version, or 0: none.
    pub version: U64,
}

/// Bytes of a [`CommandHead`].
pub const COMMAND_HEAD_BYTES: usize = size_of::<CommandHead>();
/// Bytes of a [`QuestionHead`].
pub const QUESTION_HEAD_BYTES: usize = size_of::<QuestionHead>();
/// Bytes of an [`AnswerHead`].
pub const ANSWER_HEAD_BYTES: usize = size_of::<AnswerHead>();
/// The longest command.
pub const MAX_COMMAND_BYTES: usize = COMMAND_HEAD_BYTES + MAX_KEY_BYTES + MAX_VALUE_BYTES;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const GET: u8 = 1;
const OUTCOME: u8 = 2;

/// A command, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// The key has this value from now on.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// The key has none.
    Delete {
        /// The key.
        key: &'a [u8],
    },
}

/// A question, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// What is the value of this key?
    Get(&'a [u8]),
    /// What became of the command with this sequence?
    Outcome(Sequence),
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The value was put.
    Stored {
        /// The version that it took the place of.
        previous: Option<Sequence>,
    },
    /// The key was deleted.
    Deleted {
        /// The version that it had.
        previous: Sequence,
    },
    /// The key that was to be deleted had no value.
    Absent,
    /// The map has no room for what was to be put: nothing changed.
    Full,
    /// The entry was no command, or longer than allowed: nothing changed.
    Malformed,
}

/// An answer, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The key's value.
    Value {
        /// The sequence of the put that wrote it.
        version: Sequence,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// The key has none.
    NoValue,
    /// What became of a command.
    Outcome(Outcome),
    /// Nothing is known of that command any more, or yet.
    NoOutcome,
}

fn check_key(key: &[u8]) -> Result<(), FrameError> {
    if (1..=MAX_KEY_BYTES).contains(&key.len()) { Ok(()) } else { Err(FrameError::Body) }
}

impl<'a> Command<'a> {
    /// Parses an entry: every length, and that what is zero is zero.
    pub fn parse(bytes: &'a [u8]) -> Result<Command<'a>, FrameError> {
        let (head, rest) = CommandHead::read_from_prefix(bytes).map_err(|_| FrameError::Truncated)?;
        let key_bytes = usize::from(head.key_bytes.get());
        let (key, value) = rest.split_at_checked(key_bytes).ok_or(FrameError::Truncated)?;
        check_key(key)?;
        let whole = value.len() == usize::from(head.value_bytes.get()) && value.len() <= MAX_VALUE_BYTES;
        if !whole || head.reserved != 0 || head.reserved_too.get() != 0 {
            return Err(FrameError::Body);
        }
        match head.operation {
            PUT => Ok(Command::Put { key, value }),
            DELETE if value.is_empty() => Ok(Command::Delete { key }),
            _ => Err(FrameError::Body),
        }
    }

    /// Writes it to the front of `out`; returns its bytes. `None`: the key or the value has not an allowed length.
    pub fn write(&self, out: &mut [u8; MAX_COMMAND_BYTES]) -> Option<usize> {
        let (operation, key, value) = match *self {
            Command::Put { key, value } => (PUT, key, value),
            Command::Delete { key } => (DELETE, key, &[][..]),
        };
        if check_key(key).is_err() || value.len() > MAX_VALUE_BYTES {
            return None;
        }
        let head = CommandHead {
            operation,
            reserved: 0,
            key_bytes: U16::new(key.len() as u16),
            value_bytes: U16::new(value.len() as u16),
            reserved_too: U16::ZERO,
        };
        Some(put(out, &[head.as_bytes(), key, value]))
    }
}

impl<'a> Question<'a> {
    /// Parses a question.
    pub fn parse(bytes: &'a [u8]) -> Result<Question<'a>, FrameError> {
        let (head, key) = QuestionHead::read_from_prefix(bytes).map_err(|_| FrameError::Truncated)?;
        if key.len() != usize::from(head.key_bytes.get()) || head.reserved != 0 || head.reserved_too != [0; 4] {
            return Err(FrameError::Body);
        }
        match (head.operation, head.sequence.get()) {
            (GET, 0) => check_key(key).map(|()| Question::Get(key)),
            (OUTCOME, sequence) if sequence > 0 && key.is_empty() => Ok(Question::Outcome(Sequence(sequence))),
            _ => Err(FrameError::Body),
        }
    }

    /// Writes it to the front of `out`; returns its bytes. `None`: the key has not an allowed length.
    pub fn write(&self, out: &mut [u8; QUESTION_HEAD_BYTES + MAX_KEY_BYTES]) -> Option<usize> {
        let (operation, key, sequence) = match *self {
            Question::Get(key) => (GET, key, 0),
            Question::Outcome(sequence) => (OUTCOME, &[][..], sequence.0),
        };
        if operation == GET && check_key(key).is_err() {
            return None;
        }
        let head = QuestionHead {
            operation,
            reserved: 0,
            key_bytes: U16::new(key.len() as u16),
            reserved_too: [0; 4],
            sequence: U64::new(sequence),
        };
        Some(put(out, &[head.as_bytes(), key]))
    }
}

impl Outcome {
    /// Its number and the version that goes with it, as answers and snapshots have it.
    pub fn encode(self) -> (u8, u64) {
        match self {
            Outcome::Stored { previous } => (3, previous.map_or(0, |version| version.0)),
            Outcome::Deleted { previous } => (4, previous.0),
            Outcome::Absent => (5, 0),
            Outcome::Full => (6, 0),
            Outcome::Malformed => (7, 0),
        }
    }

    /// The outcome with this number and version.
    pub fn decode(status: u8, version: u64) -> Option<Outcome> {
        let previous = Some(Sequence(version)).filter(|version| *version != Sequence::ZERO);
        match (status, previous) {
            (3, previous) => Some(Outcome::Stored { previous }),
            (4, Some(previous)) => Some(Outcome::Deleted { previous }),
            (5, None) => Some(Outcome::Absent),
            (6, None) => Some(Outcome::Full),
            (7, None) => Some(Outcome::Malformed),
            _ => None,
        }
    }

    /// As the documentation and the command line write it.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Stored { .. } => "stored",
            Outcome::Deleted { .. } => "deleted",
            Outcome::Absent => "absent",
            Outcome::Full => "full",
            Outcome::Malformed => "malformed",
        }
    }
}

impl<'a> Answer<'a> {
    /// Parses an answer.
    pub fn parse(bytes: &'a [u8]) -> Result<Answer<'a>, FrameError> {
        let (head, value) = AnswerHead::read_from_prefix(bytes).map_err(|_| FrameError::Truncated)?;
        if head.reserved != [0; 7] || value.len() > MAX_VALUE_BYTES {
            return Err(FrameError::Body);
        }
        match (head.status, head.version.get(), value.len()) {
            (1, version, _) if version > 0 => Ok(Answer::Value { version: Sequence(version), bytes: value }),
            (2, 0, 0) => Ok(Answer::NoValue),
            (8, 0, 0) => Ok(Answer::NoOutcome),
            (status, version, 0) => Outcome::decode(status, version).map(Answer::Outcome).ok_or(FrameError::Body),
            _ => Err(FrameError::Body),
        }
    }

    /// The head of the answer, and the value that follows it.
    pub fn encode(&self) -> (AnswerHead, &'a [u8]) {
        let ((status, version), value) = match *self {
            Answer::Value { version, bytes } => ((1, version.0), bytes),
            Answer::NoValue => ((2, 0), &[][..]),
            Answer::Outcome(outcome) => (outcome.encode(), &[][..]),
            Answer::NoOutcome => ((8, 0), &[][..]),
        };
        (AnswerHead { status, reserved: [0; 7], version: U64::new(version) }, value)
    }
}

fn put(out: &mut [u8], pieces: &[&[u8]]) -> usize {
    let mut used = 0;
    for piece in pieces {
        out[used..used + piece.len()].copy_from_slice(piece);
        used += piece.len();
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::MAX_QUESTION_BYTES;

    const _: () = assert!(QUESTION_HEAD_BYTES + MAX_KEY_BYTES <= MAX_QUESTION_BYTES);

    fn command(command: Command<'_>) -> Vec<u8> {
        let mut out = [0xaa; MAX_COMMAND_BYTES];
        let bytes = command.write(&mut out).expect("allowed lengths");
        out[..bytes].to_vec()
    }

    fn question(question: Question<'_>) -> Vec<u8> {
        let mut out = [0xaa; QUESTION_HEAD_BYTES + MAX_KEY_BYTES];
        let bytes = question.write(&mut out).expect("an allowed length");
        out[..bytes].to_vec()
    }

    fn answer(answer: Answer<'_>) -> Vec<u8> {
        let (head, value) = answer.encode();
        [head.as_bytes(), value].concat()
    }

    /// If one of these changes, the format has changed.
    #[test]
    fn the_bytes_are_those_of_format_1() {
        assert_eq!(command(Command::Put { key: b"ab", value: b"xyz" }), b"\x01\0\x02\0\x03\0\0\0abxyz");
        assert_eq!(command(Command::Delete { key: b"ab" }), b"\x02\0\x02\0\0\0\0\0ab");
        assert_eq!(question(Question::Get(b"ab")), b"\x01\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0ab");
        assert_eq!(question(Question::Outcome(Sequence(0x0102))), b"\x02\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0");
        let value = Answer::Value { version: Sequence(7), bytes: b"x" };
        assert_eq!(answer(value), b"\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0x");
        assert_eq!(answer(Answer::Outcome(Outcome::Full)), b"\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn answers_come_back_as_they_went() {
        let outcomes = [
            Outcome::Stored { previous: None },
            Outcome::Stored { previous: Some(Sequence(4)) },
            Outcome::Deleted { previous: Sequence(9) },
            Outcome::Absent,
            Outcome::Full,
            Outcome::Malformed,
        ];
        let plain = [Answer::Value { version: Sequence(1), bytes: b"" }, Answer::NoValue, Answer::NoOutcome];
        for expected in outcomes.map(Answer::Outcome).into_iter().chain(plain) {
            assert_eq!(Answer::parse(&answer(expected)), Ok(expected));
        }
    }

    #[test]
    fn lengths_are_checked_in_both_directions() {
        let (long_key, long_value) = ([b'k'; MAX_KEY_BYTES + 1], [b'v'; MAX_VALUE_BYTES + 1]);
        let mut out = [0; MAX_COMMAND_BYTES];
        assert!(Command::Put { key: &long_key, value: b"" }.write(&mut out).is_none());
        assert!(Command::Put { key: b"k", value: &long_value }.write(&mut out).is_none());
        assert!(Command::Delete { key: b"" }.write(&mut out).is_none());
        let longest = command(Command::Put { key: &long_key[1..], value: &long_value[1..] });
        assert_eq!(longest.len(), MAX_COMMAND_BYTES);
        assert!(Command::parse(&longest).is_ok());
        for cut in 0..longest.len() {
            assert!(Command::parse(&longest[..cut]).is_err());
        }
        assert!(Command::parse(&[&longest[..], b"x"].concat()).is_err());
        assert!(Question::parse(&question(Question::Get(b"k"))[..QUESTION_HEAD_BYTES]).is_err());
    }

    #[test]
    fn what_is_reserved_is_zero_and_other_operations_are_refused() {
        for (at, to) in [(0, 3), (0, 0), (1, 1), (6, 1)] {
            let mut bytes = command(Command::Put { key: b"k", value: b"v" });
            bytes[at] = to;
            assert_eq!(Command::parse(&bytes), Err(FrameError::Body), "byte {at} is {to}");
        }
        let mut bytes = command(Command::Put { key: b"k", value: b"v" });
        bytes[0] = DELETE;
        assert_eq!(Command::parse(&bytes), Err(FrameError::Body), "a delete with a value");
        assert_eq!(Command::parse(b"buy 100 at market"), Err(FrameError::Truncated));
    }
}
