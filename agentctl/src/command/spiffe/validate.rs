// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs::File;
use std::io;
use std::path::Path;

use agent_proto::spiffe::ValidateJwtsvidRequest;
use prost_types::value::Kind;
use serde::Serialize;
use serde_json::Value;
use tonic::Code;

use super::{Api, request};
use crate::Verdict;
use crate::command::read_bounded;
use crate::error::Error;
use crate::output::{Line, Output, Style};

const SCHEMA: &str = "agentctl.spiffe.validate/v1";
/// The longest that the daemon looks at.
const MAX_TOKEN_BYTES: usize = 8 << 10;

#[derive(Serialize)]
struct Document {
    valid: bool,
    reason: Option<String>,
    spiffe_id: Option<String>,
    claims: Option<Value>,
}

/// Never from the command line, which everybody on the node can read.
pub(super) fn token(file: Option<&Path>) -> Result<String, Error> {
    let (what, bytes) = match file {
        Some(path) => {
            let what = path.display().to_string();
            let file = File::open(path).map_err(|source| Error::Read { what: what.clone(), source })?;
            let bytes = read_bounded(file, &what, MAX_TOKEN_BYTES)?;
            (what, bytes)
        }
        None => {
            let what = "the token on standard input".to_owned();
            let bytes = read_bounded(io::stdin().lock(), &what, MAX_TOKEN_BYTES)?;
            (what, bytes)
        }
    };
    String::from_utf8(bytes).map(|text| text.trim().to_owned()).map_err(|_not_utf8| Error::NotText { what })
}

pub(super) async fn run(api: Api, audience: &str, token: String, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let mut client = api.client.clone();
    let message = ValidateJwtsvidRequest { audience: audience.to_owned(), svid: token };
    let document = match api.answer(client.validate_jwtsvid(request(message))).await {
        Ok(valid) => Document {
            valid: true,
            reason: None,
            spiffe_id: Some(valid.spiffe_id),
            claims: valid.claims.map(|claims| json(Kind::StructValue(claims))),
        },
        Err(Error::Workload(status)) if status.code() == Code::InvalidArgument => {
            Document { valid: false, reason: Some(status.message().to_owned()), spiffe_id: None, claims: None }
        }
        Err(error) => return Err(error),
    };
    if output.is_json() {
        output.document(SCHEMA, &document)?;
    } else {
        match (&document.spiffe_id, &document.reason) {
            (Some(spiffe_id), _) => {
                output.line(&Line::painted(Style::Good, "valid").and(format!("  {spiffe_id}")))?;
                for (name, value) in document.claims.iter().filter_map(Value::as_object).flatten() {
                    output.line(&Line::new(format!("  {name}: {value}")))?;
                }
            }
            (None, reason) => {
                let reason = reason.as_deref().unwrap_or("no reason given");
                output.line(&Line::painted(Style::Bad, "not valid").and(format!("  {reason}")))?;
            }
        }
    }
    Ok(Verdict::ok_if(document.valid))
}

fn json(kind: Kind) -> Value {
    let inner = |value: prost_types::Value| value.kind.map_or(Value::Null, json);
    match kind {
        Kind::NullValue(_) => Value::Null,
        Kind::BoolValue(is) => is.into(),
        // Times in whole seconds are read as what they are.
        Kind::NumberValue(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
            format!("{number:.0}").parse::<i64>().map_or_else(|_| number.into(), Into::into)
        }
        Kind::NumberValue(number) => number.into(),
        Kind::StringValue(text) => text.into(),
        Kind::ListValue(list) => list.values.into_iter().map(inner).collect(),
        Kind::StructValue(members) => members.fields.into_iter().map(|(name, value)| (name, inner(value))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_stay_whole() {
        assert_eq!(json(Kind::NumberValue(1_800_000_000.0)).to_string(), "1800000000");
        assert_eq!(json(Kind::NumberValue(-1.0)).to_string(), "-1");
        assert_eq!(json(Kind::NumberValue(1.5)).to_string(), "1.5");
        assert_eq!(json(Kind::NullValue(0)), Value::Null);
    }
}
