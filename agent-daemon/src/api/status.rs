// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The one table from our errors to gRPC codes. A caller learns the kind of a refusal and, of a denial, the
//! decision's id; never paths, rules or chains.

use tonic::{Code, Status};

use crate::attest::Failure;
use crate::audit;
use crate::authority;
use crate::node::Refusal;
use crate::session;
use crate::step;

/// What an agent is told.
pub(super) fn status(refusal: &Refusal) -> Status {
    let message = match refusal {
        // The words of these three are the protocol's own.
        Refusal::Caller(failure) => caller(failure).to_owned(),
        Refusal::Denied { .. } | Refusal::Unavailable { .. } | Refusal::RateLimited { .. } | Refusal::TooSlow => {
            refusal.to_string()
        }
        Refusal::Leases(_) => "no room for another lease".to_owned(),
        Refusal::Sessions(session::Error::NotKept) => "the session cannot be written down now".to_owned(),
        Refusal::Sessions(session::Error::Unknown) => "the session ended while it was opened".to_owned(),
        Refusal::Sessions(_) => "no room for another session".to_owned(),
        Refusal::Steps(error) => error.to_string(),
        Refusal::Audit(_) => "the audit log takes no record now".to_owned(),
        Refusal::Authority(authority::Error::NoSigner { .. }) => "nothing can sign it now".to_owned(),
        Refusal::Authority(_) | Refusal::Bug(_) => "internal error".to_owned(),
    };
    Status::new(code(refusal), message)
}

fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::Caller(Failure::Unresolvable(_) | Failure::OriginatorGone(_) | Failure::OriginatorMismatch(_)) => {
            Code::Unauthenticated
        }
        Refusal::Caller(Failure::Incomplete | Failure::Records(_) | Failure::Io { .. })
        | Refusal::Unavailable { .. }
        | Refusal::Authority(authority::Error::NoSigner { .. }) => Code::Unavailable,
        Refusal::Denied { .. } => Code::PermissionDenied,
        Refusal::TooSlow => Code::DeadlineExceeded,
        Refusal::RateLimited { .. } | Refusal::Leases(_) | Refusal::Audit(audit::Error::Full { .. }) => {
            Code::ResourceExhausted
        }
        Refusal::Sessions(session::Error::NotKept | session::Error::Unknown) => Code::Unavailable,
        Refusal::Sessions(_) => Code::ResourceExhausted,
        Refusal::Steps(error) => match error {
            step::Error::Known => Code::AlreadyExists,
            step::Error::NotUnderWay => Code::NotFound,
            step::Error::NoParent | step::Error::NoSession => Code::FailedPrecondition,
            step::Error::NoThread => Code::InvalidArgument,
            step::Error::TooDeep { .. } | step::Error::TooManyOfSession { .. } | step::Error::TooMany { .. } => {
                Code::ResourceExhausted
            }
        },
        Refusal::Audit(_) => Code::Unavailable,
        Refusal::Authority(_) | Refusal::Bug(_) => Code::Internal,
    }
}

pub(super) fn caller(failure: &Failure) -> &'static str {
    match failure {
        Failure::Unresolvable(_) => "unresolvable",
        Failure::OriginatorGone(_) => "originator gone",
        Failure::OriginatorMismatch(_) => "originator mismatch",
        Failure::Incomplete => "the kernel's record of the caller is incomplete",
        Failure::Records(_) | Failure::Io { .. } => "the kernel's records cannot be read now",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_code_and_tells_nothing_else() {
        let io = || std::io::Error::other("/secret/path");
        for (refusal, code, message) in [
            (Refusal::Caller(Failure::Unresolvable("detail")), Code::Unauthenticated, "unresolvable"),
            (Refusal::Caller(Failure::OriginatorGone("detail")), Code::Unauthenticated, "originator gone"),
            (Refusal::Caller(Failure::OriginatorMismatch("detail")), Code::Unauthenticated, "originator mismatch"),
            (Refusal::Caller(Failure::Incomplete), Code::Unavailable, "incomplete"),
            (Refusal::Denied { decision_id: "d1".into() }, Code::PermissionDenied, "d1"),
            (Refusal::Unavailable { decision_id: "d2".into() }, Code::Unavailable, "d2"),
            (Refusal::Audit(audit::Error::Full { limit: 1 }), Code::ResourceExhausted, "audit"),
            (Refusal::Audit(audit::Error::Unwritable(io())), Code::Unavailable, "audit"),
            (Refusal::Authority(authority::Error::NoSigner { what: "detail" }), Code::Unavailable, "sign"),
            (Refusal::Authority(authority::Error::Crypto { operation: "detail" }), Code::Internal, "internal error"),
            (Refusal::Bug("bug: detail"), Code::Internal, "internal error"),
        ] {
            let status = status(&refusal);
            assert_eq!(status.code(), code, "{refusal:?}");
            assert!(status.message().contains(message), "{refusal:?}");
            assert!(!status.message().contains("detail") && !status.message().contains("/secret"), "{refusal:?}");
        }
    }
}
