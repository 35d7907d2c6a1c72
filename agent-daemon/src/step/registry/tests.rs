// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::super::Kind;
use super::*;
use crate::process::Ancestor;
use crate::testing::exec_instance_of_self;

const LIMITS: Limits = Limits { total: 6, per_session: 4, depth: 3 };
const LATE: BootTime = BootTime(1_000_000);

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

fn begin(steps: &Steps, step: Step) -> Result<(), Error> {
    let step = steps.begin(step)?;
    assert!(steps.begun(&step));
    Ok(())
}

fn end(steps: &Steps, span: u8, at: BootTime) -> Result<(), Error> {
    let step = steps.end(&[session(1)], ExecId(7), context(span))?;
    steps.ended(&step, at);
    Ok(())
}

#[test]
fn every_bound_holds() {
    let steps = Steps::new(LIMITS);
    begin(&steps, step(1, None, 0)).unwrap();
    assert_eq!(begin(&steps, step(1, None, 0)), Err(Error::Known));
    assert_eq!(begin(&steps, step(9, Some(8), 0)), Err(Error::NoParent));
    begin(&steps, step(2, Some(1), 0)).unwrap();
    begin(&steps, step(3, Some(2), 0)).unwrap();
    assert_eq!(begin(&steps, step(4, Some(3), 0)), Err(Error::TooDeep { limit: 3 }));
    begin(&steps, step(5, None, 0)).unwrap();
    assert_eq!(begin(&steps, step(6, None, 0)), Err(Error::TooManyOfSession { limit: 4 }));
    // Those that are over count for the depth.
    end(&steps, 1, LATE).unwrap();
    end(&steps, 2, LATE).unwrap();
    assert_eq!(begin(&steps, step(4, Some(3), 0)), Err(Error::TooDeep { limit: 3 }));
    for span in [1, 2, 3, 4] {
        begin(&steps, Step { session: session(2), ..step(span, None, 0) }).unwrap();
    }
    let third = Step { session: session(3), ..step(1, None, 0) };
    assert_eq!(begin(&steps, third.clone()), Err(Error::TooMany { limit: 6 }));
    assert_eq!(steps.len(), 6);
    // Room again, and nothing is left of what was.
    assert_eq!(steps.end_session(session(1)).len(), 2);
    begin(&steps, third).unwrap();
    assert_eq!(steps.end_session(session(2)).len() + steps.end_session(session(3)).len(), 5);
    let table = steps.lock();
    assert!(table.sessions.is_empty() && table.expiries.is_empty() && table.under_way == 0);
}

#[test]
fn a_step_ends_once_and_by_whom_it_was_taken() {
    let steps = Steps::new(LIMITS);
    begin(&steps, step(1, None, 0)).unwrap();
    let ask = |session: SessionId, exec_id| steps.end(&[session], ExecId(exec_id), context(1)).map(drop);
    assert_eq!(ask(session(1), 8), Err(Error::NotUnderWay));
    assert_eq!(ask(session(2), 7), Err(Error::NotUnderWay));
    let ending = steps.end(&[session(2), session(1)], ExecId(7), context(1)).unwrap();
    assert_eq!(ask(session(1), 7), Err(Error::NotUnderWay), "somebody ends it already");
    steps.not_ended(&ending);
    assert_eq!(end(&steps, 1, LATE), Ok(()));
    assert_eq!(ask(session(1), 7), Err(Error::NotUnderWay));
    assert_eq!(begin(&steps, step(1, None, 0)), Err(Error::Known), "its name is not used again");
    // One that nobody ends.
    let until: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    begin(&steps, Step { expires_at: until, ..step(2, None, 0) }).unwrap();
    assert_eq!(steps.expire(until - jiff::SignedDuration::from_nanos(1), LATE), []);
    let ended = steps.expire(until, LATE);
    assert_eq!((ended.len(), ended[0].cause), (1, Cause::Expired));
    assert!(steps.is_empty());
}

#[test]
fn a_step_that_is_not_recorded_never_was() {
    let steps = Steps::new(LIMITS);
    let first = steps.begin(step(1, None, 0)).unwrap();
    assert_eq!(begin(&steps, step(2, Some(1), 0)), Err(Error::NoParent));
    assert_eq!(steps.end(&[session(1)], ExecId(7), context(1)), Err(Error::NotUnderWay));
    let by = exec_instance_of_self(ExecId(7));
    let moment = Moment { sessions: &[session(1)], by: &by, at: LATE, tid: None, context: Some(context(1)) };
    assert_eq!(steps.joined(&moment), None);
    steps.never_begun(&first);
    assert!(steps.sessions().is_empty());
    let again = steps.begin(step(1, None, 0)).unwrap();
    assert_eq!(steps.end_session(session(1)), [], "there is no record of it");
    assert!(!steps.begun(&again));
    steps.never_begun(&again);
    assert!(steps.is_empty() && steps.sessions().is_empty());
}

#[test]
fn what_is_over_is_kept_for_a_few_steps_only_and_nothing_is_joined_before_that() {
    let steps = Steps::new(LIMITS);
    let by = exec_instance_of_self(ExecId(7));
    begin(&steps, step(255, None, 0)).unwrap();
    for span in 1..=200 {
        begin(&steps, Step { parent: None, ..step(span, None, u64::from(span) * 10) }).unwrap();
        end(&steps, span, BootTime(u64::from(span) * 10 + 5)).unwrap();
    }
    assert_eq!(steps.lock().sessions[&session(1)].past.len(), PAST);
    let at = |at| {
        let moment = Moment { sessions: &[session(1)], by: &by, at: BootTime(at), tid: None, context: None };
        steps.joined(&moment).map(|joined| joined.step.context)
    };
    // Between two steps, and there are others that are forgotten.
    assert_eq!((at(1006), at(1999)), (None, Some(context(255))));
}

#[test]
fn what_happens_belongs_to_the_innermost_step_and_to_none_where_there_are_two() {
    let steps = Steps::new(Limits { total: 20, per_session: 10, depth: 3 });
    begin(&steps, step(1, None, 10)).unwrap();
    begin(&steps, step(2, Some(1), 20)).unwrap();
    let by = exec_instance_of_self(ExecId(7));
    let mut child = exec_instance_of_self(ExecId(8));
    child.ancestors = vec![Ancestor { id: ExecId(7), tgid: by.process.tgid }].into();
    child.began = BootTime(25);
    let stranger = exec_instance_of_self(ExecId(9));
    let of = |by: &ExecInstance, at, tid, named: Option<u8>| {
        let sessions = [session(2), session(1)];
        let moment = Moment { sessions: &sessions, by, at: BootTime(at), tid, context: named.map(context) };
        steps.joined(&moment).map(|joined| (joined.step.context, joined.by))
    };
    assert_eq!(of(&by, 9, None, None), None);
    assert_eq!(of(&by, 15, None, None), Some((context(1), JoinedBy::Exec)));
    assert_eq!(of(&by, 25, None, None), Some((context(2), JoinedBy::Exec)));
    assert_eq!(of(&by, 25, None, Some(1)), Some((context(1), JoinedBy::Trace)));
    assert_eq!(of(&child, 99, None, None), Some((context(2), JoinedBy::Time)), "it was started in it");
    assert_eq!(of(&child, 99, None, Some(1)), Some((context(1), JoinedBy::Trace)));
    assert_eq!(of(&stranger, 99, None, Some(1)), None, "a step is named by who takes it and what is below");
    end(&steps, 2, BootTime(30)).unwrap();
    assert_eq!(of(&by, 28, None, None), Some((context(2), JoinedBy::Exec)), "a connection that was opened in it");
    assert_eq!(of(&by, 31, None, None), Some((context(1), JoinedBy::Exec)));
    // Two threads, each in a step of its own.
    begin(&steps, Step { tid: Some(70), ..step(3, Some(1), 40) }).unwrap();
    begin(&steps, Step { tid: Some(71), ..step(4, Some(1), 40) }).unwrap();
    assert_eq!(of(&by, 50, Some(71), None), Some((context(4), JoinedBy::Thread)));
    assert_eq!(of(&by, 50, Some(72), None), Some((context(1), JoinedBy::Exec)), "a third thread is in neither");
    assert_eq!(of(&by, 50, None, None), None, "nobody can say in which");
    begin(&steps, Step { tid: Some(70), ..step(5, Some(1), 45) }).unwrap();
    assert_eq!(of(&by, 50, Some(70), None), None, "two of one thread");
    // Those of the inner session come first, whatever they are called.
    begin(&steps, Step { session: session(2), ..step(1, None, 60) }).unwrap();
    assert_eq!(of(&by, 61, None, None).map(|(_, by)| by), Some(JoinedBy::Exec));
    // Another session's steps are none of this one's.
    let moment = Moment { sessions: &[session(3)], by: &by, at: BootTime(15), tid: None, context: Some(context(1)) };
    assert_eq!(steps.joined(&moment), None);
}
