// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests that wait for a person's word, and what a person said for the rest of a session.
//!
//! CORE. A bounded table. It decides nothing and records nothing: who may ask is for policy to say, and what was
//! answered counts when it is in the log.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::audit::{ApprovalFacts, DecisionRecord};
use crate::process::ExecId;

/// How many may wait.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// On this node.
    pub total: usize,
    /// Of one exec instance.
    pub per_exec: usize,
    /// Sessions, and answers in each, that are remembered.
    pub remembered: usize,
}

/// What a word is for: nothing else is allowed by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    session: Option<String>,
    spiffe_id: String,
    destination: String,
    binding: String,
    /// Everybody who acts: a word for a tool below one agent is none for it below another.
    actors: Vec<String>,
    policy_ids: Vec<String>,
}

impl Key {
    /// Of a decision; none before it is known what is asked for.
    pub fn of(record: &DecisionRecord) -> Option<Self> {
        Some(Self {
            session: record.session_id.clone(),
            spiffe_id: record.spiffe_id.clone()?,
            destination: record.destination.clone()?,
            binding: record.binding.clone()?,
            actors: record.actors.clone(),
            policy_ids: record.approval_policy_ids.clone(),
        })
    }
}

/// A word that was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// For what.
    pub key: Key,
    /// Yes or no.
    pub is_allowed: bool,
    /// What a record says of it.
    pub facts: ApprovalFacts,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// Its name. Not a secret.
    pub id: Arc<str>,
    /// Who asks.
    pub exec_id: ExecId,
    /// What a word would be for.
    pub key: Key,
    /// What was decided so far.
    pub record: Arc<DecisionRecord>,
    /// From when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// There is no room for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// On this node.
    #[error("{0} requests wait for an approval, which is all there can be")]
    Total(usize),
    /// Of this exec instance.
    #[error("the process has {0} requests waiting for an approval, which is all it may have")]
    OfExec(usize),
}

/// All of them.
#[derive(Debug)]
pub struct Approvals {
    limits: Limits,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    waiting: BTreeMap<Arc<str>, (Arc<Waiting>, oneshot::Sender<Given>)>,
    /// By session.
    remembered: HashMap<String, Vec<Given>>,
}

/// One that was taken out of the table to be answered, and waits all the same.
#[derive(Debug)]
pub struct Taken {
    /// Which.
    pub waiting: Arc<Waiting>,
    tell: oneshot::Sender<Given>,
}

impl Taken {
    /// Tells it; false when it does not wait any more.
    #[must_use = "whoever asked may be gone"]
    pub fn tell(self, given: Given) -> bool {
        self.tell.send(given).is_ok()
    }
}

impl Approvals {
    /// None yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, table: Mutex::default() }
    }

    /// Begins to wait.
    ///
    /// # Errors
    /// When as many as there may be wait.
    pub fn ask(&self, waiting: Waiting) -> Result<oneshot::Receiver<Given>, Full> {
        let mut table = self.lock();
        if table.waiting.len() >= self.limits.total {
            return Err(Full::Total(self.limits.total));
        }
        let of_exec = table.waiting.values().filter(|(other, _)| other.exec_id == waiting.exec_id).count();
        if of_exec >= self.limits.per_exec {
            return Err(Full::OfExec(self.limits.per_exec));
        }
        let (tell, told) = oneshot::channel();
        table.waiting.insert(Arc::clone(&waiting.id), (Arc::new(waiting), tell));
        Ok(told)
    }

    /// Takes one out, to answer it or because it waits no more. Of many who try one succeeds.
    pub fn take(&self, id: &str) -> Option<Taken> {
        let (waiting, tell) = self.lock().waiting.remove(id)?;
        Some(Taken { waiting, tell })
    }

    /// Those that wait, by name.
    pub fn waiting(&self) -> Vec<Arc<Waiting>> {
        self.lock().waiting.values().map(|(waiting, _)| Arc::clone(waiting)).collect()
    }

    /// How many wait, and how many can.
    pub fn usage(&self) -> (usize, usize) {
        (self.lock().waiting.len(), self.limits.total)
    }

    /// Keeps a word for the rest of its session. A later one takes its place. When there is no room for it, it counted
    /// once, and the next request waits again.
    pub fn remember(&self, given: Given) {
        let Some(session) = given.key.session.clone() else { return };
        let mut table = self.lock();
        let limit = self.limits.remembered;
        if table.remembered.len() >= limit && !table.remembered.contains_key(&session) {
            return;
        }
        let words = table.remembered.entry(session).or_default();
        words.retain(|word| word.key != given.key);
        if words.len() < limit {
            words.push(given);
        }
    }

    /// What was said of this for the rest of its session.
    pub fn remembered(&self, key: &Key) -> Option<Given> {
        let table = self.lock();
        table.remembered.get(key.session.as_deref()?)?.iter().find(|word| word.key == *key).cloned()
    }

    /// Forgets what was said for a session that is over.
    pub fn forget(&self, session: &str) {
        self.lock().remembered.remove(session);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { total: 3, per_exec: 2, remembered: 1 };

    fn record(session: Option<&str>, destination: &str) -> DecisionRecord {
        DecisionRecord {
            session_id: session.map(str::to_owned),
            spiffe_id: Some("spiffe://e/a".to_owned()),
            destination: Some(destination.to_owned()),
            binding: Some("b".to_owned()),
            ..DecisionRecord::default()
        }
    }

    fn waiting(id: &str, exec: u64) -> Waiting {
        let record = record(Some("s1"), "mail");
        Waiting {
            id: id.into(),
            exec_id: ExecId(exec),
            key: Key::of(&record).unwrap(),
            record: Arc::new(record),
            since: Timestamp::UNIX_EPOCH,
            until: Timestamp::UNIX_EPOCH,
        }
    }

    fn given(session: Option<&str>, destination: &str, is_allowed: bool) -> Given {
        let key = Key::of(&record(session, destination)).unwrap();
        Given { key, is_allowed, facts: ApprovalFacts::default() }
    }

    #[test]
    fn each_is_answered_once_and_there_is_a_bound() {
        let approvals = Approvals::new(LIMITS);
        let mut first = approvals.ask(waiting("1", 1)).unwrap();
        let second = approvals.ask(waiting("2", 1)).unwrap();
        assert_eq!(approvals.ask(waiting("3", 1)).unwrap_err(), Full::OfExec(2));
        let _third = approvals.ask(waiting("3", 2)).unwrap();
        assert_eq!(approvals.ask(waiting("4", 3)).unwrap_err(), Full::Total(3));
        let taken = approvals.take("1").unwrap();
        assert!(approvals.take("1").is_none() && approvals.take("nothing").is_none());
        assert!(first.try_recv().is_err());
        assert!(taken.tell(given(Some("s1"), "mail", true)));
        assert!(first.try_recv().unwrap().is_allowed);
        drop(second);
        assert!(!approvals.take("2").unwrap().tell(given(Some("s1"), "mail", true)), "it hung up");
        assert_eq!(approvals.usage(), (1, 3));
    }

    #[test]
    fn a_word_for_a_session_is_for_the_same_thing_in_that_session_and_ends_with_it() {
        let approvals = Approvals::new(LIMITS);
        approvals.remember(given(Some("s1"), "mail", true));
        let asked = |session, destination| {
            let key = Key::of(&record(session, destination)).unwrap();
            approvals.remembered(&key).map(|given| given.is_allowed)
        };
        assert_eq!(asked(Some("s1"), "mail"), Some(true));
        assert_eq!(asked(Some("s1"), "files"), None);
        assert_eq!(asked(Some("s2"), "mail"), None);
        assert_eq!(asked(None, "mail"), None);
        // Below somebody else, or by the will of another policy.
        for change in [
            |record: &mut DecisionRecord| record.actors.push("spiffe://e/risky".to_owned()),
            |record: &mut DecisionRecord| record.approval_policy_ids.push("review".to_owned()),
        ] {
            let mut other = record(Some("s1"), "mail");
            change(&mut other);
            assert_eq!(approvals.remembered(&Key::of(&other).unwrap()), None);
        }
        approvals.remember(given(Some("s1"), "mail", false));
        assert_eq!(asked(Some("s1"), "mail"), Some(false));
        // No room, and no session.
        approvals.remember(given(Some("s1"), "files", true));
        approvals.remember(given(Some("s2"), "mail", true));
        approvals.remember(given(None, "mail", true));
        assert_eq!((asked(Some("s1"), "files"), asked(Some("s2"), "mail"), asked(None, "mail")), (None, None, None));
        approvals.forget("s1");
        assert_eq!(asked(Some("s1"), "mail"), None);
    }
}
