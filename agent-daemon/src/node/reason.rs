// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Why it was decided so.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// Why it was decided so: a stable word in records and in the API.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// The word.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

reasons! {
    /// Policy permits.
    Allowed = "allowed",
    /// No registration entry matches.
    NoIdentity = "no_identity",
    /// The identity it asked for is not one of its own.
    IdentityNotYours = "identity_not_yours",
    /// No such destination is declared.
    NoDestination = "no_destination",
    /// No binding gives this identity a credential for it.
    NoBinding = "no_binding",
    /// The binding wants an observed connection, and none was named.
    ConnectionRequired = "connection_required",
    /// The kernel saw no such connection.
    ConnectionUnknown = "connection_unknown",
    /// It was tried, but is not established (any more).
    ConnectionNotOpen = "connection_not_open",
    /// Another exec instance opened it.
    ConnectionNotYours = "connection_not_yours",
    /// It goes to another address.
    ConnectionElsewhere = "connection_elsewhere",
    /// It carries its credential already.
    ConnectionUsed = "connection_used",
    /// The destination's names cannot be resolved now.
    ResolveFailed = "resolve_failed",
    /// A policy forbids.
    PolicyForbid = "policy_forbid",
    /// No policy permits.
    PolicyNoPermit = "policy_no_permit",
    /// Policy permits it if a person approves, and nobody was asked.
    ApprovalRequired = "approval_required",
    /// A person refused it.
    ApprovalDenied = "approval_denied",
    /// Nobody answered in time.
    ApprovalExpired = "approval_expired",
    /// Too many requests wait for a person.
    ApprovalLimit = "approval_limit",
    /// A policy could not be evaluated.
    PolicyError = "policy_error",
    /// The lease to be renewed is not an active one of this exec instance.
    LeaseNotYours = "lease_not_yours",
    /// The static secret is not there.
    SecretMissing = "secret_missing",
    /// The session it acts in is over.
    SessionEnded = "session_ended",
    /// It may not act in the session that it names, or its lineage knows nothing of it.
    SessionNotYours = "session_not_yours",
    /// The session does not reach the destination.
    OutOfScope = "out_of_scope",
    /// An ancestor in its session may not have what it asks for.
    AncestorNotPermitted = "ancestor_not_permitted",
    /// Nothing is known of an ancestor in its session.
    AncestorUnknown = "ancestor_unknown",
    /// It is further below the opener of its session than the kernel's record reaches.
    SessionTooDeep = "session_too_deep",
    /// The credential names a user, and the caller acts in no session.
    SessionRequired = "session_required",
    /// It connects from a governed tree to where no destination is declared.
    EgressUndeclared = "egress_undeclared",
    /// It connects from a governed tree before it was known who it is.
    EgressPending = "egress_pending",
    /// A governed tree may not have such a socket.
    EgressSocket = "egress_socket",
    /// What a governed program had opened was closed: it may not reach that any more.
    EgressWithdrawn = "egress_withdrawn",
    /// Its governed tree may not execute the file.
    ExecUnlisted = "exec_unlisted",
    /// The user's token is not good.
    InvalidToken = "invalid_token",
    /// What is asked for is wider than the session it is delegated from, or on nobody's behalf.
    SessionRefused = "session_refused",
}

/// A denial on its way into the record.
#[derive(Debug)]
pub(super) struct Denial {
    pub(super) reason: Reason,
    pub(super) detail: String,
    pub(super) expected: Option<String>,
    pub(super) actual: Option<String>,
    pub(super) remediation: Option<String>,
    pub(super) is_passing: bool,
}

impl Denial {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { reason, detail, expected: None, actual: None, remediation: None, is_passing: false }
    }

    pub(super) fn differing(mut self, expected: impl Into<String>, actual: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self.actual = Some(actual.into());
        self
    }

    /// It rests on something that may be there in a moment.
    pub(super) fn passing(mut self) -> Self {
        self.is_passing = true;
        self
    }

    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remediation = Some(remedy.into());
        self
    }
}
