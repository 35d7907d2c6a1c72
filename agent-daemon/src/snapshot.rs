// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What operators wrote, as one immutable whole: registration entries, the catalog and the policies.
//!
//! A request takes one snapshot and uses it to its end, so a decision never mixes two versions. A reload
//! parses everything first and then swaps, or changes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use crate::credential::{Catalog, Destination};
use crate::diagnostic::{Diagnostic, SourceFile};
use crate::identity::{Entries, Federation, Issuer, TrustDomain};
use crate::policy::{self, Policies, PreparedDestination};

/// The files that make a snapshot, read by somebody else.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Registration entries.
    pub entries: Vec<SourceFile>,
    /// Destinations, sources and bindings.
    pub catalog: Vec<SourceFile>,
    /// Cedar policies.
    pub policies: Vec<SourceFile>,
}

/// One version of everything that can be reloaded.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts the versions of this run; caches are bound to it.
    pub number: u64,
    /// Who is who.
    pub entries: Entries,
    /// Where the trust bundles of others are fetched.
    pub federations: Vec<Federation>,
    /// Who says on whose behalf agents act.
    pub issuers: Vec<Arc<Issuer>>,
    /// Where to, and with what.
    pub catalog: Catalog,
    /// Who may.
    pub policies: Policies,
    destinations: HashMap<Arc<str>, PreparedDestination>,
}

impl Snapshot {
    /// Parses and checks everything.
    ///
    /// # Errors
    /// With every finding of every file; nothing is usable then.
    pub fn parse(number: u64, sources: &Sources, trust_domain: &TrustDomain) -> Result<Self, Vec<Diagnostic>> {
        let mut diagnostics = Vec::new();
        let mut keep = |found: Vec<Diagnostic>| diagnostics.extend(found);
        let entries = Entries::parse(&sources.entries, trust_domain).map_err(&mut keep).ok();
        // What is wrong with a file as a whole was found with the entries in it.
        let federations =
            entries.as_ref().and_then(|_| Federation::parse(&sources.entries, trust_domain).map_err(&mut keep).ok());
        let issuers = entries.as_ref().and_then(|_| Issuer::parse(&sources.entries).map_err(&mut keep).ok());
        let catalog = Catalog::parse(&sources.catalog, trust_domain).map_err(&mut keep).ok();
        let policies = Policies::parse(&sources.policies).map_err(&mut keep).ok();
        let (Some(entries), Some(federations), Some(issuers), Some(catalog), Some(policies)) =
            (entries, federations, issuers, catalog, policies)
        else {
            return Err(diagnostics);
        };
        let mut destinations = HashMap::new();
        for destination in catalog.destinations() {
            match PreparedDestination::new(&for_policy(destination)) {
                Ok(prepared) => {
                    destinations.insert(Arc::clone(&destination.name), prepared);
                }
                Err(error) => diagnostics.push(Diagnostic {
                    file: String::new(),
                    line: 0,
                    column: 0,
                    severity: crate::diagnostic::Severity::Error,
                    message: format!("destination {} cannot be put to policy: {error}", destination.name),
                    help: None,
                }),
            }
        }
        if diagnostics.is_empty() {
            let issuers = issuers.into_iter().map(Arc::new).collect();
            Ok(Self { number, entries, federations, issuers, catalog, policies, destinations })
        } else {
            Err(diagnostics)
        }
    }

    /// A destination, ready for policy.
    pub fn destination(&self, name: &str) -> Option<&PreparedDestination> {
        self.destinations.get(name)
    }

    /// The destinations as policies see them, in the order of the files.
    pub fn policy_destinations(&self) -> Vec<policy::Destination> {
        self.catalog.destinations().iter().map(|destination| for_policy(destination)).collect()
    }
}

fn for_policy(destination: &Destination) -> policy::Destination {
    let words = |words: &[Arc<str>]| words.iter().map(ToString::to_string).collect();
    policy::Destination {
        name: destination.name.to_string(),
        audience: destination.audience.to_string(),
        hosts: words(&destination.hosts),
        ports: destination.ports.clone(),
        mode: destination.mode.as_str().to_owned(),
        labels: words(&destination.labels),
        groups: Vec::new(),
    }
}
