// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::{Cause, Error, Step, TraceContext};
use crate::process::{BootTime, ExecId, ExecInstance, SessionId};

/// How many steps there may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Under way on the node.
    pub total: usize,
    /// Under way in one session.
    pub per_session: usize,
    /// In one another.
    pub depth: usize,
}

/// Steps of a session that are over and can still be joined, for connections that were opened in them.
const PAST: usize = 16;

/// All steps that are under way, and the last ones that were.
#[derive(Debug)]
pub struct Steps {
    limits: Limits,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    sessions: HashMap<SessionId, Held>,
    under_way: usize,
    expiries: BTreeSet<(Timestamp, SessionId, [u8; 8])>,
}

/// The steps of one session.
#[derive(Debug, Default)]
struct Held {
    open: Vec<Arc<Step>>,
    past: VecDeque<(Arc<Step>, BootTime)>,
}

/// A step that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// It.
    pub step: Arc<Step>,
    /// Why.
    pub cause: Cause,
}

/// What is to be joined to a step: who did it, and when.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// The sessions that it was done in, from the inner to the outer.
    pub sessions: &'a [SessionId],
    /// Who did it.
    pub by: &'a ExecInstance,
    /// When.
    pub at: BootTime,
    /// By which thread, where the kernel saw it.
    pub tid: Option<u32>,
    /// What the doer says that it belongs to.
    pub context: Option<TraceContext>,
}

/// By what something was joined to a step, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JoinedBy {
    /// Whoever did it named the step.
    Trace,
    /// The same program image and thread, while the step was under way.
    Thread,
    /// The same program image, while the step was under way.
    Exec,
    /// It was started while the step of one of its ancestors was under way.
    Time,
}

impl JoinedBy {
    /// The word in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Thread => "thread",
            Self::Exec => "exec",
            Self::Time => "time",
        }
    }
}

/// The step that something belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// It.
    pub step: Arc<Step>,
    /// Why it is thought so.
    pub by: JoinedBy,
}

impl Steps {
    /// None yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, table: Mutex::default() }
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.lock().under_way
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether none of these sessions has any, or had one a moment ago.
    pub fn is_empty_for(&self, sessions: &[SessionId]) -> bool {
        let table = self.lock();
        table.sessions.is_empty() || !sessions.iter().any(|id| table.sessions.contains_key(id))
    }

    /// Takes a step.
    ///
    /// # Errors
    /// It is known, its parent is not, or there is no room.
    pub fn begin(&self, step: Step) -> Result<Arc<Step>, Error> {
        let Limits { total, per_session, depth } = self.limits;
        let mut table = self.lock();
        if table.under_way >= total {
            return Err(Error::TooMany { limit: total });
        }
        let held = table.sessions.get(&step.session);
        let (open, past) = held.map_or((&[][..], 0..0), |held| (&held.open[..], 0..held.past.len()));
        if open.len() >= per_session {
            return Err(Error::TooManyOfSession { limit: per_session });
        }
        let span = step.context.span_id();
        let was =
            |at: usize| held.and_then(|held| held.past.get(at)).is_some_and(|(one, _)| one.context.span_id() == span);
        if open.iter().any(|one| one.context.span_id() == span) || past.into_iter().any(was) {
            return Err(Error::Known);
        }
        let mut above = step.parent;
        for _ in 1..depth {
            let Some(id) = above else { break };
            let parent = open.iter().find(|one| one.context.span_id() == id).ok_or(Error::NoParent)?;
            above = parent.parent.filter(|id| open.iter().any(|one| one.context.span_id() == *id));
        }
        if above.is_some() {
            return Err(Error::TooDeep { limit: depth });
        }
        let step = Arc::new(step);
        table.sessions.entry(step.session).or_default().open.push(Arc::clone(&step));
        table.expiries.insert((step.expires_at, step.session, span));
        table.under_way = table.under_way.saturating_add(1);
        Ok(step)
    }

    /// Ends a step that this exec instance takes in this session.
    ///
    /// # Errors
    /// There is none such under way (any more).
    pub fn end(&self, session: SessionId, by: ExecId, context: TraceContext, at: BootTime) -> Result<Arc<Step>, Error> {
        let mut table = self.lock();
        let is_it = |step: &Step| step.context == context && step.exec_id == by;
        table.end(session, is_it, at).ok_or(Error::NotUnderWay)
    }

    /// Ends the steps of a session, and forgets them.
    pub fn end_session(&self, session: SessionId) -> Vec<Ended> {
        let mut table = self.lock();
        let Some(held) = table.sessions.remove(&session) else { return Vec::new() };
        for step in &held.open {
            table.expiries.remove(&(step.expires_at, session, step.context.span_id()));
        }
        table.under_way = table.under_way.saturating_sub(held.open.len());
        held.open.into_iter().map(|step| Ended { step, cause: Cause::SessionEnded }).collect()
    }

    /// Ends those whose time is up.
    pub fn expire(&self, now: Timestamp, at: BootTime) -> Vec<Ended> {
        let mut table = self.lock();
        let mut ended = Vec::new();
        while let Some((_, session, span)) =
            table.expiries.first().copied().filter(|(expires_at, ..)| *expires_at <= now)
        {
            table.expiries.pop_first();
            let step = table.end(session, |step| step.context.span_id() == span, at);
            ended.extend(step.map(|step| Ended { step, cause: Cause::Expired }));
        }
        ended
    }

    /// The step that something belongs to. None where there is none, and where it could be one of several.
    pub fn joined(&self, moment: &Moment<'_>) -> Option<Joined> {
        let table = self.lock();
        let held = || moment.sessions.iter().filter_map(|id| table.sessions.get(id));
        let named = |context: TraceContext| held().flat_map(|held| &held.open).find(|step| step.context == context);
        if let Some(step) = moment.context.and_then(named) {
            return Some(Joined { step: Arc::clone(step), by: JoinedBy::Trace });
        }
        let of = |exec_id: ExecId, at: BootTime| -> Vec<&Arc<Step>> {
            let open = held().flat_map(|held| &held.open).filter(|step| step.began <= at);
            let past = held().flat_map(|held| &held.past).filter(|(step, ended)| step.began <= at && at <= *ended);
            open.chain(past.map(|(step, _)| step)).filter(|step| step.exec_id == exec_id).collect()
        };
        let joined = |steps: Vec<&Arc<Step>>, by| innermost(&steps).map(|step| Joined { step: Arc::clone(step), by });
        let own = of(moment.by.id, moment.at);
        if !own.is_empty() {
            let on_thread = own.iter().copied().filter(|step| step.tid.is_some() && step.tid == moment.tid).collect();
            // What another thread takes is not what this one does.
            let on_any = own.iter().copied().filter(|step| step.tid.is_none() || moment.tid.is_none()).collect();
            return joined(on_thread, JoinedBy::Thread).or_else(|| joined(on_any, JoinedBy::Exec));
        }
        let mut above = moment.by.ancestors.iter().map(|ancestor| of(ancestor.id, moment.by.began));
        above.find(|steps| !steps.is_empty()).and_then(|steps| joined(steps, JoinedBy::Time))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn end(&mut self, session: SessionId, is_it: impl Fn(&Step) -> bool, at: BootTime) -> Option<Arc<Step>> {
        let held = self.sessions.get_mut(&session)?;
        let place = held.open.iter().position(|step| is_it(step))?;
        let step = held.open.remove(place);
        if held.past.len() >= PAST {
            held.past.pop_front();
        }
        held.past.push_back((Arc::clone(&step), at));
        self.expiries.remove(&(step.expires_at, session, step.context.span_id()));
        self.under_way = self.under_way.saturating_sub(1);
        Some(step)
    }
}

/// The one in which no other of them is. None where there are several: then nobody can say.
fn innermost<'a>(steps: &[&'a Arc<Step>]) -> Option<&'a Arc<Step>> {
    let is_around = |id: [u8; 8]| steps.iter().any(|step| step.parent == Some(id));
    let mut inner = steps.iter().filter(|step| !is_around(step.context.span_id()));
    inner.next().copied().filter(|_| inner.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;
    use crate::process::Ancestor;
    use crate::testing::exec_instance_of_self;

    const LIMITS: Limits = Limits { total: 6, per_session: 4, depth: 3 };
    const LATE: BootTime = BootTime(u64::MAX);

    fn session(id: u64) -> SessionId {
        SessionId::new(id).unwrap()
    }

    fn context(span: u8) -> TraceContext {
        format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000{span:02x}-01").parse().unwrap()
    }

    fn step(span: u8, parent: Option<u8>, began: u64) -> Step {
        Step {
            context: context(span),
            parent: parent.map(|span| context(span).span_id()),
            kind: Kind::ToolCall,
            name: None,
            reference: None,
            session: session(1),
            exec_id: ExecId(7),
            tid: None,
            began: BootTime(began),
            expires_at: Timestamp::MAX,
        }
    }

    #[test]
    fn every_bound_holds() {
        let steps = Steps::new(LIMITS);
        steps.begin(step(1, None, 0)).unwrap();
        assert_eq!(steps.begin(step(1, None, 0)), Err(Error::Known));
        assert_eq!(steps.begin(step(9, Some(8), 0)), Err(Error::NoParent));
        steps.begin(step(2, Some(1), 0)).unwrap();
        steps.begin(step(3, Some(2), 0)).unwrap();
        assert_eq!(steps.begin(step(4, Some(3), 0)), Err(Error::TooDeep { limit: 3 }));
        steps.begin(step(5, None, 0)).unwrap();
        assert_eq!(steps.begin(step(6, None, 0)), Err(Error::TooManyOfSession { limit: 4 }));
        for span in [1, 2] {
            steps.begin(Step { session: session(2), ..step(span, None, 0) }).unwrap();
        }
        assert_eq!(steps.begin(Step { session: session(3), ..step(1, None, 0) }), Err(Error::TooMany { limit: 6 }));
        assert_eq!(steps.len(), 6);
        // Room again, and nothing is left of what was.
        assert_eq!(steps.end_session(session(1)).len(), 4);
        steps.begin(Step { session: session(3), ..step(1, None, 0) }).unwrap();
        assert_eq!(steps.end_session(session(2)).len() + steps.end_session(session(3)).len(), 3);
        let table = steps.lock();
        assert!(table.sessions.is_empty() && table.expiries.is_empty() && table.under_way == 0);
    }

    #[test]
    fn a_step_ends_once_and_by_whom_it_was_taken() {
        let steps = Steps::new(LIMITS);
        steps.begin(step(1, None, 0)).unwrap();
        let end = |session: SessionId, exec_id, span| steps.end(session, ExecId(exec_id), context(span), LATE);
        assert_eq!(end(session(1), 8, 1), Err(Error::NotUnderWay));
        assert_eq!(end(session(2), 7, 1), Err(Error::NotUnderWay));
        assert!(end(session(1), 7, 1).is_ok());
        assert_eq!(end(session(1), 7, 1), Err(Error::NotUnderWay));
        assert_eq!(steps.begin(step(1, None, 0)), Err(Error::Known), "its name is not used again");
        // One that nobody ends.
        let until: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        steps.begin(Step { expires_at: until, ..step(2, None, 0) }).unwrap();
        assert_eq!(steps.expire(until - jiff::SignedDuration::from_nanos(1), LATE), []);
        let ended = steps.expire(until, LATE);
        assert_eq!((ended.len(), ended[0].cause), (1, Cause::Expired));
        assert!(steps.is_empty());
    }

    #[test]
    fn what_is_over_is_kept_for_a_few_steps_only() {
        let steps = Steps::new(LIMITS);
        for span in 1..=200 {
            steps.begin(step(span, None, 0)).unwrap();
            steps.end(session(1), ExecId(7), context(span), LATE).unwrap();
        }
        assert_eq!(steps.lock().sessions[&session(1)].past.len(), PAST);
    }

    #[test]
    fn what_happens_belongs_to_the_innermost_step_and_to_none_where_there_are_two() {
        let steps = Steps::new(LIMITS);
        steps.begin(step(1, None, 10)).unwrap();
        steps.begin(step(2, Some(1), 20)).unwrap();
        let by = exec_instance_of_self(ExecId(7));
        let mut child = exec_instance_of_self(ExecId(8));
        child.ancestors = vec![Ancestor { id: ExecId(7), tgid: by.process.tgid }].into();
        child.began = BootTime(25);
        let of = |by: &ExecInstance, at, tid, named: Option<u8>| {
            let sessions = [session(1)];
            let moment = Moment { sessions: &sessions, by, at: BootTime(at), tid, context: named.map(context) };
            steps.joined(&moment).map(|joined| (joined.step.context, joined.by))
        };
        assert_eq!(of(&by, 9, None, None), None);
        assert_eq!(of(&by, 15, None, None), Some((context(1), JoinedBy::Exec)));
        assert_eq!(of(&by, 25, None, None), Some((context(2), JoinedBy::Exec)));
        assert_eq!(of(&by, 25, None, Some(1)), Some((context(1), JoinedBy::Trace)));
        assert_eq!(of(&child, 99, None, None), Some((context(2), JoinedBy::Time)), "it was started in it");
        steps.end(session(1), ExecId(7), context(2), BootTime(30)).unwrap();
        assert_eq!(of(&by, 28, None, None), Some((context(2), JoinedBy::Exec)), "a connection that was opened in it");
        assert_eq!(of(&by, 31, None, None), Some((context(1), JoinedBy::Exec)));
        // Two threads, each in a step of its own.
        steps.begin(Step { tid: Some(70), ..step(3, Some(1), 40) }).unwrap();
        steps.begin(Step { tid: Some(71), ..step(4, Some(1), 40) }).unwrap();
        assert_eq!(of(&by, 50, Some(71), None), Some((context(4), JoinedBy::Thread)));
        assert_eq!(of(&by, 50, Some(72), None), Some((context(1), JoinedBy::Exec)), "a third thread is in neither");
        assert_eq!(of(&by, 50, None, None), None, "nobody can say in which");
        // Another session's steps are none of this one's.
        let moment =
            Moment { sessions: &[session(2)], by: &by, at: BootTime(15), tid: None, context: Some(context(1)) };
        assert_eq!(steps.joined(&moment), None);
    }
}
