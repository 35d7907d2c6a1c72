// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use agent_ebpf::flags;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ancestry::{Ancestry, EndedCache, Lately};
use super::evidence::{Evidence, Lineage, LineageEntry, fact};
use super::measure::Measurer;
use super::proc::{Home, Proc};
use super::starts::Starts;
use super::{Failure, Peer, binary, cgroup, script, unix};
use crate::identity::{Entries, Entry, Fact, NearMiss, Provenance, SpiffeId};
use crate::policy::{EvidenceContext, PreparedPrincipal, Principal, ProgramContext};
use crate::process::{Ancestor, Ended, ExecId, ExecInstance, History, Records, SessionId};
use crate::session::Sessions;
use crate::snapshot::Snapshot;

/// Attested exec instances kept. It is only a cache: what is not in it is read again.
const CACHE: usize = 4096;
/// Collections of evidence at once; each occupies a blocking thread.
const CONCURRENCY: usize = 4;

/// One exec instance with its evidence and what the registration entries make of it.
#[derive(Debug)]
pub struct Attested {
    /// Facts and where they come from.
    pub evidence: Arc<Evidence>,
    /// What is above it.
    pub lineage: Lineage,
    /// All facts, those from the lineage included.
    pub facts: Vec<Fact>,
    /// The entries that match, the default identity's first.
    pub entries: Vec<Arc<Entry>>,
    /// Ready for policy, in the order of `entries`.
    pub principals: Vec<Arc<PreparedPrincipal>>,
    /// As whom its ancestors could have asked, where somebody wanted to know a moment ago.
    pub(super) ancestry: Lately,
    /// Where nobody above it counts.
    pub(crate) alone: Arc<Ancestry>,
    /// [`Snapshot::number`] of the entries that were asked.
    pub snapshot: u64,
}

impl Attested {
    /// The default identity.
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        self.entries.first().map(|entry| &entry.spiffe_id)
    }

    /// The entries that nearly match, and what differs.
    pub fn near_misses(&self, entries: &Entries) -> Vec<NearMiss> {
        entries.near_misses(&self.facts, 3)
    }
}

/// An attested exec instance in the cache.
#[derive(Debug)]
struct Kept {
    attested: Arc<Attested>,
    /// It was over when somebody looked last. Its event may still be on the way.
    is_over: bool,
}

/// Collects evidence and matches it.
#[derive(Debug)]
pub struct Attestor {
    records: Arc<dyn Records>,
    history: Arc<History>,
    proc: Proc,
    starts: Starts,
    measurer: Measurer,
    sessions: Arc<Sessions>,
    pub(super) ended: EndedCache,
    home: Option<Home>,
    cache: Mutex<HashMap<ExecId, Kept>>,
    slots: Arc<Semaphore>,
}

impl Attestor {
    /// Over these records.
    pub fn new(
        records: Arc<dyn Records>,
        history: Arc<History>,
        sessions: Arc<Sessions>,
        proc: Proc,
        measurer: Measurer,
    ) -> Self {
        let (home, slots) = (Home::own(), Arc::new(Semaphore::new(CONCURRENCY)));
        let starts = Starts::new(&proc);
        Self {
            records,
            history,
            proc,
            starts,
            measurer,
            sessions,
            ended: EndedCache::default(),
            home,
            cache: Mutex::default(),
            slots,
        }
    }

    /// The kernel's records.
    pub fn records(&self) -> &Arc<dyn Records> {
        &self.records
    }

    /// Those that ended.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// The delegated sessions of this node.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    pub(super) fn measurer(&self) -> &Measurer {
        &self.measurer
    }

    /// Whether names mean to an exec instance what they mean to us.
    pub(super) fn is_home(&self, instance: &ExecInstance) -> bool {
        self.home.is_some_and(|home| home.holds(&instance.namespaces))
    }

    /// Room for one more collection of evidence.
    pub(super) async fn slot(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        slot.map_err(|_| Failure::Unresolvable("the daemon is stopping"))
    }

    /// The process behind an accepted connection to the socket of this name.
    ///
    /// # Errors
    /// In exactly the ways of [`Failure`]; each is a refusal.
    pub fn pin(&self, socket: BorrowedFd<'_>, name: &'static str) -> Result<Peer, Failure> {
        Peer::pin(socket, name, &*self.records, &self.proc, &self.starts)
    }

    /// How many attested instances are kept, and how many can be; the same for measurements.
    pub fn usage(&self) -> [(usize, usize); 2] {
        [(self.lock().len(), CACHE), self.measurer.usage()]
    }

    /// The evidence and identity of a live exec instance, from the cache where the ids have not changed.
    ///
    /// `ids` are the effective user and group as somebody just saw them; evidence with others is read again.
    ///
    /// # Errors
    /// When the exec instance is not there any more, or its record cannot be relied on.
    pub async fn attest(
        self: &Arc<Self>,
        snapshot: &Arc<Snapshot>,
        instance: ExecInstance,
        ids: Option<(u32, u32)>,
    ) -> Result<Arc<Attested>, Failure> {
        if let Some(known) = self.cached(instance.id, snapshot.number, instance.session_id, ids) {
            return Ok(known);
        }
        let slot = self.slot().await?;
        let this = Arc::clone(self);
        let snapshot = Arc::clone(snapshot);
        let collected = tokio::task::spawn_blocking(move || {
            // The thread goes on when the caller hangs up, so the slot is the thread's and not the call's.
            let _slot = slot;
            this.attest_blocking(&snapshot, instance, ids)
        });
        collected.await.unwrap_or_else(|error| {
            Err(Failure::Io { operation: "collect evidence", source: std::io::Error::other(error) })
        })
    }

    /// What [`Attestor::attest`] does, on the calling thread.
    ///
    /// # Errors
    /// As [`Attestor::attest`].
    pub fn attest_blocking(
        &self,
        snapshot: &Snapshot,
        instance: ExecInstance,
        ids: Option<(u32, u32)>,
    ) -> Result<Arc<Attested>, Failure> {
        if instance.flags.has(flags::INCOMPLETE) {
            return Err(Failure::Incomplete);
        }
        let lineage = self.lineage(snapshot, &instance);
        let evidence = self.collect(instance)?;
        if ids.is_some_and(|ids| ids != (evidence.uid, evidence.gid)) {
            return Err(Failure::OriginatorMismatch("the caller's ids changed since it connected"));
        }
        Ok(self.conclude(snapshot, evidence, lineage))
    }

    pub(super) fn proc(&self) -> &Proc {
        &self.proc
    }

    /// Evidence in the cache, if it is of this snapshot, this session and these effective ids.
    pub fn known(
        &self,
        id: ExecId,
        snapshot: u64,
        session: Option<SessionId>,
        ids: (u32, u32),
    ) -> Option<Arc<Attested>> {
        self.cached(id, snapshot, session, Some(ids))
    }

    /// What is known of the exec instances above one. Never fails: what cannot be read is unknown.
    pub fn lineage(&self, snapshot: &Snapshot, instance: &ExecInstance) -> Lineage {
        let mut above = Lineage { entries: Vec::new(), is_complete: !instance.flags.has(flags::LINEAGE_TRUNCATED) };
        // From the top down, because an ancestor's own lineage is part of its evidence.
        for ancestor in instance.ancestors.iter().rev() {
            let entry = self.ancestor(snapshot, ancestor, &above);
            above.is_complete &= entry.path.is_some() || entry.comm.is_some();
            above.entries.insert(0, entry);
        }
        above
    }

    /// Forgets an exec instance that ended; its identity stays known to those below it.
    pub fn ended(&self, ended: &Ended) {
        let kept = self.lock().remove(&ended.id);
        let spiffe_id = kept.and_then(|kept| kept.attested.spiffe_id().map(|id| id.as_str().into()));
        self.history.remember(Ended { spiffe_id, ..ended.clone() });
    }

    /// Forgets the exec instances that are over and of which no event tells: nobody descends from them. Each is looked
    /// at twice, because the event of one that was alive a moment ago may be on its way.
    pub fn sweep(&self) {
        let kept: Vec<(ExecId, u32)> =
            self.lock().iter().map(|(id, kept)| (*id, kept.attested.evidence.instance.process.tgid)).collect();
        for (id, tgid) in kept {
            let Ok(now) = self.records.current(tgid) else { continue };
            if now.is_some_and(|now| now.id == id) {
                continue;
            }
            let over = {
                let mut cache = self.lock();
                match cache.get_mut(&id) {
                    Some(kept) if !kept.is_over => {
                        kept.is_over = true;
                        None
                    }
                    Some(_) => cache.remove(&id),
                    None => None,
                }
            };
            // Should its event be later still, it finds the identity there.
            if let Some(Kept { attested, .. }) = over
                && let Some(spiffe_id) = attested.spiffe_id()
            {
                let spiffe_id = Some(spiffe_id.as_str().into());
                self.history.remember(Ended { spiffe_id, ..Ended::from(&attested.evidence.instance) });
            }
        }
    }

    fn ancestor(&self, snapshot: &Snapshot, ancestor: &Ancestor, above: &Lineage) -> LineageEntry {
        let unknown = LineageEntry {
            id: ancestor.id,
            tgid: ancestor.tgid,
            is_alive: false,
            path: None,
            comm: None,
            spiffe_id: None,
        };
        let live = self.records.process(ancestor.tgid).ok().flatten().filter(|instance| instance.id == ancestor.id);
        let Some(instance) = live else {
            return match self.history.ended(ancestor.id) {
                Some(ended) => LineageEntry {
                    path: Some(ended.filename.into()),
                    comm: Some(ended.comm.into()),
                    spiffe_id: ended.spiffe_id.and_then(|id| id.parse().ok()),
                    ..unknown
                },
                // Of one that was in a session the kernel kept what it was.
                None => match self.records.ended(ancestor.id).ok().flatten() {
                    Some(ended) => LineageEntry {
                        path: Some(ended.filename_lossy()),
                        comm: Some(ended.comm.to_string()),
                        ..unknown
                    },
                    None => unknown,
                },
            };
        };
        let comm = Some(instance.comm.to_string());
        let attested = self.cached(ancestor.id, snapshot.number, instance.session_id, None).or_else(|| {
            let is_kernel = instance.flags.has(flags::KERNEL_THREAD | flags::INCOMPLETE);
            let evidence = (!is_kernel).then(|| self.collect(instance.clone()).ok()).flatten()?;
            Some(self.conclude(snapshot, evidence, above.clone()))
        });
        match attested {
            Some(attested) => LineageEntry {
                is_alive: true,
                path: attested.evidence.exe.as_ref().map(|exe| exe.path.clone()),
                comm,
                spiffe_id: attested.spiffe_id().cloned(),
                ..unknown
            },
            None => LineageEntry { is_alive: true, comm, ..unknown },
        }
    }

    /// Reads every source, then asks the kernel whether it was the same exec instance all the time.
    fn collect(&self, instance: ExecInstance) -> Result<Evidence, Failure> {
        let tgid = instance.process.tgid;
        let gone = || Failure::OriginatorGone("the process ended while its facts were read");
        let process = self.proc.process(tgid).map_err(|_| gone())?;
        let ids = unix::ids(&process).map_err(|_| gone())?;
        let mut missing = Vec::new();
        let home = self.home.filter(|home| home.holds(&instance.namespaces));
        let exe =
            binary::read(&process, &instance, home.is_some(), &self.measurer).map_err(|why| missing.push(why)).ok();
        let script = script::read(&process, &instance, ids.uid, home, &self.measurer);
        let cgroup = cgroup::path(&process).unwrap_or_else(|error| {
            missing.push(format!("the cgroup cannot be read: {error}"));
            None
        });
        match self.records.current(tgid)? {
            Some(now) if now.id == instance.id && now.start == instance.process.start_boottime => {}
            Some(_) => return Err(Failure::OriginatorGone("the program image was replaced while its facts were read")),
            None => return Err(gone()),
        }
        missing.extend([&exe, &script].into_iter().flatten().filter_map(|program| program.note.clone()));
        let mut facts = unix::facts(&ids);
        facts.extend(exe.iter().flat_map(|exe| program_facts("unix", exe)));
        facts.extend(script.iter().flat_map(|script| program_facts("script", script)));
        facts.extend(cgroup.iter().filter_map(|path| fact("cgroup:path", path, Provenance::Kernel)));
        facts.extend(instance.flags.names().filter_map(|name| fact("exec", name, Provenance::Kernel)));
        facts.extend(self.session_facts(&instance));
        Ok(Evidence {
            uid: ids.uid,
            gid: ids.gid,
            real_uid: ids.real_uid,
            real_gid: ids.real_gid,
            instance,
            exe,
            script,
            cgroup,
            facts,
            missing,
        })
    }

    /// What the one who opened its session said, whom policy permitted to.
    fn session_facts(&self, instance: &ExecInstance) -> Vec<Fact> {
        let session = instance.session_id.and_then(|id| self.sessions.session(id));
        // A session that is not its lineage's own says nothing about it.
        let Some(session) = session.filter(|session| session.holds(instance.id, &instance.ancestors)) else {
            return Vec::new();
        };
        let user = fact("session:user", &session.user.id, Provenance::Orchestrator);
        let agent = session.agent.as_ref().and_then(|agent| fact("session:agent", agent, Provenance::Orchestrator));
        user.into_iter().chain(agent).collect()
    }

    fn conclude(&self, snapshot: &Snapshot, evidence: Evidence, lineage: Lineage) -> Arc<Attested> {
        let mut facts = evidence.facts.clone();
        facts.extend(lineage.facts());
        let entries: Vec<Arc<Entry>> = snapshot.entries.matching(&facts).into_iter().map(Arc::clone).collect();
        let context = evidence_context(&evidence, &lineage, &facts);
        let mut kept = Vec::new();
        let mut principals = Vec::new();
        for entry in entries {
            if let Some(prepared) = prepare(&entry, &context) {
                kept.push(entry);
                principals.push(prepared);
            }
        }
        let id = evidence.instance.id;
        let attested = Arc::new(Attested {
            evidence: Arc::new(evidence),
            lineage,
            facts,
            entries: kept,
            principals,
            ancestry: Lately::default(),
            alone: Arc::new(Ancestry::new(Vec::new())),
            snapshot: snapshot.number,
        });
        let mut cache = self.lock();
        if cache.len() >= CACHE
            && !cache.contains_key(&id)
            && let Some(victim) = cache.keys().next().copied()
        {
            cache.remove(&victim);
        }
        cache.insert(id, Kept { attested: Arc::clone(&attested), is_over: false });
        attested
    }

    pub(super) fn cached(
        &self,
        id: ExecId,
        snapshot: u64,
        session: Option<SessionId>,
        ids: Option<(u32, u32)>,
    ) -> Option<Arc<Attested>> {
        let cache = self.lock();
        let known = &cache.get(&id)?.attested;
        let evidence = &known.evidence;
        let is_of_session = evidence.instance.session_id == session;
        let is_current =
            known.snapshot == snapshot && is_of_session && ids.is_none_or(|ids| ids == (evidence.uid, evidence.gid));
        is_current.then(|| Arc::clone(known))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ExecId, Kept>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn program_facts(kind: &str, program: &super::Program) -> impl Iterator<Item = Fact> {
    let path = fact(&format!("{kind}:path"), &program.path, program.path_provenance);
    let sha256 = program.sha256.as_ref().and_then(|digest| fact(&format!("{kind}:sha256"), digest, program.provenance));
    path.into_iter().chain(sha256)
}

/// An identity, ready for policy; none only by a bug.
pub(super) fn prepare(entry: &Entry, context: &EvidenceContext) -> Option<Arc<PreparedPrincipal>> {
    let principal = Principal {
        spiffe_id: entry.spiffe_id.clone(),
        kind: entry.kind,
        groups: entry.groups.clone(),
        entry: entry.id.as_str().into(),
    };
    match PreparedPrincipal::new(&principal, context) {
        Ok(prepared) => Some(Arc::new(prepared)),
        Err(error) => {
            tracing::warn!(%error, entry = entry.id.as_str(), "an identity cannot be put to policy");
            None
        }
    }
}

pub(super) fn evidence_context(evidence: &Evidence, lineage: &Lineage, facts: &[Fact]) -> EvidenceContext {
    let instance = &evidence.instance;
    let program = |program: &super::Program| ProgramContext {
        path: program.path.clone(),
        sha256: program.sha256.clone(),
        // Of the weakest part: policy reads one word for name and content.
        provenance: match program.path_provenance {
            Provenance::Claimed => Provenance::Claimed,
            _ => program.provenance,
        },
    };
    EvidenceContext {
        exec_id: instance.id.0,
        uid: evidence.uid,
        gid: evidence.gid,
        seeded: instance.flags.has(flags::SEEDED),
        flags: instance.flags.names().map(Into::into).collect(),
        facts: facts.to_vec(),
        lineage: lineage.identities().cloned().collect(),
        lineage_complete: lineage.is_complete,
        depth: u32::from(instance.depth),
        exe: evidence.exe.as_ref().map(program),
        script: evidence.script.as_ref().map(program),
        cgroup: evidence.cgroup.clone(),
        pid_ns: instance.namespaces.pid,
        mnt_ns: instance.namespaces.mnt,
        net_ns: instance.namespaces.net,
        user_ns: instance.namespaces.user,
    }
}
