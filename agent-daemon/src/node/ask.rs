// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::exchange::Subject;
use crate::approval::Given;
use crate::attest::Failure;
use crate::credential::{self, Delivery, Lease, LeaseId};
use crate::session::{self, HandleDigest};
use crate::{audit, authority, step};

/// What a caller asks for.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// A declared destination.
    pub destination: String,
    /// How the credential is to reach the caller.
    pub delivery: Delivery,
    /// What a token is to be good for, where the caller may say so; none: what the destination says.
    pub audiences: Vec<Arc<str>>,
    /// The socket the credential is for.
    pub connection: Option<ConnectionRef>,
    /// Which binding, where several fit.
    pub binding: Option<String>,
    /// Which of the caller's identities.
    pub spiffe_id: Option<String>,
    /// The caller's claim, kept in the record.
    pub traceparent: Option<String>,
    /// The lease that is to be replaced.
    pub renews: Option<LeaseId>,
    /// The session that it names by its handle.
    pub session: Option<HandleDigest>,
    /// How long it may take, but for the time that it waits for a person; none: as long as it takes.
    pub time: Option<Duration>,
    /// What a person said of it, as [`Node`](super::Node) found out.
    pub approval: Option<Arc<Given>>,
    /// The token that it shows to be exchanged, as [`Node::exchange`](super::Node::exchange) found it.
    pub subject: Option<Arc<Subject>>,
    /// A lease of which it is asked whether it would be granted now. Nothing is issued.
    pub standing: Option<Arc<Lease>>,
}

/// A socket, named by whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionRef {
    /// By its cookie.
    Cookie(u64),
    /// By its addresses, as its opener sees them.
    Tuple {
        /// The opener's end.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
    },
}

/// A credential on its way out.
#[derive(Debug)]
pub struct Released {
    /// The credential itself; of an X509-SVID its private key (PKCS#8, DER), of a WIT-SVID its private key (JWK).
    pub secret: Zeroizing<Vec<u8>>,
    /// The certificates of an X509-SVID, DER one after the other; the token of a WIT-SVID; empty otherwise.
    pub chain: Vec<u8>,
    /// What was recorded of it.
    pub lease: Arc<Lease>,
    /// What a token is good for.
    pub audiences: Vec<Arc<str>>,
    /// The scopes that bound what it is good for; none: no scopes do.
    pub scopes: Option<Vec<Arc<str>>>,
}

/// Why a request was not answered as asked. The caller learns its kind and, of a denial, the decision's id.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The caller, or the connection, could not be tied to a live exec instance.
    #[error(transparent)]
    Caller(#[from] Failure),
    /// Decided, and recorded.
    #[error("denied; an operator finds the reasons by decision id {decision_id}")]
    Denied {
        /// Names the record.
        decision_id: Arc<str>,
    },
    /// It took too long.
    #[error("it took too long")]
    TooSlow,
    /// Asked too often.
    #[error("too many requests from this process; try again in {} ms", retry_after.as_millis())]
    RateLimited {
        /// When there will be room.
        retry_after: Duration,
    },
    /// A bound on leases is reached.
    #[error("no room for another lease")]
    Leases(#[source] credential::Error),
    /// There is no room for another session, or it could not be kept.
    #[error("no session")]
    Sessions(#[source] session::Error),
    /// What is said of a step cannot be.
    #[error(transparent)]
    Steps(step::Error),
    /// The record could not be written, so nothing was issued.
    #[error("the audit log takes no record")]
    Audit(#[source] audit::Error),
    /// A fact could not be had at this moment. Recorded as a decision.
    #[error("a fact is not available now; an operator finds it by decision id {decision_id}")]
    Unavailable {
        /// Names the record.
        decision_id: Arc<str>,
    },
    /// Signing or unsealing failed.
    #[error("the credential could not be made")]
    Authority(#[source] authority::Error),
    /// An invariant of ours is broken.
    #[error("{0}")]
    Bug(&'static str),
}
