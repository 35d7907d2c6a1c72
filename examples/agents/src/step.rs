// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every program says what it did as one JSON object per line on standard output.
//!
//! A step never carries a credential: whoever runs these programs keeps the output.

use std::io::{self, Write};

use serde_json::{Map, Value};

/// Prints one step at once, so that a reader on a pipe sees it when it happens.
///
/// `fields` must be a JSON object; its members follow `program`, `pid` and `step`.
pub fn say(program: &str, step: &str, fields: Value) -> io::Result<()> {
    let mut line = Map::new();
    line.insert("program".into(), program.into());
    line.insert("pid".into(), std::process::id().into());
    line.insert("step".into(), step.into());
    match fields {
        Value::Object(members) => line.extend(members),
        Value::Null => {}
        other => {
            line.insert("detail".into(), other);
        }
    }
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", Value::Object(line))?;
    stdout.flush()
}

/// The name of a gRPC code as the specification spells it, for example `PERMISSION_DENIED`.
pub fn code_name(code: tonic::Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_spelled_as_in_the_grpc_specification() {
        for (code, expected) in [
            (tonic::Code::Ok, "OK"),
            (tonic::Code::Unauthenticated, "UNAUTHENTICATED"),
            (tonic::Code::PermissionDenied, "PERMISSION_DENIED"),
            (tonic::Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
        ] {
            assert_eq!(code_name(code), expected);
        }
    }
}
