// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Released credentials and how they end.

mod registry;
mod table;

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;

use super::{Error, source::CredentialType};
use crate::{
    identity::SpiffeId,
    policy::ConnectionContext,
    process::{ExecId, SessionId},
};

pub use registry::{Connection, Leases, Limits, Reservation};

/// Names a lease; for a JWT-SVID also its `jti`. Not a secret: it opens nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(Arc<str>);

impl LeaseId {
    const BYTES: usize = 16;

    /// A new id out of 128 bits that `fill` takes from a cryptographic source.
    ///
    /// # Errors
    /// Those of `fill`; then there is no id.
    pub fn generate<E>(fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut random = [0_u8; Self::BYTES];
        fill(&mut random)?;
        Ok(Self(URL_SAFE_NO_PAD.encode(random).into()))
    }

    /// Reads what somebody says is a lease id.
    ///
    /// # Errors
    /// It was not made by [`Self::generate`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut random = [0_u8; Self::BYTES + 2];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut random) {
            Ok(Self::BYTES) => Ok(Self(text.into())),
            Ok(_) | Err(_) => Err(Error::MalformedLeaseId),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bits behind the text: the serial number of a certificate.
    pub fn to_bytes(&self) -> [u8; 16] {
        let mut random = [0_u8; Self::BYTES + 2];
        // Made and read by us, so it decodes.
        let _length = URL_SAFE_NO_PAD.decode_slice(&*self.0, &mut random);
        let mut bytes = [0; Self::BYTES];
        bytes.iter_mut().zip(random).for_each(|(byte, random)| *byte = random);
        bytes
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One released credential. Never the credential itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// Whose it is; it ends with it.
    pub exec_id: ExecId,
    /// For display only.
    pub tgid: u32,
    /// The holder's uid when it was granted.
    pub uid: u32,
    /// The identity it speaks for.
    pub spiffe_id: SpiffeId,
    /// What it is for.
    pub destination: Arc<str>,
    /// By which binding.
    pub binding: Arc<str>,
    /// What was released.
    pub credential_type: CredentialType,
    /// The observed connection it was released on.
    pub cookie: Option<u64>,
    /// The session it was released in, with which it ends.
    pub session: Option<SessionId>,
    /// The lease of the token that it was exchanged for, with which it ends.
    pub subject: Option<LeaseId>,
    /// From when.
    pub issued_at: Timestamp,
    /// Until when; at this instant it is over.
    pub expires_at: Timestamp,
    /// The decision that allowed it.
    pub decision_id: Arc<str>,
    /// What was asked for in that decision and does not change.
    pub basis: Arc<Basis>,
    /// Whether it still is.
    pub state: State,
}

/// The part of a decision that is no fact about its holder: with what is known of the holder later, the same can be
/// decided again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Basis {
    /// For whom a token is.
    pub audiences: Vec<Arc<str>>,
    /// The connection as it was proved.
    pub connection: Option<ConnectionContext>,
    /// The policies that wanted a person's word, when one gave it.
    pub approved: Vec<Arc<str>>,
}

impl Lease {
    /// Active and not past its expiry, whether or not anybody has noticed.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.state == State::Active && now < self.expires_at
    }
}

/// Whether a lease still is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is.
    Active,
    /// It is over, for good.
    Ended {
        /// Why.
        cause: Cause,
        /// When.
        at: Timestamp,
    },
}

impl State {
    /// The word in the admin API and the audit log: "active", or the cause.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Ended { cause, .. } => cause.as_str(),
        }
    }
}

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its time was up.
    Expired,
    /// The process exited.
    Exited,
    /// The process runs another image.
    Exec,
    /// The process changed its uid.
    UidChanged,
    /// An operator said so, or the daemon took it back before its answer left.
    Revoked,
    /// The holder said so, or hung up before it had it.
    GivenBack,
    /// Another one took its place.
    Renewed,
    /// The session that it was released in is over.
    SessionEnded,
    /// The token that it was exchanged for is over.
    SubjectEnded,
    /// The holder asked for one more than it may have at once, and this one would have ended first.
    Superseded,
    /// What operators wrote does not permit it any more.
    Withdrawn,
}

impl Cause {
    /// The word in the admin API and the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Exited => "exited",
            Self::Exec => "exec",
            Self::UidChanged => "uid_changed",
            Self::Revoked => "revoked",
            Self::GivenBack => "given_back",
            Self::Renewed => "renewed",
            Self::SessionEnded => "session_ended",
            Self::SubjectEnded => "subject_ended",
            Self::Superseded => "superseded",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// A lease came to be.
#[derive(Debug, Clone)]
pub struct Granted {
    /// It.
    pub lease: Arc<Lease>,
    /// The exec instance had none before: watch it.
    pub first: bool,
}

/// A lease ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// It, with its cause.
    pub lease: Arc<Lease>,
    /// The exec instance has none now: stop watching it, and ask [`Leases::is_holder`] again after that.
    pub last: bool,
}

#[cfg(test)]
pub(super) mod tests;
