// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Errors for operators: the code says what to do, the text says everything.

use tonic::Status;

use crate::attest::Failure;
pub(super) use crate::diagnostic::with_sources;
use crate::node::Refusal;
use crate::{audit, authority, process};

/// The kernel's records cannot be read.
pub(super) fn records(error: &process::Error) -> Status {
    Status::unavailable(with_sources(error))
}

/// The audit log cannot be read or written.
pub(super) fn audit(error: &audit::Error) -> Status {
    match error {
        audit::Error::Full { .. } => Status::resource_exhausted(with_sources(error)),
        audit::Error::Poisoned => Status::internal(with_sources(error)),
        audit::Error::Damaged { .. } | audit::Error::Truncated { .. } => Status::data_loss(with_sources(error)),
        _ => Status::unavailable(with_sources(error)),
    }
}

/// The secret store refuses.
pub(super) fn authority(error: &authority::Error) -> Status {
    match error {
        authority::Error::Name | authority::Error::SecretSize { .. } | authority::Error::Bundle { .. } => {
            Status::invalid_argument(with_sources(error))
        }
        authority::Error::TooManySecrets { .. }
        | authority::Error::TooManyBundles { .. }
        | authority::Error::VersionExhausted { .. } => Status::resource_exhausted(with_sources(error)),
        authority::Error::Unseal { .. } => Status::failed_precondition(with_sources(error)),
        authority::Error::Io { .. } => Status::unavailable(with_sources(error)),
        _ => Status::internal(with_sources(error)),
    }
}

/// A process that was asked about cannot be looked at.
pub(super) fn attest(failure: &Failure) -> Status {
    let text = with_sources(failure);
    match failure {
        Failure::Unresolvable(_) | Failure::OriginatorGone(_) | Failure::OriginatorMismatch(_) => {
            Status::not_found(text)
        }
        Failure::Incomplete => Status::failed_precondition(text),
        Failure::Records(_) | Failure::Io { .. } => Status::unavailable(text),
    }
}

/// An explanation could not be given.
pub(super) fn refusal(refusal: &Refusal) -> Status {
    let text = with_sources(refusal);
    match refusal {
        Refusal::Caller(failure) => attest(failure),
        Refusal::Audit(error) => audit(error),
        Refusal::Authority(error) => authority(error),
        Refusal::Denied { .. } => Status::permission_denied(text),
        Refusal::RateLimited { .. } | Refusal::Leases(_) | Refusal::Sessions(_) => Status::resource_exhausted(text),
        Refusal::Unavailable { .. } => Status::unavailable(text),
        Refusal::Steps(_) => Status::failed_precondition(text),
        Refusal::TooSlow => Status::deadline_exceeded(text),
        Refusal::Bug(_) => Status::internal(text),
    }
}

/// A task of ours did not come to its end.
pub(super) fn task(error: &tokio::task::JoinError) -> Status {
    if error.is_cancelled() {
        Status::unavailable("the daemon is stopping")
    } else {
        Status::internal("bug: the request's task panicked")
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn each_failure_has_the_code_that_says_what_to_do() {
        let attest_cases = [
            (Failure::Unresolvable("x"), Code::NotFound),
            (Failure::OriginatorGone("x"), Code::NotFound),
            (Failure::OriginatorMismatch("x"), Code::NotFound),
            (Failure::Incomplete, Code::FailedPrecondition),
        ];
        for (failure, code) in attest_cases {
            assert_eq!(attest(&failure).code(), code, "{failure}");
            assert_eq!(refusal(&Refusal::Caller(failure)).code(), code);
        }
        for (error, code) in [
            (authority::Error::Name, Code::InvalidArgument),
            (authority::Error::SecretSize { limit: 1, actual: 2 }, Code::InvalidArgument),
            (authority::Error::TooManySecrets { limit: 1 }, Code::ResourceExhausted),
            (authority::Error::Unseal { name: "a".into() }, Code::FailedPrecondition),
            (authority::Error::Poisoned, Code::Internal),
        ] {
            assert_eq!(authority(&error).code(), code, "{error}");
        }
        for (error, code) in [
            (audit::Error::Full { limit: 1 }, Code::ResourceExhausted),
            (audit::Error::SyncFailed, Code::Unavailable),
            (audit::Error::Poisoned, Code::Internal),
        ] {
            assert_eq!(audit(&error).code(), code, "{error}");
        }
    }

    #[test]
    fn the_text_names_every_cause() {
        let error = Failure::Io { operation: "open it", source: std::io::Error::other("because") };
        assert_eq!(attest(&error).message(), "cannot open it: because");
    }
}
