// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A SPIRE server and agent that answer rightly or wrongly: what is taken from them, and what is refused.
//! The real ones are in `cargo xtask interop`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use agent_daemon::authority::SigningKey;
use agent_daemon::clock::Clock as _;
use agent_daemon::testing::{FakeClock, PrivateDirectory, Setup, TestNode};
use agent_daemon::upstream::{Spire, SpireConfig};
use agent_daemon::url::HostPort;
use agent_proto::spiffe::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use agent_proto::spiffe::*;
use agent_proto::spire::api::server::bundle::v1::bundle_server::{Bundle, BundleServer};
use agent_proto::spire::api::server::bundle::v1::*;
use agent_proto::spire::api::server::svid::v1::svid_server::{Svid, SvidServer};
use agent_proto::spire::api::server::svid::v1::*;
use agent_proto::spire::api::types;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use ring::rand::SystemRandom;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};

const AUDIENCE: &str = "https://reports.example";
const SERVER: &str = "spiffe://example.org/spire/server";
const NODE: &str = "spiffe://example.org/agent-daemon-a";

/// How they answer.
#[derive(Clone)]
struct Answers {
    /// The identities that the agent gives.
    identities: Vec<&'static str>,
    /// Whether the first of them is a downstream one.
    is_downstream: bool,
    /// Whether the agent's bundle is the server's.
    right_bundle: bool,
    /// The URI in the CA.
    uri: &'static str,
    /// Whether keys are taken.
    publishes: bool,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            identities: vec![NODE],
            is_downstream: true,
            right_bundle: true,
            uri: "spiffe://example.org",
            publishes: true,
        }
    }
}

struct Fake {
    clock: Arc<FakeClock>,
    root: Issuer<'static, KeyPair>,
    root_der: Vec<u8>,
    answers: Mutex<Answers>,
    authorities: Mutex<types::Bundle>,
}

impl Fake {
    fn new(clock: Arc<FakeClock>, key: &SigningKey) -> Arc<Self> {
        let pair = KeyPair::generate().unwrap();
        let (params, root_der) = root(&pair);
        let jwt = |kid: &str, tainted| types::JwtKey {
            public_key: key.public_jwk().spki().unwrap(),
            key_id: kid.to_owned(),
            expires_at: 0,
            tainted,
        };
        let authorities = types::Bundle {
            trust_domain: "example.org".to_owned(),
            x509_authorities: vec![
                authority(&root_der, false),
                authority(&root(&KeyPair::generate().unwrap()).1, true),
            ],
            jwt_authorities: vec![jwt(key.kid(), false), jwt("tainted", true)],
            refresh_hint: 60,
            sequence_number: 1,
        };
        let (answers, authorities) = (Mutex::default(), Mutex::new(authorities));
        Arc::new(Self { clock, root: Issuer::new(params, pair), root_der, answers, authorities })
    }

    fn set(&self, answers: Answers) {
        *self.answers.lock().unwrap() = answers;
    }

    /// A certificate for a SPIFFE ID, and its key.
    fn svid(&self, id: &str) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        (params.signed_by(&key, &self.root).unwrap().der().to_vec(), key.serialize_der())
    }

    /// Both on their sockets, until the set is dropped.
    async fn serve(self: &Arc<Self>, as_whom: &str, folder: &PrivateDirectory) -> (SpireConfig, JoinSet<()>) {
        let mut tasks = JoinSet::new();
        let socket: PathBuf = folder.path().join("agent.sock");
        let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        let agent =
            tonic::transport::Server::builder().add_service(SpiffeWorkloadApiServer::from_arc(Arc::clone(self)));
        tasks.spawn(async move { agent.serve_with_incoming(incoming).await.unwrap() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = self.acceptor(as_whom);
        let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<DuplexStream>>(8);
        tasks.spawn(async move {
            let mut pipes = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                pipes.spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let (mut near, far) = tokio::io::duplex(64 * 1024);
                    if sender.send(Ok(far)).await.is_ok() {
                        drop(tokio::io::copy_bidirectional(&mut stream, &mut near).await);
                    }
                });
            }
        });
        let server = tonic::transport::Server::builder()
            .add_service(SvidServer::from_arc(Arc::clone(self)))
            .add_service(BundleServer::from_arc(Arc::clone(self)));
        tasks.spawn(async move { server.serve_with_incoming(ReceiverStream::new(receiver)).await.unwrap() });
        let server = HostPort { host: "127.0.0.1".to_owned(), port };
        (SpireConfig { agent_socket: socket, server, spiffe_id: None }, tasks)
    }

    fn acceptor(&self, as_whom: &str) -> tokio_rustls::TlsAcceptor {
        let (certificate, key) = self.svid(as_whom);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(self.root_der.clone())).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.unwrap())
            .with_single_cert(vec![certificate.into()], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)))
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        tokio_rustls::TlsAcceptor::from(Arc::new(config))
    }
}

fn root(key: &KeyPair) -> (CertificateParams, Vec<u8>) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "SPIRE");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(key).unwrap().der().to_vec();
    (params, certificate)
}

fn authority(der: &[u8], tainted: bool) -> types::X509Certificate {
    types::X509Certificate { asn1: der.to_vec(), tainted }
}

type Updates<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Fake {
    type FetchX509SVIDStream = Updates<X509svidResponse>;
    type FetchX509BundlesStream = Updates<X509BundlesResponse>;
    type FetchJWTBundlesStream = Updates<JwtBundlesResponse>;
    type FetchWITSVIDStream = Updates<WitsvidResponse>;
    type FetchWITBundlesStream = Updates<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        assert_eq!(request.metadata().get("workload.spiffe.io").unwrap(), "true");
        let answers = self.answers.lock().unwrap().clone();
        if answers.identities.is_empty() {
            return Err(Status::permission_denied("no identity issued"));
        }
        let bundle = match answers.right_bundle {
            true => self.root_der.clone(),
            false => root(&KeyPair::generate().unwrap()).1,
        };
        let svids = answers.identities.iter().map(|id| {
            let (x509_svid, x509_svid_key) = self.svid(id);
            X509svid {
                spiffe_id: (*id).to_owned(),
                x509_svid,
                x509_svid_key,
                bundle: bundle.clone(),
                ..X509svid::default()
            }
        });
        let response = X509svidResponse { svids: svids.collect(), crl: Vec::new(), federated_bundles: HashMap::new() };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(response)))))
    }

    async fn fetch_x509_bundles(
        &self,
        _request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn fetch_jwtsvid(&self, _request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn validate_jwtsvid(
        &self,
        _request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn fetch_witsvid(&self, _: Request<WitsvidRequest>) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

#[tonic::async_trait]
impl Svid for Fake {
    async fn new_downstream_x509ca(
        &self,
        request: Request<NewDownstreamX509caRequest>,
    ) -> Result<Response<NewDownstreamX509caResponse>, Status> {
        let answers = self.answers.lock().unwrap().clone();
        if !answers.is_downstream {
            return Err(Status::permission_denied("authorization denied for method"));
        }
        let request = request.into_inner();
        let asked =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request.csr)).unwrap();
        let mut params = asked.params;
        params.subject_alt_names = vec![SanType::URI(answers.uri.try_into().unwrap())];
        let now = ::time::OffsetDateTime::from_unix_timestamp(self.clock.now().as_second()).unwrap();
        params.not_before = now - std::time::Duration::from_secs(10);
        params.not_after = now + std::time::Duration::from_secs(u64::try_from(request.preferred_ttl).unwrap());
        let certificate = params.signed_by(&asked.public_key, &self.root).unwrap();
        let ca_cert_chain = vec![certificate.der().to_vec()];
        // As the real one: without a word on which of them are tainted.
        let authorities = self.authorities.lock().unwrap();
        let x509_authorities = authorities.x509_authorities.iter().map(|one| one.asn1.clone()).collect();
        Ok(Response::new(NewDownstreamX509caResponse { ca_cert_chain, x509_authorities }))
    }
}

#[tonic::async_trait]
impl Bundle for Fake {
    async fn get_bundle(&self, _request: Request<GetBundleRequest>) -> Result<Response<types::Bundle>, Status> {
        Ok(Response::new(self.authorities.lock().unwrap().clone()))
    }

    async fn publish_jwt_authority(
        &self,
        request: Request<PublishJwtAuthorityRequest>,
    ) -> Result<Response<PublishJwtAuthorityResponse>, Status> {
        if !self.answers.lock().unwrap().publishes {
            return Err(Status::internal("failed to publish JWT key"));
        }
        let key = request.into_inner().jwt_authority.unwrap();
        let mut authorities = self.authorities.lock().unwrap();
        authorities.jwt_authorities.push(key);
        Ok(Response::new(PublishJwtAuthorityResponse { jwt_authorities: authorities.jwt_authorities.clone() }))
    }
}

struct Scene {
    t: TestNode,
    fake: Arc<Fake>,
    key: SigningKey,
    config: SpireConfig,
    /// While it lives, they serve.
    guard: (JoinSet<()>, PrivateDirectory),
}

async fn scene(as_whom: &str, wanted: Option<&str>) -> Scene {
    let clock = Arc::new(FakeClock::default());
    let key = SigningKey::generate(&SystemRandom::new()).unwrap();
    let fake = Fake::new(Arc::clone(&clock), &key);
    let folder = PrivateDirectory::new();
    let (config, tasks) = fake.serve(as_whom, &folder).await;
    let config = SpireConfig { spiffe_id: wanted.map(|id| id.parse().unwrap()), ..config };
    let upstream = Spire::new(config.clone(), "example.org".parse().unwrap()).unwrap();
    let t = Setup { clock, upstream: Some(Box::new(upstream)), ..super::spiffe::setup(1) }.build();
    Scene { t, fake, key, config, guard: (tasks, folder) }
}

#[tokio::test]
async fn spire_signs_the_ca_gets_our_keys_and_its_bundle_is_ours() {
    let Scene { t, fake, key, guard: _guard, .. } = scene(SERVER, None).await;
    t.node.rotate_once().await.unwrap();
    assert_eq!(super::upstreams::svid(&t).await.unwrap().0.len(), 2);
    let bundle = t.node.authority.bundle();
    assert_eq!(bundle.roots, std::slice::from_ref(&fake.root_der), "what is tainted is not trusted");
    let own = t.node.authority.jwt.public_keys();
    assert!(bundle.has_jwt_key(key.kid()) && bundle.has_jwt_key(own[0].kid()) && !bundle.has_jwt_key("tainted"));
    assert_eq!(bundle.jwt_authorities, 2);
    let published: Vec<String> =
        fake.authorities.lock().unwrap().jwt_authorities.iter().map(|key| key.key_id.clone()).collect();
    assert_eq!(published, [key.kid(), "tainted", own[0].kid()]);
    t.node.rotate_once().await.unwrap();
    assert_eq!(fake.authorities.lock().unwrap().jwt_authorities.len(), 3, "a key is published once");
    let sequence = t.node.authority.bundle().sequence;
    // What it does not trust any more leaves with the next look.
    fake.authorities.lock().unwrap().jwt_authorities[0].tainted = true;
    t.node.rotate_once().await.unwrap();
    let bundle = t.node.authority.bundle();
    assert!(!bundle.has_jwt_key(key.kid()) && bundle.sequence > sequence);
}

#[tokio::test]
async fn a_token_of_spire_is_good_by_its_keys_and_none_of_them_speaks_for_this_node() {
    let Scene { t, fake, key, guard: _guard, .. } = scene(SERVER, None).await;
    let now = t.node.clock.now().as_second();
    let claims = |exp: i64| json!({"sub": "spiffe://example.org/a", "aud": [AUDIENCE], "iat": now, "exp": exp});
    let validate = async |token: &str| match t.node.validate(&t.peer(), token, AUDIENCE).await.unwrap() {
        Ok((id, _)) => id.to_string(),
        Err(invalid) => invalid.to_string(),
    };
    let token = key.sign_jwt("JWT", &claims(now + 60)).unwrap();
    assert!(validate(&token).await.contains("key is unknown"), "before its bundle is known");
    // A key of theirs that has the id of ours.
    let own = t.node.authority.jwt.public_keys()[0].kid().to_owned();
    let impostor = types::JwtKey { key_id: own.clone(), ..fake.authorities.lock().unwrap().jwt_authorities[0].clone() };
    fake.authorities.lock().unwrap().jwt_authorities.push(impostor);
    t.node.rotate_once().await.unwrap();
    assert_eq!(validate(&token).await, "spiffe://example.org/a");
    let over = key.sign_jwt("JWT", &claims(now)).unwrap();
    assert!(validate(&over).await.contains("it is over"));
    let [header, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
    let header = String::from_utf8(base64url(header)).unwrap().replace(key.kid(), &own);
    let forged = format!("{}.{claims}.{signature}", to_base64url(header.as_bytes()));
    assert!(validate(&forged).await.contains("signature does not fit"));
    assert_eq!(t.node.authority.bundle().jwt_authorities, 2, "each id stands once");
}

#[tokio::test]
async fn the_bundle_of_spire_is_there_after_a_restart_without_it() {
    let Scene { t, key, config, guard: _guard, .. } = scene(SERVER, None).await;
    t.node.rotate_once().await.unwrap();
    let before = t.node.authority.bundle();
    let (directory, clock, kernel) = (Arc::clone(&t.directory), Arc::clone(&t.clock), Arc::clone(&t.kernel));
    drop(t);
    let nowhere = HostPort { host: "127.0.0.1".to_owned(), port: 1 };
    let upstream = Spire::new(SpireConfig { server: nowhere, ..config }, "example.org".parse().unwrap()).unwrap();
    let upstream = Some(Box::new(upstream) as Box<dyn agent_daemon::upstream::Upstream>);
    let t = Setup { directory, clock, kernel: Some(kernel), upstream, ..super::spiffe::setup(1) }.build();
    assert_eq!(*t.node.authority.bundle(), *before);
    assert!(before.has_jwt_key(key.kid()));
    assert!(t.node.rotate_once().await.is_err());
    assert_eq!(*t.node.authority.bundle(), *before, "the last good one goes on");
}

#[tokio::test]
async fn what_spire_answers_wrongly_is_refused_and_says_why() {
    let Scene { t, fake, guard: _guard, .. } = scene(SERVER, None).await;
    let good = Answers::default;
    let cases = [
        (Answers { identities: vec![], ..good() }, "this daemon needs a registration entry there"),
        (
            Answers { identities: vec!["spiffe://other.example/a"], ..good() },
            "the agent's trust domain is other.example",
        ),
        (Answers { is_downstream: false, ..good() }, "has to be a downstream one"),
        (Answers { right_bundle: false, ..good() }, "the server's SVID does not verify"),
        (Answers { uri: "spiffe://other.example", ..good() }, "not for spiffe://example.org"),
    ];
    for (answers, words) in cases {
        fake.set(answers);
        let error = t.node.rotate_once().await.unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
        assert!(t.node.authority.x509.ends_at(t.node.clock.now()).is_err());
        assert!(!t.node.authority.bundle().has_jwt_key("tainted"));
    }
    let Scene { t, guard: _guard, .. } = scene("spiffe://example.org/workload", None).await;
    let error = t.node.rotate_once().await.unwrap_err().to_string();
    assert!(error.contains("the server is spiffe://example.org/workload and not"), "{error}");
    let Scene { t, guard: _guard, .. } = scene(SERVER, Some("spiffe://example.org/elsewhere")).await;
    let error = t.node.rotate_once().await.unwrap_err().to_string();
    assert!(error.contains("does not know this daemon as spiffe://example.org/elsewhere"), "{error}");
    let Scene { t, fake, guard: _guard, .. } = scene(SERVER, Some(NODE)).await;
    fake.set(Answers { identities: vec!["spiffe://example.org/first", NODE], ..good() });
    t.node.rotate_once().await.unwrap();
    let Scene { t, fake, guard: _guard, .. } = scene(SERVER, None).await;
    t.node.rotate_once().await.unwrap();
    let before = t.node.authority.bundle();
    let change = |change: fn(&mut types::Bundle)| change(&mut fake.authorities.lock().unwrap());
    change(|bundle| bundle.trust_domain = "other.example".to_owned());
    let error = t.node.rotate_once().await.unwrap_err().to_string();
    assert!(error.contains("the server's bundle is of \"other.example\""), "{error}");
    change(|bundle| {
        bundle.trust_domain = "example.org".to_owned();
        bundle.x509_authorities.iter_mut().for_each(|one| one.tainted = true);
    });
    let error = t.node.rotate_once().await.unwrap_err().to_string();
    assert!(error.contains("has no X.509 authority"), "{error}");
    assert_eq!(*t.node.authority.bundle(), *before, "the last good one goes on");
    let Scene { t, fake, guard: _guard, .. } = scene(SERVER, None).await;
    let many = vec![fake.authorities.lock().unwrap().jwt_authorities[0].clone(); 1500];
    let many = many.into_iter().enumerate().map(|(place, key)| types::JwtKey { key_id: place.to_string(), ..key });
    fake.authorities.lock().unwrap().jwt_authorities = many.collect();
    t.node.rotate_once().await.unwrap();
    let bundle = t.node.authority.bundle();
    assert!(bundle.has_jwt_key("1499") && !bundle.has_jwt_key("0"), "the newest of too many");
}

#[tokio::test]
async fn a_root_that_spire_does_not_trust_any_more_leaves_and_a_ca_below_it_is_replaced_at_once() {
    let Scene { t, fake, guard: _guard, .. } = scene(SERVER, None).await;
    t.node.rotate_once().await.unwrap();
    let before = super::upstreams::svid(&t).await.unwrap().0[1].clone();
    // It goes on with another authority, which is not what the fake signs with yet.
    let other = root(&KeyPair::generate().unwrap()).1;
    fake.authorities.lock().unwrap().x509_authorities = vec![authority(&fake.root_der, true), authority(&other, false)];
    // Nothing that it signs now leads to what it trusts: it says so, and the last good one goes on.
    t.node.rotate_once().await.unwrap();
    assert_eq!(t.node.authority.x509.roots(), std::slice::from_ref(&other), "what is tainted is trusted by nobody");
    assert_eq!(super::upstreams::svid(&t).await.unwrap().0[1], before);
    assert!(t.node.authority.x509.is_due(t.node.clock.now()), "another CA is asked for");
    fake.authorities.lock().unwrap().x509_authorities = vec![authority(&fake.root_der, false)];
    t.node.rotate_once().await.unwrap();
    assert_eq!(t.node.authority.x509.roots(), std::slice::from_ref(&fake.root_der));
    assert!(!t.node.authority.x509.is_due(t.node.clock.now()));
    let operations: Vec<_> = t.records_of("bundle").iter().map(|record| record["operation"].clone()).collect();
    assert_eq!(operations, vec!["follow"; 3]);
}

#[tokio::test]
async fn a_bundle_is_followed_although_no_ca_is_signed_and_no_key_is_taken() {
    let Scene { t, fake, key, guard: _guard, .. } = scene(SERVER, None).await;
    fake.set(Answers { is_downstream: false, publishes: false, ..Answers::default() });
    assert!(t.node.rotate_once().await.is_err());
    assert!(t.node.authority.bundle().has_jwt_key(key.kid()));
    let cancel = tokio_util::sync::CancellationToken::new();
    tokio::select! {
        () = t.node.rotate_keys(cancel) => {}
        () = super::served::until("both are recorded", || {
            let said = |words: &str| t.records_of("authority").iter().any(|record| record["error"].to_string().contains(words));
            said("has to be a downstream one") && said("does not publish the keys of this node")
        }) => {}
    }
}

fn base64url(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
}

fn to_base64url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}
