// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sessions over a restart of the daemon: a private file for each, of no worth in another boot.
//!
//! The audit log says the same, but a session may be as old as its longest life, and reading the log of a day for it would
//! hold up the start. What is lost here is refused, never assumed: a process in a session that nobody knows gets nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::authority::file;
use crate::process::{ExecId, SessionId};
use crate::session::{HandleDigest, Named, Narrowed, Session, User};

const MAX_FILE_BYTES: usize = 64 * 1024;
const SUFFIX: &str = ".json";

/// The folder with the files.
#[derive(Debug)]
pub struct SessionStore {
    directory: PathBuf,
    boot_id: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    boot_id: String,
    id: String,
    parent: Option<String>,
    user: User,
    agent: Option<Box<str>>,
    purpose: Option<Box<str>>,
    scopes: Option<Box<[Box<str>]>>,
    opener: u64,
    opener_id: String,
    is_bound: bool,
    opened_at: Timestamp,
    expires_at: Timestamp,
    decision_id: String,
    handle: String,
}

impl SessionStore {
    /// Over a private directory, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(directory: PathBuf, boot_id: String) -> io::Result<Self> {
        file::ensure_private_directory(&directory)?;
        Ok(Self { directory, boot_id })
    }

    /// Keeps a session. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, session: &Session) -> io::Result<()> {
        let stored = Stored {
            boot_id: self.boot_id.clone(),
            id: session.id.to_string(),
            parent: session.parent.as_ref().map(|parent| parent.id.to_string()),
            user: User::clone(&session.user),
            agent: session.agent.clone(),
            purpose: session.purpose.clone(),
            scopes: session.scopes.clone(),
            opener: session.opener.0,
            opener_id: session.opener_id.to_string(),
            is_bound: session.is_bound,
            opened_at: session.opened_at,
            expires_at: session.expires_at,
            decision_id: session.decision_id.to_string(),
            handle: session.handle.to_text(),
        };
        let bytes = serde_json::to_vec(&stored).map_err(io::Error::other)?;
        file::create_new(&self.path(session.id), &bytes).map(drop)
    }

    /// Forgets one. Idempotent.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn forget(&self, id: SessionId) -> io::Result<()> {
        file::remove(&self.path(id))
    }

    /// The sessions of this boot, those that others were delegated from first. Files of another boot, and what is no
    /// session or has lost the one that it was delegated from, are removed.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn load(&self) -> io::Result<Vec<Session>> {
        let mut waiting: Vec<Stored> = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            match file::read_private(&path, MAX_FILE_BYTES) {
                Ok(None) => {}
                Ok(Some(bytes)) => match self.parse(&path, &bytes) {
                    Some(stored) => waiting.push(stored),
                    None => remove(&path, "no session of this boot")?,
                },
                // Whoever is in it gets nothing then, which is the safe side.
                Err(error) => tracing::warn!(%error, path = %path.display(), "a session cannot be read"),
            }
        }
        let mut known: HashMap<SessionId, Arc<Session>> = HashMap::new();
        let mut loaded = Vec::new();
        loop {
            // By what they say of each other and not by the time of day, which may have been set back.
            let is_ready = |stored: &mut Stored| {
                let parent = stored.parent.as_ref().map(|parent| parent.parse::<SessionId>());
                parent.is_none_or(|parent| parent.is_ok_and(|parent| known.contains_key(&parent)))
            };
            let ready: Vec<Stored> = waiting.extract_if(.., is_ready).collect();
            if ready.is_empty() {
                break;
            }
            for stored in ready {
                let path = self.directory.join(format!("{}{SUFFIX}", stored.id));
                match restore(stored, &known) {
                    Some(session) => {
                        known.insert(session.id, Arc::new(session.clone()));
                        loaded.push(session);
                    }
                    None => remove(&path, "no session")?,
                }
            }
        }
        for orphan in waiting {
            remove(&self.directory.join(format!("{}{SUFFIX}", orphan.id)), "its outer session is over")?;
        }
        Ok(loaded)
    }

    fn parse(&self, path: &Path, bytes: &[u8]) -> Option<Stored> {
        let stored: Stored = serde_json::from_slice(bytes).ok()?;
        let is_named = path.file_name().is_some_and(|name| name.to_string_lossy() == format!("{}{SUFFIX}", stored.id));
        (is_named && stored.boot_id == self.boot_id).then_some(stored)
    }

    fn path(&self, id: SessionId) -> PathBuf {
        self.directory.join(format!("{id}{SUFFIX}"))
    }
}

fn remove(path: &Path, why: &str) -> io::Result<()> {
    tracing::info!(path = %path.display(), why, "the file of a session is removed");
    file::remove(path)
}

fn restore(stored: Stored, known: &HashMap<SessionId, Arc<Session>>) -> Option<Session> {
    let parent = match &stored.parent {
        None => None,
        // Without the one that it was delegated from it would be wider than it was.
        Some(parent) => Some(Arc::clone(known.get(&parent.parse().ok()?)?)),
    };
    let opening = Narrowed {
        parent,
        user: Arc::new(stored.user),
        agent: stored.agent,
        purpose: stored.purpose,
        scopes: stored.scopes,
        opener: ExecId(stored.opener),
        opener_id: stored.opener_id.parse().ok()?,
        expires_at: stored.expires_at,
    };
    let named = Named {
        id: stored.id.parse().ok()?,
        is_bound: stored.is_bound,
        opened_at: stored.opened_at,
        decision_id: stored.decision_id.into(),
        handle: HandleDigest::from_text(&stored.handle)?,
    };
    Session::new(opening, named).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::file::private_tempdir;
    use crate::session::Verified;

    fn session(number: u64, parent: Option<&Session>) -> Session {
        let user = User {
            id: "corp:a".into(),
            verified: Verified::Oidc,
            issuer: Some("https://idp.example".into()),
            subject: "a".into(),
            name: Some("Ada".into()),
            groups: Box::new(["corp:staff".into()]),
        };
        let opening = Narrowed {
            parent: parent.cloned().map(Arc::new),
            user: Arc::new(user),
            agent: Some("coder".into()),
            purpose: None,
            scopes: Some(Box::new(["mail".into()])),
            opener: ExecId(7),
            opener_id: "spiffe://example.org/launcher".parse().unwrap(),
            expires_at: Timestamp::from_second(1000).unwrap(),
        };
        let named = Named {
            id: SessionId::new(number).unwrap(),
            is_bound: true,
            opened_at: Timestamp::from_second(i64::try_from(number).unwrap()).unwrap(),
            decision_id: "d".into(),
            handle: HandleDigest::of("h"),
        };
        Session::new(opening, named).unwrap()
    }

    #[test]
    fn sessions_come_back_after_a_restart_and_not_after_a_boot() {
        let directory = private_tempdir();
        let folder = directory.path().join("sessions");
        let store = SessionStore::open(folder.clone(), "boot-1".to_owned()).unwrap();
        let outer = session(1, None);
        let inner = session(2, Some(&outer));
        let orphan = session(4, Some(&session(3, None)));
        for kept in [&outer, &inner, &orphan] {
            store.keep(kept).unwrap();
        }
        assert!(file::create_new(&folder.join("s00000000000000ff.json"), b"{}").unwrap());
        let loaded = SessionStore::open(folder.clone(), "boot-1".to_owned()).unwrap().load().unwrap();
        let ids: Vec<_> = loaded.iter().map(|session| session.id).collect();
        assert_eq!(ids, [outer.id, inner.id], "one whose parent is gone would be wider than it was");
        assert_eq!(loaded[1].parent.as_ref().unwrap().id, outer.id);
        assert_eq!(loaded[0].user, outer.user);
        assert_eq!((loaded[0].handle, &loaded[0].scopes), (outer.handle, &outer.scopes));
        store.forget(inner.id).unwrap();
        store.forget(inner.id).unwrap();
        assert_eq!(store.load().unwrap().len(), 1);
        assert!(SessionStore::open(folder.clone(), "boot-2".to_owned()).unwrap().load().unwrap().is_empty());
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "what is of no worth is removed");
    }
}
