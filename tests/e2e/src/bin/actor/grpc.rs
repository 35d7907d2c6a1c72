// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::Duration;

use agent_proto::v1;
use agent_proto::v1::agent_service_client::AgentServiceClient;
use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tower::Service as _;

use crate::Actor;
use crate::commands::{number, text};

const CALL_TIMEOUT: Duration = Duration::from_secs(15);

impl Actor {
    /// One call on a channel; the first one on a socket makes it a channel.
    pub(crate) fn call(&mut self, command: &Value) -> Result<Value> {
        let channel = match self.channel(command) {
            Ok(channel) => channel,
            // The daemon closed it before a word was said.
            Err(error) => return Ok(json!({"status": "CLOSED", "message": format!("{error:#}")})),
        };
        self.runtime()?.block_on(call(channel, command))
    }

    /// Sends a call and leaves after a moment, answered or not.
    pub(crate) fn call_and_leave(&mut self, command: &Value) -> Result<Value> {
        let channel = self.channel(command)?;
        let patience = Duration::from_micros(u64::from(number(command, "after_us")?));
        let answered = self.runtime()?.block_on(async { tokio::time::timeout(patience, call(channel, command)).await });
        match answered {
            Ok(answer) => answer,
            Err(_) => Ok(json!({"left": true})),
        }
    }

    fn runtime(&mut self) -> Result<&tokio::runtime::Runtime> {
        if self.runtime.is_none() {
            self.runtime = Some(tokio::runtime::Builder::new_current_thread().enable_all().build()?);
        }
        self.runtime.as_ref().context("bug: no runtime")
    }

    fn channel(&mut self, command: &Value) -> Result<Channel> {
        let name = text(command, "on")?;
        if let Some(channel) = self.channels.get(name) {
            return Ok(channel.clone());
        }
        let stream = UnixStream::from(self.fd(name)?.try_clone_to_owned()?);
        stream.set_nonblocking(true)?;
        let channel = self.runtime()?.block_on(async {
            let once = Mutex::new(Some(TokioIo::new(tokio::net::UnixStream::from_std(stream)?)));
            let connect = tower::service_fn(move |_| {
                let stream = once.lock().ok().and_then(|mut stream| stream.take());
                std::future::ready(stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
            });
            let endpoint = Endpoint::from_static("http://localhost").timeout(CALL_TIMEOUT);
            anyhow::Ok(endpoint.connect_with_connector(connect).await?)
        })?;
        self.channels.insert(name.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// A form to the token endpoint, on the connection of the channel.
async fn exchange(mut channel: Channel, command: &Value) -> Result<Value> {
    let form = tonic::body::Body::new(Full::from(text(command, "form")?.to_owned()));
    let request = http::Request::post("http://localhost/token")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)?;
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
    let answer = match channel.call(request).await {
        Ok(answer) => answer,
        Err(error) => return Ok(json!({"status": "CLOSED", "message": error.to_string()})),
    };
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await?.to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into());
    Ok(json!({"http": status, "body": body}))
}

async fn call(channel: Channel, command: &Value) -> Result<Value> {
    if text(command, "call")? == "exchange" {
        return exchange(channel, command).await;
    }
    let mut client = AgentServiceClient::new(channel).max_encoding_message_size(64 << 20);
    let given = |name: &str| command.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let connection = connection(command)?;
    let answer = match text(command, "call")? {
        "attest" => client.attest(v1::AttestRequest {}).await.map(|answer| instance(answer.into_inner().caller)),
        "attest_connection" => {
            client.attest_connection(v1::AttestConnectionRequest { connection }).await.map(|answer| {
                let answer = answer.into_inner();
                json!({"opener": instance(answer.opener), "opener_alive": answer.opener_alive,
                "cookie": answer.connection.unwrap_or_default().cookie})
            })
        }
        "release" => {
            let request = v1::ReleaseRequest {
                destination: given("destination"),
                connection,
                binding: given("binding"),
                spiffe_id: given("spiffe_id"),
                traceparent: given("traceparent"),
                session_handle: given("handle"),
            };
            client.release(request).await.map(|answer| released(answer.into_inner()))
        }
        "renew" => {
            let (traceparent, session_handle) = (given("traceparent"), given("handle"));
            let request = v1::RenewRequest { lease_id: given("lease"), connection, traceparent, session_handle };
            client.renew(request).await.map(|answer| released(answer.into_inner()))
        }
        "give_back" => client.give_back(v1::GiveBackRequest { lease_id: given("lease") }).await.map(|_| json!({})),
        "open_session" => client.open_session(opening(command)?).await.map(|answer| {
            let answer = answer.into_inner();
            json!({"session": answer.session_id, "handle": answer.session_handle, "user": answer.user})
        }),
        "enter_session" => {
            let request = v1::EnterSessionRequest { session_handle: given("handle") };
            client.enter_session(request).await.map(|answer| json!({"session": answer.into_inner().session_id}))
        }
        "close_session" => {
            client.close_session(v1::CloseSessionRequest { session_handle: given("handle") }).await.map(|_| json!({}))
        }
        "begin_step" => client.begin_step(step(command)?).await.map(|_| json!({})),
        "end_step" => {
            let request = v1::EndStepRequest {
                session_handle: given("handle"),
                traceparent: given("traceparent"),
                failed: command.get("failed").and_then(Value::as_bool).unwrap_or_default(),
            };
            client.end_step(request).await.map(|_| json!({}))
        }
        other => bail!("there is no call {other}"),
    };
    Ok(answer.map_or_else(refused, |answer| json!({"ok": answer})))
}

/// `on_thread`: it is taken by this thread and not by any of the process.
fn step(command: &Value) -> Result<v1::BeginStepRequest> {
    use v1::begin_step_request::Kind;
    let given = |name: &str| command.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind =
        Kind::from_str_name(&format!("KIND_{}", given("kind").to_uppercase())).context("no such kind of step")?;
    let thread = command.get("on_thread").and_then(Value::as_bool).unwrap_or_default();
    Ok(v1::BeginStepRequest {
        session_handle: given("handle"),
        kind: kind.into(),
        traceparent: given("traceparent"),
        parent_span_id: given("parent"),
        name: given("name"),
        reference: given("reference"),
        content: given("content"),
        thread_id: if thread { rustix::thread::gettid().as_raw_nonzero().get().try_into()? } else { 0 },
    })
}

/// `token`: on behalf of whom it names. `scopes`: what it reaches. `by_handle`: nothing changes for the caller.
fn opening(command: &Value) -> Result<v1::OpenSessionRequest> {
    use v1::open_session_request::{Binding, User};
    let given = |name: &str| command.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let token = |token: &str| User::Token(v1::UserToken { token: token.to_owned(), nonce: given("nonce") });
    let scopes = command
        .get("scopes")
        .and_then(Value::as_array)
        .map(|scopes| v1::Scopes { names: scopes.iter().filter_map(Value::as_str).map(str::to_owned).collect() });
    let by_handle = command.get("by_handle").and_then(Value::as_bool).unwrap_or_default();
    let lifetime_seconds = command.get("lifetime").map(|_| number(command, "lifetime")).transpose()?;
    Ok(v1::OpenSessionRequest {
        user: command.get("token").and_then(Value::as_str).map(token),
        agent: given("agent"),
        purpose: given("purpose"),
        scopes,
        lifetime_seconds: lifetime_seconds.unwrap_or_default(),
        binding: if by_handle { Binding::Handle } else { Binding::Process }.into(),
        parent_handle: given("parent"),
        spiffe_id: given("spiffe_id"),
    })
}

fn connection(command: &Value) -> Result<Option<v1::ConnectionRef>> {
    use v1::connection_ref::By;
    let by = if let Some(cookie) = command.get("cookie").and_then(Value::as_u64) {
        By::Cookie(cookie)
    } else if command.get("local").is_some() {
        let end = |name| -> Result<(String, u32)> {
            let end: std::net::SocketAddr = text(command, name)?.parse()?;
            Ok((end.ip().to_string(), end.port().into()))
        };
        let ((local_address, local_port), (remote_address, remote_port)) = (end("local")?, end("remote")?);
        By::Tuple(v1::Tuple { local_address, local_port, remote_address, remote_port })
    } else {
        return Ok(None);
    };
    Ok(Some(v1::ConnectionRef { by: Some(by) }))
}

fn instance(instance: Option<v1::ExecInstance>) -> Value {
    let instance = instance.unwrap_or_default();
    json!({"exec_id": instance.exec_id, "tgid": instance.tgid, "spiffe_ids": instance.spiffe_ids})
}

fn released(answer: v1::ReleaseResponse) -> Value {
    let (credential, lease) = (answer.credential.unwrap_or_default(), answer.lease.unwrap_or_default());
    json!({
        "token": String::from_utf8_lossy(&credential.secret), "spiffe_id": credential.spiffe_id,
        "audience": credential.audience, "lease": lease.lease_id, "exec_id": lease.exec_id,
        "decision": answer.decision_id,
    })
}

fn refused(status: Status) -> Value {
    // A connection that breaks is told by the client with codes of its own; the daemon's have no source.
    let broke = std::error::Error::source(&status).is_some();
    let code = if broke { "CLOSED".to_owned() } else { format!("{:?}", status.code()) };
    json!({"status": code, "message": status.message()})
}
