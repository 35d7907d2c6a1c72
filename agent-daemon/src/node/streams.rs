// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which exec instances have a stream open, so that it ends with them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::Node;
use crate::attest::Peer;
use crate::process::ExecId;

/// All streams, by exec instance.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<HashMap<ExecId, OfExec>>);

#[derive(Debug)]
struct OfExec {
    tgid: u32,
    uid: u32,
    open: usize,
    ended: CancellationToken,
}

/// One open stream. Its exec instance is watched in the kernel for as long as this is held.
#[derive(Debug)]
pub struct Stream {
    node: Arc<Node>,
    exec_id: ExecId,
    ended: CancellationToken,
}

impl Streams {
    fn enter(&self, peer: &Peer, uid: u32) -> CancellationToken {
        let mut streams = self.lock();
        let fresh = || OfExec { tgid: peer.process.tgid, uid, open: 0, ended: CancellationToken::new() };
        let of_exec = streams.entry(peer.exec_id).or_insert_with(fresh);
        // What ended the others was a change of user; this one is opened as the user it is now.
        if of_exec.ended.is_cancelled() {
            (of_exec.uid, of_exec.ended) = (uid, CancellationToken::new());
        }
        of_exec.open = of_exec.open.saturating_add(1);
        of_exec.ended.clone()
    }

    fn leave(&self, exec_id: ExecId) {
        let mut streams = self.lock();
        let Some(of_exec) = streams.get_mut(&exec_id) else { return };
        of_exec.open = of_exec.open.saturating_sub(1);
        if of_exec.open == 0 {
            streams.remove(&exec_id);
        }
    }

    /// Ends all streams of an exec instance.
    pub(super) fn end(&self, exec_id: ExecId) {
        if let Some(of_exec) = self.lock().get(&exec_id) {
            of_exec.ended.cancel();
        }
    }

    pub(super) fn is_holder(&self, exec_id: ExecId) -> bool {
        self.lock().contains_key(&exec_id)
    }

    /// Exec instances with streams: each with its process and the user it was then.
    pub(super) fn holders(&self) -> Vec<(ExecId, u32, u32)> {
        self.lock().iter().map(|(exec_id, of_exec)| (*exec_id, of_exec.tgid, of_exec.uid)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ExecId, OfExec>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Opens a stream for a caller. Its number is bounded where connections and calls are.
    ///
    /// # Errors
    /// When the caller is gone.
    pub fn open_stream(self: &Arc<Self>, peer: &Peer) -> Result<Stream, super::Refusal> {
        let (uid, _) = peer.ids()?;
        let ended = self.streams.enter(peer, uid);
        let stream = Stream { node: Arc::clone(self), exec_id: peer.exec_id, ended };
        self.watch_holder(peer.exec_id);
        // It may have ended before it was watched.
        peer.recheck(self.records())?;
        Ok(stream)
    }
}

impl Stream {
    /// Waits until its exec instance is over, or another user's.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.node.streams.leave(self.exec_id);
        self.node.unwatch_holder(self.exec_id);
    }
}
