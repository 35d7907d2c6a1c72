// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Authorities that sign the certificate of the CA here: each is asked over the network and answers in its time.
//!
//! Carries a request there and certificates back, and for one that publishes keys, those there and its bundle back. Never decides whether they are of use: `authority` does.

mod openbao;
mod spire;

use std::fmt;

use futures_util::future::BoxFuture;

pub use self::openbao::{Login, OpenBao, OpenBaoConfig};
pub use self::spire::{Spire, SpireConfig};

use crate::authority::{CaRequest, Error, Origin, PublishedKey, Signed, TrustBundle};
use crate::identity::TrustDomain;

/// Who is asked, with what that takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Config {
    /// The PKI of OpenBao or Vault.
    OpenBao(OpenBaoConfig),
    /// A SPIRE server.
    Spire(SpireConfig),
}

impl Config {
    /// Ready to be asked. Nothing is called yet.
    ///
    /// # Errors
    /// When an address is not one that may be called.
    pub fn build(&self, trust_domain: &TrustDomain) -> Result<Box<dyn Upstream>, Error> {
        match self {
            Self::OpenBao(config) => Ok(Box::new(OpenBao::new(config.clone())?)),
            Self::Spire(config) => Ok(Box::new(Spire::new(config.clone(), trust_domain.clone())?)),
        }
    }
}

/// Somebody who signs a CA.
pub trait Upstream: fmt::Debug + Send + Sync + 'static {
    /// Which kind.
    fn origin(&self) -> Origin;
    /// Asks it.
    ///
    /// # Errors
    /// [`Error::Upstream`], with what it said or what became of the way to it.
    fn sign<'a>(&'a self, request: &'a CaRequest) -> BoxFuture<'a, Result<Signed, Error>>;
    /// Gives it the keys by which tokens of this node are verified, and takes what is trusted there; nothing from one
    /// that knows of neither.
    fn follow<'a>(&'a self, _keys: &'a [PublishedKey]) -> BoxFuture<'a, Followed> {
        Box::pin(async { Followed::default() })
    }
}

/// What became of [`Upstream::follow`]. Both: what is trusted may be known although the keys were not taken.
#[derive(Debug, Default)]
pub struct Followed {
    /// What is trusted there.
    pub bundle: Option<TrustBundle>,
    /// What did not work.
    pub error: Option<Error>,
}
