// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The bare server: tonic on a Unix socket, the same service, answers of the same size, and nothing else.

use std::io::{self, Write as _};
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

use agent_proto::spiffe;
use agent_proto::spiffe::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use agent_proto::v1;
use agent_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use anyhow::Context as _;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Lengths of the texts in an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    secret: usize,
    spiffe_id: usize,
    audience: usize,
    lease_id: usize,
    binding: usize,
    decision_id: usize,
    token: usize,
    certificate: usize,
    key: usize,
    bundle: usize,
}

impl Shape {
    /// Of a real answer.
    pub(crate) fn of(response: &v1::ReleaseResponse) -> anyhow::Result<Self> {
        let credential = response.credential.as_ref().context("a release without a credential")?;
        let lease = response.lease.as_ref().context("a release without a lease")?;
        Ok(Self {
            secret: credential.secret.len(),
            spiffe_id: credential.spiffe_id.len(),
            audience: credential.audience.len(),
            lease_id: lease.lease_id.len(),
            binding: lease.binding.len(),
            decision_id: response.decision_id.len(),
            ..Self::EMPTY
        })
    }

    const EMPTY: Self = Self {
        secret: 0,
        spiffe_id: 0,
        audience: 0,
        lease_id: 0,
        binding: 0,
        decision_id: 0,
        token: 0,
        certificate: 0,
        key: 0,
        bundle: 0,
    };

    /// Of real SVIDs.
    pub(crate) fn of_svids(token: &spiffe::JwtsvidResponse, svids: &spiffe::X509svidResponse) -> anyhow::Result<Self> {
        let token = token.svids.first().context("no token")?;
        let svid = svids.svids.first().context("no certificate")?;
        Ok(Self {
            spiffe_id: token.spiffe_id.len(),
            token: token.svid.len(),
            certificate: svid.x509_svid.len(),
            key: svid.x509_svid_key.len(),
            bundle: svid.bundle.len(),
            ..Self::EMPTY
        })
    }

    fn answer(self, destination: String) -> v1::ReleaseResponse {
        let text = |length: usize| "x".repeat(length);
        let time = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 };
        v1::ReleaseResponse {
            credential: Some(v1::Credential {
                r#type: "jwt-svid".to_owned(),
                secret: vec![b'x'; self.secret],
                spiffe_id: text(self.spiffe_id),
                audience: text(self.audience),
            }),
            lease: Some(v1::Lease {
                lease_id: text(self.lease_id),
                exec_id: u64::MAX >> 20,
                destination,
                binding: text(self.binding),
                issued_at: Some(time),
                expires_at: Some(time),
            }),
            decision_id: text(self.decision_id),
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { secret, spiffe_id, audience, lease_id, binding, decision_id, token, certificate, key, bundle } =
            self;
        write!(f, "{secret},{spiffe_id},{audience},{lease_id},{binding},{decision_id},")?;
        write!(f, "{token},{certificate},{key},{bundle}")
    }
}

impl FromStr for Shape {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let lengths: Vec<usize> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let [secret, spiffe_id, audience, lease_id, binding, decision_id, token, certificate, key, bundle] =
            lengths.try_into().map_err(|_| anyhow::anyhow!("expected ten lengths"))?;
        Ok(Self { secret, spiffe_id, audience, lease_id, binding, decision_id, token, certificate, key, bundle })
    }
}

#[derive(Debug)]
struct Bare(Shape);

#[tonic::async_trait]
impl AgentService for Bare {
    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        Ok(Response::new(self.0.answer(request.into_inner().destination)))
    }

    async fn attest(&self, _: Request<v1::AttestRequest>) -> Result<Response<v1::AttestResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn attest_connection(
        &self,
        _: Request<v1::AttestConnectionRequest>,
    ) -> Result<Response<v1::AttestConnectionResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn renew(&self, _: Request<v1::RenewRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn give_back(&self, _: Request<v1::GiveBackRequest>) -> Result<Response<v1::GiveBackResponse>, Status> {
        Ok(Response::new(v1::GiveBackResponse {}))
    }

    async fn open_session(
        &self,
        _: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn enter_session(
        &self,
        _: Request<v1::EnterSessionRequest>,
    ) -> Result<Response<v1::EnterSessionResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn close_session(
        &self,
        _: Request<v1::CloseSessionRequest>,
    ) -> Result<Response<v1::CloseSessionResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn begin_step(&self, _: Request<v1::BeginStepRequest>) -> Result<Response<v1::BeginStepResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn end_step(&self, _: Request<v1::EndStepRequest>) -> Result<Response<v1::EndStepResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Bare {
    type FetchX509SVIDStream = Messages<spiffe::X509svidResponse>;
    type FetchX509BundlesStream = Messages<spiffe::X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<spiffe::JwtBundlesResponse>;
    type FetchWITSVIDStream = Messages<spiffe::WitsvidResponse>;
    type FetchWITBundlesStream = Messages<spiffe::WitBundlesResponse>;

    async fn fetch_jwtsvid(
        &self,
        _: Request<spiffe::JwtsvidRequest>,
    ) -> Result<Response<spiffe::JwtsvidResponse>, Status> {
        let svid = spiffe::Jwtsvid {
            spiffe_id: "x".repeat(self.0.spiffe_id),
            svid: "x".repeat(self.0.token),
            hint: String::new(),
        };
        Ok(Response::new(spiffe::JwtsvidResponse { svids: vec![svid] }))
    }

    async fn fetch_x509svid(
        &self,
        _: Request<spiffe::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let svid = spiffe::X509svid {
            spiffe_id: "x".repeat(self.0.spiffe_id),
            x509_svid: vec![b'x'; self.0.certificate],
            x509_svid_key: vec![b'x'; self.0.key],
            bundle: vec![b'x'; self.0.bundle],
            hint: String::new(),
        };
        let first = spiffe::X509svidResponse { svids: vec![svid], ..spiffe::X509svidResponse::default() };
        // One message, and then it stays open.
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(first)).chain(tokio_stream::pending()))))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<spiffe::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<spiffe::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<spiffe::ValidateJwtsvidRequest>,
    ) -> Result<Response<spiffe::ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn fetch_witsvid(
        &self,
        _: Request<spiffe::WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<spiffe::WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}

/// Serves until standard input ends.
pub(crate) fn serve(socket: &Path, shape: &Shape) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = UnixListener::bind(socket)?;
        println!("ready");
        io::stdout().flush()?;
        let end = async {
            // Whatever it ends with, it ended.
            let _ended = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin().lock(), &mut io::sink())).await;
        };
        let server = Server::builder()
            .add_service(AgentServiceServer::new(Bare(*shape)))
            .add_service(SpiffeWorkloadApiServer::new(Bare(*shape)));
        server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), end).await?;
        Ok(())
    })
}

/// A bare server in a process of its own. Dropped, it is ended.
#[derive(Debug)]
pub(crate) struct Echo {
    child: Child,
}

impl Echo {
    pub(crate) fn start(socket: &Path, shape: &Shape) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--echo").arg(socket).arg(shape.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut echo = Self { child: command.spawn()? };
        let mut output = io::BufReader::new(echo.child.stdout.take().context("bug: no pipe from the bare server")?);
        let mut line = String::new();
        io::BufRead::read_line(&mut output, &mut line)?;
        anyhow::ensure!(line == "ready\n", "the bare server did not start");
        Ok(echo)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It waits for connections to close, and ours may still be open.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}
