// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::{Cause, Ended, Error, HandleDigest, NotActing, Session, User};
use crate::identity::SpiffeId;
use crate::process::{ExecId, ExecInstance, SessionId};

/// How many sessions there may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// On the node.
    pub total: usize,
    /// Opened by one exec instance and not over.
    pub per_opener: usize,
    /// On behalf of one user and not over.
    pub per_user: usize,
    /// How often one may be delegated from another.
    pub depth: usize,
    /// Ended ones that can still be looked at.
    pub ended_kept: usize,
}

/// What is opened, its parent's bounds included.
#[derive(Debug, Clone)]
pub struct Narrowed {
    /// See [`Session::parent`].
    pub parent: Option<Arc<Session>>,
    /// See [`Session::user`].
    pub user: Arc<User>,
    /// See [`Session::agent`].
    pub agent: Option<Box<str>>,
    /// See [`Session::purpose`].
    pub purpose: Option<Box<str>>,
    /// See [`Session::scopes`].
    pub scopes: Option<Box<[Box<str>]>>,
    /// See [`Session::opener`].
    pub opener: ExecId,
    /// See [`Session::opener_id`].
    pub opener_id: SpiffeId,
    /// See [`Session::expires_at`].
    pub expires_at: Timestamp,
}

/// What somebody wants to open.
#[derive(Debug, Clone)]
pub struct Opening {
    /// From which.
    pub parent: Option<Arc<Session>>,
    /// On whose behalf; none: the parent's.
    pub user: Option<Arc<User>>,
    /// See [`Session::agent`]; none: the parent's.
    pub agent: Option<Box<str>>,
    /// See [`Session::purpose`]; none: the parent's.
    pub purpose: Option<Box<str>>,
    /// See [`Session::scopes`]; none: the parent's.
    pub scopes: Option<Box<[Box<str>]>>,
    /// By whom.
    pub opener: ExecId,
    /// As whom.
    pub opener_id: SpiffeId,
    /// Until when; never longer than the parent.
    pub expires_at: Timestamp,
}

impl Opening {
    /// What it comes to below its parent, which it can only narrow.
    ///
    /// # Errors
    /// It is for nobody, or for another user than its parent, reaches more, or is too deep.
    pub fn narrowed(self, limits: &Limits) -> Result<Narrowed, Error> {
        let Self { parent, user, agent, purpose, scopes, opener, opener_id, expires_at } = self;
        let Some(above) = &parent else {
            let user = user.ok_or(Error::NoUser)?;
            return Ok(Narrowed { parent, user, agent, purpose, scopes, opener, opener_id, expires_at });
        };
        if above.depth() >= limits.depth {
            return Err(Error::TooDeep { limit: limits.depth });
        }
        if user.is_some_and(|user| user.id != above.user.id) {
            return Err(Error::Wider("it is for another user"));
        }
        let scopes = match (scopes, &above.scopes) {
            (Some(asked), Some(held)) if asked.iter().any(|scope| !held.contains(scope)) => {
                return Err(Error::Wider("it has a scope that the other has not"));
            }
            (asked, held) => asked.or_else(|| held.clone()),
        };
        Ok(Narrowed {
            user: Arc::clone(&above.user),
            agent: agent.or_else(|| above.agent.clone()),
            purpose: purpose.or_else(|| above.purpose.clone()),
            scopes,
            opener,
            opener_id,
            expires_at: expires_at.min(above.expires_at),
            parent,
        })
    }
}

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    limits: Limits,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    active: HashMap<SessionId, Arc<Session>>,
    by_handle: HashMap<HandleDigest, SessionId>,
    by_opener: HashMap<ExecId, usize>,
    expiries: BTreeSet<(Timestamp, SessionId)>,
    ended: VecDeque<Ended>,
}

impl Table {
    fn remove(&mut self, id: SessionId) -> Option<Arc<Session>> {
        let session = self.active.remove(&id)?;
        self.by_handle.remove(&session.handle);
        self.expiries.remove(&(session.expires_at, id));
        if let Some(count) = self.by_opener.get_mut(&session.opener) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_opener.remove(&session.opener);
            }
        }
        Some(session)
    }

    /// A session and all that were delegated from it.
    fn end(&mut self, id: SessionId, cause: Cause, at: Timestamp, kept: usize) -> Vec<Ended> {
        let Some(session) = self.remove(id) else { return Vec::new() };
        let mut ended = vec![Ended { session, cause, at }];
        let below: Vec<SessionId> =
            self.active.values().filter(|session| session.is_within(id)).map(|session| session.id).collect();
        let below = below.into_iter().filter_map(|id| self.remove(id));
        ended.extend(below.map(|session| Ended { session, cause: Cause::Parent, at }));
        for one in &ended {
            self.ended.push_back(one.clone());
            if self.ended.len() > kept {
                self.ended.pop_front();
            }
        }
        ended
    }
}

impl Sessions {
    /// None yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, table: Mutex::default() }
    }

    /// How many there may be.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes a session in.
    ///
    /// # Errors
    /// There is no room, or the one that it was delegated from has ended.
    pub fn insert(&self, session: Session) -> Result<Arc<Session>, Error> {
        let mut table = self.lock();
        if table.active.len() >= self.limits.total {
            return Err(Error::TooMany { limit: self.limits.total });
        }
        if session.parent.as_ref().is_some_and(|parent| !table.active.contains_key(&parent.id)) {
            return Err(Error::Unknown);
        }
        if table.active.contains_key(&session.id) {
            // By chance, one in some quintillion.
            return Err(Error::Unknown);
        }
        if table.active.values().filter(|one| one.user.id == session.user.id).count() >= self.limits.per_user {
            return Err(Error::TooManyOfUser { limit: self.limits.per_user });
        }
        let of_opener = table.by_opener.entry(session.opener).or_default();
        if *of_opener >= self.limits.per_opener {
            return Err(Error::TooManyOfOpener { limit: self.limits.per_opener });
        }
        *of_opener = of_opener.saturating_add(1);
        table.by_handle.insert(session.handle, session.id);
        table.expiries.insert((session.expires_at, session.id));
        let session = Arc::new(session);
        table.active.insert(session.id, Arc::clone(&session));
        Ok(session)
    }

    /// One that is not over.
    pub fn session(&self, id: SessionId) -> Option<Arc<Session>> {
        self.lock().active.get(&id).cloned()
    }

    /// The one that a handle names, if it is not over.
    pub fn of_handle(&self, handle: HandleDigest) -> Option<Arc<Session>> {
        let table = self.lock();
        table.by_handle.get(&handle).and_then(|id| table.active.get(id)).cloned()
    }

    /// The session of a request: the one that is named by a handle, or else the one that the kernel has the asker in. None
    /// where it is in none.
    ///
    /// # Errors
    /// It is over, or the asker may not act in it.
    pub fn acting(
        &self,
        asker: &ExecInstance,
        handle: Option<HandleDigest>,
        now: Timestamp,
    ) -> Result<Option<Arc<Session>>, NotActing> {
        // Whether or not anybody has noticed.
        let live = |session: &Arc<Session>| now < session.expires_at;
        let below = |session: Arc<Session>| match session.holds(asker.id, &asker.ancestors) {
            true => Ok(session),
            false => Err(NotActing::NotBelow { exec_id: asker.id, opener: session.opener, session: session.id }),
        };
        let of_kernel = match asker.session_id {
            None => None,
            Some(id) => Some(below(self.session(id).filter(live).ok_or(NotActing::Ended(id))?)?),
        };
        let Some(handle) = handle else { return Ok(of_kernel) };
        let named = below(self.of_handle(handle).filter(live).ok_or(NotActing::UnknownHandle)?)?;
        match of_kernel {
            Some(bound) if !named.is_within(bound.id) => Err(NotActing::Outside { bound: bound.id, named: named.id }),
            _ => Ok(Some(named)),
        }
    }

    /// Ends one and those that were delegated from it, that one first. Empty when it is over already.
    pub fn end(&self, id: SessionId, cause: Cause, now: Timestamp) -> Vec<Ended> {
        self.lock().end(id, cause, now, self.limits.ended_kept)
    }

    /// Ends what has expired.
    pub fn expire(&self, now: Timestamp) -> Vec<Ended> {
        let mut table = self.lock();
        let mut expired = Vec::new();
        while let Some((at, id)) = table.expiries.first().copied().filter(|(at, _)| *at <= now) {
            expired.extend(table.end(id, Cause::Expired, at, self.limits.ended_kept));
        }
        expired
    }

    /// When [`Self::expire`] has something to do next.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.lock().expiries.first().map(|(at, _)| *at)
    }

    /// Those that are not over, the oldest first.
    pub fn active(&self) -> Vec<Arc<Session>> {
        let mut all: Vec<_> = self.lock().active.values().cloned().collect();
        all.sort_unstable_by_key(|session| (session.opened_at, session.id));
        all
    }

    /// Those that ended lately, the last first.
    pub fn ended(&self) -> Vec<Ended> {
        self.lock().ended.iter().rev().cloned().collect()
    }

    /// How many are not over.
    pub fn len(&self) -> usize {
        self.lock().active.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Named, Verified};

    const LIMITS: Limits = Limits { total: 8, per_opener: 3, per_user: 7, depth: 2, ended_kept: 4 };

    fn user(id: &str) -> Arc<User> {
        Arc::new(User {
            id: id.into(),
            verified: Verified::Oidc,
            issuer: None,
            subject: id.into(),
            name: None,
            groups: Box::default(),
        })
    }

    fn opening(parent: Option<&Arc<Session>>) -> Opening {
        Opening {
            parent: parent.cloned(),
            user: Some(user("corp:a")),
            agent: None,
            purpose: None,
            scopes: None,
            opener: ExecId(7),
            opener_id: "spiffe://example.org/a".parse().unwrap(),
            expires_at: Timestamp::from_second(1000).unwrap(),
        }
    }

    fn session(number: u64, opening: Opening) -> Session {
        let named = Named {
            id: SessionId::new(number).unwrap(),
            is_bound: true,
            opened_at: Timestamp::from_second(i64::try_from(number).unwrap()).unwrap(),
            decision_id: "d".into(),
            handle: HandleDigest::of(&number.to_string()),
        };
        Session::new(opening.narrowed(&LIMITS).unwrap(), named).unwrap()
    }

    fn scopes(names: &[&str]) -> Option<Box<[Box<str>]>> {
        Some(names.iter().map(|name| Box::from(*name)).collect())
    }

    #[test]
    fn a_delegated_session_only_narrows() {
        let outer = Opening { scopes: scopes(&["mail", "files"]), purpose: Some("p".into()), ..opening(None) };
        let outer = Arc::new(session(1, outer));
        let inherits = Opening { user: None, expires_at: Timestamp::MAX, ..opening(Some(&outer)) };
        let inherited = inherits.clone().narrowed(&LIMITS).unwrap();
        assert_eq!(inherited.scopes, outer.scopes);
        assert_eq!(inherited.purpose, outer.purpose);
        assert_eq!(inherited.user.id, outer.user.id);
        assert_eq!(inherited.expires_at, outer.expires_at, "it does not outlive the other");
        let fewer = Opening { scopes: scopes(&["mail"]), ..opening(Some(&outer)) }.narrowed(&LIMITS).unwrap();
        assert_eq!(fewer.scopes, scopes(&["mail"]));
        let none = Opening { scopes: scopes(&[]), ..opening(Some(&outer)) }.narrowed(&LIMITS).unwrap();
        assert_eq!(none.scopes, scopes(&[]), "no scopes are not all of them");
        for wider in [
            Opening { scopes: scopes(&["mail", "admin"]), ..opening(Some(&outer)) },
            Opening { user: Some(user("corp:b")), ..opening(Some(&outer)) },
        ] {
            assert!(matches!(wider.narrowed(&LIMITS), Err(Error::Wider(_))));
        }
        let second = Arc::new(session(2, inherits));
        let third = Arc::new(session(3, opening(Some(&second))));
        assert_eq!(third.depth(), 2);
        assert_eq!(opening(Some(&third)).narrowed(&LIMITS).unwrap_err(), Error::TooDeep { limit: 2 });
        let nobody = Opening { user: None, ..opening(None) }.narrowed(&LIMITS);
        assert_eq!(nobody.unwrap_err(), Error::NoUser);
        assert!(third.is_within(outer.id) && !outer.is_within(third.id));
        assert_eq!(third.outermost().id, outer.id);
    }

    #[test]
    fn an_end_takes_all_that_was_delegated_along_and_happens_once() {
        let sessions = Sessions::new(LIMITS);
        let outer = sessions.insert(session(1, opening(None))).unwrap();
        let inner = sessions.insert(session(2, opening(Some(&outer)))).unwrap();
        let other = sessions.insert(session(3, Opening { opener: ExecId(8), ..opening(None) })).unwrap();
        assert_eq!(sessions.of_handle(inner.handle).unwrap().id, inner.id);
        let now = Timestamp::from_second(5).unwrap();
        let ended = sessions.end(outer.id, Cause::Revoked, now);
        let causes: Vec<_> = ended.iter().map(|ended| (ended.session.id, ended.cause)).collect();
        assert_eq!(causes, [(outer.id, Cause::Revoked), (inner.id, Cause::Parent)]);
        assert!(sessions.end(outer.id, Cause::Revoked, now).is_empty());
        assert!(sessions.of_handle(inner.handle).is_none() && sessions.session(inner.id).is_none());
        assert!(sessions.session(other.id).is_some());
        let late = sessions.insert(session(4, opening(Some(&outer))));
        assert_eq!(late.unwrap_err(), Error::Unknown, "nothing is delegated from what is over");
        assert_eq!(sessions.next_expiry(), Some(other.expires_at));
        assert_eq!(sessions.expire(other.expires_at).len(), 1);
        assert!(sessions.is_empty() && sessions.next_expiry().is_none());
        assert_eq!(sessions.ended().len(), 3);
    }

    #[test]
    fn every_bound_holds() {
        let sessions = Sessions::new(LIMITS);
        let per_opener = u64::try_from(LIMITS.per_opener).unwrap();
        for number in 1..=per_opener {
            sessions.insert(session(number, opening(None))).unwrap();
        }
        let error = sessions.insert(session(99, opening(None))).unwrap_err();
        assert_eq!(error, Error::TooManyOfOpener { limit: LIMITS.per_opener });
        for number in 10..10 + 4 {
            sessions.insert(session(number, Opening { opener: ExecId(number), ..opening(None) })).unwrap();
        }
        let error = sessions.insert(session(97, Opening { opener: ExecId(97), ..opening(None) })).unwrap_err();
        assert_eq!(error, Error::TooManyOfUser { limit: LIMITS.per_user });
        let other = Opening { opener: ExecId(14), user: Some(user("corp:b")), ..opening(None) };
        sessions.insert(session(14, other)).unwrap();
        let error = sessions.insert(session(98, Opening { opener: ExecId(98), ..opening(None) })).unwrap_err();
        assert_eq!(error, Error::TooMany { limit: LIMITS.total });
        for session in sessions.active() {
            sessions.end(session.id, Cause::Closed, Timestamp::UNIX_EPOCH);
        }
        assert_eq!(sessions.ended().len(), LIMITS.ended_kept);
        assert!(sessions.insert(session(1, opening(None))).is_ok(), "ended ones take no room");
    }
}
