// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { total: 8, per_exec: 3, ended_kept: 4 };

fn start() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn after(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

fn id(number: u64) -> LeaseId {
    LeaseId::generate(|random| {
        random[..8].copy_from_slice(&number.to_be_bytes());
        Ok::<_, ()>(())
    })
    .unwrap()
}

/// An active lease of 300 seconds.
pub(in crate::credential) fn lease(number: u64, exec_id: u64) -> Lease {
    Lease {
        id: id(number),
        exec_id: ExecId(exec_id),
        tgid: 1000,
        uid: 1000,
        spiffe_id: "spiffe://example.org/agent/a".parse().unwrap(),
        destination: "reports-api".into(),
        binding: "reports-token".into(),
        credential_type: CredentialType::JwtSvid,
        cookie: None,
        session: None,
        subject: None,
        issued_at: start(),
        expires_at: after(300),
        decision_id: "d1".into(),
        basis: Arc::default(),
        state: State::Active,
    }
}

fn on(cookie: u64, limit: u32) -> Option<Connection> {
    Some(Connection { cookie, binding: "reports-token".into(), limit })
}

fn grant(leases: &Leases, lease: Lease) -> Result<Granted, Error> {
    let connection = lease.cookie.and_then(|cookie| on(cookie, 16));
    leases.grant(leases.reserve(lease.exec_id, connection)?, lease)
}

#[test]
fn what_ends_first_is_found_by_binding_and_not_by_looking_at_every_lease() {
    let leases = Leases::new(Limits { total: 1000, per_exec: 1000, ended_kept: 10 });
    let exec_id = lease(1, 7).exec_id;
    let mut next = 0;
    let mut add = |binding: &str, minutes: i64| {
        next += 1;
        let mut one = lease(next, 7);
        one.binding = binding.into();
        one.expires_at = one.issued_at + SignedDuration::from_mins(minutes);
        leases.grant(leases.reserve(exec_id, None).unwrap(), one).unwrap().lease.id.clone()
    };
    for minutes in 1..=300 {
        add("tokens", minutes);
    }
    let (second, first) = (add("certificates", 502), add("certificates", 501));
    let looked_at = std::cell::Cell::new(0);
    let find = |binding: &str, but: &[&LeaseId]| {
        looked_at.set(0);
        let is_wanted = |id: &LeaseId| {
            looked_at.set(looked_at.get() + 1);
            !but.contains(&id)
        };
        leases.first_to_end(exec_id, |name| binding == "all" || name == binding, is_wanted)
    };
    assert_eq!((find("certificates", &[]), looked_at.get()), (Some(first.clone()), 1));
    assert_eq!((find("certificates", &[&first]), looked_at.get()), (Some(second.clone()), 2));
    assert_eq!((find("certificates", &[&first, &second]), looked_at.get()), (None, 2));
    let token = find("tokens", &[]).unwrap();
    assert_eq!(leases.lease(&token).unwrap().expires_at, start() + SignedDuration::from_mins(1));
    assert_eq!((find("all", &[]), looked_at.get()), (Some(token), 2));
    assert_eq!((find("others", &[]), looked_at.get()), (None, 0));
}

#[test]
fn ids_are_128_random_bits_and_nothing_else_is_an_id() {
    let random = LeaseId::generate(|bytes| {
        bytes.fill(0xff);
        Ok::<_, ()>(())
    });
    assert_eq!(random.unwrap().as_str(), "_____________________w");
    assert!(LeaseId::generate(|_| Err("no randomness")).is_err());
    assert_eq!(LeaseId::parse(id(5).as_str()).unwrap(), id(5));
    for text in [
        "",
        "a",
        "_____________________x",
        "_____________________w==",
        "______________________w",
        "____________________/w",
    ] {
        assert!(LeaseId::parse(text).is_err(), "{text:?}");
    }
    assert!(LeaseId::parse(&"A".repeat(100_000)).is_err());
}

#[test]
fn causes_have_the_words_of_the_admin_api() {
    let causes = [
        Cause::Expired,
        Cause::Exited,
        Cause::Exec,
        Cause::UidChanged,
        Cause::Revoked,
        Cause::GivenBack,
        Cause::Renewed,
    ];
    let words = ["expired", "exited", "exec", "uid_changed", "revoked", "given_back", "renewed"];
    assert_eq!(causes.map(|cause| State::Ended { cause, at: start() }.as_str()), words);
    assert_eq!(State::Active.as_str(), "active");
}

#[test]
fn first_and_last_leases_of_an_exec_instance_are_told() {
    let leases = Leases::new(LIMITS);
    assert!(grant(&leases, lease(1, 7)).unwrap().first);
    assert!(!grant(&leases, lease(2, 7)).unwrap().first);
    assert!(grant(&leases, lease(3, 8)).unwrap().first);
    assert!(!leases.end(&id(1), Cause::GivenBack, after(1)).unwrap().last);
    let ended = leases.end(&id(2), Cause::Revoked, after(2)).unwrap();
    assert!(ended.last);
    assert_eq!(ended.lease.state, State::Ended { cause: Cause::Revoked, at: after(2) });
    assert_eq!(leases.holders(), [ExecId(8)]);
    assert!(grant(&leases, lease(4, 7)).unwrap().first);
}

#[test]
fn a_lease_being_issued_makes_nobody_a_holder() {
    let leases = Leases::new(LIMITS);
    grant(&leases, lease(1, 7)).unwrap();
    let reservation = leases.reserve(ExecId(7), None).unwrap();
    assert!(leases.end(&id(1), Cause::GivenBack, after(1)).unwrap().last);
    assert!(!leases.is_holder(ExecId(7)));
    assert!(leases.holders().is_empty());
    assert!(leases.grant(reservation, lease(2, 7)).unwrap().first);
    assert!(leases.is_holder(ExecId(7)));
}

#[test]
fn a_lease_ends_once_and_keeps_its_first_cause() {
    let leases = Leases::new(LIMITS);
    grant(&leases, lease(1, 7)).unwrap();
    assert!(leases.end(&id(1), Cause::Revoked, after(1)).is_some());
    assert!(leases.end(&id(1), Cause::GivenBack, after(2)).is_none());
    assert!(leases.end_exec(ExecId(7), Cause::Exited, after(3)).is_empty());
    assert!(leases.expire(after(999)).is_empty());
    assert_eq!(leases.lease(&id(1)).unwrap().state.as_str(), "revoked");
}

#[test]
fn the_bounds_hold_before_anything_is_issued() {
    let leases = Leases::new(LIMITS);
    let held: Vec<_> = (0..3).map(|_| leases.reserve(ExecId(7), None).unwrap()).collect();
    assert!(matches!(leases.reserve(ExecId(7), None), Err(Error::TooManyLeasesOfExec { limit: 3, .. })));
    for number in 0..5 {
        grant(&leases, lease(number, 100 + number)).unwrap();
    }
    assert!(matches!(leases.reserve(ExecId(9), None), Err(Error::TooManyLeases { limit: 8 })));
    assert!(matches!(leases.restore(lease(99, 9)), Err(Error::TooManyLeases { limit: 8 })));
    drop(held);
    let mut rooms = Vec::new();
    for _ in 0..3 {
        rooms.push(leases.reserve(ExecId(9), None).unwrap());
    }
    assert!(leases.reserve(ExecId(10), None).is_err());
    for limits in [Limits { total: 0, ..LIMITS }, Limits { per_exec: 0, ..LIMITS }] {
        assert!(Leases::new(limits).reserve(ExecId(1), None).is_err());
    }
}

#[test]
fn a_connection_carries_no_more_than_its_binding_allows_even_when_asked_at_once() {
    let leases = Leases::new(LIMITS);
    let first = leases.reserve(ExecId(7), on(5, 1)).unwrap();
    assert!(matches!(leases.reserve(ExecId(7), on(5, 1)), Err(Error::ConnectionUsed { cookie: 5, limit: 1, .. })));
    assert_eq!(leases.released_on(5, "reports-token"), 0);
    let granted = leases.grant(first, Lease { cookie: Some(5), ..lease(1, 7) }).unwrap();
    assert_eq!(leases.released_on(5, "reports-token"), 1);
    assert_eq!(leases.on_connection(5), [granted.lease]);
    assert!(leases.reserve(ExecId(7), on(5, 1)).is_err());
    drop(leases.reserve(ExecId(7), on(6, 1)).unwrap());
    drop(leases.reserve(ExecId(7), on(5, 2)).unwrap());
    leases.end(&id(1), Cause::GivenBack, after(1)).unwrap();
    assert_eq!(leases.released_on(5, "reports-token"), 0);
    assert!(leases.on_connection(5).is_empty());
    drop(leases.reserve(ExecId(7), on(5, 1)).unwrap());
    assert!(leases.reserve(ExecId(7), on(5, 0)).is_err());
    consistent(&leases);
}

#[test]
fn an_exec_instance_that_ends_while_a_credential_is_issued_is_not_granted_it() {
    let leases = Leases::new(LIMITS);
    let reservation = leases.reserve(ExecId(7), None).unwrap();
    assert!(leases.end_exec(ExecId(7), Cause::Exec, after(1)).is_empty());
    assert!(matches!(leases.reserve(ExecId(7), None), Err(Error::ExecEnded { .. })));
    assert!(matches!(leases.grant(reservation, lease(1, 7)), Err(Error::ExecEnded { exec_id: ExecId(7) })));
    assert!(leases.is_empty());
    assert!(!leases.is_holder(ExecId(7)));
    consistent(&leases);
}

#[test]
fn a_lease_that_differs_from_its_reservation_is_not_granted() {
    let leases = Leases::new(LIMITS);
    let ended = State::Ended { cause: Cause::Expired, at: start() };
    let cases = [
        ("exec_id", None, lease(1, 8)),
        ("cookie", None, Lease { cookie: Some(5), ..lease(1, 7) }),
        ("cookie", on(5, 1), lease(1, 7)),
        ("cookie", on(5, 1), Lease { cookie: Some(6), ..lease(1, 7) }),
        ("binding", on(5, 1), Lease { cookie: Some(5), binding: "other".into(), ..lease(1, 7) }),
        ("state", None, Lease { state: ended, ..lease(1, 7) }),
    ];
    for (expected, connection, lease) in cases {
        let refused = leases.grant(leases.reserve(ExecId(7), connection).unwrap(), lease);
        assert!(matches!(refused, Err(Error::ReservationMismatch { what, .. }) if what == expected), "{expected}");
        consistent(&leases);
    }
    let foreign = Leases::new(LIMITS).reserve(ExecId(7), None).unwrap();
    assert!(matches!(leases.grant(foreign, lease(1, 7)), Err(Error::ReservationMismatch { what: "registry", .. })));
    assert!(leases.is_empty());
}

#[test]
fn an_id_is_never_used_twice() {
    let leases = Leases::new(LIMITS);
    grant(&leases, lease(1, 7)).unwrap();
    assert!(matches!(grant(&leases, lease(1, 8)), Err(Error::DuplicateLease { .. })));
    leases.end(&id(1), Cause::Revoked, after(1)).unwrap();
    assert!(matches!(grant(&leases, lease(1, 8)), Err(Error::DuplicateLease { .. })));
    assert!(matches!(leases.restore(lease(1, 8)), Err(Error::DuplicateLease { .. })));
    assert_eq!(leases.lease(&id(1)).unwrap().exec_id, ExecId(7));
}

#[test]
fn a_lease_is_over_at_its_expiry_and_not_before() {
    let leases = Leases::new(LIMITS);
    grant(&leases, lease(1, 7)).unwrap();
    grant(&leases, Lease { expires_at: after(10), ..lease(2, 7) }).unwrap();
    assert_eq!(leases.next_expiry(), Some(after(10)));
    assert!(leases.expire(after(10) - SignedDuration::from_nanos(1)).is_empty());
    let expired = leases.expire(after(11));
    assert_eq!(expired.len(), 1);
    assert_eq!(expired[0].lease.state, State::Ended { cause: Cause::Expired, at: after(10) });
    assert_eq!(leases.next_expiry(), Some(after(300)));
    assert!(leases.expire(after(300))[0].last);
    assert_eq!(leases.next_expiry(), None);
    let lease = lease(3, 7);
    assert!(lease.is_live(after(299)));
    assert!(!lease.is_live(after(300)), "even when nobody has noticed");
}

#[test]
fn an_end_of_an_exec_instance_ends_its_leases_and_no_others() {
    let leases = Leases::new(LIMITS);
    for (number, exec_id) in [(1, 7), (2, 7), (3, 8)] {
        grant(&leases, lease(number, exec_id)).unwrap();
    }
    let ended = leases.end_exec(ExecId(7), Cause::UidChanged, after(1));
    assert_eq!(
        ended.iter().map(|ended| (ended.lease.id.clone(), ended.last)).collect::<Vec<_>>(),
        [(id(1), false), (id(2), true)]
    );
    assert!(ended.iter().all(|ended| ended.lease.state.as_str() == "uid_changed"));
    assert_eq!(leases.page(None, 9).len(), 1);
}

#[test]
fn an_operator_ends_what_a_condition_names() {
    let leases = Leases::new(LIMITS);
    grant(&leases, lease(1, 7)).unwrap();
    grant(&leases, Lease { destination: "billing".into(), ..lease(2, 7) }).unwrap();
    let ended = leases.end_where(Cause::Revoked, after(1), |lease| &*lease.destination == "billing");
    assert_eq!(ended.iter().map(|ended| ended.lease.id.clone()).collect::<Vec<_>>(), [id(2)]);
    assert_eq!(leases.of_exec(ExecId(7)).len(), 1);
}

#[test]
fn a_renewal_takes_the_place_of_its_lease_at_once() {
    let leases = Leases::new(LIMITS);
    grant(&leases, lease(1, 7)).unwrap();
    let reservation = leases.reserve(ExecId(7), None).unwrap();
    let (granted, ended) = leases.renew(reservation, lease(2, 7), &id(1), after(1)).unwrap();
    assert!(!granted.first && !ended.last);
    assert_eq!(ended.lease.state.as_str(), "renewed");
    assert_eq!(leases.page(None, 9), [granted.lease]);
}

#[test]
fn a_lease_that_is_over_or_anothers_cannot_be_renewed() {
    let leases = Leases::new(LIMITS);
    grant(&leases, lease(1, 7)).unwrap();
    grant(&leases, lease(2, 8)).unwrap();
    leases.end(&id(1), Cause::Revoked, after(1)).unwrap();
    grant(&leases, lease(3, 7)).unwrap();
    for (old, now) in [(1, 2), (2, 2), (3, 300), (44, 2)] {
        let reservation = leases.reserve(ExecId(7), None).unwrap();
        let refused = leases.renew(reservation, lease(9, 7), &id(old), after(now));
        assert!(matches!(refused, Err(Error::LeaseNotActive { lease }) if lease == id(old)), "{old}");
        assert!(leases.lease(&id(9)).is_none());
    }
    let room = || leases.reserve(ExecId(7), None).unwrap();
    let (first, second) = (room(), room());
    leases.renew(first, lease(10, 7), &id(3), after(2)).unwrap();
    assert!(leases.renew(second, lease(11, 7), &id(3), after(2)).is_err(), "one lease must not become two");
    consistent(&leases);
}

#[test]
fn restored_leases_end_like_any_other() {
    let leases = Leases::new(LIMITS);
    assert!(leases.restore(Lease { cookie: Some(5), ..lease(1, 7) }).unwrap().first);
    assert!(!leases.restore(Lease { expires_at: after(1), ..lease(2, 7) }).unwrap().first);
    let ended = State::Ended { cause: Cause::Revoked, at: start() };
    assert!(matches!(leases.restore(Lease { state: ended, ..lease(3, 7) }), Err(Error::LeaseNotActive { .. })));
    assert_eq!(leases.released_on(5, "reports-token"), 1);
    assert_eq!(leases.expire(after(2)).len(), 1);
    assert_eq!(leases.end_exec(ExecId(7), Cause::Exited, after(3)).len(), 1);
    consistent(&leases);
}

#[test]
fn only_the_newest_ended_leases_are_kept() {
    let leases = Leases::new(LIMITS);
    for number in 0..10 {
        grant(&leases, lease(number, 7)).unwrap();
        leases.end(&id(number), Cause::GivenBack, after(1)).unwrap();
    }
    assert_eq!(leases.ended(9).iter().map(|lease| lease.id.clone()).collect::<Vec<_>>(), [id(9), id(8), id(7), id(6)]);
    assert_eq!(leases.ended(1).len(), 1);
    assert!(leases.lease(&id(5)).is_none());
    let forgetful = Leases::new(Limits { ended_kept: 0, ..LIMITS });
    grant(&forgetful, lease(1, 7)).unwrap();
    assert!(forgetful.end(&id(1), Cause::Revoked, after(1)).is_some());
    assert!(forgetful.ended(9).is_empty());
}

#[test]
fn pages_together_are_all_active_leases() {
    let leases = Leases::new(LIMITS);
    for number in 0..5 {
        grant(&leases, lease(number, 100 + number)).unwrap();
    }
    let mut seen = Vec::new();
    loop {
        let page = leases.page(seen.last(), 2);
        if page.is_empty() {
            break;
        }
        seen.extend(page.iter().map(|lease| lease.id.clone()));
    }
    assert_eq!(seen, (0..5).map(id).collect::<Vec<_>>());
}

#[test]
fn leases_given_back_leave_no_growing_heap() {
    let leases = Leases::new(LIMITS);
    for number in 0..10_000 {
        grant(&leases, lease(number, 7)).unwrap();
        leases.end(&id(number), Cause::GivenBack, after(1)).unwrap();
    }
    assert!(leases.with_table(|table| table.expiry.len()) <= 65);
}

#[test]
fn of_many_who_ask_at_once_only_as_many_as_fit_get_in() {
    let leases = Leases::new(Limits { total: 64, per_exec: 5, ended_kept: 0 });
    let (on_one_connection, of_one_exec) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8_u64)
            .map(|thread| {
                let leases = leases.clone();
                scope.spawn(move || {
                    let on_connection: Vec<_> =
                        (0..50).filter_map(|_| leases.reserve(ExecId(100 + thread), on(5, 2)).ok()).collect();
                    let of_exec: Vec<_> = (0..50).filter_map(|_| leases.reserve(ExecId(7), None).ok()).collect();
                    (on_connection, of_exec)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<(Vec<_>, Vec<_>)>()
    });
    assert_eq!(on_one_connection.iter().flatten().count(), 2);
    assert_eq!(of_one_exec.iter().flatten().count(), 5);
    drop((on_one_connection, of_one_exec));
    leases.with_table(|table| {
        assert_eq!(table.reserved, 0);
        assert!(table.by_exec.is_empty() && table.by_cookie.is_empty());
    });
}

/// The indexes say what the leases say, and hold nothing else.
fn consistent(leases: &Leases) {
    leases.with_table(|table| {
        let mut of_exec: BTreeMap<ExecId, BTreeSet<(Arc<str>, Timestamp, LeaseId)>> = BTreeMap::new();
        let mut on_cookie: BTreeMap<(u64, Arc<str>), u32> = BTreeMap::new();
        let mut of_subject: BTreeMap<LeaseId, BTreeSet<LeaseId>> = BTreeMap::new();
        for lease in table.active.values() {
            assert_eq!(lease.state, State::Active);
            let held = (Arc::clone(&lease.binding), lease.expires_at, lease.id.clone());
            of_exec.entry(lease.exec_id).or_default().insert(held);
            if let Some(cookie) = lease.cookie {
                *on_cookie.entry((cookie, Arc::clone(&lease.binding))).or_default() += 1;
                assert!(table.by_cookie[&cookie].leases.contains(&lease.id));
            }
            if let Some(subject) = &lease.subject {
                of_subject.entry(subject.clone()).or_default().insert(lease.id.clone());
            }
            let entry = (lease.expires_at, lease.id.clone());
            assert_eq!(table.expiry.iter().filter(|Reverse(other)| *other == entry).count(), 1);
        }
        let mut reserved = 0;
        for (exec_id, slot) in &table.by_exec {
            assert!(!slot.leases.is_empty() || slot.reserved > 0, "an empty slot of {exec_id}");
            assert!(slot.reserved > 0 || !slot.over);
            let held: BTreeSet<_> = slot.leases.all().collect();
            assert_eq!(held.len(), slot.leases.len());
            assert_eq!(held, of_exec.remove(exec_id).unwrap_or_default());
            reserved += slot.reserved;
        }
        assert!(of_exec.is_empty());
        assert_eq!(reserved, table.reserved);
        for (cookie, slot) in &table.by_cookie {
            assert!(!slot.leases.is_empty() || !slot.by_binding.is_empty(), "an empty slot of {cookie}");
            for (binding, uses) in &slot.by_binding {
                assert!(uses.live > 0 || uses.reserved > 0);
                assert_eq!(uses.live, on_cookie.remove(&(*cookie, Arc::clone(binding))).unwrap_or_default());
            }
        }
        assert!(on_cookie.is_empty());
        assert_eq!(table.by_subject.len(), of_subject.len());
        assert!(of_subject.iter().all(|(subject, leases)| table.by_subject.get(subject) == Some(leases)));
        assert!(table.active.len() + table.reserved <= LIMITS.total);
        assert!(table.ended.len() <= LIMITS.ended_kept);
        assert_eq!(table.ended.len(), table.ended_by_id.len());
        assert!(table.ended.iter().all(|lease| !table.active.contains_key(&lease.id)));
        assert!(table.expiry.len() <= table.active.len() * 2 + 65);
    });
}

#[derive(Debug, Clone)]
enum Step {
    Reserve { exec_id: u64, cookie: Option<u64> },
    Grant { which: usize, life: i64 },
    Drop { which: usize },
    Renew { which: usize, old: u64 },
    End { number: u64 },
    EndExec { exec_id: u64 },
    EndUid,
    Pass { seconds: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u64..4, prop::option::of(0_u64..3)).prop_map(|(exec_id, cookie)| Step::Reserve { exec_id, cookie }),
        4 => (0_usize..4, 1_i64..30).prop_map(|(which, life)| Step::Grant { which, life }),
        1 => (0_usize..4).prop_map(|which| Step::Drop { which }),
        1 => (0_usize..4, 0_u64..40).prop_map(|(which, old)| Step::Renew { which, old }),
        2 => (0_u64..40).prop_map(|number| Step::End { number }),
        1 => (0_u64..4).prop_map(|exec_id| Step::EndExec { exec_id }),
        1 => Just(Step::EndUid),
        1 => (0_i64..20).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_indexes_agree_and_first_and_last_alternate(steps in prop::collection::vec(step(), 1..120)) {
        let leases = Leases::new(LIMITS);
        let mut rooms: Vec<(u64, Option<u64>, Reservation)> = Vec::new();
        let mut now = 0;
        let mut next = 0_u64;
        let mut live: BTreeMap<LeaseId, u64> = BTreeMap::new();
        let ended_one = |live: &mut BTreeMap<LeaseId, u64>, ended: &Ended| {
            let exec_id = live.remove(&ended.lease.id).expect("only a live lease ends");
            assert_eq!(ended.lease.exec_id, ExecId(exec_id));
            if ended.last {
                assert!(!live.values().any(|other| *other == exec_id));
            }
        };
        for step in steps {
            match step {
                Step::Reserve { exec_id, cookie } => {
                    if let Ok(room) = leases.reserve(ExecId(exec_id), cookie.and_then(|cookie| on(cookie, 2))) {
                        rooms.push((exec_id, cookie, room));
                    }
                }
                Step::Grant { which, life } if which < rooms.len() => {
                    let (exec_id, cookie, room) = rooms.remove(which);
                    // Every third is exchanged for the one before it.
                    let subject = (next % 3 == 2).then(|| id(next - 1));
                    let lease = Lease { cookie, subject, expires_at: after(now + life), ..lease(next, exec_id) };
                    next += 1;
                    if let Ok(granted) = leases.grant(room, lease) {
                        prop_assert_eq!(granted.first, !live.values().any(|other| *other == exec_id));
                        live.insert(granted.lease.id.clone(), exec_id);
                    }
                }
                Step::Renew { which, old } if which < rooms.len() => {
                    let (exec_id, cookie, room) = rooms.remove(which);
                    let lease = Lease { cookie, expires_at: after(now + 9), ..lease(next, exec_id) };
                    next += 1;
                    if let Ok((granted, ended)) = leases.renew(room, lease, &id(old), after(now)) {
                        live.insert(granted.lease.id.clone(), exec_id);
                        prop_assert!(!granted.first && !ended.last);
                        ended_one(&mut live, &ended);
                    }
                }
                Step::Drop { which } if which < rooms.len() => drop(rooms.remove(which)),
                Step::Grant { .. } | Step::Renew { .. } | Step::Drop { .. } => {}
                Step::End { number } => {
                    let ended = leases.end(&id(number), Cause::GivenBack, after(now));
                    prop_assert_eq!(ended.is_some(), live.contains_key(&id(number)));
                    ended.iter().for_each(|ended| ended_one(&mut live, ended));
                    leases.end_exchanged(&id(number), after(now)).iter().for_each(|ended| ended_one(&mut live, ended));
                }
                Step::EndExec { exec_id } => {
                    leases.end_exec(ExecId(exec_id), Cause::Exited, after(now)).iter().for_each(|ended| ended_one(&mut live, ended));
                    prop_assert!(leases.of_exec(ExecId(exec_id)).is_empty());
                }
                Step::EndUid => {
                    let odd = |lease: &Lease| lease.exec_id.0 % 2 == 1;
                    leases.end_where(Cause::Revoked, after(now), odd).iter().for_each(|ended| ended_one(&mut live, ended));
                }
                Step::Pass { seconds } => {
                    now += seconds;
                    leases.expire(after(now)).iter().for_each(|ended| ended_one(&mut live, ended));
                    prop_assert!(leases.next_expiry().is_none_or(|at| at > after(now)));
                }
            }
            consistent(&leases);
            let active: Vec<_> = leases.page(None, 99).iter().map(|lease| lease.id.clone()).collect();
            prop_assert_eq!(active, live.keys().cloned().collect::<Vec<_>>());
            for cookie in 0..3 {
                prop_assert!(leases.released_on(cookie, "reports-token") <= 2);
            }
        }
        drop(rooms);
        consistent(&leases);
    }
}
