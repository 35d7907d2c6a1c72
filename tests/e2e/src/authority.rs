// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use example_agents::authority::Authority as Remote;
use example_agents::token::{self, Claims, Expected};

use crate::setup::{AUDIENCE, TRUST_DOMAIN};

/// What a service that is shown a token does: checks its signature and asks whether it is still good.
#[derive(Debug)]
pub struct Authority {
    remote: Remote,
    runtime: tokio::runtime::Runtime,
}

impl Authority {
    pub(crate) fn new(socket: PathBuf) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { remote: Remote::Unix(socket), runtime })
    }

    /// Whether the token is good at this moment.
    ///
    /// # Errors
    /// When the authority does not say.
    pub fn is_active(&self, token: &str) -> Result<bool> {
        Ok(self.runtime.block_on(self.remote.introspect(token)).context("introspection")?.active)
    }

    /// What a verified token says.
    ///
    /// # Errors
    /// When it is not one for the audience of these tests, signed by a published key.
    pub fn verify(&self, text: &str) -> Result<Claims> {
        let keys = self.runtime.block_on(self.remote.jwks()).context("the key set")?;
        let expected = Expected { audience: AUDIENCE.to_owned(), trust_domain: TRUST_DOMAIN.to_owned(), issuer: None };
        #[expect(clippy::disallowed_methods, reason = "a verifier on its own has no clock of the daemon's")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        token::check(text, &keys, &expected, now).map_err(|refusal| anyhow::anyhow!("the token is refused: {refusal}"))
    }
}
