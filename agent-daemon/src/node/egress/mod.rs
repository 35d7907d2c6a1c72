// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Governed trees: who is in one, what each of their programs may reach, and that the kernel's tables say so.
//!
//! The kernel decides by its tables and asks nobody. Here they are made: anew as a whole when what operators wrote is read
//! anew, and a word at a time when a program starts or a name is at another address. An image of which nothing was said yet
//! has what its tree's `pending` says.

mod classify;
mod images;
mod record;
mod withdraw;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{Node, bump};
use crate::attest::Attested;
use crate::diagnostic::with_sources;
use crate::egress::{Compiled, Counts, Disconnect, Half, Learned, Tables, compile};
use crate::identity::{Entry, ImageRule, TreeSettings};
use crate::process::{BootTime, Connection, Error, Event, ExecId, ExecInstance, RefusedImage, Stamp, Verdict};
use crate::snapshot::Snapshot;

/// What the kernel tells that waits to be looked at. Beyond it all governed processes are looked at instead.
const INBOX: usize = 4096;
/// Classifications at once; each may wait for a hash.
const AT_ONCE: usize = 8;
/// Look-ups of names at once.
const LOOK_UPS: usize = 8;
/// Names are looked up again this often; the system's resolver does not say for how long its answers are good.
const REFRESH: Duration = Duration::from_secs(30);
/// Those of which nobody knew are looked up again sooner.
const REFRESH_FAILED: Duration = Duration::from_secs(5);
/// Governed processes are looked at this often, for what no event told.
const LOOK: Duration = Duration::from_secs(1);
/// After something failed, it is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Passes over all processes after which nobody can be left behind but by forking all the time.
const PASSES: usize = 8;

/// What the kernel told.
#[derive(Debug)]
enum Told {
    /// A program began.
    Began(u32, ExecId),
    /// A connection was not simply let through.
    Connection(Box<Connection>),
    /// Nor was an image.
    Image(Box<RefusedImage>),
}

/// The part of a node that governs.
#[derive(Debug)]
pub(super) struct Governor {
    tables: Arc<dyn Tables>,
    disconnect: Arc<dyn Disconnect>,
    state: Mutex<State>,
    told: mpsc::Sender<Told>,
    inbox: Mutex<Option<mpsc::Receiver<Told>>>,
    /// What may be reached by somebody may have changed.
    changed: Notify,
    /// Something that was let through may have been taken back.
    withdrawn: Notify,
    /// Leases whose holders lose their connections to what they were for.
    lost: Mutex<Vec<withdraw::Lost>>,
    /// Connections that are being closed for so long that nobody waits for it.
    stuck: Arc<AtomicUsize>,
    /// Whether there is anything to govern.
    governs: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// By the tag of their entry: once given, a place stays the entry's for as long as the tables are there.
    trees: HashMap<u64, Tree>,
    is_read: bool,
    /// The set of tables that is in use.
    in_use: Half,
    /// The last that was given out.
    stamp: Stamp,
    /// Nothing holds that was said earlier.
    since: Stamp,
    /// All who are governed were looked at since the tables in use came into use.
    is_settled: bool,
    learned: Learned,
    /// With the snapshot that it was compiled from, by which everybody in it is classified.
    compiled: Option<(Compiled, Arc<Snapshot>)>,
    problem: Option<String>,
    programs: images::Programs,
    /// How often each was to be closed: a record stays until the socket is gone.
    closing: HashMap<(u64, BootTime), u8>,
}

#[derive(Debug)]
struct Tree {
    place: u32,
    /// With each set of tables.
    settings: [TreeSettings; 2],
    /// The entry's id; none: of an earlier run, and no entry governs it any more.
    entry: Option<Arc<str>>,
}

/// How it is, for operators.
#[derive(Debug, Clone, Default)]
pub struct EgressView {
    /// Entries that govern, and the settings of their trees.
    pub trees: Vec<(Arc<str>, TreeSettings)>,
    /// How full the tables are.
    pub counts: Counts,
    /// Why the tables are not as they should be.
    pub problem: Option<String>,
    /// Files that may be executed where that is ruled, and why some that are listed may not.
    pub programs: (usize, Vec<String>),
    /// Somebody of a governed tree has no record, so nobody without one connects.
    pub is_anybody_lost: bool,
}

impl Governor {
    pub(super) fn new(tables: Arc<dyn Tables>, disconnect: Arc<dyn Disconnect>) -> Self {
        let (told, inbox) = mpsc::channel(INBOX);
        Self {
            tables,
            disconnect,
            state: Mutex::default(),
            told,
            inbox: Mutex::new(Some(inbox)),
            changed: Notify::new(),
            withdrawn: Notify::new(),
            lost: Mutex::default(),
            stuck: Arc::default(),
            governs: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stamp later than all so far, and the set of tables that is in use; none before anything was compiled.
    fn moment(&self, now: BootTime) -> Option<(Half, Stamp)> {
        let mut state = self.lock();
        let stamp = state.stamp(now);
        state.compiled.is_some().then_some((state.in_use, stamp))
    }
}

impl Node {
    /// How governing is, for operators.
    pub fn egress(&self) -> EgressView {
        let is_anybody_lost = self.egress.tables.is_anybody_lost().unwrap_or(true);
        let state = self.egress.lock();
        let named = |tree: &Tree| Some((Arc::clone(tree.entry.as_ref()?), *state.in_use.of(&tree.settings)));
        let mut trees: Vec<_> = state.trees.values().filter_map(named).collect();
        trees.sort_by(|one, other| one.0.cmp(&other.0));
        EgressView {
            trees,
            counts: state.compiled.as_ref().map(|(compiled, _)| compiled.counts()).unwrap_or_default(),
            problem: state.problem.clone(),
            programs: (state.programs.len(), state.programs.problems().to_vec()),
            is_anybody_lost,
        }
    }

    /// What the kernel tells of governed trees goes to their task.
    pub(super) fn hear_of_egress(&self, event: &Event) {
        let told = match event {
            Event::Exec { tgid, exec_id, .. } if self.governs() => Told::Began(*tgid, *exec_id),
            Event::Connect(connection) if connection.verdict != Verdict::Allow => Told::Connection(connection.clone()),
            Event::Image(image) => Told::Image(image.clone()),
            Event::Exec { .. } | Event::Exit { .. } | Event::Connect(_) | Event::Close { .. } => return,
        };
        if self.egress.told.try_send(told).is_err() {
            bump(&self.counters.egress_lost);
            self.egress.changed.notify_one();
        }
    }

    fn governs(&self) -> bool {
        // ORDER: a hint; what it misses, the next look finds.
        self.egress.governs.load(Ordering::Relaxed)
    }

    /// Something that policy reads of governed programs is not what it was.
    pub(super) fn egress_changed(&self) {
        self.egress.changed.notify_one();
    }

    /// Puts an attested exec instance into the governed tree of its entry, if one of its identities governs. It stays in
    /// the tree that it is in unless that is laxer.
    ///
    /// # Errors
    /// When the kernel cannot be asked: then nothing may be given to it.
    pub(super) fn govern_caller(&self, attested: &Attested) -> Result<(), Error> {
        let instance = &attested.evidence.instance;
        match governing(attested) {
            Some((entry, settings)) => self.put_under(entry, settings, instance.process.tgid, instance.id),
            None => Ok(()),
        }
    }

    /// Puts an exec instance into the tree that an entry governs.
    pub(super) fn put_under(
        &self,
        entry: &Entry,
        settings: TreeSettings,
        tgid: u32,
        exec_id: ExecId,
    ) -> Result<(), Error> {
        let tree = {
            let mut state = self.egress.lock();
            let now = self.records().process(tgid)?.filter(|now| now.id == exec_id);
            let held = now.and_then(|now| now.governed).map(|governed| governed.tree);
            if let Some(held) = held {
                let in_use = state.in_use;
                // A tree that lists its programs never gives anybody away: another one has another list, or none.
                let is_stricter = |tree: &Tree| {
                    let held = in_use.of(&tree.settings);
                    held.is_audit && !settings.is_audit && held.images == ImageRule::Any
                };
                if !state.trees.values().find(|tree| tree.place == held).is_some_and(is_stricter) {
                    return Ok(());
                }
            }
            state.tree(&*self.egress.tables, entry, settings)?
        };
        // Gone by now: then there is nobody to govern.
        self.egress.tables.plant(tgid, exec_id, tree)?;
        self.egress.changed.notify_one();
        Ok(())
    }

    /// Keeps the tables as they should be, until cancelled.
    pub async fn govern(self: &Arc<Self>, cancel: CancellationToken) {
        let inbox = self.egress.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(inbox) = inbox {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = self.hear(inbox) => {}
                () = self.keep() => {}
                () = self.close() => {}
            }
        }
    }

    /// Looks at what the kernel tells, some of it at once: one may wait for a hash.
    async fn hear(self: &Arc<Self>, mut inbox: mpsc::Receiver<Told>) {
        let mut looking = FuturesUnordered::new();
        loop {
            tokio::select! {
                told = inbox.recv(), if looking.len() < AT_ONCE => match told {
                    Some(told) => looking.push(self.look_at_told(told)),
                    None => return,
                },
                Some(()) = looking.next(), if !looking.is_empty() => {}
            }
        }
    }

    async fn look_at_told(self: &Arc<Self>, told: Told) {
        match told {
            Told::Began(tgid, exec_id) => self.classify(tgid, exec_id).await,
            Told::Connection(connection) => self.record_connection(*connection).await,
            Told::Image(image) => self.record_image(*image).await,
        }
    }

    /// Compiles what is read anew, looks names up, and looks for what the kernel did not tell.
    async fn keep(self: &Arc<Self>) {
        let mut snapshots = self.snapshots.subscribe();
        // A daemon that starts anew does not know what is in the half that it finds in use.
        let mut is_whole = self.recompile().await;
        self.classify_all().await;
        let (mut compiled, mut looked, mut refresh_at) = (Instant::now(), Instant::now(), Instant::now());
        loop {
            if self.governs() && Instant::now() >= refresh_at {
                let after = if self.refresh_names().await { REFRESH } else { REFRESH_FAILED };
                refresh_at = Instant::now() + after;
            }
            let mut is_changed = false;
            // Every arm is cancel-safe: a change stays noted.
            tokio::select! {
                changed = snapshots.changed() => match changed {
                    Ok(()) => is_changed = true,
                    Err(_) => return,
                },
                () = self.egress.changed.notified() => {
                    self.cut_off();
                    self.egress.withdrawn.notify_one();
                    self.classify_all().await;
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            if is_changed || !is_whole && compiled.elapsed() >= AGAIN {
                is_whole = self.recompile().await;
                (compiled, refresh_at) = (Instant::now(), Instant::now());
                self.classify_all().await;
            } else if looked.elapsed() >= LOOK && self.governs() {
                looked = Instant::now();
                self.look_at_programs().await;
                self.classify_missed().await;
            }
        }
    }

    /// Compiles what operators wrote into the half that is not in use, and uses that from then on. False when the kernel
    /// does not take it: then what was in use stays so.
    async fn recompile(self: &Arc<Self>) -> bool {
        let node = Arc::clone(self);
        let compiled = tokio::task::spawn_blocking(move || node.recompile_blocking()).await;
        let problem = match compiled {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(problem),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = &problem {
            tracing::error!(
                problem,
                "what governed trees may reach is not up to date; what was compiled last stays in force"
            );
        }
        let is_whole = problem.is_none();
        self.egress.lock().problem = problem;
        is_whole
    }

    fn recompile_blocking(&self) -> Result<(), String> {
        let snapshot = self.snapshot();
        let tables = &*self.egress.tables;
        let failed = |error: Error| with_sources(&error);
        let programs = self.find_programs(&snapshot);
        let (next, learned) = {
            let mut state = self.egress.lock();
            state.read_earlier(tables).map_err(failed)?;
            // Whoever is still in the half that is written now would see a part of each set.
            tables.void(state.in_use.other(), Stamp::NEVER).map_err(failed)?;
            state.keep_trees(tables, &snapshot).map_err(failed)?;
            // ORDER: as in `governs`.
            self.egress.governs.store(!state.trees.is_empty(), Ordering::Relaxed);
            if state.trees.is_empty() {
                return Ok(());
            }
            (state.in_use.other(), state.learned.clone())
        };
        let plan = compile(snapshot.catalog.destinations(), &learned).map_err(|error| error.to_string())?;
        let compiled = Compiled::build(tables, next, plan).map_err(failed)?;
        let counts = compiled.counts();
        let mut state = self.egress.lock();
        state.keep_programs(tables, programs).map_err(failed)?;
        let from = state.stamp(self.records().now());
        tables.void(next, from).map_err(failed)?;
        tables.use_half(next).map_err(failed)?;
        state.in_use = next;
        state.is_settled = false;
        state.compiled = Some((compiled, snapshot));
        tracing::info!(places = counts.places, groups = counts.groups, "what governed trees may reach was compiled");
        Ok(())
    }

    /// Looks the names of destinations up and takes in what is new. False when one could not be looked up.
    async fn refresh_names(self: &Arc<Self>) -> bool {
        let snapshot = self.snapshot();
        let hosts: std::collections::BTreeSet<Arc<str>> =
            snapshot.catalog.destinations().iter().flat_map(|one| one.hosts.iter().map(Arc::clone)).collect();
        let asked: Vec<Arc<str>> = hosts.iter().map(Arc::clone).collect();
        let ask = |host: Arc<str>| async move { (Arc::clone(&host), self.resolver.addresses(&host).await) };
        // A few at a time: requests look names up, too.
        let mut answers = std::pin::pin!(stream::iter(asked).map(ask).buffer_unordered(LOOK_UPS));
        let mut failed = 0_usize;
        let mut is_changed = false;
        while let Some((host, answer)) = answers.next().await {
            let mut state = self.egress.lock();
            match answer {
                Ok(addresses) => is_changed |= state.learned.learn(&host, &addresses, Instant::now()),
                Err(error) => {
                    failed = failed.saturating_add(1);
                    tracing::debug!(%error, %host, "a name of a destination cannot be looked up");
                }
            }
        }
        if failed > 0 {
            tracing::warn!(
                failed,
                names = hosts.len(),
                "names of destinations cannot be looked up; what was learned before holds for a while"
            );
        }
        let node = Arc::clone(self);
        let updated = tokio::task::spawn_blocking(move || {
            let mut state = node.egress.lock();
            let state = &mut *state;
            let is_changed = state.learned.forget(|host| hosts.contains(host), Instant::now()) || is_changed;
            let (Some((compiled, of)), true) = (&mut state.compiled, is_changed) else { return Ok(()) };
            let plan = compile(of.catalog.destinations(), &state.learned).map_err(|error| error.to_string())?;
            compiled.update(&*node.egress.tables, plan).map_err(|error| with_sources(&error))
        });
        match updated.await {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => tracing::error!(problem, "the addresses of names could not be taken in"),
            Err(error) => tracing::error!(%error, "the addresses of names could not be taken in"),
        }
        failed == 0
    }

    /// Governed exec instances for which `wanted` holds.
    fn governed(&self, wanted: impl Fn(&ExecInstance) -> bool) -> Vec<(u32, ExecId)> {
        let mut found = Vec::new();
        let walked = self.records().processes(&mut |instance| {
            if instance.governed.is_some() && wanted(&instance) {
                found.push((instance.process.tgid, instance.id));
            }
        });
        if let Err(error) = walked {
            tracing::warn!(%error, "governed processes cannot be looked at");
        }
        found
    }
}

impl State {
    fn stamp(&mut self, now: BootTime) -> Stamp {
        self.stamp = self.stamp.after(now);
        self.stamp
    }

    /// The place of an entry's tree, which is one that no other has.
    fn tree(&mut self, tables: &dyn Tables, entry: &Entry, settings: TreeSettings) -> Result<u32, Error> {
        let tag = tag(entry);
        self.read_earlier(tables)?;
        // Its settings are those of what was read last, which somebody who decides by an older snapshot must not undo.
        if let Some(tree) = self.trees.get(&tag) {
            return Ok(tree.place);
        }
        let taken = |place: &u32| self.trees.values().any(|tree| tree.place == *place);
        let free = (1..agent_ebpf::tree::LOST).find(|place| !taken(place));
        let place = free.ok_or(Error::Malformed { map: "TREES", what: "no room for one more entry that governs" })?;
        let settings = [settings; 2];
        tables.set_tree(place, tag, settings)?;
        self.trees.insert(tag, Tree { place, settings, entry: Some(entry.id.as_str().into()) });
        Ok(place)
    }

    /// Gives places to entries that govern, and says what holds in each tree with the set of tables that comes next. An
    /// entry that does not govern any more, or is gone, keeps its tree as it was: who is governed stays so.
    fn keep_trees(&mut self, tables: &dyn Tables, snapshot: &Snapshot) -> Result<(), Error> {
        let mut wanted = HashMap::new();
        for entry in snapshot.entries.iter() {
            if let Some(settings) = entry.governs {
                self.tree(tables, entry, settings)?;
                wanted.insert(tag(entry), (entry, settings));
            }
        }
        for (tag, tree) in &mut self.trees {
            let wanted = wanted.get(tag);
            let mut settings = tree.settings;
            *self.in_use.other().of_mut(&mut settings) =
                wanted.map_or(*self.in_use.of(&tree.settings), |(_, settings)| *settings);
            if settings != tree.settings {
                tables.set_tree(tree.place, *tag, settings)?;
                tree.settings = settings;
            }
            if let Some((entry, _)) = wanted {
                tree.entry = Some(entry.id.as_str().into());
            }
        }
        Ok(())
    }

    /// The trees of an earlier run, once and before any place is given out: theirs are taken.
    fn read_earlier(&mut self, tables: &dyn Tables) -> Result<(), Error> {
        if !self.is_read {
            self.in_use = tables.half()?;
            for (place, tag, settings) in tables.trees()? {
                self.trees.entry(tag).or_insert(Tree { place, settings, entry: None });
            }
            self.is_read = true;
        }
        Ok(())
    }
}

/// The entry that governs somebody: one that enforces before one that only audits.
fn governing(attested: &Attested) -> Option<(&Arc<Entry>, TreeSettings)> {
    let governing = attested.entries.iter().filter_map(|entry| Some((entry, entry.governs?)));
    governing.min_by_key(|(_, settings)| settings.is_audit)
}

/// Names an entry's tree over a restart. Never zero.
fn tag(entry: &Entry) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, entry.id.as_str().as_bytes());
    u64::from_le_bytes(digest.as_ref().first_chunk::<8>().copied().unwrap_or_default()) | 1
}
