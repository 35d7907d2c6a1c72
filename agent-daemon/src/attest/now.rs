// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a live process is at this moment: facts that it can change, and that are asked anew each time.

use std::io;

use super::{Attestor, unix};

impl Attestor {
    /// The effective user and group of a process now.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn effective_ids(&self, tgid: u32) -> io::Result<(u32, u32)> {
        let ids = unix::ids(&self.proc().process(tgid)?)?;
        Ok((ids.uid, ids.gid))
    }

    /// The real user of a process now, and who logged in at the beginning of its line, as the kernel says; none where
    /// nobody did, or the kernel keeps no such word.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn users(&self, tgid: u32) -> io::Result<(u32, Option<u32>)> {
        let process = self.proc().process(tgid)?;
        let login = process.text("loginuid").ok().and_then(|text| text.trim().parse().ok());
        Ok((unix::ids(&process)?.real_uid, login.filter(|uid| *uid != u32::MAX)))
    }

    /// Whether a process has this thread now.
    pub fn has_thread(&self, tgid: u32, tid: u32) -> bool {
        self.proc().process(tgid).is_ok_and(|process| process.text(&format!("task/{tid}/comm")).is_ok())
    }

    /// What the name database of this host calls a user.
    pub fn user_name(&self, uid: u32) -> Option<String> {
        unix::user_name(uid)
    }

    /// The network namespace that a process is in now. The kernel recorded the one at exec; a process may have
    /// moved since, and the same addresses are another connection there.
    ///
    /// # Errors
    /// When it is gone, or its first thread is.
    pub fn network(&self, tgid: u32) -> io::Result<u32> {
        self.proc().process(tgid)?.namespace("net")
    }
}
