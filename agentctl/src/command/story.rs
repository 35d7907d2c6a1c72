// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One process, its identity and one decision, told to a person: what `ps x123` and `explain` share.

use agent_proto::admin::{Decision, NearMiss, PolicyNearMiss, Process};
use agent_proto::v1::{Ancestor, Connection, ExecInstance};

use crate::error::Error;
use crate::id::ExecId;
use crate::json::provenance;
use crate::output::{Line, Output, Style};
use crate::text::{count, dash, endpoint};

/// What runs, and every fact about it with its provenance.
pub(super) fn process(process: &Process, output: &mut Output<'_>) -> Result<(), Error> {
    let unknown = ExecInstance::default();
    let instance = process.instance.as_ref().unwrap_or(&unknown);
    output.title("process")?;
    let mut row = |name: &str, value: &str| {
        if value.is_empty() { Ok(()) } else { output.text(format!("  {name:<10}{value}")) }
    };
    row("exec", &format!("{}, pid {}, {}", ExecId(instance.exec_id), instance.tgid, instance.comm))?;
    row("program", &process.path)?;
    row("script", &process.script)?;
    row("user", &format!("uid {} gid {}", process.uid, process.gid))?;
    row("flags", &process.flags.join(", "))?;
    row("session", &process.session_id)?;
    row("leases", &process.leases.to_string())?;
    for (at, ancestor) in instance.lineage.iter().enumerate() {
        row(if at == 0 { "lineage" } else { "" }, &lineage(ancestor))?;
    }
    if instance.lineage_truncated {
        row("", "… longer than the kernel record holds")?;
    }
    if !instance.selectors.is_empty() {
        output.blank()?;
        output.title("facts")?;
    }
    for selector in &instance.selectors {
        let word = provenance(selector.provenance);
        let style = if word == "claimed" || word == "unknown" { Style::Warn } else { Style::Dim };
        output.line(&Line::painted(style, format!("  {word:<14}")).and(&selector.value))?;
    }
    Ok(())
}

fn lineage(ancestor: &Ancestor) -> String {
    let mut text = ExecId(ancestor.exec_id).to_string();
    if ancestor.tgid != 0 {
        text.push_str(&format!(" pid {}", ancestor.tgid));
    }
    for word in [&ancestor.comm, &ancestor.path, &ancestor.spiffe_id] {
        if !word.is_empty() {
            text.push(' ');
            text.push_str(word);
        }
    }
    if !ancestor.alive {
        text.push_str(" (ended)");
    }
    text
}

/// Who it is and by which entry; or the nearest entries and what differs.
pub(super) fn identity(process: &Process, output: &mut Output<'_>) -> Result<(), Error> {
    output.title("identity")?;
    let identities = process.instance.as_ref().map(|instance| instance.spiffe_ids.as_slice()).unwrap_or_default();
    let Some((default, further)) = identities.split_first() else {
        output.line(&Line::painted(Style::Warn, "  none: no registration entry matches"))?;
        return near_misses(&process.near_misses, output);
    };
    output.line(&Line::new("  ").paint(Style::Good, default).and(" by entry ").and(&process.entry_id))?;
    for identity in further {
        output.text(format!("  also {identity}"))?;
    }
    Ok(())
}

/// Entries that nearly matched, values in full so that they can be copied into one.
pub(super) fn near_misses(near_misses: &[NearMiss], output: &mut Output<'_>) -> Result<(), Error> {
    for miss in near_misses {
        let differs = match miss.differences.len() {
            1 => "one fact differs".to_owned(),
            many => format!("{many} facts differ"),
        };
        output.text(format!("  entry {} ({}): {differs}", miss.entry_id, miss.spiffe_id))?;
        for difference in &miss.differences {
            output.text(format!("    expected {}", difference.expected))?;
            let actual = if difference.actual.is_empty() { "nothing of that kind" } else { &difference.actual };
            output.line(&Line::new("    got      ").paint(Style::Bad, actual))?;
            if !difference.note.is_empty() {
                output.text(format!("    note     {}", difference.note))?;
            }
        }
    }
    Ok(())
}

/// The one word of a decision.
pub(super) fn verdict(decision: &Decision) -> (Style, &'static str) {
    match (decision.allowed, decision.audit_mode) {
        (true, false) => (Style::Good, "allow"),
        (true, true) => (Style::Warn, "allow (audit mode: policy denies)"),
        (false, _) => (Style::Bad, "deny"),
    }
}

/// Which policies decided, which nearly did.
pub(super) fn policy(decision: &Decision, output: &mut Output<'_>) -> Result<(), Error> {
    output.title("policy")?;
    output.text(format!("  generation {}", dash(&decision.policy_generation)))?;
    if decision.policy_ids.is_empty() {
        output.text(if decision.reason.starts_with("policy_") {
            "  no policy decided: what nothing permits is denied"
        } else {
            "  not asked: it was decided before"
        })?;
    } else {
        let policies = count(u64::try_from(decision.policy_ids.len()).unwrap_or(u64::MAX), "policy", "policies");
        output.text(format!("  decided by {policies}: {}", decision.policy_ids.join(", ")))?;
    }
    policy_near_misses(&decision.policy_near_misses, "  ", output)
}

/// Policies that would have permitted, and the condition that does not hold.
pub(super) fn policy_near_misses(
    near_misses: &[PolicyNearMiss],
    indent: &str,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    for miss in near_misses {
        output.text(format!("{indent}{} would permit, but this does not hold:", miss.policy_id))?;
        for line in crate::text::escape_lines(&miss.condition) {
            output.line(&Line::new(format!("{indent}  ")).paint(Style::Bad, line))?;
        }
    }
    Ok(())
}

/// `tcp 127.0.0.1:4711 → 127.0.0.1:443`.
pub(super) fn route(connection: &Connection) -> String {
    let remote = endpoint(&connection.remote_address, connection.remote_port);
    let local = endpoint(&connection.local_address, connection.local_port);
    let separator = if local.is_empty() { "" } else { " " };
    format!("{} {local}{separator}→ {remote}", connection.protocol)
}
