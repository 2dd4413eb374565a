//! Questions to the state machine that a group was given. A question is a read: it names how recent the state must be that it is
//! answered from, joins the same rounds, and its reply carries the same label. What differs is who answers.

use super::jobs::{Done, Job};
use super::reads::MAX_FRESH;
use super::reply::ReadRequest;
use super::{Shard, clients::put};
use std::net::SocketAddrV4;
use synod_ring::{Io, RxBuf};
use synod_wire::client::{Consistency, MAX_QUESTION_BYTES, ReadBody, ReadReplyBody, Refusal};
use synod_wire::frame::{FrameError, HEADER_BYTES, Kind};
use synod_wire::guarantee::Recency;
use synod_wire::mutant::mutant;
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of a reply beside the answer.
const REPLY_BYTES: usize = size_of::<ReadReplyBody>();

/// A question as it came; its bytes are still in their datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query {
    request: ReadRequest,
    asked: Consistency,
    question_bytes: usize,
}

impl Query {
    /// Parses the payload of a query.
    pub(super) fn parse(to: SocketAddrV4, payload: &[u8]) -> Result<Query, FrameError> {
        let (body, question) = ReadBody::read_from_prefix(payload).map_err(|_| FrameError::Truncated)?;
        let asked = body.consistency().ok_or(FrameError::Body)?;
        let request = ReadRequest { to, body, recency: Recency::StalePossible };
        Ok(Query { request, asked, question_bytes: question.len() })
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// A question came: it is answered, refused, or joins a round.
    pub(super) fn on_query(&mut self, query: &Query, buf: &RxBuf) {
        let Query { mut request, asked, question_bytes } = *query;
        if self.embedded.is_none() || question_bytes > MAX_QUESTION_BYTES {
            return self.refuse_read(&request, Refusal::BadQuestion);
        }
        // As many are on their way as wait for a round, and this one.
        assert!(self.fresh.spare.len() <= MAX_FRESH + 1, "questions come back once");
        let mut question = self.fresh.spare.pop().unwrap_or_else(|| Vec::with_capacity(MAX_QUESTION_BYTES));
        let at = HEADER_BYTES + size_of::<ReadBody>();
        question.clear();
        question.extend_from_slice(&self.io.datagram(buf)[at..at + question_bytes]);
        match (self.recency_now(asked), asked) {
            (Some(recency), _) => {
                request.recency = recency;
                self.answer_query(request, question);
            }
            (None, Consistency::Lease) => {
                self.fresh.spare.push(question);
                self.refuse_lease(&request);
            }
            (None, _) => self.join_round(request, asked, Some(question)),
        }
    }

    /// Answers a question from what is applied.
    pub(super) fn answer_query(&mut self, request: ReadRequest, question: Vec<u8>) {
        let mut answer = std::mem::take(&mut self.fresh.answer);
        answer.clear();
        match self.ask_machine(&request, &question, &mut answer) {
            Ok(head) => self.reply(request.to, Kind::QueryReply, |out| {
                let used = put(head.as_bytes(), out);
                used + put(&answer, &mut out[used..])
            }),
            Err(Refusal::TooLarge) => {
                let limit = (self.settings.max_batch_bytes - REPLY_BYTES) as u64;
                self.refuse(request.to, 0, request.body.request_id.get(), Refusal::TooLarge, limit);
            }
            Err(refusal) => self.refuse_read(&request, refusal),
        }
        self.fresh.answer = answer;
        self.fresh.spare.push(question);
    }

    /// The answer, and the head of its reply; or why there is none.
    fn ask_machine(
        &self,
        request: &ReadRequest,
        question: &[u8],
        answer: &mut Vec<u8>,
    ) -> Result<ReadReplyBody, Refusal> {
        let label = self.read_label(request.recency)?;
        let tail = self.machine.tail();
        if tail < request.from() && !mutant("kv_answers_before_applied") {
            // Committed elsewhere, as far as the asker knows: it will be applied here, too, as soon as the mode lets it.
            return Err(self.modes.rounds().err().unwrap_or(Refusal::Busy));
        }
        let machine = self.embedded.as_deref().ok_or(Refusal::BadQuestion)?;
        machine.query(question, answer).map_err(|_| Refusal::BadQuestion)?;
        if answer.len() > self.settings.max_batch_bytes - REPLY_BYTES {
            return Err(Refusal::TooLarge);
        }
        Ok(ReadReplyBody {
            request_id: request.body.request_id,
            first_sequence: U64::ZERO,
            tail: U64::new(tail.0),
            entries: U16::ZERO,
            last: 1,
            mode: label.mode as u8,
            guarantee: label.guarantee.encode(),
        })
    }
}
