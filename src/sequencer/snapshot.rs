//! The sequencer's part of a snapshot: canonical bytes, so that members in the same state write the same, and back.
//! [`synod_wire::snapshot`] has the layout.

use super::{Answer, MAX_SESSIONS, SESSION_CREDIT, Sequencer, Session};
use std::collections::VecDeque;
use synod_wire::client::Decision;
use synod_wire::snapshot::{AnswerRow, Malformed, Rest, SequencerRow, SessionRow};
use synod_wire::{Sequence, Slot};
use zerocopy::IntoBytes;

impl Sequencer {
    /// Appends its whole state.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        let state = SequencerRow {
            tail: self.tail.0.into(),
            timestamp_ns: self.timestamp_ns.into(),
            fence: self.fence.into(),
            opened: self.opened.into(),
            trimmed: self.trimmed.0.into(),
            sessions: (self.sessions.len() as u32).into(),
            reserved: 0.into(),
        };
        out.extend_from_slice(state.as_bytes());
        let mut ids: Vec<u128> = self.sessions.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let session = &self.sessions[&id];
            let row = SessionRow {
                client_id: id.into(),
                number: session.number.into(),
                last_seq: session.last_seq.into(),
                last_used: session.last_used.0.into(),
                last_used_ns: session.last_used_ns.into(),
                answers: (session.answers.len() as u32).into(),
                reserved: 0.into(),
            };
            out.extend_from_slice(row.as_bytes());
            session.answers.iter().for_each(|answer| out.extend_from_slice(answer_row(answer).as_bytes()));
        }
    }

    /// Reads a state from the front of `rest`.
    pub fn restore(rest: &mut Rest<'_>) -> Result<Sequencer, Malformed> {
        let state: &SequencerRow = rest.take()?;
        let mut sequencer = Sequencer {
            tail: Sequence(state.tail.get()),
            timestamp_ns: state.timestamp_ns.get(),
            fence: state.fence.get(),
            opened: state.opened.get(),
            trimmed: Sequence(state.trimmed.get()),
            ..Sequencer::new()
        };
        if sequencer.trimmed.0 > sequencer.tail.0.saturating_add(1) {
            return Err(Malformed("it has trimmed entries that it does not have"));
        }
        if state.sessions.get() as usize > MAX_SESSIONS {
            return Err(Malformed("it has more sessions than a table may"));
        }
        let mut before = None;
        for _ in 0..state.sessions.get() {
            let row: &SessionRow = rest.take()?;
            let id = row.client_id.get();
            if before.replace(id).is_some_and(|before| before >= id) {
                return Err(Malformed("its sessions are not in order"));
            }
            sequencer.sessions.insert(id, session(row, rest)?);
        }
        let oldest_ns = sequencer.sessions.values().map(|session| session.last_used_ns).min();
        sequencer.used_since_ns = oldest_ns.unwrap_or(sequencer.timestamp_ns);
        Ok(sequencer)
    }
}

fn answer_row(answer: &Answer) -> AnswerRow {
    AnswerRow {
        first_seq: answer.first_seq.into(),
        entries: answer.entries.into(),
        value: answer.value.into(),
        timestamp_ns: answer.timestamp_ns.into(),
        decision: answer.decision as u8,
        reserved: [0; 7],
    }
}

fn session(row: &SessionRow, rest: &mut Rest<'_>) -> Result<Session, Malformed> {
    let rows: &[AnswerRow] = rest.rows(row.answers.get().into())?;
    if rows.len() > SESSION_CREDIT {
        return Err(Malformed("a session has more answers than its credit"));
    }
    let mut answers = VecDeque::with_capacity(rows.len());
    for row in rows {
        let decision = Decision::from_u8(row.decision).ok_or(Malformed("an answer has no known decision"))?;
        answers.push_back(Answer {
            first_seq: row.first_seq.get(),
            entries: row.entries.get(),
            decision,
            value: row.value.get(),
            timestamp_ns: row.timestamp_ns.get(),
        });
    }
    Ok(Session {
        number: row.number.get(),
        last_seq: row.last_seq.get(),
        last_used: Slot(row.last_used.get()),
        last_used_ns: row.last_used_ns.get(),
        answers,
    })
}
