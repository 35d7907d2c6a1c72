// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every declared destination, source and binding, as one immutable value that is swapped whole.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

use super::{
    binding::{Binding, Delivery, References, keys_of},
    destination::{Destination, name},
    fields::Fields,
    resolve::MAX_NAMES,
    source::{CredentialType, Source},
};
use crate::{
    diagnostic::{Diagnostic, SourceFile},
    identity::{SpiffeId, TrustDomain},
    process::Protocol,
};

/// Tables of one kind in all files together.
pub const MAX_TABLES: usize = 4096;
/// Findings that are reported; a file that is no configuration at all must not fill the log.
const MAX_DIAGNOSTICS: usize = 256;

/// What the operator declared.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    destinations: Vec<Arc<Destination>>,
    sources: Vec<Arc<Source>>,
    bindings: Vec<Arc<Binding>>,
    by_name: HashMap<Arc<str>, Arc<Destination>>,
    by_port: HashMap<(Protocol, u16), Vec<Arc<Destination>>>,
    /// By destination, then by [`super::binding::IdentityPattern::key`]: places in `bindings`.
    by_identity: HashMap<Arc<str>, HashMap<Box<str>, Vec<usize>>>,
    /// Those of the Workload API, by the same key.
    over_workload_api: HashMap<Box<str>, Vec<usize>>,
    by_audience: HashMap<Arc<str>, Vec<Arc<Destination>>>,
}

impl Catalog {
    /// Reads all files as one set.
    ///
    /// # Errors
    /// Everything that is wrong with them; then nothing of them is used.
    pub fn parse(files: &[SourceFile], trust_domain: &TrustDomain) -> Result<Self, Vec<Diagnostic>> {
        let mut report = Vec::new();
        let mut documents = Vec::new();
        // An unreadable file may hold the names that others refer to: then missing names are no finding.
        let mut readable = true;
        for file in files {
            let (table, errors) = DeTable::parse_recoverable(&file.text);
            if errors.is_empty() {
                documents.push(Document::new(file, table, &mut report));
            } else {
                readable = false;
                report.extend(errors.iter().take(MAX_DIAGNOSTICS).map(|error| syntax(file, error)));
            }
        }
        let destinations = declared(&mut documents, Kind::Destination, &mut report, Destination::parse);
        let sources = declared(&mut documents, Kind::Source, &mut report, Source::parse);
        let mut bindings: HashMap<Arc<str>, Option<Arc<Binding>>> = HashMap::new();
        let mut order = Vec::new();
        each(&mut documents, Kind::Binding, &mut report, |mut fields| {
            let name = fresh(&mut fields, &bindings);
            let references = References {
                name: name.clone(),
                destination: refer(&mut fields, "destination", &destinations, readable),
                source: refer(&mut fields, "source", &sources, readable),
            };
            let binding = Binding::parse(fields, references, trust_domain).map(Arc::new);
            order.extend(binding.clone());
            bindings.extend(name.map(|name| (name, binding)));
        });
        let catalog = Self::index(destinations.order, sources.order, order);
        catalog.check_host_count(files, &mut report);
        if report.is_empty() {
            return Ok(catalog);
        }
        report.truncate(MAX_DIAGNOSTICS);
        Err(report)
    }

    fn index(destinations: Vec<Arc<Destination>>, sources: Vec<Arc<Source>>, bindings: Vec<Arc<Binding>>) -> Self {
        let mut catalog = Self { sources, ..Self::default() };
        for destination in &destinations {
            catalog.by_name.insert(Arc::clone(&destination.name), Arc::clone(destination));
            let same = catalog.by_audience.entry(Arc::clone(&destination.audience)).or_default();
            same.push(Arc::clone(destination));
            for port in &destination.ports {
                catalog.by_port.entry((destination.protocol, *port)).or_default().push(Arc::clone(destination));
            }
        }
        for (place, binding) in bindings.iter().enumerate() {
            let identities = catalog.by_identity.entry(Arc::clone(&binding.destination.name)).or_default();
            for identity in &binding.identities {
                identities.entry(identity.key().into()).or_default().push(place);
                if binding.delivery == Delivery::WorkloadApi {
                    catalog.over_workload_api.entry(identity.key().into()).or_default().push(place);
                }
            }
        }
        catalog.destinations = destinations;
        catalog.bindings = bindings;
        catalog
    }

    /// The resolver keeps every declared name at once; more would push each other out.
    fn check_host_count(&self, files: &[SourceFile], report: &mut Vec<Diagnostic>) {
        let hosts: BTreeSet<_> = self.destinations.iter().flat_map(|destination| &destination.hosts).collect();
        if let (true, Some(file)) = (hosts.len() > MAX_NAMES, files.last()) {
            let message = format!("{} different hosts are declared", hosts.len());
            report.push(Diagnostic::error_at(file, 0, message).with_help(format!("at most {MAX_NAMES}; use cidrs")));
        }
    }

    /// The destination of this name.
    pub fn destination(&self, name: &str) -> Option<&Arc<Destination>> {
        self.by_name.get(name)
    }

    /// The bindings that give this identity something for this destination, in the order of the files; with a way or a
    /// name only those of that way and name.
    pub fn bindings_for(
        &self,
        destination: &str,
        id: &SpiffeId,
        delivery: Option<Delivery>,
        name: Option<&str>,
    ) -> Vec<&Arc<Binding>> {
        let Some(identities) = self.by_identity.get(destination) else { return Vec::new() };
        let bindings = self.at(identities, id).filter(|binding| delivery.is_none_or(|way| binding.delivery == way));
        bindings.filter(|binding| name.is_none_or(|name| *binding.name == *name)).collect()
    }

    /// The binding that gives this identity its SVID of this type over the Workload API: the first of the files.
    pub fn svid_binding(&self, id: &SpiffeId, kind: CredentialType) -> Option<&Arc<Binding>> {
        self.at(&self.over_workload_api, id).find(|binding| binding.source.credential_type() == kind)
    }

    /// The binding that gives this identity a token of this type for this audience in this way: one for a destination that
    /// has it, or else one for a destination that takes any.
    pub fn token_binding(
        &self,
        id: &SpiffeId,
        audience: &str,
        delivery: Delivery,
        kind: CredentialType,
    ) -> Option<&Arc<Binding>> {
        let over = |destination: &Arc<Destination>| {
            let bindings = self.bindings_for(&destination.name, id, Some(delivery), None);
            bindings.into_iter().find(|binding| binding.source.credential_type() == kind)
        };
        match self.by_audience.get(audience) {
            // A destination that is declared is not reached around its own bindings.
            Some(destinations) => destinations.iter().find_map(over),
            None => self.destinations.iter().filter(|destination| destination.takes_any_audience()).find_map(over),
        }
    }

    /// The destination that a token for this audience would be for.
    pub fn destination_of(&self, audience: &str) -> Option<&Arc<Destination>> {
        let declared = self.by_audience.get(audience).and_then(|destinations| destinations.first());
        declared.or_else(|| self.destinations.iter().find(|destination| destination.takes_any_audience()))
    }

    fn at<'a>(
        &'a self,
        index: &'a HashMap<Box<str>, Vec<usize>>,
        id: &SpiffeId,
    ) -> impl Iterator<Item = &'a Arc<Binding>> {
        let places: BTreeSet<usize> = keys_of(id).filter_map(|key| index.get(key)).flatten().copied().collect();
        places.into_iter().filter_map(|place| self.bindings.get(place))
    }

    /// The destinations that list this port and transport, in the order of the files.
    pub fn destinations_on(&self, port: u16, protocol: Protocol) -> &[Arc<Destination>] {
        self.by_port.get(&(protocol, port)).map_or(&[], Vec::as_slice)
    }

    /// The destinations that list this address by CIDR. For display; [`super::address`] knows host names too.
    pub fn destinations_for_address(&self, address: IpAddr, port: u16, protocol: Protocol) -> Vec<&Arc<Destination>> {
        let listed = self.destinations_on(port, protocol).iter();
        listed.filter(|destination| destination.networks.iter().any(|network| network.contains(address))).collect()
    }

    /// All destinations, in the order of the files.
    pub fn destinations(&self) -> &[Arc<Destination>] {
        &self.destinations
    }

    /// All sources, in the order of the files.
    pub fn sources(&self) -> &[Arc<Source>] {
        &self.sources
    }

    /// All bindings, in the order of the files.
    pub fn bindings(&self) -> &[Arc<Binding>] {
        &self.bindings
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Destination,
    Source,
    Binding,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Destination => "destination",
            Self::Source => "source",
            Self::Binding => "binding",
        }
    }
}

/// One file, taken apart into its arrays of tables.
struct Document<'f> {
    file: &'f SourceFile,
    destinations: DeArray<'f>,
    sources: DeArray<'f>,
    bindings: DeArray<'f>,
}

impl<'f> Document<'f> {
    fn new(file: &'f SourceFile, table: Spanned<DeTable<'f>>, report: &mut Vec<Diagnostic>) -> Self {
        let mut document =
            Self { file, destinations: DeArray::new(), sources: DeArray::new(), bindings: DeArray::new() };
        for (key, value) in table.into_inner() {
            let array = match key.get_ref().as_ref() {
                "destination" => &mut document.destinations,
                "source" => &mut document.sources,
                "binding" => &mut document.bindings,
                unknown => {
                    let message = format!("unknown field {unknown:?}");
                    let help = "a file has [[destination]], [[source]] and [[binding]]";
                    report.push(Diagnostic::error_at(file, key.span().start, message).with_help(help));
                    continue;
                }
            };
            let at = value.span().start;
            match value.into_inner() {
                DeValue::Array(tables) => *array = tables,
                other => {
                    let message = format!("{} is {}, expected an array of tables", key.get_ref(), other.type_str());
                    let help = format!("write [[{}]]", key.get_ref());
                    report.push(Diagnostic::error_at(file, at, message).with_help(help));
                }
            }
        }
        document
    }

    fn take(&mut self, kind: Kind) -> DeArray<'f> {
        let tables = match kind {
            Kind::Destination => &mut self.destinations,
            Kind::Source => &mut self.sources,
            Kind::Binding => &mut self.bindings,
        };
        std::mem::replace(tables, DeArray::new())
    }
}

/// What was declared under each name. [`None`] is a name whose table has errors: it is known, and of no use.
struct Declared<T> {
    kind: Kind,
    by_name: HashMap<Arc<str>, Option<Arc<T>>>,
    order: Vec<Arc<T>>,
}

fn declared<'f, T>(
    documents: &mut [Document<'f>],
    kind: Kind,
    report: &mut Vec<Diagnostic>,
    parse: impl Fn(Fields<'_, 'f>, Option<Arc<str>>) -> Option<T>,
) -> Declared<T> {
    let mut declared = Declared { kind, by_name: HashMap::new(), order: Vec::new() };
    each(documents, kind, report, |mut fields| {
        let name = fresh(&mut fields, &declared.by_name);
        let parsed = parse(fields, name.clone()).map(Arc::new);
        declared.order.extend(parsed.clone());
        declared.by_name.extend(name.map(|name| (name, parsed)));
    });
    declared
}

fn each<'f>(
    documents: &mut [Document<'f>],
    kind: Kind,
    report: &mut Vec<Diagnostic>,
    mut visit: impl FnMut(Fields<'_, 'f>),
) {
    let mut count: usize = 0;
    for document in documents {
        for value in document.take(kind) {
            if report.len() >= MAX_DIAGNOSTICS {
                return;
            }
            count = count.saturating_add(1);
            if count > MAX_TABLES {
                let message = format!("more than {MAX_TABLES} of [[{}]]", kind.as_str());
                report.push(Diagnostic::error_at(document.file, value.span().start, message));
                return;
            }
            if let Some(fields) = Fields::new(document.file, kind.as_str(), value, report) {
                visit(fields);
            }
        }
    }
}

/// The table's name, unless another table has it.
fn fresh<T>(fields: &mut Fields<'_, '_>, known: &HashMap<Arc<str>, T>) -> Option<Arc<str>> {
    let name = name(fields)?;
    if known.contains_key(&name.value) {
        fields.error(name.at, format!("{:?} is declared twice", name.value), "names are unique over all files");
        return None;
    }
    Some(name.value)
}

fn refer<T>(fields: &mut Fields<'_, '_>, key: &'static str, declared: &Declared<T>, complete: bool) -> Option<Arc<T>> {
    let kind = declared.kind.as_str();
    let given = fields.required_text(key, &format!("{key} = the name of a [[{kind}]]"))?;
    match declared.by_name.get(given.value.as_str()) {
        Some(found) => found.clone(),
        None => {
            if complete {
                let known: BTreeSet<_> = declared.by_name.keys().map(AsRef::as_ref).collect();
                let shown: Vec<&str> = known.iter().copied().take(8).collect();
                let more = if known.len() > shown.len() { ", …" } else { "" };
                let help = match shown.is_empty() {
                    true => format!("no {kind} is declared"),
                    false => format!("declared are: {}{more}", shown.join(", ")),
                };
                fields.error(given.at, format!("unknown {kind} {:?}", given.value), help);
            }
            None
        }
    }
}

fn syntax(file: &SourceFile, error: &toml::de::Error) -> Diagnostic {
    let message = format!("not TOML: {}", error.message().replace('\n', ", "));
    Diagnostic::error_at(file, error.span().map_or(0, |span| span.start), message)
}

#[cfg(test)]
mod tests;
