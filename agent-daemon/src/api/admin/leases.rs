// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Leases: listing and revoking.

use std::collections::HashSet;

use agent_proto::admin::revoke_request::What;
use agent_proto::admin::{LeasesRequest, LeasesResponse, RevokeRequest};
use tonic::Status;

use super::outlet::{Broken, Outlet};
use super::{processes, view};
use crate::credential::{Lease, LeaseId};
use crate::identity::{MAX_SPIFFE_ID_BYTES, SpiffeId};
use crate::node::{Doomed, Node};
use crate::process::ExecId;

/// The operator's words in the audit record.
const MAX_REASON_BYTES: usize = 1024;
/// Longer names name no destination.
const MAX_DESTINATION_BYTES: usize = 256;

/// Streams what was asked for. Blocks on a slow reader only.
pub(super) fn list(node: &Node, asked: &LeasesRequest, outlet: &Outlet<LeasesResponse>) -> Result<(), Broken> {
    let now = node.clock.now();
    let fits = |lease: &Lease| {
        asked.tgid.is_none_or(|tgid| tgid == lease.tgid) && asked.exec_id.is_none_or(|id| ExecId(id) == lease.exec_id)
    };
    // One that ends between the two halves would be in both.
    let mut shown = HashSet::new();
    let mut after: Option<LeaseId> = None;
    loop {
        let page = node.leases.page(after.as_ref(), processes::PAGE);
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        let wanted = page.iter().filter(|lease| fits(lease) && (asked.ended || lease.is_live(now)));
        let leases: Vec<_> = wanted.map(|lease| view::lease(lease, now)).collect();
        if asked.ended {
            shown.extend(page.iter().map(|lease| lease.id.clone()));
        }
        if !leases.is_empty() {
            outlet.push_blocking(LeasesResponse { leases })?;
        }
    }
    if asked.ended {
        let ended = node.leases.ended(node.leases.limits().ended_kept);
        for page in ended.chunks(processes::PAGE) {
            let wanted = page.iter().filter(|lease| fits(lease) && !shown.contains(&lease.id));
            let leases: Vec<_> = wanted.map(|lease| view::lease(lease, now)).collect();
            if !leases.is_empty() {
                outlet.push_blocking(LeasesResponse { leases })?;
            }
        }
    }
    Ok(())
}

/// What an operator wants to end, and the words to keep.
pub(super) fn doomed(request: RevokeRequest) -> Result<(Doomed, String), Status> {
    if request.reason.len() > MAX_REASON_BYTES {
        let text = format!("reason: {} bytes, at most {MAX_REASON_BYTES} are kept", request.reason.len());
        return Err(Status::invalid_argument(text));
    }
    let doomed = match request.what {
        None => {
            return Err(Status::invalid_argument("what: name a lease, exec instance, pid, identity or destination"));
        }
        Some(What::LeaseId(id)) => match LeaseId::parse(&id) {
            Ok(id) => Doomed::Lease(id),
            Err(_) => return Err(Status::invalid_argument("lease_id: not the id of a lease")),
        },
        Some(What::ExecId(id)) => Doomed::Exec(ExecId(id)),
        Some(What::Tgid(tgid)) => Doomed::Tgid(tgid),
        Some(What::SpiffeId(id)) if id.len() <= MAX_SPIFFE_ID_BYTES => match id.parse::<SpiffeId>() {
            Ok(id) => Doomed::Identity(id.to_string()),
            Err(error) => return Err(Status::invalid_argument(format!("spiffe_id: {error}"))),
        },
        Some(What::SpiffeId(_)) => return Err(Status::invalid_argument("spiffe_id: too long")),
        Some(What::Destination(name)) if (1..=MAX_DESTINATION_BYTES).contains(&name.len()) => Doomed::Destination(name),
        Some(What::Destination(_)) => return Err(Status::invalid_argument("destination: not a destination's name")),
    };
    Ok((doomed, request.reason))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn ask(what: Option<What>) -> Result<Doomed, Code> {
        doomed(RevokeRequest { what, reason: "test".into() }).map(|(doomed, _)| doomed).map_err(|status| status.code())
    }

    #[test]
    fn only_what_can_name_a_lease_is_taken_for_a_name() {
        let id = LeaseId::generate(|bytes| {
            bytes.fill(3);
            Ok::<(), ()>(())
        })
        .unwrap();
        for (what, expected) in [
            (Some(What::LeaseId(id.to_string())), Ok(Doomed::Lease(id))),
            (Some(What::ExecId(7)), Ok(Doomed::Exec(ExecId(7)))),
            (Some(What::Tgid(7)), Ok(Doomed::Tgid(7))),
            (
                Some(What::SpiffeId("spiffe://example.org/a".into())),
                Ok(Doomed::Identity("spiffe://example.org/a".into())),
            ),
            (Some(What::Destination("reports".into())), Ok(Doomed::Destination("reports".into()))),
            (None, Err(Code::InvalidArgument)),
            (Some(What::LeaseId(String::new())), Err(Code::InvalidArgument)),
            (Some(What::LeaseId("../etc".into())), Err(Code::InvalidArgument)),
            (Some(What::SpiffeId("spiffe://example.org/*".into())), Err(Code::InvalidArgument)),
            (Some(What::SpiffeId("x".repeat(5000))), Err(Code::InvalidArgument)),
            (Some(What::Destination(String::new())), Err(Code::InvalidArgument)),
            (Some(What::Destination("x".repeat(257))), Err(Code::InvalidArgument)),
        ] {
            assert_eq!(ask(what.clone()), expected, "{what:?}");
        }
    }

    #[test]
    fn a_reason_is_kept_whole_or_refused() {
        for (length, fits) in [(0, true), (MAX_REASON_BYTES, true), (MAX_REASON_BYTES + 1, false)] {
            let request = RevokeRequest { what: Some(What::Tgid(1)), reason: "r".repeat(length) };
            assert_eq!(doomed(request).is_ok(), fits, "{length}");
        }
    }
}
