// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A program that speaks SPIFFE through a library that we did not write, and says what it saw, a JSON line each.
//!
//! It finds the daemon by `SPIFFE_ENDPOINT_SOCKET` alone, as any such program does.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use spiffe::{SpiffeId, TrustDomain, WorkloadApiClient, X509Context, X509Source, X509Svid};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["x509"] => x509().await,
        ["source"] => source().await,
        ["jwt", audience] => jwt(audience).await,
        ["exec", program, seconds] => exec(program, seconds).await,
        ["rotate", svids] => rotate(svids.parse()?).await,
        other => bail!("unknown arguments {other:?}"),
    };
    // What a caller is refused with is an answer, which the test reads.
    match done {
        Ok(()) => Ok(()),
        Err(error) => say(&json!({"error": format!("{error:#}")})),
    }
}

fn say(line: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Everything about a certificate that the test asks for, and that its bundle verifies it.
fn told(svid: &X509Svid, context: &X509Context) -> Result<Value> {
    let bundle = context.bundle_set().get(svid.spiffe_id().trust_domain()).context("no bundle for the SVID")?;
    let leaf = svid.cert_chain().first().context("no certificate")?;
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf.as_bytes())?;
    let serial: Vec<u8> = leaf.raw_serial().iter().copied().skip_while(|byte| *byte == 0).collect();
    Ok(json!({
        "spiffe_id": svid.spiffe_id().to_string(),
        "hint": svid.hint(),
        "serial": serial.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        "not_after": leaf.validity().not_after.timestamp(),
        "authorities": bundle.authorities().len(),
    }))
}

/// The SVIDs of every update, until the stream ends.
async fn x509() -> Result<()> {
    let client = WorkloadApiClient::connect_env().await?;
    let mut updates = client.stream_x509_contexts().await?;
    while let Some(update) = updates.next().await {
        let context = update?;
        let svids: Vec<Value> = context.svids().iter().map(|svid| told(svid, &context)).collect::<Result<_>>()?;
        say(&json!({"svids": svids}))?;
    }
    bail!("the stream ended without a reason")
}

/// What the library keeps ready, at the start and after each change.
async fn source() -> Result<()> {
    let source = X509Source::new().await?;
    let mut updates = source.updated();
    loop {
        let context = source.x509_context()?;
        say(&told(&*source.svid()?, &context)?)?;
        updates.changed().await?;
    }
}

/// Becomes another program that keeps the connection with its stream.
async fn exec(program: &str, seconds: &str) -> Result<()> {
    use std::os::fd::BorrowedFd;
    use std::os::unix::process::CommandExt as _;

    let client = WorkloadApiClient::connect_env().await?;
    let mut updates = client.stream_x509_contexts().await?;
    let context = updates.next().await.context("the stream ended")??;
    say(&told(context.default_svid().context("no SVID")?, &context)?)?;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number: i32 = entry?.file_name().to_string_lossy().parse()?;
        #[expect(unsafe_code, reason = "descriptors are known by number only")]
        // SAFETY: those that are closed by now give an error, and nothing is kept.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        // The one that lists the folder is closed again by now.
        let _kept = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty());
    }
    Err(std::process::Command::new(program).arg(seconds).exec().into())
}

async fn jwt(audience: &str) -> Result<()> {
    let client = WorkloadApiClient::connect_env().await?;
    let svid = client.fetch_jwt_svid([audience], None::<&SpiffeId>).await?;
    let valid = client.validate_jwt_token(audience, svid.token()).await?;
    ensure!(valid.spiffe_id() == svid.spiffe_id(), "validated as somebody else");
    let elsewhere = client.validate_jwt_token("https://elsewhere.example", svid.token()).await.is_ok();
    let bundles = client.fetch_jwt_bundles().await?;
    let domain = TrustDomain::new(svid.spiffe_id().trust_domain_name())?;
    let bundle = bundles.get(&domain).context("no JWT bundle")?;
    let key = bundle.find_jwt_authority(svid.key_id()).is_some();
    say(&json!({
        "spiffe_id": svid.spiffe_id().to_string(),
        "token": svid.token(),
        "hint": svid.hint(),
        "valid_elsewhere": elsewhere,
        "key_is_published": key,
    }))
}

/// Follows this many SVIDs until it is told to end: each has to be replaced before it is over.
async fn rotate(svids: usize) -> Result<()> {
    let mut told_to_end = signal(SignalKind::terminate())?;
    let client = WorkloadApiClient::connect_env().await?;
    let mut updates = client.stream_x509_contexts().await?;
    let (mut rotations, mut shortest) = (0_u64, i64::MAX);
    let mut ends: Option<i64> = None;
    loop {
        let update = tokio::select! {
            update = updates.next() => Some(update.context("the stream ended")??),
            _ = told_to_end.recv() => None,
            () = tokio::time::sleep(Duration::from_secs(10)) => bail!("no update came"),
        };
        if let Some(ends) = ends {
            let left = ends * 1000 - Timestamp::now().as_millisecond();
            ensure!(left > 0, "there was no good SVID for {} ms after {rotations} updates", -left);
            shortest = shortest.min(left);
        }
        let Some(context) = update else { break };
        ensure!(context.svids().len() == svids, "{} SVIDs instead of {svids}", context.svids().len());
        if ends.is_none() {
            say(&json!({"svids": svids}))?;
        }
        let mut first = i64::MAX;
        for svid in context.svids() {
            let leaf = svid.cert_chain().first().context("no certificate")?;
            let (_, leaf) = x509_parser::parse_x509_certificate(leaf.as_bytes())?;
            first = first.min(leaf.validity().not_after.timestamp());
        }
        ends = Some(first);
        rotations += 1;
    }
    say(&json!({"rotations": rotations, "svids": svids, "shortest_left_ms": shortest}))
}
