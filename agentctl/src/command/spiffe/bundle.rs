// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl spiffe bundle`: the trust bundles that the daemon knows. Unlike its siblings it speaks as an operator.

use std::path::Path;

use agent_proto::admin::set_bundle_request::Content;
use agent_proto::admin::{BundleView, ListBundlesRequest, RemoveBundleRequest, SetBundleRequest};
use jiff::Timestamp;
use serde::Serialize;

use super::{certificate, file_or_standard_input};
use crate::Verdict;
use crate::cli::{BundleCommand, BundleFormat};
use crate::client::Client;
use crate::error::Error;
use crate::output::{Line, Output, Style};
use crate::table::{Cell, Column, Table};
use crate::time;

const SCHEMA_LIST: &str = "agentctl.spiffe.bundle.list/v1";
const SCHEMA_SHOW: &str = "agentctl.spiffe.bundle.show/v1";
const SCHEMA_SET: &str = "agentctl.spiffe.bundle.set/v1";
const SCHEMA_REMOVE: &str = "agentctl.spiffe.bundle.remove/v1";
const COLUMNS: &[Column] = &[
    Column::Left("TRUST DOMAIN"),
    Column::Right("X509"),
    Column::Right("JWT"),
    Column::Right("SEQUENCE"),
    Column::Left("FETCHED"),
    Column::Left("FROM"),
];
/// What the daemon takes at most.
const MAX_BYTES: usize = 256 << 10;

#[derive(Serialize)]
struct Document<'a> {
    bundles: Vec<Shown<'a>>,
}

#[derive(Serialize)]
struct Shown<'a> {
    trust_domain: &'a str,
    own: bool,
    x509_authorities: u32,
    jwt_authorities: u32,
    sequence: Option<u64>,
    refresh_hint_seconds: Option<u64>,
    url: Option<&'a str>,
    fetched_at: Option<Timestamp>,
    next_fetch_at: Option<Timestamp>,
    error: Option<&'a str>,
    bundle: Option<serde_json::Value>,
}

#[derive(Serialize)]
struct Changed<'a> {
    trust_domain: &'a str,
    changed: bool,
}

pub(super) async fn run(client: &Client, command: &BundleCommand, output: &mut Output<'_>) -> Result<Verdict, Error> {
    match command {
        BundleCommand::Show { trust_domain: None, .. } => {
            let request = ListBundlesRequest { trust_domain: String::new() };
            let bundles = client.answer(client.api().list_bundles(request)).await?.bundles;
            list(&bundles, output)
        }
        BundleCommand::Show { trust_domain: Some(domain), format } => {
            let request = ListBundlesRequest { trust_domain: domain.clone() };
            let bundles = client.answer(client.api().list_bundles(request)).await?.bundles;
            show(domain, bundles.first(), *format, output)
        }
        BundleCommand::Set { trust_domain, format, file } => set(client, trust_domain, *format, file, output).await,
        BundleCommand::Remove { trust_domain } => {
            let request = RemoveBundleRequest { trust_domain: trust_domain.clone() };
            let changed = client.answer(client.api().remove_bundle(request)).await?.removed;
            if output.is_json() {
                output.document(SCHEMA_REMOVE, &Changed { trust_domain, changed })?;
            } else if changed {
                output.text(format!("nothing of {trust_domain} is trusted any more"))?;
            } else {
                output.line(&Line::painted(Style::Warn, format!("no bundle of {trust_domain} is known")))?;
            }
            Ok(Verdict::ok_if(changed))
        }
    }
}

async fn set(
    client: &Client,
    trust_domain: &str,
    format: BundleFormat,
    file: &Path,
    output: &mut Output<'_>,
) -> Result<Verdict, Error> {
    let bytes = file_or_standard_input(file, MAX_BYTES)?;
    let content = match format {
        BundleFormat::Spiffe => Content::Document(bytes),
        BundleFormat::Pem => Content::Pem(bytes),
    };
    let request = SetBundleRequest { trust_domain: trust_domain.to_owned(), content: Some(content) };
    let changed = client.answer(client.api().set_bundle(request)).await?.changed;
    if output.is_json() {
        output.document(SCHEMA_SET, &Changed { trust_domain, changed })?;
    } else if changed {
        output.text(format!("{trust_domain} is verified by this bundle now"))?;
    } else {
        output.text(format!("this bundle of {trust_domain} is known already"))?;
    }
    Ok(Verdict::Ok)
}

fn list(bundles: &[BundleView], output: &mut Output<'_>) -> Result<Verdict, Error> {
    if output.is_json() {
        output.document(SCHEMA_LIST, &Document { bundles: bundles.iter().map(shown).collect() })?;
        return Ok(Verdict::Ok);
    }
    let mut table = Table::new(COLUMNS);
    table.page(bundles.iter().map(row).collect(), output)?;
    table.finish("no bundles", output)?;
    for failing in bundles.iter().filter(|bundle| !bundle.error.is_empty()) {
        let words = format!("{}: {}", failing.trust_domain, failing.error);
        output.line(&Line::painted(Style::Warn, words))?;
    }
    Ok(Verdict::Ok)
}

fn show(
    domain: &str,
    bundle: Option<&BundleView>,
    format: BundleFormat,
    output: &mut Output<'_>,
) -> Result<Verdict, Error> {
    let known = bundle.filter(|bundle| !bundle.document.is_empty());
    if output.is_json() {
        output.document(SCHEMA_SHOW, &Document { bundles: bundle.map(shown).into_iter().collect() })?;
        return Ok(Verdict::ok_if(known.is_some()));
    }
    let Some(bundle) = known else {
        let words = match bundle {
            Some(missing) => format!("the bundle of {domain} could not be fetched yet: {}", missing.error),
            None => format!("no bundle of {domain} is known"),
        };
        output.line(&Line::painted(Style::Warn, words))?;
        return Ok(Verdict::ok_if(false));
    };
    match format {
        BundleFormat::Spiffe => {
            output.raw(&bundle.document)?;
            output.raw(b"\n")?;
        }
        BundleFormat::Pem => output.raw(certificate::pem(&bundle.x509)?.as_bytes())?,
    }
    Ok(Verdict::Ok)
}

fn shown(bundle: &BundleView) -> Shown<'_> {
    Shown {
        trust_domain: &bundle.trust_domain,
        own: bundle.own,
        x509_authorities: bundle.x509_authorities,
        jwt_authorities: bundle.jwt_authorities,
        sequence: bundle.sequence,
        refresh_hint_seconds: bundle.refresh_hint_seconds,
        url: Some(bundle.url.as_str()).filter(|url| !url.is_empty()),
        fetched_at: time::from_proto(bundle.fetched_at.as_ref()),
        next_fetch_at: time::from_proto(bundle.next_fetch_at.as_ref()),
        error: Some(bundle.error.as_str()).filter(|error| !error.is_empty()),
        bundle: serde_json::from_slice(&bundle.document).ok(),
    }
}

fn row(bundle: &BundleView) -> Vec<Cell> {
    let from = match (bundle.own, bundle.url.as_str()) {
        (true, _) => "made here",
        (false, "") => "set by an operator",
        (false, url) => url,
    };
    let fetched = bundle.fetched_at.as_ref().map_or_else(|| "-".to_owned(), |at| time::stamp(Some(at)));
    vec![
        Cell::new(&bundle.trust_domain),
        Cell::new(bundle.x509_authorities.to_string()),
        Cell::new(bundle.jwt_authorities.to_string()),
        Cell::new(bundle.sequence.map_or_else(|| "-".to_owned(), |sequence| sequence.to_string())),
        Cell::new(fetched),
        Cell::new(from),
    ]
}
