// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A TOML file of tables (`[[entry]]`, `[[case]]`), read table by table so that every error is reported and not only the first.

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use crate::diagnostic::{Diagnostic, SourceFile};

/// Reads all tables named `name`. Other names at the top that are not in `allowed` are errors.
pub(crate) fn tables<T: DeserializeOwned>(
    file: &SourceFile,
    name: &str,
    allowed: &[&str],
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Spanned<T>> {
    let (root, errors) = DeTable::parse_recoverable(&file.text);
    if !errors.is_empty() {
        diagnostics.extend(errors.iter().map(|error| from_toml(file, error, 0)));
        return Vec::new();
    }
    let mut found = Vec::new();
    for (key, value) in root.into_inner() {
        if key.get_ref() != name {
            if !allowed.contains(&key.get_ref().as_ref()) {
                diagnostics.push(
                    Diagnostic::error_at(file, key.span().start, format!("unknown key {:?}", key.get_ref()))
                        .with_help(format!("this file holds [[{}]] tables", allowed.join("]] and [["))),
                );
            }
            continue;
        }
        let span = value.span();
        let DeValue::Array(items) = value.into_inner() else {
            diagnostics.push(
                Diagnostic::error_at(file, span.start, format!("{name} is not a list of tables"))
                    .with_help(format!("write [[{name}]]")),
            );
            continue;
        };
        for item in items {
            let span = item.span();
            match T::deserialize(ValueDeserializer::from(item)) {
                Ok(table) => found.push(Spanned::new(span, table)),
                Err(error) => diagnostics.push(from_toml(file, &error, span.start)),
            }
        }
    }
    found
}

fn from_toml(file: &SourceFile, error: &toml::de::Error, fallback: usize) -> Diagnostic {
    let offset = error.span().map_or(fallback, |span| span.start);
    // The library quotes keys with backticks and may add lines; the first one says what is wrong.
    Diagnostic::error_at(file, offset, error.message().lines().next().unwrap_or("not valid TOML"))
}
