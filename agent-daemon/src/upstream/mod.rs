// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Authorities that sign the certificate of the CA here: each is asked over the network and answers in its time.
//!
//! Carries a request there and certificates back. Never decides whether they are of use: `authority` does.

mod openbao;

use std::fmt;

use futures_util::future::BoxFuture;

pub use self::openbao::{Login, OpenBao, OpenBaoConfig};

use crate::authority::{CaRequest, Error, Origin, Signed};

/// Who is asked, with what that takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Config {
    /// The PKI of OpenBao or Vault.
    OpenBao(OpenBaoConfig),
}

impl Config {
    /// Ready to be asked. Nothing is called yet.
    ///
    /// # Errors
    /// When an address is not one that may be called.
    pub fn build(&self) -> Result<Box<dyn Upstream>, Error> {
        match self {
            Self::OpenBao(config) => Ok(Box::new(OpenBao::new(config.clone())?)),
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
}
