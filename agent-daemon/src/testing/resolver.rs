// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::credential::resolve::{Resolve, Resolving};

type Action = Box<dyn FnOnce() + Send>;

/// A name service that knows what it was told. A name it was not told does not exist.
#[derive(Default)]
pub struct FakeResolver {
    state: Mutex<State>,
    held: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    names: HashMap<String, Vec<IpAddr>>,
    is_down: bool,
    during: Vec<Action>,
    lookups: usize,
}

impl FakeResolver {
    /// Sets the addresses of a name.
    pub fn tell(&self, host: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().expect("an IP address")).collect();
        self.lock().names.insert(host.to_owned(), addresses);
    }

    /// Fails every look-up from now on.
    pub fn go_down(&self) {
        self.lock().is_down = true;
    }

    /// Answers again.
    pub fn come_back(&self) {
        self.lock().is_down = false;
    }

    /// Does something in the middle of the next look-up.
    pub fn during_next(&self, action: impl FnOnce() + Send + 'static) {
        self.lock().during.push(Box::new(action));
    }

    /// Lets every look-up wait until [`FakeResolver::let_go`].
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Answers what waits.
    pub fn let_go(&self) {
        self.held.send_replace(false);
    }

    /// How often it was asked.
    pub fn lookups(&self) -> usize {
        self.lock().lookups
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for FakeResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeResolver").finish_non_exhaustive()
    }
}

impl Resolve for FakeResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            let actions = {
                let mut state = self.lock();
                state.lookups = state.lookups.saturating_add(1);
                std::mem::take(&mut state.during)
            };
            for action in actions {
                action();
            }
            self.held.subscribe().wait_for(|held| !held).await.map_err(io::Error::other)?;
            let state = self.lock();
            if state.is_down {
                return Err(io::Error::other("the name service does not answer"));
            }
            let unknown = || io::Error::new(io::ErrorKind::NotFound, "no such name");
            state.names.get(host).cloned().ok_or_else(unknown)
        })
    }
}
