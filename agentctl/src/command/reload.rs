// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl reload`.

use agent_proto::admin::{ReloadRequest, ReloadResponse};

use super::policy;
use crate::Verdict;
use crate::client::Client;
use crate::error::Error;
use crate::json;
use crate::output::{Line, Output, Style};
use crate::text::{count, dash};

const SCHEMA: &str = "agentctl.reload/v1";

pub(crate) async fn run(client: &Client, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let response = client.answer(client.api().reload(ReloadRequest {})).await?;
    // The daemon changes something or gives reasons; warnings alone do not keep it from loading.
    let accepted = response.changed || response.diagnostics.iter().all(|diagnostic| diagnostic.severity == "warning");
    if output.is_json() {
        output.document(SCHEMA, &json::Reload::of(accepted, &response))?;
    } else {
        render(accepted, &response, output)?;
    }
    Ok(Verdict::ok_if(accepted))
}

fn render(accepted: bool, response: &ReloadResponse, output: &mut Output<'_>) -> Result<(), Error> {
    policy::diagnostics(&response.diagnostics, output)?;
    let (style, word) = match (accepted, response.changed) {
        (true, true) => (Style::Good, "reloaded"),
        (true, false) => (Style::Good, "nothing has changed"),
        (false, _) => (Style::Bad, "refused, nothing was changed"),
    };
    let loaded = [
        count(response.policies, "policy", "policies"),
        count(response.entries, "entry", "entries"),
        count(response.destinations, "destination", "destinations"),
        count(response.bindings, "binding", "bindings"),
    ];
    let line = format!("; in force: {}, generation {}", loaded.join(", "), dash(&response.policy_generation));
    output.line(&Line::painted(style, word).and(line))
}
