// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A declared service that credentials are for.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{
    fields::{Fields, NAME_HELP, Placed, is_name},
    network::Network,
};
use crate::identity::is_host_name;
use crate::process::Protocol;

/// Names the daemon resolves for one destination; each may cost a look-up while a caller waits.
pub const MAX_HOSTS: usize = 8;
/// Address ranges of one destination.
pub const MAX_CIDRS: usize = 64;
/// Ports of one destination.
pub const MAX_PORTS: usize = 64;
/// Labels of one destination.
pub const MAX_LABELS: usize = 32;
/// The longest audience.
pub const MAX_AUDIENCE_BYTES: usize = 256;
/// The audience of a destination that stands for all that are not declared.
const ANY_AUDIENCE: &str = "*";

/// A declared service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// What callers and policies call it.
    pub name: Arc<str>,
    /// Names that the daemon resolves itself, lower case.
    pub hosts: Vec<Arc<str>>,
    /// Address ranges it is reached at.
    pub networks: Vec<Network>,
    /// Ports it is reached at, ascending; empty only when no connection to it can be observed.
    pub ports: Vec<u16>,
    /// The transport: TCP or UDP.
    pub protocol: Protocol,
    /// The `aud` of every token for it; `*` for any that no other destination has.
    pub audience: Arc<str>,
    /// Whether a denial denies.
    pub mode: Mode,
    /// For policies, ascending.
    pub labels: Vec<Arc<str>>,
}

/// What a denial by policy does at this destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It denies.
    Enforce,
    /// It is recorded, and the credential released all the same.
    Audit,
}

impl Mode {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
        }
    }
}

impl Destination {
    /// False when no connection can ever be shown to lead here.
    pub fn is_observable(&self) -> bool {
        !(self.hosts.is_empty() && self.networks.is_empty())
    }

    /// Whether it stands for every audience that no other destination has.
    pub fn takes_any_audience(&self) -> bool {
        &*self.audience == ANY_AUDIENCE
    }

    pub(super) fn parse(mut fields: Fields<'_, '_>, name: Option<Arc<str>>) -> Option<Self> {
        let hosts = hosts(&mut fields);
        let networks = networks(&mut fields);
        let ports = ports(&mut fields, hosts.is_empty() && networks.is_empty());
        let protocol = word(&mut fields, "protocol", Protocol::TCP, &[("tcp", Protocol::TCP), ("udp", Protocol::UDP)]);
        let mode = word(&mut fields, "mode", Mode::Enforce, &[("enforce", Mode::Enforce), ("audit", Mode::Audit)]);
        let labels = labels(&mut fields);
        let audience = audience(&mut fields, &hosts, &ports);
        if !fields.finish() {
            return None;
        }
        Some(Self {
            name: name?,
            hosts,
            networks,
            ports: ports.into_iter().collect::<BTreeSet<_>>().into_iter().collect(),
            protocol: protocol?,
            audience: audience?,
            mode: mode?,
            labels,
        })
    }
}

/// The name of a table, which others refer to.
pub(super) fn name(fields: &mut Fields<'_, '_>) -> Option<Placed<Arc<str>>> {
    let name = fields.required_text("name", NAME_HELP)?;
    if !is_name(&name.value) {
        fields.error(name.at, format!("{:?} is not a name", name.value), NAME_HELP);
        return None;
    }
    Some(Placed { value: name.value.into(), at: name.at })
}

/// One of a few words, with a default.
pub(super) fn word<T: Copy>(
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    default: T,
    words: &[(&'static str, T)],
) -> Option<T> {
    let Some(given) = fields.text(key) else { return Some(default) };
    let found = words.iter().find(|(word, _)| *word == given.value);
    if found.is_none() {
        let known: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        fields.error(given.at, format!("unknown {key} {:?}", given.value), format!("one of {}", known.join(", ")));
    }
    found.map(|(_, value)| *value)
}

fn hosts(fields: &mut Fields<'_, '_>) -> Vec<Arc<str>> {
    let mut hosts: Vec<Arc<str>> = Vec::new();
    for host in fields.texts("hosts", MAX_HOSTS) {
        if host.value.parse::<IpAddr>().is_ok() {
            fields.error(host.at, format!("host {:?} is an address", host.value), "addresses belong into cidrs");
        } else if !is_host_name(&host.value) {
            let message = format!("{:?} is not a host name", host.value);
            fields.error(host.at, message, "a DNS name in lower case, without wildcard, port or dot at the end");
        } else if !hosts.iter().any(|known| **known == *host.value) {
            hosts.push(host.value.into());
        }
    }
    hosts
}

fn networks(fields: &mut Fields<'_, '_>) -> Vec<Network> {
    let mut networks = Vec::new();
    for cidr in fields.texts("cidrs", MAX_CIDRS) {
        match Network::parse(&cidr.value) {
            Ok(network) if networks.contains(&network) => {}
            Ok(network) => networks.push(network),
            Err(malformed) => fields.error(cidr.at, malformed.message, malformed.help),
        }
    }
    networks
}

/// In the order of the file: the first one stands in the default audience.
fn ports(fields: &mut Fields<'_, '_>, may_be_none: bool) -> Vec<u16> {
    const HELP: &str = "ports = [443]; each from 1 to 65535";
    let given = fields.integers("ports", MAX_PORTS);
    if given.is_empty() && !may_be_none {
        fields.error(fields.at(), "the destination has no ports", HELP);
    }
    let mut ports = Vec::with_capacity(given.len());
    for port in given {
        match port.value.and_then(|number| u16::try_from(number).ok()) {
            Some(number) if number > 0 => ports.push(number),
            _ => fields.error(port.at, "port out of range", HELP),
        }
    }
    ports
}

fn labels(fields: &mut Fields<'_, '_>) -> Vec<Arc<str>> {
    let mut labels = BTreeSet::new();
    for label in fields.texts("labels", MAX_LABELS) {
        let fits = (1..=64).contains(&label.value.len())
            && label.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:/=".contains(&byte));
        if fits {
            labels.insert(label.value.into());
        } else {
            let message = format!("{:?} is not a label", label.value);
            fields.error(label.at, message, "1 to 64 letters, digits and . _ - : / =");
        }
    }
    labels.into_iter().collect()
}

/// Whether a text can be the audience of a token.
pub fn is_audience(text: &str) -> bool {
    (1..=MAX_AUDIENCE_BYTES).contains(&text.len())
        && text.chars().all(|character| !character.is_control() && !character.is_whitespace())
}

fn audience(fields: &mut Fields<'_, '_>, hosts: &[Arc<str>], ports: &[u16]) -> Option<Arc<str>> {
    const HELP: &str =
        "what the service expects in the token's aud, for example audience = \"https://reports.internal\"";
    if let Some(given) = fields.text("audience") {
        if is_audience(&given.value) {
            return Some(given.value.into());
        }
        let message = format!("the audience is empty, longer than {MAX_AUDIENCE_BYTES} bytes or has blanks in it");
        fields.error(given.at, message, HELP);
        return None;
    }
    match (hosts.first(), ports.first()) {
        (Some(host), Some(443)) => Some(format!("https://{host}").into()),
        (Some(host), Some(port)) => Some(format!("https://{host}:{port}").into()),
        (Some(_), None) => None,
        (None, _) => {
            fields.error(fields.at(), "the destination has neither a host nor an audience", HELP);
            None
        }
    }
}
