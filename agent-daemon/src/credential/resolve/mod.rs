// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Host names to addresses, kept for a short while.
//!
//! The daemon looks names up itself: what the caller resolved them to is the caller's word.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, ToSocketAddrs},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OnceCell, Semaphore},
    time::Instant,
};

use super::Error;

/// Names in the cache, and different hosts in a catalog.
pub const MAX_NAMES: usize = 1024;
/// Look-ups by the system at a time; each holds a thread, and some answers take a minute.
const SYSTEM_LOOKUPS: usize = 16;

/// A look-up under way.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Looks names up.
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    /// All addresses of a name. Dropping the future gives up waiting.
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a>;
}

/// The system's own resolver, with `/etc/hosts` and whatever else it is configured for.
#[derive(Debug)]
pub struct SystemResolver {
    lookups: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { lookups: Arc::new(Semaphore::new(SYSTEM_LOOKUPS)) }
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            // `tokio::net::lookup_host` does the same but leaves its thread behind when the wait is given up;
            // the permit goes into the thread, so that threads stay bounded.
            let permit = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
            let host = host.to_owned();
            let lookup = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                (host.as_str(), 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect())
            });
            lookup.await.map_err(io::Error::other)?
        })
    }
}

/// How much and how long is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Names at a time.
    pub names: usize,
    /// More than this are an error.
    pub addresses_per_name: usize,
    /// How long an answer is good. Short, because the zone's own TTL is not visible here.
    pub good_for: Duration,
    /// How long a failure is.
    pub bad_for: Duration,
    /// How long a caller waits.
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            names: MAX_NAMES,
            addresses_per_name: 64,
            good_for: Duration::from_secs(30),
            bad_for: Duration::from_secs(2),
            timeout: Duration::from_secs(2),
        }
    }
}

/// Addresses of one name: sorted, without duplicates, never v4-mapped.
pub type Addresses = Arc<[IpAddr]>;

#[derive(Debug)]
struct Answer {
    result: Result<Addresses, Error>,
    until: Instant,
}

/// Filled by the first who asks; when that one gives up, by the next who waits.
type Cell = Arc<OnceCell<Answer>>;

/// Keeps the answers of another resolver; asks once however many wait.
#[derive(Debug)]
pub struct CachingResolver {
    inner: Arc<dyn Resolve>,
    limits: Limits,
    names: Mutex<HashMap<Arc<str>, Cell>>,
}

impl CachingResolver {
    /// An empty cache in front of a resolver.
    pub fn new(inner: Arc<dyn Resolve>, limits: Limits) -> Self {
        Self { inner, limits, names: Mutex::new(HashMap::new()) }
    }

    /// The addresses of a name, as of at most [`Limits::good_for`] ago. Cancel-safe.
    ///
    /// # Errors
    /// The look-up failed, took too long, or gave nothing usable; or too many are under way.
    pub async fn addresses(&self, host: &str) -> Result<Addresses, Error> {
        let cell = self.cell(host, Instant::now())?;
        cell.get_or_init(|| self.ask(host)).await.result.clone()
    }

    /// What is known without asking anybody.
    pub fn cached(&self, host: &str) -> Option<Addresses> {
        self.known(host, Instant::now())?.ok()
    }

    /// Names held now; for the gauge.
    pub fn len(&self) -> usize {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// True when no name is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn known(&self, host: &str, now: Instant) -> Option<Result<Addresses, Error>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = names.get(host)?.get()?;
        (answer.until > now).then(|| answer.result.clone())
    }

    fn cell(&self, host: &str, now: Instant) -> Result<Cell, Error> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = names.get_mut(host) {
            if cell.get().is_some_and(|answer| answer.until <= now) {
                *cell = Cell::default();
            }
            return Ok(Arc::clone(cell));
        }
        if names.len() >= self.limits.names {
            make_room(&mut names, now);
        }
        if names.len() >= self.limits.names {
            return Err(Error::ResolverBusy { limit: self.limits.names });
        }
        let cell = Cell::default();
        names.insert(host.into(), Arc::clone(&cell));
        Ok(cell)
    }

    async fn ask(&self, host: &str) -> Answer {
        let host: Arc<str> = host.into();
        let timeout = self.limits.timeout;
        let result = match tokio::time::timeout(timeout, self.inner.resolve(&host)).await {
            Ok(Ok(found)) => self.usable(host, found),
            Ok(Err(source)) => Err(Error::Resolve { host, source: Arc::new(source) }),
            Err(_elapsed) => Err(Error::ResolveTimeout { host, timeout }),
        };
        let keep = if result.is_ok() { self.limits.good_for } else { self.limits.bad_for };
        let now = Instant::now();
        // An instant that cannot be represented is one that has passed: the answer is used once.
        Answer { result, until: now.checked_add(keep).unwrap_or(now) }
    }

    fn usable(&self, host: Arc<str>, found: Vec<IpAddr>) -> Result<Addresses, Error> {
        let mut found: Vec<_> = found.into_iter().map(|address| address.to_canonical()).collect();
        found.sort_unstable();
        found.dedup();
        let limit = self.limits.addresses_per_name;
        if found.len() > limit {
            return Err(Error::TooManyAddresses { host, limit });
        }
        if found.is_empty() {
            return Err(Error::NoAddress { host });
        }
        Ok(found.into())
    }
}

/// Forgets what is out of date or abandoned; when nothing is, the answer that ends first. Never one under way.
fn make_room(names: &mut HashMap<Arc<str>, Cell>, now: Instant) {
    names.retain(|_, cell| match cell.get() {
        Some(answer) => answer.until > now,
        // Nobody else holds it, so nobody waits for it.
        None => Arc::strong_count(cell) > 1,
    });
    let answered = names.iter().filter_map(|(host, cell)| Some((cell.get()?.until, host)));
    if let Some((_, host)) = answered.min().map(|(until, host)| (until, Arc::clone(host))) {
        names.remove(&host);
    }
}

#[cfg(test)]
pub(in crate::credential) mod tests;
