// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use agent_proto::spiffe::{JwtsvidRequest, X509svid, X509svidRequest, X509svidResponse};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Serialize;

use super::certificate::{self, Shown, encode, pem};
use super::{Api, refused, request};
use crate::Verdict;
use crate::error::Error;
use crate::output::{Line, Output, Style};
use crate::table::{Cell, Column, Table};
use crate::time;

const SCHEMA_X509: &str = "agentctl.spiffe.x509/v1";
const SCHEMA_JWT: &str = "agentctl.spiffe.jwt/v1";
const SCHEMA_WATCH: &str = "agentctl.spiffe.watch/v1";
const COLUMNS: &[Column] = &[
    Column::Left("SPIFFE ID"),
    Column::Left("HINT"),
    Column::Left("SERIAL"),
    Column::Left("DNS NAMES"),
    Column::Left("NOT AFTER"),
    Column::Left("ENDS"),
];

#[derive(Serialize)]
struct Document {
    svids: Vec<Svid>,
    federated_bundles: Vec<Bundle>,
}

/// Without the key: a program that wants it speaks the Workload API itself, or has it written with `--write`.
#[derive(Serialize)]
struct Svid {
    spiffe_id: String,
    hint: String,
    serial: String,
    dns_names: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
    certificates: String,
    bundle: String,
}

#[derive(Serialize)]
struct Bundle {
    trust_domain: String,
    certificates: String,
}

#[derive(Serialize)]
struct Tokens {
    svids: Vec<Token>,
}

#[derive(Serialize)]
struct Token {
    spiffe_id: String,
    hint: String,
    token: String,
    expires_at: Option<Timestamp>,
}

pub(super) async fn x509(mut api: Api, write: Option<&Path>, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let mut client = api.client.clone();
    let mut stream = api.answer(client.fetch_x509svid(request(X509svidRequest {}))).await?;
    let timeout = api.timeout;
    let message =
        tokio::time::timeout(timeout, stream.message()).await.map_err(|_elapsed| Error::Timeout { timeout })?;
    let response = message.map_err(refused)?.ok_or(Error::CutShort)?;
    api.client = client;
    if let Some(folder) = write {
        for (number, svid) in response.svids.iter().enumerate() {
            write_files(folder, number, svid)?;
        }
    }
    if output.is_json() {
        output.document(SCHEMA_X509, &document(&response)?)?;
    } else {
        show(&response, output)?;
        if let Some(folder) = write {
            output.line(&Line::painted(Style::Dim, format!("written into {}", folder.display())))?;
        }
    }
    Ok(Verdict::Ok)
}

pub(super) async fn watch(api: Api, count: Option<u64>, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let mut client = api.client.clone();
    let mut stream = api.answer(client.fetch_x509svid(request(X509svidRequest {}))).await?;
    let mut seen: u64 = 0;
    while !output.is_closed() && count.is_none_or(|count| seen < count) {
        let Some(response) = stream.message().await.map_err(refused)? else { return Err(Error::CutShort) };
        seen = seen.saturating_add(1);
        if output.is_json() {
            output.event(SCHEMA_WATCH, &document(&response)?)?;
        } else {
            for svid in &response.svids {
                let Shown { serial, not_after, .. } = certificate::shown(&svid.x509_svid)?;
                let line = Line::painted(Style::Dim, time::now().strftime("%Y-%m-%d %H:%M:%SZ").to_string());
                let line = line.and(format!("  {}  serial {serial}  not after {not_after}", svid.spiffe_id));
                output.line(&line)?;
            }
        }
        output.flush()?;
    }
    Ok(Verdict::Ok)
}

pub(super) async fn jwt(
    api: Api,
    audience: &[String],
    spiffe_id: &str,
    output: &mut Output<'_>,
) -> Result<Verdict, Error> {
    let mut client = api.client.clone();
    let message = JwtsvidRequest { audience: audience.to_vec(), spiffe_id: spiffe_id.to_owned() };
    let response = api.answer(client.fetch_jwtsvid(request(message))).await?;
    let svids = response.svids.into_iter();
    let svids: Vec<Token> = svids
        .map(|svid| Token {
            expires_at: expiry(&svid.svid),
            spiffe_id: svid.spiffe_id,
            hint: svid.hint,
            token: svid.svid,
        })
        .collect();
    if output.is_json() {
        output.document(SCHEMA_JWT, &Tokens { svids })?;
        return Ok(Verdict::Ok);
    }
    for svid in svids {
        let until = svid.expires_at.map_or_else(String::new, |at| format!(", not after {at}"));
        output.line(&Line::painted(Style::Dim, format!("# {}{until}", svid.spiffe_id)))?;
        output.text(&svid.token)?;
    }
    Ok(Verdict::Ok)
}

/// What the token says; it came from the daemon and is only shown.
fn expiry(token: &str) -> Option<Timestamp> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    Timestamp::from_second(claims.get("exp")?.as_i64()?).ok()
}

fn document(response: &X509svidResponse) -> Result<Document, Error> {
    let mut svids = Vec::new();
    for svid in &response.svids {
        let Shown { serial, not_before, not_after, dns_names } = certificate::shown(&svid.x509_svid)?;
        svids.push(Svid {
            spiffe_id: svid.spiffe_id.clone(),
            hint: svid.hint.clone(),
            serial,
            dns_names,
            not_before,
            not_after,
            certificates: pem(&svid.x509_svid)?,
            bundle: pem(&svid.bundle)?,
        });
    }
    let mut federated_bundles = Vec::new();
    for (trust_domain, bundle) in &response.federated_bundles {
        federated_bundles.push(Bundle { trust_domain: trust_domain.clone(), certificates: pem(bundle)? });
    }
    federated_bundles.sort_by(|a, b| a.trust_domain.cmp(&b.trust_domain));
    Ok(Document { svids, federated_bundles })
}

fn show(response: &X509svidResponse, output: &mut Output<'_>) -> Result<(), Error> {
    let now = time::now();
    let mut rows = Vec::new();
    for svid in &response.svids {
        let Shown { serial, not_after, dns_names, .. } = certificate::shown(&svid.x509_svid)?;
        let until = prost_types::Timestamp { seconds: not_after.as_second(), nanos: 0 };
        rows.push(vec![
            Cell::new(&svid.spiffe_id),
            Cell::new(&svid.hint),
            Cell::new(serial),
            Cell::new(dns_names.join(", ")),
            Cell::new(time::stamp(Some(&until))),
            Cell::new(format!("in {}", time::left(Some(&until), now))),
        ]);
    }
    let mut table = Table::new(COLUMNS);
    table.page(rows, output)?;
    table.finish("no SVIDs", output)
}

fn write_files(folder: &Path, number: usize, svid: &X509svid) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| Error::WriteFile { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    for (name, mode, text) in [
        (format!("svid.{number}.pem"), 0o644, pem(&svid.x509_svid)?),
        (format!("svid.{number}.key"), 0o600, encode("PRIVATE KEY", &svid.x509_svid_key)),
        (format!("bundle.{number}.pem"), 0o644, pem(&svid.bundle)?),
    ] {
        let path = folder.join(name);
        // Beside it first, so that a reader never sees half of one, and with its mode from the start.
        let temporary = path.with_extension("tmp");
        drop(fs::remove_file(&temporary));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&temporary, &path));
        written.map_err(failed(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expiry_is_read_from_a_token_and_from_nothing_else() {
        let token = |claims: &str| format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(expiry(&token(r#"{"exp":7}"#)), Timestamp::from_second(7).ok());
        for text in [String::new(), "a.b.c".to_owned(), token("[]"), token(r#"{"exp":"7"}"#), token("{}")] {
            assert_eq!(expiry(&text), None, "{text}");
        }
    }
}
