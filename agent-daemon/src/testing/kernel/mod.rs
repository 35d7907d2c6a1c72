// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The kernel's records in memory, kept by the rules of our programs.

mod egress;
mod fault;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agent_ebpf::{flags, limits};
use tokio::sync::mpsc;

use self::fault::Faults;
pub use self::fault::{Call, Fault};
use crate::process::{
    Ancestor, BootTime, Bound, Capacity, Connection, Count, Current, Ended, Error, Event, ExecId, ExecInstance, Flags,
    Ground, Hook, Protocol, Records, SessionId, Tuple, Verdict,
};

/// How much the maps hold.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Live processes.
    pub processes: usize,
    /// Open connections.
    pub connections: usize,
    /// Exec instances whose end is told at once.
    pub watched: usize,
    /// Ended exec instances of sessions.
    pub ended: usize,
    /// Events that wait to be taken.
    pub events: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { processes: 1024, connections: 1024, watched: 1024, ended: 1024, events: 1024 }
    }
}

/// The kernel: what happens in it changes its records at once and sends an event, which may be lost.
#[derive(Debug)]
pub struct FakeKernel {
    sizes: Sizes,
    state: Mutex<State>,
    faults: Mutex<Faults>,
    events: mpsc::Sender<Event>,
    egress: Mutex<egress::State>,
}

#[derive(Debug)]
struct State {
    processes: HashMap<u32, ExecInstance>,
    ended: HashMap<ExecId, ExecInstance>,
    /// Of forks: the session and the ids with which they began.
    forked: HashMap<ExecId, (Option<SessionId>, u32, u32)>,
    connections: HashMap<u64, Connection>,
    cookies: HashMap<Tuple, u64>,
    watched: BTreeSet<ExecId>,
    is_listening: bool,
    next_exec: u64,
    next_cookie: u64,
    now: u64,
    counts: HashMap<&'static str, u64>,
    receiver: Option<mpsc::Receiver<Event>>,
}

impl State {
    fn count(&mut self, name: &'static str) {
        let count = self.counts.entry(name).or_default();
        *count = count.saturating_add(1);
    }

    /// Whether the end of an exec instance is worth an event.
    fn is_told(&self, ended: &ExecInstance) -> bool {
        self.is_listening || ended.flags.has(flags::REFERRED) || self.watched.contains(&ended.id)
    }

    /// Keeps one of a session that ends, where somebody may descend from it.
    fn keep_ended(&mut self, ended: &ExecInstance, has_descendants: bool, limit: usize) {
        if ended.session_id.is_none() || !has_descendants {
            return;
        }
        if self.ended.len() >= limit {
            return self.count("ended_full");
        }
        self.ended.insert(ended.id, ended.clone());
    }

    fn next_exec(&mut self) -> ExecId {
        self.next_exec = self.next_exec.saturating_add(1);
        ExecId(self.next_exec)
    }

    fn tick(&mut self) -> BootTime {
        self.now = self.now.saturating_add(1);
        BootTime(self.now)
    }
}

impl Default for FakeKernel {
    fn default() -> Self {
        Self::new(Sizes::default())
    }
}

impl FakeKernel {
    /// Empty.
    pub fn new(sizes: Sizes) -> Self {
        let (events, receiver) = mpsc::channel(sizes.events.max(1));
        let state = State {
            processes: HashMap::new(),
            ended: HashMap::new(),
            forked: HashMap::new(),
            connections: HashMap::new(),
            cookies: HashMap::new(),
            watched: BTreeSet::new(),
            is_listening: false,
            next_exec: 1000,
            next_cookie: 5000,
            now: 1_000_000_000_000,
            counts: HashMap::new(),
            receiver: Some(receiver),
        };
        Self { sizes, state: Mutex::new(state), faults: Mutex::default(), events, egress: Mutex::default() }
    }

    /// The reading end of the events. Once only.
    pub fn events(&self) -> Option<mpsc::Receiver<Event>> {
        self.lock().receiver.take()
    }

    /// Puts a record in place as it is.
    pub fn insert(&self, instance: ExecInstance) {
        let mut state = self.lock();
        state.next_exec = state.next_exec.max(instance.id.0);
        if state.processes.len() >= self.sizes.processes && !state.processes.contains_key(&instance.process.tgid) {
            state.count("processes_full");
            return;
        }
        state.processes.insert(instance.process.tgid, instance);
    }

    /// Changes a record in place.
    pub fn change(&self, tgid: u32, change: impl FnOnce(&mut ExecInstance)) {
        change(self.lock().processes.get_mut(&tgid).expect("a record"));
    }

    /// Takes a record away without a word, as if it had never been.
    pub fn forget(&self, tgid: u32) {
        self.lock().processes.remove(&tgid);
    }

    /// The exec instance now in a process.
    pub fn instance(&self, tgid: u32) -> ExecInstance {
        self.lock().processes.get(&tgid).cloned().expect("a record")
    }

    /// A process forks.
    pub fn fork(&self, parent_tgid: u32, tgid: u32) -> ExecInstance {
        let mut child = self.instance(parent_tgid);
        let mut state = self.lock();
        let parent = child.id;
        child.id = state.next_exec();
        push_ancestor(&mut child, parent, parent_tgid);
        child.parent = Some(parent);
        child.parent_tgid = parent_tgid;
        child.began = state.tick();
        child.process.tgid = tgid;
        child.process.start_boottime = child.began;
        child.flags = Flags(child.flags.0 & !flags::REFERRED | flags::FORK);
        if let Some(parent) = state.processes.get_mut(&parent_tgid) {
            parent.flags = Flags(parent.flags.0 | flags::REFERRED);
        }
        state.forked.insert(child.id, (child.session_id, child.euid, child.egid));
        drop(state);
        self.insert(child.clone());
        child
    }

    /// A process replaces its image by `change`. The event says so, but may be lost.
    pub fn exec(&self, tgid: u32, change: impl FnOnce(&mut ExecInstance)) -> Event {
        let mut state = self.lock();
        let ended = state.processes.get(&tgid).cloned().expect("a record");
        let mut new = ended.clone();
        new.id = state.next_exec();
        new.began = state.tick();
        let is_same = ended.flags.has(flags::FORK)
            && state.forked.get(&ended.id) == Some(&(ended.session_id, ended.euid, ended.egid));
        if !is_same {
            push_ancestor(&mut new, ended.id, tgid);
            new.parent = Some(ended.id);
        }
        new.flags = Flags(new.flags.0 & (flags::LINEAGE_TRUNCATED | flags::INCOMPLETE));
        change(&mut new);
        let exec_id = new.id;
        let is_told = state.is_told(&ended) || !ended.flags.has(flags::FORK);
        state.watched.remove(&ended.id);
        state.keep_ended(&ended, !is_same || ended.flags.has(flags::REFERRED), self.sizes.ended);
        state.processes.insert(tgid, new);
        drop(state);
        self.send(is_told, Event::Exec { ended: Some(Box::new(Ended::from(&ended))), tgid, exec_id })
    }

    /// A process ends; its sockets are closed.
    pub fn exit(&self, tgid: u32) -> Event {
        let mut state = self.lock();
        let ended = state.processes.remove(&tgid).expect("a record");
        let is_told = state.is_told(&ended);
        state.keep_ended(&ended, ended.flags.has(flags::REFERRED), self.sizes.ended);
        state.watched.remove(&ended.id);
        state.connections.retain(|_, connection| connection.tgid != tgid);
        drop(state);
        self.send(is_told, Event::Exit { ended: Box::new(Ended::from(&ended)) })
    }

    /// A process connects a new TCP socket and is answered; its cookie comes back.
    pub fn connect(&self, tgid: u32, remote: SocketAddr) -> u64 {
        self.connect_from(tgid, None, remote)
    }

    /// The same, established from a local address.
    pub fn connect_from(&self, tgid: u32, local: Option<SocketAddr>, remote: SocketAddr) -> u64 {
        let mut state = self.lock();
        let opener = state.processes.get_mut(&tgid).expect("a record");
        opener.flags = Flags(opener.flags.0 | flags::REFERRED);
        let instance = opener.clone();
        state.next_cookie = state.next_cookie.saturating_add(1);
        let cookie = state.next_cookie;
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let connection = Connection {
            cookie,
            exec_id: instance.id,
            tgid,
            tid: tgid,
            session_id: instance.session_id,
            tree: instance.governed.map(|governed| governed.tree),
            at: state.tick(),
            uid: instance.euid,
            gid: instance.egid,
            remote,
            local,
            net_ns: local.map(|_| instance.namespaces.net),
            protocol: Protocol::TCP,
            hook: if remote.is_ipv4() { Hook::Connect4 } else { Hook::Connect6 },
            is_open: true,
            is_closed: false,
            verdict: Verdict::Allow,
            ground: Ground::Ungoverned,
        };
        if state.connections.len() >= self.sizes.connections {
            state.count("connections_full");
            return cookie;
        }
        state.connections.insert(cookie, connection.clone());
        if let Some(local) = local {
            state.cookies.insert(Tuple { local, remote, net_ns: instance.namespaces.net }, cookie);
        }
        let is_told = state.is_listening;
        drop(state);
        self.send(is_told, Event::Connect(Box::new(connection)));
        cookie
    }

    /// Changes a recorded connection in place: a socket that was connected anew.
    pub fn change_connection(&self, cookie: u64, change: impl FnOnce(&mut Connection)) {
        change(self.lock().connections.get_mut(&cookie).expect("a connection"));
    }

    /// A socket is closed.
    pub fn close(&self, cookie: u64) -> Event {
        let mut state = self.lock();
        let closed = state.connections.remove(&cookie).expect("a connection");
        state.cookies.retain(|_, known| *known != cookie);
        let is_told = state.is_listening;
        drop(state);
        self.send(is_told, Event::Close { cookie, exec_id: closed.exec_id })
    }

    /// The exec instances whose end is told at once.
    pub fn watched(&self) -> Vec<ExecId> {
        self.lock().watched.iter().copied().collect()
    }

    /// Makes every call of a kind fail until [`FakeKernel::mend`].
    pub fn fail(&self, call: Call, fault: Fault) {
        self.faults().fail(call, fault);
    }

    /// Ends all faults.
    pub fn mend(&self) {
        self.faults().mend();
    }

    /// Does something just before the `nth` call of a kind from now, from 1, is answered.
    pub fn before(&self, call: Call, nth: usize, action: impl FnOnce(&Self) + Send + 'static) {
        self.faults().before(call, nth, Box::new(action));
    }

    /// Whether somebody asked to be told of everything.
    pub fn is_listening(&self) -> bool {
        self.lock().is_listening
    }

    fn send(&self, is_told: bool, event: Event) -> Event {
        if is_told && self.events.try_send(event.clone()).is_err() {
            self.lock().count("events_dropped");
        }
        event
    }

    /// The actions that were asked for, then the fault that is set.
    fn enter(&self, call: Call) -> Result<(), Error> {
        let actions = self.faults().due(call);
        for action in actions {
            action(self);
        }
        self.faults().check(call)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push_ancestor(instance: &mut ExecInstance, id: ExecId, tgid: u32) {
    let mut ancestors = vec![Ancestor { id, tgid }];
    ancestors.extend(instance.ancestors.iter().copied());
    if ancestors.len() > limits::ANCESTORS {
        ancestors.truncate(limits::ANCESTORS);
        instance.flags = Flags(instance.flags.0 | flags::LINEAGE_TRUNCATED);
    }
    instance.ancestors = ancestors.into();
    instance.depth = instance.depth.saturating_add(1);
}

impl Records for FakeKernel {
    fn now(&self) -> BootTime {
        self.lock().tick()
    }

    fn process(&self, tgid: u32) -> Result<Option<ExecInstance>, Error> {
        self.enter(Call::Process)?;
        Ok(self.lock().processes.get(&tgid).cloned())
    }

    fn current(&self, tgid: u32) -> Result<Option<Current>, Error> {
        self.enter(Call::Current)?;
        let state = self.lock();
        Ok(state.processes.get(&tgid).map(|instance| Current {
            id: instance.id,
            start: instance.process.start_boottime,
            session_id: instance.session_id,
        }))
    }

    fn ended(&self, exec_id: ExecId) -> Result<Option<ExecInstance>, Error> {
        self.enter(Call::Ended)?;
        Ok(self.lock().ended.get(&exec_id).cloned())
    }

    fn all_ended(&self) -> Result<Vec<ExecId>, Error> {
        self.enter(Call::Ended)?;
        Ok(self.lock().ended.keys().copied().collect())
    }

    fn forget_ended(&self, exec_id: ExecId) {
        self.lock().ended.remove(&exec_id);
    }

    fn bind_session(
        &self,
        tgid: u32,
        exec_id: ExecId,
        from: Option<SessionId>,
        to: Option<SessionId>,
    ) -> Result<Bound, Error> {
        self.enter(Call::BindSession)?;
        let mut state = self.lock();
        let Some(instance) = state.processes.get_mut(&tgid).filter(|instance| instance.id == exec_id) else {
            return Ok(Bound::Gone);
        };
        if instance.session_id != from {
            return Ok(Bound::Elsewhere);
        }
        instance.session_id = to;
        Ok(Bound::Done)
    }

    fn processes(&self, visit: &mut dyn FnMut(ExecInstance)) -> Result<(), Error> {
        self.enter(Call::Processes)?;
        let all: Vec<_> = self.lock().processes.values().cloned().collect();
        all.into_iter().for_each(visit);
        Ok(())
    }

    fn connection(&self, cookie: u64) -> Result<Option<Connection>, Error> {
        self.enter(Call::Connection)?;
        Ok(self.lock().connections.get(&cookie).cloned())
    }

    fn cookie(&self, tuple: &Tuple) -> Result<Option<u64>, Error> {
        self.enter(Call::Cookie)?;
        Ok(self.lock().cookies.get(tuple).copied())
    }

    fn connections(&self, visit: &mut dyn FnMut(Connection)) -> Result<(), Error> {
        self.enter(Call::Connections)?;
        let all: Vec<_> = self.lock().connections.values().cloned().collect();
        all.into_iter().for_each(visit);
        Ok(())
    }

    fn watch(&self, exec_id: ExecId) -> Result<(), Error> {
        self.enter(Call::Watch)?;
        let mut state = self.lock();
        if state.watched.len() >= self.sizes.watched && !state.watched.contains(&exec_id) {
            let source = std::io::Error::from_raw_os_error(libc::E2BIG);
            return Err(Error::Map { operation: "insert into", map: "WATCHED", source });
        }
        state.watched.insert(exec_id);
        Ok(())
    }

    fn unwatch(&self, exec_id: ExecId) {
        self.lock().watched.remove(&exec_id);
    }

    fn listen(&self, everything: bool) -> Result<(), Error> {
        self.enter(Call::Listen)?;
        self.lock().is_listening = everything;
        Ok(())
    }

    fn counts(&self) -> Vec<Count> {
        self.lock().counts.iter().map(|(name, value)| Count { name, value: *value }).collect()
    }

    fn capacities(&self) -> Vec<Capacity> {
        let state = self.lock();
        let of = |name, used: usize, limit: usize| Capacity {
            name,
            used: u64::try_from(used).unwrap_or(u64::MAX),
            limit: u64::try_from(limit).unwrap_or(u64::MAX),
        };
        vec![
            of("processes", state.processes.len(), self.sizes.processes),
            of("connections", state.connections.len(), self.sizes.connections),
            of("watched", state.watched.len(), self.sizes.watched),
        ]
    }
}
