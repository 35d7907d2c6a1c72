// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
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
    open: Vec<Open>,
    past: VecDeque<(Arc<Step>, BootTime)>,
    /// The latest end of those that are forgotten: what happened before may have been in one of them.
    forgotten: BootTime,
}

#[derive(Debug)]
struct Open {
    step: Arc<Step>,
    /// How many it is in, itself included; those that are over count.
    depth: usize,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its record is not written: it holds its place, and nothing is joined to it.
    Beginning,
    UnderWay,
    /// The record of its end is being written.
    Ending,
}

impl Open {
    fn is(&self, span: [u8; 8]) -> bool {
        self.step.context.span_id() == span
    }
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

    /// How many there may be.
    pub fn limits(&self) -> &Limits {
        &self.limits
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

    /// Makes room for a step. It is none before [`Self::begun`].
    ///
    /// # Errors
    /// It is known, its parent is not, or there is no room.
    pub fn begin(&self, step: Step) -> Result<Arc<Step>, Error> {
        let Limits { total, per_session, depth: limit } = self.limits;
        let mut table = self.lock();
        if table.under_way >= total {
            return Err(Error::TooMany { limit: total });
        }
        let none = Held::default();
        let held = table.sessions.get(&step.session).unwrap_or(&none);
        if held.open.len() >= per_session {
            return Err(Error::TooManyOfSession { limit: per_session });
        }
        let span = step.context.span_id();
        let was = held.past.iter().any(|(one, _)| one.context.span_id() == span);
        if was || held.open.iter().any(|one| one.is(span)) {
            return Err(Error::Known);
        }
        let depth = match step.parent {
            None => 1,
            Some(parent) => {
                let is_it = |one: &&Open| one.is(parent) && one.phase != Phase::Beginning;
                held.open.iter().find(is_it).ok_or(Error::NoParent)?.depth.saturating_add(1)
            }
        };
        if depth > limit {
            return Err(Error::TooDeep { limit });
        }
        let step = Arc::new(step);
        let open = Open { step: Arc::clone(&step), depth, phase: Phase::Beginning };
        table.sessions.entry(step.session).or_default().open.push(open);
        table.expiries.insert((step.expires_at, step.session, span));
        table.under_way = table.under_way.saturating_add(1);
        Ok(step)
    }

    /// The step is recorded. Whether it still is one: its session may have ended meanwhile.
    pub fn begun(&self, step: &Step) -> bool {
        self.turn(step, Phase::Beginning, Phase::UnderWay)
    }

    /// The step could not be recorded: it never was.
    pub fn never_begun(&self, step: &Step) {
        self.lock().remove(step.session, step.context.span_id(), Some(Phase::Beginning));
    }

    /// The step that this exec instance takes, in the first of these sessions that has it. Nobody else ends it before
    /// [`Self::ended`] or [`Self::not_ended`].
    ///
    /// # Errors
    /// There is none such under way (any more).
    pub fn end(&self, sessions: &[SessionId], by: ExecId, context: TraceContext) -> Result<Arc<Step>, Error> {
        let mut table = self.lock();
        for session in sessions {
            let Some(held) = table.sessions.get_mut(session) else { continue };
            let is_it =
                |one: &&mut Open| one.step.context == context && one.step.exec_id == by && one.phase == Phase::UnderWay;
            if let Some(found) = held.open.iter_mut().find(is_it) {
                found.phase = Phase::Ending;
                return Ok(Arc::clone(&found.step));
            }
        }
        Err(Error::NotUnderWay)
    }

    /// The end of the step is recorded.
    pub fn ended(&self, step: &Step, at: BootTime) {
        self.lock().end(step.session, step.context.span_id(), at);
    }

    /// The end of the step could not be recorded: it goes on.
    pub fn not_ended(&self, step: &Step) {
        self.turn(step, Phase::Ending, Phase::UnderWay);
    }

    fn turn(&self, step: &Step, from: Phase, to: Phase) -> bool {
        let mut table = self.lock();
        let held = table.sessions.get_mut(&step.session);
        let span = step.context.span_id();
        let found = held.and_then(|held| held.open.iter_mut().find(|one| one.is(span) && one.phase == from));
        found.map(|found| found.phase = to).is_some()
    }

    /// Ends the steps of a session, and forgets them.
    pub fn end_session(&self, session: SessionId) -> Vec<Ended> {
        let mut table = self.lock();
        let Some(held) = table.sessions.remove(&session) else { return Vec::new() };
        for one in &held.open {
            table.expiries.remove(&(one.step.expires_at, session, one.step.context.span_id()));
        }
        table.under_way = table.under_way.saturating_sub(held.open.len());
        // Of the others somebody else writes the record.
        let under_way = held.open.into_iter().filter(|one| one.phase == Phase::UnderWay);
        under_way.map(|one| Ended { step: one.step, cause: Cause::SessionEnded }).collect()
    }

    /// Ends those whose time is up.
    pub fn expire(&self, now: Timestamp, at: BootTime) -> Vec<Ended> {
        let mut table = self.lock();
        let mut ended = Vec::new();
        while let Some((_, session, span)) =
            table.expiries.first().copied().filter(|(expires_at, ..)| *expires_at <= now)
        {
            table.expiries.pop_first();
            let found = table.sessions.get(&session).and_then(|held| held.open.iter().find(|one| one.is(span)));
            let step = found.filter(|one| one.phase == Phase::UnderWay).map(|one| Arc::clone(&one.step));
            table.end(session, span, at);
            ended.extend(step.map(|step| Ended { step, cause: Cause::Expired }));
        }
        ended
    }

    /// The sessions that have any, or had one a moment ago.
    pub fn sessions(&self) -> Vec<SessionId> {
        self.lock().sessions.keys().copied().collect()
    }

    /// The step that something belongs to. None where there is none, and where it could be one of several.
    pub fn joined(&self, moment: &Moment<'_>) -> Option<Joined> {
        let table = self.lock();
        let held = || moment.sessions.iter().filter_map(|id| table.sessions.get(id));
        let (own, ancestors) = (moment.by.id, &moment.by.ancestors);
        // One of somebody else's steps can be named by anybody in the session, so it counts for nothing.
        let is_above = |step: &Step| step.exec_id == own || ancestors.iter().any(|one| one.id == step.exec_id);
        if let Some(context) = moment.context {
            let under_way = held().flat_map(|held| &held.open).filter(|one| one.phase != Phase::Beginning);
            let named = under_way.map(|one| &one.step).find(|step| step.context == context && is_above(step));
            if let Some(step) = named {
                return Some(Joined { step: Arc::clone(step), by: JoinedBy::Trace });
            }
        }
        // Steps in steps are of one session; those of the inner session are in those of the outer.
        for held in held() {
            let steps = held.of(own, moment.at);
            if !steps.is_empty() {
                return held.knows(moment.at).then(|| by_thread(&steps, moment.tid)).flatten();
            }
        }
        for ancestor in ancestors {
            for held in held() {
                let steps = held.of(ancestor.id, moment.by.began);
                if !steps.is_empty() {
                    let step = innermost(&steps).filter(|_| held.knows(moment.by.began))?;
                    return Some(Joined { step: Arc::clone(step), by: JoinedBy::Time });
                }
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn end(&mut self, session: SessionId, span: [u8; 8], at: BootTime) {
        let Some(step) = self.remove(session, span, None) else { return };
        let Some(held) = self.sessions.get_mut(&session) else { return };
        if held.past.len() >= PAST
            && let Some((_, ended)) = held.past.pop_front()
        {
            held.forgotten = held.forgotten.max(ended);
        }
        held.past.push_back((step, at));
    }

    fn remove(&mut self, session: SessionId, span: [u8; 8], phase: Option<Phase>) -> Option<Arc<Step>> {
        let held = self.sessions.get_mut(&session)?;
        let is_it = |one: &Open| one.is(span) && phase.is_none_or(|phase| one.phase == phase);
        let place = held.open.iter().position(is_it)?;
        let step = held.open.remove(place).step;
        if held.open.is_empty() && held.past.is_empty() && phase.is_some() {
            self.sessions.remove(&session);
        }
        self.expiries.remove(&(step.expires_at, session, span));
        self.under_way = self.under_way.saturating_sub(1);
        Some(step)
    }
}

impl Held {
    /// Those that an exec instance took at that time.
    fn of(&self, exec_id: ExecId, at: BootTime) -> Vec<&Arc<Step>> {
        let open = self.open.iter().filter(|one| one.phase != Phase::Beginning && one.step.began <= at);
        let past = self.past.iter().filter(|(step, ended)| step.began <= at && at <= *ended);
        let steps = open.map(|one| &one.step).chain(past.map(|(step, _)| step));
        steps.filter(|step| step.exec_id == exec_id).collect()
    }

    /// Whether no step that is forgotten can have been under way then.
    fn knows(&self, at: BootTime) -> bool {
        at > self.forgotten
    }
}

/// The step of an exec instance's own in which one of its threads did something.
fn by_thread(steps: &[&Arc<Step>], tid: Option<u32>) -> Option<Joined> {
    let joined = |step: &Arc<Step>, by| Joined { step: Arc::clone(step), by };
    let on_thread: Vec<_> = steps.iter().copied().filter(|step| step.tid.is_some() && step.tid == tid).collect();
    if !on_thread.is_empty() {
        return innermost(&on_thread).map(|step| joined(step, JoinedBy::Thread));
    }
    // What another thread takes is not what this one does.
    let on_any: Vec<_> = steps.iter().copied().filter(|step| step.tid.is_none() || tid.is_none()).collect();
    innermost(&on_any).map(|step| joined(step, JoinedBy::Exec))
}

/// The one in which no other of them is. None where there are several: then nobody can say.
fn innermost<'a>(steps: &[&'a Arc<Step>]) -> Option<&'a Arc<Step>> {
    let around: HashSet<[u8; 8]> = steps.iter().filter_map(|step| step.parent).collect();
    let mut inner = steps.iter().filter(|step| !around.contains(&step.context.span_id()));
    inner.next().copied().filter(|_| inner.next().is_none())
}

#[cfg(test)]
mod tests;
