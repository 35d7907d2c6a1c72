// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whether an observed connection leads to a declared destination.
//!
//! The kernel sees an address, policy speaks names. The caller declares the name; here the name is held against the
//! address, by the destination's CIDRs or by our own look-up of its hosts.

use std::{
    fmt,
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::Poll,
};

use tokio::time::Instant;

use super::{
    Error,
    catalog::Catalog,
    destination::Destination,
    network::Network,
    resolve::{Addresses, CachingResolver},
};
use crate::process::{Connection, Protocol};

/// Addresses, networks or ports that one explanation names.
const SHOWN: usize = 8;

/// Where a connection leads, as the kernel saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    address: IpAddr,
    port: u16,
    protocol: Protocol,
}

/// What ties a connection to its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matched {
    /// The address is in one of the destination's ranges.
    Cidr(Network),
    /// We resolved one of the destination's hosts to the address.
    Resolved {
        /// Which.
        host: Arc<str>,
    },
}

impl Matched {
    /// The word in policy and audit.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Cidr(_) => "cidr",
            Self::Resolved { .. } => "resolved",
        }
    }
}

/// Why a connection is not one to the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// What the destination is.
    pub expected: String,
    /// What the connection is.
    pub actual: String,
}

/// The outcome of [`evaluate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It leads there.
    Matched(Matched),
    /// It does not.
    Mismatch(Mismatch),
}

impl Observed {
    /// A v4-mapped address becomes the IPv4 address it stands for.
    pub fn new(remote: SocketAddr, protocol: Protocol) -> Self {
        Self { address: remote.ip().to_canonical(), port: remote.port(), protocol }
    }

    /// The address, never v4-mapped.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The transport.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remote = SocketAddr::new(self.address, self.port);
        match self.protocol {
            Protocol::TCP | Protocol::UDP => write!(f, "{} {remote}", self.protocol),
            other => write!(f, "protocol {other} {remote}"),
        }
    }
}

impl From<&Connection> for Observed {
    fn from(connection: &Connection) -> Self {
        Self::new(connection.remote, connection.protocol)
    }
}

/// Holds a connection against a destination; may wait for look-ups, all at once.
///
/// # Errors
/// Nothing matched and a host could not be resolved: it is not known whether the connection leads there.
pub async fn evaluate(
    observed: Observed,
    destination: &Destination,
    resolver: &CachingResolver,
) -> Result<Verdict, Error> {
    if !on_port(observed, destination) {
        return Ok(mismatch(observed, destination, &[]));
    }
    if let Some(network) = destination.networks.iter().find(|network| network.contains(observed.address)) {
        return Ok(Verdict::Matched(Matched::Cidr(*network)));
    }
    let mut answers = Vec::with_capacity(destination.hosts.len());
    let mut unknown = Vec::new();
    let now = Instant::now();
    for host in &destination.hosts {
        match resolver.known(host, now) {
            Some(answer) => answers.push((host, answer)),
            None => unknown.push((host, Box::pin(resolver.addresses(host)))),
        }
    }
    if let Some(matched) = resolved(observed, &answers) {
        return Ok(Verdict::Matched(matched));
    }
    poll_fn(|cx| {
        unknown.retain_mut(|(host, lookup)| match lookup.as_mut().poll(cx) {
            Poll::Ready(answer) => {
                answers.push((*host, answer));
                false
            }
            Poll::Pending => true,
        });
        if unknown.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    if let Some(matched) = resolved(observed, &answers) {
        return Ok(Verdict::Matched(matched));
    }
    let mut known = Vec::with_capacity(answers.len());
    for (host, answer) in answers {
        known.push((host, answer?));
    }
    Ok(mismatch(observed, destination, &known))
}

/// The declared destinations a connection belongs to, as far as that is known without a look-up. For display.
pub fn declared<'a>(observed: Observed, catalog: &'a Catalog, resolver: &CachingResolver) -> Vec<&'a Arc<Destination>> {
    let leads_there = |destination: &&Arc<Destination>| {
        destination.networks.iter().any(|network| network.contains(observed.address))
            || destination
                .hosts
                .iter()
                .any(|host| resolver.cached(host).is_some_and(|addresses| addresses.contains(&observed.address)))
    };
    catalog.destinations_on(observed.port, observed.protocol).iter().filter(leads_there).collect()
}

fn on_port(observed: Observed, destination: &Destination) -> bool {
    observed.protocol == destination.protocol && destination.ports.contains(&observed.port)
}

fn resolved(observed: Observed, answers: &[(&Arc<str>, Result<Addresses, Error>)]) -> Option<Matched> {
    let mut found = answers
        .iter()
        .filter(|(_, answer)| answer.as_ref().is_ok_and(|addresses| addresses.contains(&observed.address)));
    found.next().map(|(host, _)| Matched::Resolved { host: Arc::clone(host) })
}

fn mismatch(observed: Observed, destination: &Destination, known: &[(&Arc<str>, Addresses)]) -> Verdict {
    let ports = listed(destination.ports.iter().map(ToString::to_string));
    let mut places: Vec<String> = destination.networks.iter().map(ToString::to_string).collect();
    for host in &destination.hosts {
        places.push(match known.iter().find(|(name, _)| *name == host) {
            Some((_, addresses)) => format!("{host} ({})", listed(addresses.iter().map(ToString::to_string))),
            None => host.to_string(),
        });
    }
    let at = if places.is_empty() { "no declared address".to_owned() } else { listed(places.into_iter()) };
    let expected = format!("{} port {ports} at {at}", destination.protocol);
    Verdict::Mismatch(Mismatch { expected, actual: observed.to_string() })
}

fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(SHOWN);
    let shown: Vec<String> = items.take(SHOWN).collect();
    let mut text = shown.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests;
