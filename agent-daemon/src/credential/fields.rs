// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Takes the fields of one TOML table apart and reports everything that is wrong with it, not only the first thing.
//!
//! A derived deserializer stops at its first error; an operator wants them all in one run.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::diagnostic::{Diagnostic, SourceFile};

/// A value and where it stands.
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) at: usize,
}

/// The fields of one table, taken out one by one; what is left at the end is unknown.
pub(super) struct Fields<'a, 'i> {
    file: &'a SourceFile,
    /// For messages: "destination", "source", "binding".
    what: &'static str,
    at: usize,
    table: DeTable<'i>,
    asked: Vec<&'static str>,
    report: &'a mut Vec<Diagnostic>,
    sound: bool,
}

impl<'a, 'i> Fields<'a, 'i> {
    pub(super) fn new(
        file: &'a SourceFile,
        what: &'static str,
        value: Spanned<DeValue<'i>>,
        report: &'a mut Vec<Diagnostic>,
    ) -> Option<Self> {
        let at = value.span().start;
        match value.into_inner() {
            DeValue::Table(table) => Some(Self { file, what, at, table, asked: Vec::new(), report, sound: true }),
            other => {
                let message = format!("expected a table for the {what}, found {}", other.type_str());
                report.push(Diagnostic::error_at(file, at, message).with_help(format!("write [[{what}]]")));
                None
            }
        }
    }

    /// Where the table begins.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// An error in this table.
    pub(super) fn error(&mut self, at: usize, message: impl Into<String>, help: impl Into<String>) {
        self.sound = false;
        self.report.push(Diagnostic::error_at(self.file, at, message).with_help(help));
    }

    fn take(&mut self, key: &'static str) -> Option<(Range<usize>, DeValue<'i>)> {
        self.asked.push(key);
        let value = self.table.remove(key)?;
        Some((value.span(), value.into_inner()))
    }

    fn wrong_type(&mut self, at: usize, key: &str, expected: &str, found: &DeValue<'_>) {
        let message = format!("{key} is {}, expected {expected}", found.type_str());
        let help = format!("see the documentation of [[{}]]", self.what);
        self.error(at, message, help);
    }

    /// A string, if it is there.
    pub(super) fn text(&mut self, key: &'static str) -> Option<Placed<String>> {
        let (span, value) = self.take(key)?;
        match value {
            DeValue::String(text) => Some(Placed { value: text.into_owned(), at: span.start }),
            other => {
                self.wrong_type(span.start, key, "a string", &other);
                None
            }
        }
    }

    /// A string that must be there.
    pub(super) fn required_text(&mut self, key: &'static str, help: &str) -> Option<Placed<String>> {
        if !self.table.contains_key(key) {
            self.asked.push(key);
            let message = format!("the {} has no {key}", self.what);
            self.error(self.at, message, help);
            return None;
        }
        self.text(key)
    }

    /// Strings; none when the key is missing.
    pub(super) fn texts(&mut self, key: &'static str, limit: usize) -> Vec<Placed<String>> {
        self.list(key, limit, "an array of strings", |value| match value {
            DeValue::String(text) => Ok(text.into_owned()),
            other => Err(other),
        })
    }

    /// Whole numbers as they stand; none when the key is missing.
    pub(super) fn integers(&mut self, key: &'static str, limit: usize) -> Vec<Placed<Option<u64>>> {
        self.list(key, limit, "an array of whole numbers", |value| match integer(&value) {
            Some(number) => Ok(number),
            None => Err(value),
        })
    }

    /// A whole number, if it is there; [`None`] inside when it is negative or too large.
    pub(super) fn integer(&mut self, key: &'static str) -> Option<Placed<Option<u64>>> {
        let (span, value) = self.take(key)?;
        if let Some(number) = integer(&value) {
            return Some(Placed { value: number, at: span.start });
        }
        self.wrong_type(span.start, key, "a whole number", &value);
        None
    }

    /// True or false, if it is there.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<Placed<bool>> {
        let (span, value) = self.take(key)?;
        match value {
            DeValue::Boolean(value) => Some(Placed { value, at: span.start }),
            other => {
                self.wrong_type(span.start, key, "true or false", &other);
                None
            }
        }
    }

    fn list<T>(
        &mut self,
        key: &'static str,
        limit: usize,
        expected: &str,
        convert: impl Fn(DeValue<'i>) -> Result<T, DeValue<'i>>,
    ) -> Vec<Placed<T>> {
        let Some((span, value)) = self.take(key) else { return Vec::new() };
        let DeValue::Array(array) = value else {
            self.wrong_type(span.start, key, expected, &value);
            return Vec::new();
        };
        if array.len() > limit {
            let message = format!("{key} has {} items", array.len());
            self.error(span.start, message, format!("at most {limit}"));
            return Vec::new();
        }
        let mut items = Vec::with_capacity(array.len());
        for item in array {
            let at = item.span().start;
            match convert(item.into_inner()) {
                Ok(value) => items.push(Placed { value, at }),
                Err(other) => self.wrong_type(at, &format!("an item of {key}"), expected, &other),
            }
        }
        items
    }

    /// Reports what nobody asked for. True when the whole table is without error.
    pub(super) fn finish(mut self) -> bool {
        let unknown: Vec<_> = self.table.keys().map(|key| (key.span().start, key.get_ref().to_string())).collect();
        let help = format!("a {} has: {}", self.what, self.asked.join(", "));
        for (at, key) in unknown {
            let message = format!("unknown field {key:?} in a {}", self.what);
            self.error(at, message, help.clone());
        }
        self.sound
    }
}

/// Nothing when it is no number; [`None`] inside when it is one out of range.
fn integer(value: &DeValue<'_>) -> Option<Option<u64>> {
    value.as_integer().map(|number| u64::from_str_radix(number.as_str(), number.radix()).ok())
}

/// Whether text may name a destination, source, binding or secret: `[a-z0-9._-]{1,64}`, no dot in front.
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte))
}

/// The rule of [`is_name`] for people.
pub(super) const NAME_HELP: &str = "1 to 64 of a-z 0-9 . _ - and no dot in front";
