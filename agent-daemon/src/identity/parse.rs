// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Registration entries from TOML. Reports everything that is wrong in all files at once.

use std::collections::HashMap;
use std::path::{Component, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use super::{
    Allowed, AnyOf, Entries, Entry, EntryId, IdentityKind, ImageRule, KNOWN_SELECTORS, MAX_NAME_BYTES, RESERVED_PATH,
    Selector, SpiffeId, TreeSettings, TrustDomain, document, is_host_name, is_name,
    selector::{Weight, find_known},
};
use crate::diagnostic::{Diagnostic, SourceFile, position};
use crate::process::Verdict;

/// Most entries in a set: each is looked at when a denial is explained.
pub const MAX_ENTRIES: usize = 10_000;
/// Most selectors of an entry.
pub const MAX_SELECTORS: usize = 32;
/// Most alternatives of one selector.
pub const MAX_ALTERNATIVES: usize = 64;
/// Most groups of an entry.
pub const MAX_GROUPS: usize = 32;
/// Most DNS names of an entry.
pub const MAX_DNS_NAMES: usize = 16;
/// Most foreign trust domains of an entry.
pub const MAX_FEDERATES_WITH: usize = 32;
const MAX_HINT_BYTES: usize = 128;
const MAX_PROGRAMS: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryTable {
    id: Spanned<String>,
    spiffe_id: Spanned<String>,
    kind: Spanned<String>,
    selectors: Spanned<Vec<Spanned<SelectorValue>>>,
    #[serde(default)]
    groups: Vec<Spanned<String>>,
    #[serde(default)]
    accept_claimed: bool,
    #[serde(default = "yes")]
    seeded: bool,
    hint: Option<Spanned<String>>,
    #[serde(default)]
    dns_names: Vec<Spanned<String>>,
    #[serde(default)]
    federates_with: Vec<Spanned<String>>,
    egress: Option<Spanned<EgressTable>>,
    exec: Option<Spanned<ExecTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EgressTable {
    mode: EgressMode,
    #[serde(default)]
    pending: VerdictText,
    #[serde(default)]
    undeclared: VerdictText,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExecTable {
    mode: EgressMode,
    programs: Spanned<Vec<Spanned<ProgramValue>>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a path, or { path = \"...\", sha256 = \"...\" }")]
enum ProgramValue {
    Path(String),
    Measured(MeasuredProgram),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MeasuredProgram {
    path: String,
    sha256: String,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum EgressMode {
    Enforce,
    Audit,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum VerdictText {
    Allow,
    Audit,
    #[default]
    Deny,
}

impl From<EgressTable> for TreeSettings {
    fn from(table: EgressTable) -> Self {
        let verdict = |text: VerdictText| match text {
            VerdictText::Allow => Verdict::Allow,
            VerdictText::Audit => Verdict::Audit,
            VerdictText::Deny => Verdict::Deny,
        };
        Self {
            is_audit: table.mode == EgressMode::Audit,
            pending: verdict(table.pending),
            undeclared: verdict(table.undeclared),
            images: ImageRule::Any,
        }
    }
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a selector (type:value) or a list of alternative selectors")]
enum SelectorValue {
    One(String),
    Any(Vec<String>),
}

impl Entries {
    /// Reads `[[entry]]` tables from files that somebody else has read.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the files. Then there is no set at all.
    pub fn parse(files: &[SourceFile], trust_domain: &TrustDomain) -> Result<Self, Vec<Diagnostic>> {
        let mut parser = Parser { trust_domain, seen: HashMap::new(), diagnostics: Vec::new() };
        let mut entries = Vec::new();
        for file in files {
            let reported = parser.diagnostics.len();
            for table in document::tables::<EntryTable>(
                file,
                "entry",
                &["entry", "federation", "issuer"],
                &mut parser.diagnostics,
            ) {
                let offset = table.span().start;
                if entries.len() == MAX_ENTRIES {
                    let message = format!("more than {MAX_ENTRIES} entries");
                    parser.diagnostics.push(Diagnostic::error_at(file, offset, message));
                    return Err(parser.diagnostics);
                }
                entries.extend(parser.entry(file, table.into_inner()));
            }
            if let Some(of_this_file) = parser.diagnostics.get_mut(reported..) {
                of_this_file.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
            }
        }
        if parser.diagnostics.is_empty() { Ok(Self::new(entries)) } else { Err(parser.diagnostics) }
    }
}

struct Parser<'a> {
    trust_domain: &'a TrustDomain,
    // Where an id was first used. Turned into a line only when asked: that is a scan of the file.
    seen: HashMap<String, (&'a SourceFile, usize)>,
    diagnostics: Vec<Diagnostic>,
}

impl<'a> Parser<'a> {
    fn report(&mut self, file: &SourceFile, offset: usize, message: String, help: impl Into<String>) {
        self.diagnostics.push(Diagnostic::error_at(file, offset, message).with_help(help));
    }

    /// Nothing when anything is wrong with it; what is wrong has been reported.
    fn entry(&mut self, file: &'a SourceFile, table: EntryTable) -> Option<Entry> {
        // Every part is looked at before any is given up on, so that all errors are reported.
        let id = self.id(file, &table.id);
        let spiffe_id = self.spiffe_id(file, &table.spiffe_id);
        let kind = self.kind(file, &table.kind);
        let selectors = self.selectors(file, table.selectors);
        let groups = self.groups(file, table.groups);
        let hint = self.hint(file, table.hint);
        let dns_names = self.dns_names(file, table.dns_names);
        let federates_with = self.federates_with(file, table.federates_with);
        let governed = self.governed(file, table.egress, table.exec);
        let (governs, programs) = governed?;
        Some(Entry {
            id: id?,
            spiffe_id: spiffe_id?,
            kind: kind?,
            selectors: selectors?,
            groups: groups?,
            accept_claimed: table.accept_claimed,
            seeded: table.seeded,
            hint: hint?,
            dns_names: dns_names?,
            federates_with: federates_with?,
            governs,
            programs,
        })
    }

    fn governed(
        &mut self,
        file: &SourceFile,
        egress: Option<Spanned<EgressTable>>,
        exec: Option<Spanned<ExecTable>>,
    ) -> Option<(Option<TreeSettings>, Vec<Allowed>)> {
        let mut governs = egress.map(|table| TreeSettings::from(table.into_inner()));
        let Some(exec) = exec else { return Some((governs, Vec::new())) };
        let at = exec.span().start;
        let ExecTable { mode, programs } = exec.into_inner();
        let Some(settings) = &mut governs else {
            let help = "add egress, for example egress = { mode = \"audit\" }: it makes the tree";
            self.report(file, at, "exec without egress".to_owned(), help);
            return None;
        };
        settings.images = if mode == EgressMode::Audit { ImageRule::Audited } else { ImageRule::Listed };
        let listed_at = programs.span().start;
        let programs = programs.into_inner();
        if programs.is_empty() || programs.len() > MAX_PROGRAMS {
            let message = format!("{} programs", programs.len());
            self.report(file, listed_at, message, format!("list 1 to {MAX_PROGRAMS}, or directories (\"/usr/bin/\")"));
            return None;
        }
        let allowed: Vec<Option<Allowed>> = programs.into_iter().map(|program| self.program(file, program)).collect();
        allowed.into_iter().collect::<Option<Vec<_>>>().map(|allowed| (governs, allowed))
    }

    fn program(&mut self, file: &SourceFile, program: Spanned<ProgramValue>) -> Option<Allowed> {
        let at = program.span().start;
        let (text, sha256) = match program.into_inner() {
            ProgramValue::Path(path) => (path, None),
            ProgramValue::Measured(MeasuredProgram { path, sha256 }) => (path, Some(sha256)),
        };
        let path = PathBuf::from(&text);
        let is_plain = path.components().all(|one| matches!(one, Component::RootDir | Component::Normal(_)));
        if !path.is_absolute() || !is_plain || text.contains("/./") {
            self.report(file, at, format!("{text:?} is not an absolute path"), "for example \"/usr/bin/python3\"");
            return None;
        }
        if let Some(sha256) = &sha256
            && !(sha256.len() == 64 && sha256.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')))
        {
            let help = "64 lower-case hexadecimal digits, as sha256sum prints them";
            self.report(file, at, format!("{sha256:?} is not a SHA-256"), help);
            return None;
        }
        match (text.ends_with('/'), sha256) {
            (true, Some(_)) => {
                self.report(file, at, format!("{text:?} is a directory, which has no hash"), "name the file");
                None
            }
            (true, None) => Some(Allowed::Directory(path)),
            (false, sha256) => Some(Allowed::File { path, sha256: sha256.map(String::into_boxed_str) }),
        }
    }

    fn id(&mut self, file: &'a SourceFile, id: &Spanned<String>) -> Option<EntryId> {
        let text = id.get_ref();
        let at = id.span().start;
        if !is_name(text) {
            let help = format!("use 1 to {MAX_NAME_BYTES} letters, digits and . _ - / # :");
            self.report(file, at, format!("{text:?} is not an id"), help);
            return None;
        }
        if let Some((first, offset)) = self.seen.get(text) {
            let (line, _) = position(&first.text, *offset);
            let help = format!("it is used first in {}:{line}; ids are unique across all files", first.name);
            self.report(file, at, format!("duplicate id {text:?}"), help);
            return None;
        }
        self.seen.insert(text.clone(), (file, at));
        Some(EntryId(text.as_str().into()))
    }

    fn spiffe_id(&mut self, file: &SourceFile, spiffe_id: &Spanned<String>) -> Option<SpiffeId> {
        let at = spiffe_id.span().start;
        let example = format!("for example spiffe://{}/agent/mail", self.trust_domain);
        match spiffe_id.get_ref().parse::<SpiffeId>() {
            Err(error) => self.report(file, at, error.to_string(), example),
            Ok(id) if id.trust_domain() != self.trust_domain => {
                let message = format!("trust domain {} is not this node's", id.trust_domain());
                let help = format!("entries name identities of {}", self.trust_domain);
                self.report(file, at, message, help);
            }
            Ok(id) if id.path().is_empty() => {
                self.report(file, at, "the SPIFFE ID has no path".into(), example);
            }
            Ok(id) if id.path() == RESERVED_PATH.trim_end_matches('/') || id.path().starts_with(RESERVED_PATH) => {
                self.report(file, at, format!("names below {RESERVED_PATH} are the daemon's own"), example);
            }
            Ok(id) => return Some(id),
        }
        None
    }

    fn kind(&mut self, file: &SourceFile, kind: &Spanned<String>) -> Option<IdentityKind> {
        let parsed = kind.get_ref().parse::<IdentityKind>();
        if parsed.is_err() {
            let message = format!("unknown kind {:?}", kind.get_ref());
            self.report(file, kind.span().start, message, "one of agent, component, tool, workload");
        }
        parsed.ok()
    }

    fn selectors(&mut self, file: &SourceFile, listed: Spanned<Vec<Spanned<SelectorValue>>>) -> Option<Vec<AnyOf>> {
        let at = listed.span().start;
        let listed = listed.into_inner();
        if listed.is_empty() {
            let help = "an entry without selectors would match every process";
            self.report(file, at, "selectors is empty".into(), help);
            return None;
        }
        if listed.len() > MAX_SELECTORS {
            let help = format!("at most {MAX_SELECTORS}");
            self.report(file, at, format!("{} selectors are too many", listed.len()), help);
            return None;
        }
        let mut all = Vec::new();
        let mut complete = true;
        let mut identifying = false;
        for value in listed {
            let at = value.span().start;
            let alternatives = match value.into_inner() {
                SelectorValue::One(one) => vec![one],
                SelectorValue::Any(any) => any,
            };
            if alternatives.is_empty() || alternatives.len() > MAX_ALTERNATIVES {
                let message = format!("{} alternatives", alternatives.len());
                self.report(file, at, message, format!("a list of alternatives holds 1 to {MAX_ALTERNATIVES}"));
                complete = false;
                continue;
            }
            let mut any = Vec::new();
            let mut weights = Vec::new();
            for text in &alternatives {
                match self.selector(file, at, text) {
                    Some((selector, weight)) => {
                        any.push(selector);
                        weights.push(weight);
                    }
                    None => complete = false,
                }
            }
            identifying |= !weights.is_empty() && weights.iter().all(|weight| *weight == Weight::Identifying);
            all.push(AnyOf(any));
        }
        if complete && !identifying {
            let help = "add one of unix:sha256, script:sha256, unix:uid, cgroup:path, lineage:spiffe_id";
            self.report(file, at, "a path or a flag alone does not identify a program".into(), help);
            return None;
        }
        complete.then_some(all)
    }

    fn selector(&mut self, file: &SourceFile, at: usize, text: &str) -> Option<(Selector, Weight)> {
        let selector = match text.parse::<Selector>() {
            Ok(selector) => selector,
            Err(error) => {
                self.report(file, at, format!("{error}, not {text:?}"), known_kinds());
                return None;
            }
        };
        let Some(known) = find_known(&selector) else {
            self.report(file, at, format!("unknown selector {:?}", selector.kind()), known_kinds());
            return None;
        };
        if let Err(problem) = known.form.check(selector.value(), self.trust_domain) {
            self.diagnostics.push(Diagnostic::error_at(file, at, format!("{}: {problem}", known.kind)));
            return None;
        }
        Some((selector, known.weight))
    }

    fn groups(&mut self, file: &SourceFile, listed: Vec<Spanned<String>>) -> Option<Vec<Arc<str>>> {
        if let Some(group) = listed.get(MAX_GROUPS) {
            let message = format!("{} groups are too many", listed.len());
            self.report(file, group.span().start, message, format!("at most {MAX_GROUPS}"));
            return None;
        }
        let mut groups: Vec<Arc<str>> = Vec::new();
        let mut complete = true;
        for group in listed {
            let text = group.get_ref();
            if is_name(text) {
                groups.push(text.as_str().into());
            } else {
                let help = format!("use 1 to {MAX_NAME_BYTES} letters, digits and . _ - / # :");
                self.report(file, group.span().start, format!("{text:?} is not a group's name"), help);
                complete = false;
            }
        }
        groups.sort_unstable();
        groups.dedup();
        complete.then_some(groups)
    }

    fn hint(&mut self, file: &SourceFile, hint: Option<Spanned<String>>) -> Option<Option<Arc<str>>> {
        let Some(hint) = hint else { return Some(None) };
        let text = hint.get_ref();
        if (1..=MAX_HINT_BYTES).contains(&text.len()) && !text.chars().any(char::is_control) {
            return Some(Some(text.as_str().into()));
        }
        let message = "the hint is empty, too long or holds a control character".into();
        self.report(file, hint.span().start, message, format!("1 to {MAX_HINT_BYTES} bytes"));
        None
    }

    fn dns_names(&mut self, file: &SourceFile, listed: Vec<Spanned<String>>) -> Option<Vec<Arc<str>>> {
        let mut names: Vec<Arc<str>> = Vec::new();
        let mut complete = listed.len() <= MAX_DNS_NAMES;
        if let Some(name) = listed.get(MAX_DNS_NAMES) {
            let message = format!("{} dns_names are too many", listed.len());
            self.report(file, name.span().start, message, format!("at most {MAX_DNS_NAMES}"));
        }
        for name in listed {
            let text = name.get_ref();
            if is_host_name(text) {
                names.push(text.as_str().into());
            } else {
                let help = "a name in lower case, without wildcard and dot at the end";
                self.report(file, name.span().start, format!("{text:?} is not a DNS name"), help);
                complete = false;
            }
        }
        complete.then_some(names)
    }

    fn federates_with(&mut self, file: &SourceFile, listed: Vec<Spanned<String>>) -> Option<Vec<TrustDomain>> {
        let mut domains: Vec<TrustDomain> = Vec::new();
        let mut complete = listed.len() <= MAX_FEDERATES_WITH;
        if let Some(domain) = listed.get(MAX_FEDERATES_WITH) {
            let message = format!("{} federates_with are too many", listed.len());
            self.report(file, domain.span().start, message, format!("at most {MAX_FEDERATES_WITH}"));
        }
        for domain in listed {
            match domain.get_ref().parse::<TrustDomain>() {
                Ok(foreign) if foreign != *self.trust_domain => domains.push(foreign),
                Ok(_) => {
                    let help = "name foreign trust domains only";
                    self.report(file, domain.span().start, "this is the own trust domain".into(), help);
                    complete = false;
                }
                Err(error) => {
                    self.report(file, domain.span().start, error.to_string(), "for example partner.example");
                    complete = false;
                }
            }
        }
        complete.then_some(domains)
    }
}

fn known_kinds() -> String {
    let kinds: Vec<&str> = KNOWN_SELECTORS.iter().map(|known| known.kind).collect();
    format!("known selectors are {}", kinds.join(", "))
}
