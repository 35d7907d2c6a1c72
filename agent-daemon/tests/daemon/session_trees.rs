// SPDX-License-Identifier: Apache-2.0 OR MIT

//! No sequence of forks, execs, exits and delegations widens authority: random trees of processes, with what is decided
//! for each held against what the whole history says, which nothing of the code under test sees.

use std::collections::HashMap;
use std::sync::Arc;

use agent_daemon::attest::{Above, Ancestry, Authority};
use agent_daemon::process::{ExecId, ExecInstance, Records, SessionId};
use agent_daemon::session::{HandleDigest, Limits, Named, Opening, Session, Sessions, User, Verified};
use agent_daemon::testing::{FakeKernel, Sizes, exec_instance_of_self};
use jiff::Timestamp;

const TREES: u64 = 100_000;
const STEPS: u64 = 24;
const PROGRAMS: u64 = 6;
const DESTINATIONS: u64 = 4;
const LIMITS: Limits = Limits { total: 64, per_opener: 8, per_user: 64, depth: 3, ended_kept: 0 };
/// A program that has one more identity in sessions of a named agent, and which.
const NAMED: (u64, u64) = (2, PROGRAMS);

/// Small, fast, and the same for everybody: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// What really happened, without any bound.
#[derive(Default)]
struct Truth {
    /// Who made whom. A fork that became somebody else by coming into a session has a place; one that only execs is its
    /// parent until then.
    parent: HashMap<ExecId, ExecId>,
    /// Forks, and the session in which they began.
    forks: HashMap<ExecId, Option<SessionId>>,
    /// As whom each that is over could ask at its end.
    identities: HashMap<ExecId, Vec<u64>>,
    /// Where each session was opened.
    opener: HashMap<SessionId, ExecId>,
}

/// The identities of a program: none, one or two, by its number and by whether its session names the agent.
fn identities(program: u64, is_named: bool) -> Vec<u64> {
    match program {
        0 => Vec::new(),
        program if is_named && program == NAMED.0 => vec![program, NAMED.1],
        1 => vec![1, 2],
        program => vec![program],
    }
}

/// What policy says of an identity: bits, drawn anew for each tree.
fn permits(policy: &[u64], identity: u64, destination: u64) -> bool {
    policy.get(usize::try_from(identity).unwrap()).is_some_and(|bits| bits >> destination & 1 == 1)
}

/// As [`agent_daemon::attest::Attestor::ancestry`] has it. Of one that is over it may be that nothing can be read but
/// what it certainly was not; then every identity that it may have had counts.
fn ancestry(world: &World, instance: &ExecInstance, blind: u64) -> Ancestry<u64> {
    let kernel = &world.kernel;
    let session = instance.session_id.and_then(|id| world.sessions.session(id));
    let is_of_asker = |id: SessionId| session.as_ref().is_some_and(|session| session.is_within(id));
    let above = instance.ancestors.iter().map(|ancestor| {
        let live = kernel.process(ancestor.tgid).unwrap().filter(|live| live.id == ancestor.id);
        let one_of = |ids: Vec<u64>| if ids.is_empty() { Authority::Unregistered } else { Authority::OneOf(ids) };
        let of = |ids: Vec<u64>| if ids.is_empty() { Authority::Unregistered } else { Authority::Registered(ids) };
        let authority = match (live, kernel.ended(ancestor.id).unwrap()) {
            (Some(live), _) if live.session_id.is_none_or(is_of_asker) => of(world.identities(&live)),
            (Some(live), _) => one_of(identities(live.exe.inode, true)),
            (None, Some(ended)) => {
                let mut possible = identities(ended.exe.inode, true);
                possible.extend((1..=PROGRAMS).filter(|identity| blind >> identity & 1 == 1));
                one_of(possible)
            }
            (None, None) => Authority::Unknown,
        };
        Above { id: ancestor.id, authority, name: None }
    });
    Ancestry::new(above.collect())
}

struct World {
    kernel: FakeKernel,
    sessions: Sessions,
    truth: Truth,
    handles: Vec<HandleDigest>,
    live: Vec<u32>,
    policy: Vec<u64>,
    next_tgid: u32,
    next_session: u64,
}

impl World {
    fn new(random: &mut Random, template: &ExecInstance) -> Self {
        let kernel = FakeKernel::new(Sizes { ended: 8, ..Sizes::default() });
        let mut root = template.clone();
        root.process.tgid = 10;
        root.exe.inode = random.below(PROGRAMS);
        kernel.insert(root);
        // Three of four destinations are permitted, so that much is given.
        let policy = (0..=PROGRAMS).map(|_| random.next() | random.next()).collect();
        Self {
            kernel,
            sessions: Sessions::new(LIMITS),
            truth: Truth::default(),
            handles: Vec::new(),
            live: vec![10],
            policy,
            next_tgid: 11,
            next_session: 1,
        }
    }

    fn step(&mut self, random: &mut Random) {
        let at = usize::try_from(random.below(u64::try_from(self.live.len()).unwrap())).unwrap();
        let tgid = self.live[at];
        match random.below(10) {
            0..=3 => {
                let parent = self.kernel.instance(tgid);
                let child = self.kernel.fork(tgid, self.next_tgid);
                self.truth.parent.insert(child.id, parent.id);
                self.truth.forks.insert(child.id, parent.session_id);
                self.live.push(self.next_tgid);
                self.next_tgid += 1;
            }
            4..=6 => {
                let before = self.kernel.instance(tgid);
                let program = random.below(PROGRAMS);
                let _event = self.kernel.exec(tgid, |new| new.exe.inode = program);
                let after = self.kernel.instance(tgid);
                let is_its_parent = self.truth.forks.get(&before.id) == Some(&before.session_id);
                let above = if is_its_parent { self.truth.parent.get(&before.id).copied() } else { Some(before.id) };
                self.truth.parent.extend(above.map(|above| (after.id, above)));
                self.truth.identities.insert(before.id, self.identities(&before));
            }
            7 if self.live.len() > 1 => {
                let ended = self.kernel.instance(tgid);
                self.truth.identities.insert(ended.id, self.identities(&ended));
                let _event = self.kernel.exit(tgid);
                self.live.swap_remove(at);
            }
            8 => self.open(random, tgid),
            _ => self.enter(random, tgid),
        }
    }

    /// As whom an exec instance can ask now, by its program and the session that the kernel has it in.
    fn identities(&self, instance: &ExecInstance) -> Vec<u64> {
        let session = instance.session_id.and_then(|id| self.sessions.session(id));
        identities(instance.exe.inode, session.is_some_and(|session| session.agent.is_some()))
    }

    fn handle(&self, random: &mut Random) -> Option<HandleDigest> {
        let at = random.below(u64::try_from(self.handles.len()).unwrap().saturating_mul(2));
        self.handles.get(usize::try_from(at).unwrap()).copied()
    }

    fn open(&mut self, random: &mut Random, tgid: u32) {
        let instance = self.kernel.instance(tgid);
        let handle = self.handle(random);
        let Ok(parent) = self.sessions.acting(&instance, handle, Timestamp::UNIX_EPOCH) else { return };
        let scopes = (random.below(3) > 0).then(|| {
            let bits = random.next();
            (0..DESTINATIONS).filter(|one| bits >> one & 1 == 1).map(|one| one.to_string().into()).collect()
        });
        let user = User {
            id: format!("u{}", random.below(2)).into(),
            verified: Verified::Oidc,
            issuer: None,
            subject: "u".into(),
            name: None,
            groups: Box::default(),
        };
        let opening = Opening {
            parent,
            user: (random.below(2) == 0).then(|| Arc::new(user)),
            agent: (random.below(2) == 0).then(|| "coder".into()),
            purpose: None,
            scopes,
            opener: instance.id,
            opener_id: "spiffe://example.org/a".parse().unwrap(),
            expires_at: Timestamp::MAX,
        };
        let Ok(narrowed) = opening.narrowed(&LIMITS) else { return };
        let id = SessionId::new(self.next_session).unwrap();
        self.next_session += 1;
        let is_bound = random.below(2) == 0;
        let handle = HandleDigest::of(&id.to_string());
        let named = Named { id, is_bound, opened_at: Timestamp::UNIX_EPOCH, decision_id: "d".into(), handle };
        let Ok(session) = self.sessions.insert(Session::new(narrowed, named).unwrap()) else { return };
        self.handles.push(handle);
        self.truth.opener.insert(id, instance.id);
        if session.is_bound {
            self.kernel.bind_session(tgid, instance.id, instance.session_id, Some(id)).unwrap();
        }
    }

    fn enter(&mut self, random: &mut Random, tgid: u32) {
        let instance = self.kernel.instance(tgid);
        let Some(handle) = self.handle(random) else { return };
        if let Ok(Some(session)) = self.sessions.acting(&instance, Some(handle), Timestamp::UNIX_EPOCH) {
            self.kernel.bind_session(tgid, instance.id, instance.session_id, Some(session.id)).unwrap();
        }
    }

    /// Whether the code gives `tgid` the destination in the session of a handle or of the kernel.
    fn decide(
        &self,
        instance: &ExecInstance,
        handle: Option<HandleDigest>,
        to: u64,
        blind: u64,
    ) -> Option<Arc<Session>> {
        let session = self.sessions.acting(instance, handle, Timestamp::UNIX_EPOCH).ok()??;
        let own = self.identities(instance);
        let allows = |identity: &u64| permits(&self.policy, *identity, to);
        let is_allowed = session.reaches(&to.to_string(), &[])
            && own.iter().any(allows)
            && ancestry(self, instance, blind)
                .permits(instance.id, session.outermost().opener, |_, identity| allows(identity))
                .is_ok();
        is_allowed.then_some(session)
    }

    /// What is given has to be within what the whole history allows.
    fn check(&self, random: &mut Random, seen: &mut (u64, u64)) {
        let blind = if random.below(2) == 0 { 0 } else { random.next() };
        for tgid in &self.live {
            let instance = self.kernel.instance(*tgid);
            let handle = self.handle(random);
            for to in 0..DESTINATIONS {
                let Some(session) = self.decide(&instance, handle, to, blind) else {
                    seen.1 += 1;
                    continue;
                };
                seen.0 += 1;
                let top = self.truth.opener[&session.outermost().id];
                let mut at = instance.id;
                loop {
                    let ended = self.truth.identities.get(&at).cloned();
                    let ids = ended.unwrap_or_else(|| {
                        let live = self.live.iter().map(|tgid| self.kernel.instance(*tgid));
                        live.filter(|live| live.id == at).flat_map(|live| self.identities(&live)).collect()
                    });
                    assert!(
                        ids.is_empty() || ids.iter().any(|id| permits(&self.policy, *id, to)),
                        "{} got {to} in {}, which {at} above it may not have",
                        instance.id,
                        session.id
                    );
                    if at == top {
                        break;
                    }
                    // The opener is above whoever acts in its session.
                    at = self.truth.parent[&at];
                }
                for outer in session.chain() {
                    assert!(outer.reaches(&to.to_string(), &[]), "{} reaches more than {}", session.id, outer.id);
                    assert_eq!(outer.user.id, session.user.id);
                }
                if let Some(bound) = instance.session_id {
                    assert!(session.is_within(bound), "{} left {bound} for {}", instance.id, session.id);
                }
            }
        }
    }
}

#[test]
fn no_sequence_of_forks_execs_and_delegations_widens_authority() {
    let template = exec_instance_of_self(ExecId(1000));
    let mut seen = (0, 0);
    for seed in 0..TREES {
        let mut random = Random(seed);
        let mut world = World::new(&mut random, &template);
        for _ in 0..STEPS {
            world.step(&mut random);
        }
        world.check(&mut random, &mut seen);
    }
    // Both happen often, or nothing was tried.
    assert!(seen.0 > TREES && seen.1 > TREES, "{seen:?}");
}
