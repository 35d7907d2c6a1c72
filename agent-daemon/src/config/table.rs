// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One list of keys gives the struct, its defaults, its reader and its documentation, so that they cannot differ.
//!
//! A derived deserializer stops at its first error; an operator wants them all in one run. So the tables are walked
//! key by key, and a key that is not listed is an error.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::Setting;
use crate::diagnostic::{Diagnostic, SourceFile};

/// Findings that are reported; a file that is no configuration at all must not fill the log.
pub(super) const MAX_DIAGNOSTICS: usize = 256;

/// A table of settings.
pub(super) trait Section: Default {
    /// Takes what the file says.
    fn read(&mut self, fields: &mut Fields<'_, '_>);
    /// As TOML under this name (none for the file itself), every key with its documentation.
    fn write(&self, name: &str, out: &mut String);
}

/// Declares a [`Section`]: keys first, then tables of their own. The example stands in for a default that there is
/// not.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        struct $name:ident {
            $($(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr $(, example $example:literal)?;)*
            $(table $table:ident: $section:ty;)*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq)]
        pub(super) struct $name {
            $($(#[doc = $doc])+ pub(super) $key: $type,)*
            $(pub(super) $table: $section,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* $($table: <$section>::default(),)* }
            }
        }

        impl $crate::config::table::Section for $name {
            fn read(&mut self, fields: &mut $crate::config::table::Fields<'_, '_>) {
                $(fields.value(stringify!($key), &mut self.$key, &[$($example)?]);)*
                $(fields.table(stringify!($table), &mut self.$table);)*
                fields.finish();
            }

            fn write(&self, name: &str, out: &mut String) {
                $crate::config::table::write_about(out, &[$($about),+]);
                $crate::config::table::write_name(out, name);
                $($crate::config::table::write_value(
                    out, stringify!($key), &self.$key, &[$($doc),+], &[$($example)?],
                );)*
                $(
                    out.push('\n');
                    self.$table.write(stringify!($table), out);
                )*
            }
        }
    };
}
pub(super) use section;

/// The keys of one table, taken out one by one; what is left at the end is unknown.
pub(super) struct Fields<'a, 'i> {
    file: &'a SourceFile,
    /// Empty for the file itself.
    name: &'static str,
    table: DeTable<'i>,
    asked: Vec<&'static str>,
    report: &'a mut Vec<Diagnostic>,
}

impl<'a, 'i> Fields<'a, 'i> {
    pub(super) fn new(file: &'a SourceFile, table: DeTable<'i>, report: &'a mut Vec<Diagnostic>) -> Self {
        Self { file, name: "", table, asked: Vec::new(), report }
    }

    pub(super) fn value<T: Setting>(&mut self, key: &'static str, slot: &mut T, example: &[&str]) {
        self.asked.push(key);
        let Some(value) = self.table.remove(key) else { return };
        match T::read(&value) {
            Ok(value) => *slot = value,
            Err(offsets) => {
                let expected = T::expected();
                let example = example.first().map(|text| (*text).to_owned()).or_else(|| slot.write());
                for at in offsets {
                    let finding = Diagnostic::error_at(self.file, at, format!("{key} has to be {expected}"));
                    self.report.push(match &example {
                        Some(example) => finding.with_help(format!("for example {key} = {example}")),
                        None => finding,
                    });
                }
            }
        }
    }

    pub(super) fn table<T: Section>(&mut self, key: &'static str, slot: &mut T) {
        self.asked.push(key);
        let Some(value) = self.table.remove(key) else { return };
        let at = value.span().start;
        match value.into_inner() {
            DeValue::Table(table) => {
                let mut fields =
                    Fields { file: self.file, name: key, table, asked: Vec::new(), report: &mut *self.report };
                slot.read(&mut fields);
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_) => self.report.push(
                Diagnostic::error_at(self.file, at, format!("{key} has to be a table"))
                    .with_help(format!("write [{key}] on a line of its own")),
            ),
        }
    }

    pub(super) fn finish(&mut self) {
        for (key, _) in std::mem::take(&mut self.table) {
            let place = if self.name.is_empty() { "this file".to_owned() } else { format!("[{}]", self.name) };
            let message = format!("unknown key {:?} in {place}", key.get_ref());
            let help = format!("known keys are {}", self.asked.join(", "));
            self.report.push(Diagnostic::error_at(self.file, key.span().start, message).with_help(help));
        }
    }
}

/// Reads a whole file, every error of it.
pub(super) fn read<T: Section>(file: &SourceFile, report: &mut Vec<Diagnostic>) -> T {
    let mut section = T::default();
    let (table, errors) = DeTable::parse_recoverable(&file.text);
    if errors.is_empty() {
        section.read(&mut Fields::new(file, table.into_inner(), report));
        report.sort_by_key(|finding| (finding.line, finding.column));
    } else {
        // What stands behind a syntax error may be read wrongly, so nothing else is said.
        report.extend(errors.iter().map(|error| {
            let message = error.message().lines().next().unwrap_or("not valid TOML");
            Diagnostic::error_at(file, error.span().map_or(0, |span| span.start), format!("not TOML: {message}"))
        }));
    }
    report.truncate(MAX_DIAGNOSTICS);
    section
}

/// Where the value of a key stands, or its table, or the start of the file.
pub(super) fn offset_of(file: &SourceFile, path: &[&str]) -> usize {
    let (root, _) = DeTable::parse_recoverable(&file.text);
    let mut at = 0;
    let mut table: Option<&DeTable<'_>> = Some(root.get_ref());
    for key in path {
        let Some(value): Option<&Spanned<DeValue<'_>>> = table.and_then(|table| table.get(*key)) else { break };
        at = value.span().start;
        table = value.get_ref().as_table();
    }
    at
}

pub(super) fn write_about(out: &mut String, about: &[&str]) {
    for line in about {
        out.push('#');
        out.push_str(line);
        out.push('\n');
    }
}

pub(super) fn write_name(out: &mut String, name: &str) {
    if !name.is_empty() {
        out.push_str(&format!("[{name}]\n"));
    }
}

pub(super) fn write_value<T: Setting>(out: &mut String, key: &str, value: &T, doc: &[&str], example: &[&str]) {
    out.push('\n');
    write_about(out, doc);
    match (value.write(), example.first()) {
        (Some(value), _) => out.push_str(&format!("{key} = {value}\n")),
        (None, Some(example)) => out.push_str(&format!("# {key} = {example}\n")),
        (None, None) => {}
    }
}
