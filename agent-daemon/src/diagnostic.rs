// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is wrong in a file that a person wrote: where, and what was expected.

use std::fmt;

/// Characters of what another machine said.
const MAX_WORDS: usize = 200;

/// A file that was read by somebody else: the parsers do no IO.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// As a person would name it.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// How bad it is. Any error refuses the whole set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Suspicious, but usable.
    Warning,
    /// Refused.
    Error,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// [`SourceFile::name`].
    pub file: String,
    /// From 1; zero when unknown.
    pub line: u32,
    /// From 1, in characters; zero when unknown.
    pub column: u32,
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong: lower case, no period.
    pub message: String,
    /// What was expected or how to mend it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at a byte offset of a file.
    pub fn error_at(file: &SourceFile, offset: usize, message: impl Into<String>) -> Self {
        let (line, column) = position(&file.text, offset);
        Self { file: file.name.clone(), line, column, severity: Severity::Error, message: message.into(), help: None }
    }

    /// The same with advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, ": {severity}: {}", self.message)?;
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// The beginning of what another machine said, for a log or for people; no control characters.
pub(crate) fn words(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(MAX_WORDS).collect()
}

/// An error with its causes, in one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // Some say what their causes say too.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

/// Line and column, both from 1, of a byte offset.
pub fn position(text: &str, offset: usize) -> (u32, u32) {
    let mut line: u32 = 1;
    let mut column: u32 = 1;
    for (at, character) in text.char_indices() {
        if at >= offset {
            break;
        }
        if character == '\n' {
            line = line.saturating_add(1);
            column = 1;
        } else {
            column = column.saturating_add(1);
        }
    }
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_become_lines_and_columns() {
        for (offset, expected) in [(0, (1, 1)), (2, (1, 3)), (3, (2, 1)), (5, (2, 2)), (99, (2, 3))] {
            assert_eq!(position("ab\nöx", offset), expected, "offset {offset}");
        }
    }
}
