// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl revoke`.

use agent_proto::admin::RevokeRequest;
use agent_proto::admin::revoke_request::What;

use crate::Verdict;
use crate::cli::RevokeArgs;
use crate::client::Client;
use crate::error::Error;
use crate::id::ExecId;
use crate::json;
use crate::output::{Line, Output, Style};
use crate::text::count;

const SCHEMA: &str = "agentctl.revoke/v1";

pub(crate) async fn run(client: &Client, args: &RevokeArgs, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let request = RevokeRequest { what: what(args), reason: args.reason.clone() };
    let response = client.answer(client.api().revoke(request)).await?;
    if output.is_json() {
        output.document(SCHEMA, &json::Revoked { lease_ids: &response.lease_ids })?;
    } else if response.lease_ids.is_empty() {
        output.line(&Line::painted(Style::Warn, "no active lease matches; nothing was revoked"))?;
    } else {
        let number = u64::try_from(response.lease_ids.len()).unwrap_or(u64::MAX);
        output.text(format!("revoked {}:", count(number, "lease", "leases")))?;
        response.lease_ids.iter().try_for_each(|id| output.text(format!("  {id}")))?;
    }
    Ok(Verdict::ok_if(!response.lease_ids.is_empty()))
}

/// The parser lets exactly one through.
fn what(args: &RevokeArgs) -> Option<What> {
    let lease = args.lease.clone().map(What::LeaseId);
    let exec = args.exec.map(|ExecId(id)| What::ExecId(id));
    let process = args.pid.map(What::Tgid);
    let identity = args.identity.clone().map(What::SpiffeId);
    let destination = args.destination.clone().map(What::Destination);
    lease.or(exec).or(process).or(identity).or(destination)
}
