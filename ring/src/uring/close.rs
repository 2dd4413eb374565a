//! Going down: everything that the kernel still does for the reactor ends before the reactor's memory does.
//!
//! Called by: [`UringIo::close`] and the reactor's drop.

use super::UringIo;
use super::complete::{CANCEL, RECEIVE_CLIENTS, RECEIVE_PEERS, WAKE};
use crate::writes::{CLOSE_WAIT, did_not_end};
use crate::{IoError, clock};
use io_uring::opcode::AsyncCancel2;
use io_uring::types::CancelBuilder;

impl<J, D> UringIo<J, D> {
    /// Ends the reactor, as dropping it does, and says whether everything ended. What was queued is still submitted; log writes
    /// are waited for, so that whatever was asked for is on the disk, or is known not to be.
    pub fn close(mut self) -> Result<(), IoError> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<(), IoError> {
        if self.closed {
            return Ok(());
        }
        self.closed = true;
        let ended = self.quiesce().and_then(|()| self.unregister());
        if ended.is_err() {
            self.give_up_memory();
        }
        ended
    }

    /// Cancels what would wait for ever, and waits for the rest.
    fn quiesce(&mut self) -> Result<(), IoError> {
        let wait_ns = CLOSE_WAIT.as_nanos() as u64;
        let deadline_ns = clock::monotonic_ns() + wait_ns;
        self.end_writer(deadline_ns)?;
        for request in [RECEIVE_PEERS, RECEIVE_CLIENTS, WAKE] {
            let entry = AsyncCancel2::new(CancelBuilder::user_data(request)).build().user_data(CANCEL);
            // SAFETY: a cancellation points to nothing.
            unsafe { self.push(&entry) }?;
        }
        let mut events = Vec::with_capacity(self.max_events);
        loop {
            // Errors of single requests have nobody to be told to any more.
            self.reap(&mut events, self.max_events);
            events.clear();
            if self.ring.queued() == 0 && !self.is_busy() {
                return Ok(());
            }
            let left_ns = self.time_left(deadline_ns)?;
            self.ring.enter_and_wait(left_ns)?;
        }
    }

    /// Waits for what the log-writer threads have, which still need the eventfd, and for the threads' ends.
    fn end_writer(&mut self, deadline_ns: u64) -> Result<(), IoError> {
        let mut events = Vec::with_capacity(self.max_events);
        loop {
            self.reap(&mut events, self.max_events);
            events.clear();
            if self.writers.running()? == 0 {
                break;
            }
            self.arm_wake()?;
            let left_ns = self.time_left(deadline_ns)?;
            if self.port.wake().may_sleep() {
                let slept = self.ring.enter_and_wait(left_ns);
                self.port.wake().awake();
                slept?;
            }
        }
        self.writers.stop()
    }

    fn time_left(&self, deadline_ns: u64) -> Result<u64, IoError> {
        let left_ns = deadline_ns.saturating_sub(clock::monotonic_ns());
        if left_ns > 0 {
            return Ok(left_ns);
        }
        Err(did_not_end(&self.writes))
    }

    fn is_busy(&self) -> bool {
        self.wake_armed || self.rx.iter().any(|pool| pool.armed) || self.writes.running() > 0
    }

    /// The kernel tears a closed ring down some time later. Taking files and memory out of it now means that the ports are free
    /// and the log's files closed when this returns.
    fn unregister(&mut self) -> Result<(), IoError> {
        let submitter = self.ring.submitter();
        submitter
            .unregister_files()
            .map_err(|source| IoError::System { call: "io_uring_unregister(FILES)", source })?;
        if self.locked.is_ok() {
            submitter
                .unregister_buffers()
                .map_err(|source| IoError::System { call: "io_uring_unregister(BUFFERS)", source })?;
        }
        for pool in &self.rx {
            submitter
                .unregister_buf_ring(pool.group())
                .map_err(|source| IoError::System { call: "io_uring_unregister(PBUF_RING)", source })?;
        }
        Ok(())
    }

    /// Leaks, on purpose, what requests that did not end may still be about.
    fn give_up_memory(&self) {
        let pools = self.rx.iter().flat_map(|pool| pool.mappings());
        for mapping in pools.chain([self.log.clone(), self.send.clone()]) {
            std::mem::forget(mapping);
        }
        std::mem::forget(self.scratch.clone());
    }
}

impl<J, D> Drop for UringIo<J, D> {
    fn drop(&mut self) {
        // Who wants to know calls `close`. Nothing is lost by not telling: the memory is safe either way, and a write whose
        // completion nobody waited for was never reported durable.
        let _told_by_close = self.shut_down();
    }
}
