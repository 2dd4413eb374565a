//! The key-value map's client: puts and deletes are appended to the group's log, gets asked of any member. Blocking, in the
//! caller's thread.

use crate::appender::{Ack, Appender};
use crate::error::ClientError;
use crate::options::{Options, ReadOptions};
use crate::question::{Answer, Questions};
use std::net::SocketAddrV4;
use synod_wire::client::Consistency;
use synod_wire::guarantee::Guarantee;
use synod_wire::kv::{self, Command, MAX_COMMAND_BYTES, MAX_KEY_BYTES, Outcome, QUESTION_HEAD_BYTES, Question};
use synod_wire::mode::Mode;
use synod_wire::{ClusterId, GroupId, NodeId, Sequence};

/// A key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvValue {
    /// The sequence of the put that wrote it.
    pub version: Sequence,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What a get found, and in which state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvRead {
    /// The value; `None`: the key has none.
    pub value: Option<KvValue>,
    /// The last entry of the log that the state holds.
    pub applied: Sequence,
    /// What may be relied on.
    pub guarantee: Guarantee,
    /// The mode of the node that answered, if it named one.
    pub mode: Option<Mode>,
    /// The node that answered.
    pub node: NodeId,
}

/// Reads a map.
#[derive(Debug)]
pub struct KvReader {
    questions: Questions,
}

impl KvReader {
    /// Asks `members` (client addresses) of a group with `machine = "kv"`, in this order.
    pub fn new(
        cluster: ClusterId,
        group: GroupId,
        members: Vec<SocketAddrV4>,
        options: ReadOptions,
    ) -> Result<KvReader, ClientError> {
        Ok(KvReader { questions: Questions::new(cluster, group, members, options)? })
    }

    /// The value of a key, in a state that is so recent.
    pub fn get(&mut self, key: &[u8], consistency: Consistency) -> Result<KvRead, ClientError> {
        self.get_after(key, consistency, Sequence::ZERO)
    }

    /// The same in a state that holds the log up to `at_least`.
    pub fn get_after(
        &mut self,
        key: &[u8],
        consistency: Consistency,
        at_least: Sequence,
    ) -> Result<KvRead, ClientError> {
        let answer = self.ask(&Question::Get(key), consistency, at_least)?;
        let value = match kv::Answer::parse(&answer.bytes) {
            Ok(kv::Answer::Value { version, bytes }) => Some(KvValue { version, bytes: bytes.to_vec() }),
            Ok(kv::Answer::NoValue) => None,
            _ => return Err(ClientError::AnswerMalformed { node: answer.node }),
        };
        let Answer { applied, guarantee, mode, node, .. } = answer;
        Ok(KvRead { value, applied, guarantee, mode, node })
    }

    /// What became of the put or delete that got this sequence; `None`: too many entries came after it for that to be known still.
    pub fn outcome(&mut self, sequence: Sequence) -> Result<Option<Outcome>, ClientError> {
        // What is applied is committed, and its outcome never changes: any member that is so far may tell.
        let answer = self.ask(&Question::Outcome(sequence), Consistency::Local, sequence)?;
        match kv::Answer::parse(&answer.bytes) {
            Ok(kv::Answer::Outcome(outcome)) => Ok(Some(outcome)),
            Ok(kv::Answer::NoOutcome) => Ok(None),
            _ => Err(ClientError::AnswerMalformed { node: answer.node }),
        }
    }

    fn ask(
        &mut self,
        question: &Question<'_>,
        consistency: Consistency,
        at_least: Sequence,
    ) -> Result<Answer, ClientError> {
        let mut out = [0; QUESTION_HEAD_BYTES + MAX_KEY_BYTES];
        let bytes = question.write(&mut out).ok_or(ClientError::KeyOrValueLength)?;
        self.questions.ask_with(&out[..bytes], consistency, at_least)
    }
}

/// A put or delete that is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvWritten {
    /// Its place in the group's total order: the version of what was put.
    pub ack: Ack,
    /// What it did; `None`: it was committed, and so many entries came after it that this is not known any more.
    pub outcome: Option<Outcome>,
}

/// Writes and reads a map under one session.
///
/// A put is committed first and judged then, where it stands in the total order: [`Outcome::Full`] is such a judgement, and not an
/// error. After an error of a write the session is as [`Appender`] says; after [`ClientError::OutcomeNotTold`] it goes on.
#[derive(Debug)]
pub struct Kv {
    appender: Appender,
    reader: KvReader,
}

impl Kv {
    /// Over an open session and a reader of the same group.
    pub fn new(appender: Appender, reader: KvReader) -> Kv {
        Kv { appender, reader }
    }

    /// Opens a session of a group with `machine = "kv"`.
    pub fn connect(
        cluster: ClusterId,
        group: GroupId,
        members: Vec<(NodeId, SocketAddrV4)>,
        client_id: u128,
        options: Options,
    ) -> Result<Kv, ClientError> {
        let read = ReadOptions {
            deadline: options.deadline,
            spin: options.spin,
            seed: options.seed,
            ..ReadOptions::default()
        };
        let addresses = members.iter().map(|(_, address)| *address).collect();
        let reader = KvReader::new(cluster, group, addresses, read)?;
        Ok(Kv::new(Appender::connect(cluster, group, members, client_id, options)?, reader))
    }

    /// Gives a key a value.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<KvWritten, ClientError> {
        self.write(&Command::Put { key, value })
    }

    /// Takes a key's value away.
    pub fn delete(&mut self, key: &[u8]) -> Result<KvWritten, ClientError> {
        self.write(&Command::Delete { key })
    }

    /// The value of a key, in a state that is so recent.
    pub fn get(&mut self, key: &[u8], consistency: Consistency) -> Result<KvRead, ClientError> {
        self.reader.get(key, consistency)
    }

    /// The session that writes.
    pub fn appender(&self) -> &Appender {
        &self.appender
    }

    /// The reader.
    pub fn reader(&mut self) -> &mut KvReader {
        &mut self.reader
    }

    fn write(&mut self, command: &Command<'_>) -> Result<KvWritten, ClientError> {
        let mut out = [0; MAX_COMMAND_BYTES];
        let bytes = command.write(&mut out).ok_or(ClientError::KeyOrValueLength)?;
        let ack = self.appender.append(&out[..bytes])?;
        let sequence = ack.sequence;
        let asked = self.reader.outcome(sequence);
        let outcome = asked.map_err(|error| ClientError::OutcomeNotTold { sequence, cause: Box::new(error) })?;
        Ok(KvWritten { ack, outcome })
    }
}
