// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The PKI secrets engine of OpenBao, or of Vault: logs in, lets it sign, and gives the login back.
//!
//! <https://openbao.org/api-docs/secret/pki/#sign-intermediate>.

use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Upstream;
use crate::authority::given::{Given, Kind};
use crate::authority::{CaRequest, Error, Origin, Signed};
use crate::diagnostic::{with_sources, words};
use crate::url::Url;
use crate::web::{Answer, Client, Trust};

/// A login is smaller.
const MAX_SECRET_BYTES: usize = 64 * 1024;
/// Its words about an error.
const MAX_ERRORS: usize = 3;

/// Where it is and how to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenBaoConfig {
    /// `https://…`, as a whole.
    pub address: String,
    /// Roots by which it is believed; without, those of the machine.
    pub roots: Option<PathBuf>,
    /// Of the mount.
    pub namespace: Option<String>,
    /// Where the PKI is mounted.
    pub mount: String,
    /// How to log in.
    pub login: Login,
}

/// Ways to log in. What is secret stays in a file, which is read for each login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// A token that somebody else keeps fresh.
    Token {
        /// With the token.
        file: PathBuf,
    },
    /// A role and its secret.
    AppRole {
        /// Where the method is mounted.
        mount: String,
        /// Not a secret.
        role_id: String,
        /// With the secret.
        secret_id_file: PathBuf,
    },
    /// A JWT that another issuer gave this machine.
    Jwt {
        /// Where the method is mounted.
        mount: String,
        /// The role to log in as.
        role: String,
        /// With the JWT.
        file: PathBuf,
    },
}

/// The PKI of an OpenBao or Vault server.
#[derive(Debug)]
pub struct OpenBao {
    address: Url,
    config: OpenBaoConfig,
}

#[derive(Serialize)]
#[serde(untagged)]
enum LoginRequest<'a> {
    AppRole { role_id: &'a str, secret_id: &'a str },
    Jwt { role: &'a str, jwt: &'a str },
}

#[derive(Deserialize)]
struct LoginAnswer {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: String,
}

#[derive(Serialize)]
struct SignRequest<'a> {
    csr: &'a str,
    /// Without it the server leaves out the URI that says of which trust domain the CA is.
    use_csr_values: bool,
    ttl: String,
    format: &'static str,
}

#[derive(Deserialize)]
struct SignAnswer {
    data: SignData,
}

#[derive(Deserialize)]
struct SignData {
    certificate: String,
    issuing_ca: String,
    #[serde(default)]
    ca_chain: Vec<String>,
}

#[derive(Deserialize, Default)]
struct Errors {
    #[serde(default)]
    errors: Vec<String>,
}

/// A token, and whether it was made for this one request.
struct Session {
    token: Zeroizing<String>,
    is_ours: bool,
}

impl OpenBao {
    /// # Errors
    /// When the address is not one that may be called.
    pub fn new(config: OpenBaoConfig) -> Result<Self, Error> {
        let address = config
            .address
            .parse()
            .map_err(|why| failed(format!("the address {:?} is refused: {why}", config.address)))?;
        Ok(Self { address, config })
    }

    async fn ask(&self, request: &CaRequest) -> Result<Signed, Error> {
        let trust = self.config.roots.clone().map_or(Trust::System, Trust::File);
        let client = tokio::task::spawn_blocking(move || Client::new(&trust)).await;
        let client = client.map_err(|error| failed(error.to_string()))?;
        let client = client.map_err(|error| failed(with_sources(&error)))?;
        let session = self.login(&client).await?;
        let signed = self.sign_intermediate(&client, &session.token, request).await;
        if session.is_ours
            && let Err(error) = self.call(&client, "auth/token/revoke-self", Some(&session.token), b"{}".to_vec()).await
        {
            tracing::debug!(%error, "the login could not be given back; it ends by itself");
        }
        signed
    }

    async fn login(&self, client: &Client) -> Result<Session, Error> {
        let (mount, file) = match &self.config.login {
            Login::Token { file } => return Ok(Session { token: read_secret(file).await?, is_ours: false }),
            Login::AppRole { mount, secret_id_file, .. } => (mount, secret_id_file),
            Login::Jwt { mount, file, .. } => (mount, file),
        };
        let secret = read_secret(file).await?;
        let request = match &self.config.login {
            Login::AppRole { role_id, .. } => LoginRequest::AppRole { role_id, secret_id: &secret },
            Login::Jwt { role, .. } => LoginRequest::Jwt { role, jwt: &secret },
            Login::Token { .. } => return Err(failed("bug: a token needs no login".to_owned())),
        };
        let body = serde_json::to_vec(&request).map_err(Error::Json)?;
        let answer = self.call(client, &format!("auth/{mount}/login"), None, body).await?;
        let answer: LoginAnswer =
            serde_json::from_slice(&answer.body).map_err(|_| failed("its answer to the login is none".to_owned()))?;
        Ok(Session { token: Zeroizing::new(answer.auth.client_token), is_ours: true })
    }

    async fn sign_intermediate(&self, client: &Client, token: &str, request: &CaRequest) -> Result<Signed, Error> {
        let body = SignRequest {
            csr: &request.csr_pem,
            use_csr_values: true,
            ttl: format!("{}s", request.lifetime.as_secs()),
            format: "pem",
        };
        let body = serde_json::to_vec(&body).map_err(Error::Json)?;
        let path = format!("{}/root/sign-intermediate", self.config.mount);
        let answer = self.call(client, &path, Some(token), body).await?;
        let answer: SignAnswer =
            serde_json::from_slice(&answer.body).map_err(|_| failed("its answer holds no certificate".to_owned()))?;
        let mut certificates = Vec::new();
        for text in [&answer.data.certificate, &answer.data.issuing_ca].into_iter().chain(&answer.data.ca_chain) {
            let blocks = pem::parse_many(text).map_err(|_| failed("its certificates are not PEM".to_owned()))?;
            certificates.extend(blocks.into_iter().map(pem::Pem::into_contents));
        }
        Ok(Signed { certificates, roots: Vec::new() })
    }

    async fn call(&self, client: &Client, path: &str, token: Option<&str>, body: Vec<u8>) -> Result<Answer, Error> {
        let url =
            self.address.join(&format!("/v1/{path}")).map_err(|why| failed(format!("no address for {path}: {why}")))?;
        let mut headers = vec![("x-vault-request", "true")];
        headers.extend(self.config.namespace.as_deref().map(|namespace| ("x-vault-namespace", namespace)));
        headers.extend(token.map(|token| ("x-vault-token", token)));
        let answer = client.post(&url, &headers, body).await;
        let answer = answer.map_err(|error| failed(format!("{url}: {}", with_sources(&error))))?;
        if answer.status.is_success() { Ok(answer) } else { Err(failed(format!("{url}: {}", refusal(&answer)))) }
    }
}

impl Upstream for OpenBao {
    fn origin(&self) -> Origin {
        Origin::OpenBao
    }

    fn sign<'a>(&'a self, request: &'a CaRequest) -> BoxFuture<'a, Result<Signed, Error>> {
        Box::pin(self.ask(request))
    }
}

fn failed(reason: String) -> Error {
    Error::Upstream { origin: Origin::OpenBao, reason }
}

/// In the server's words, where it has some.
fn refusal(answer: &Answer) -> String {
    let errors = serde_json::from_slice::<Errors>(&answer.body).unwrap_or_default().errors;
    let said = match errors.is_empty() {
        true => answer.words(),
        false => words(&errors.into_iter().take(MAX_ERRORS).collect::<Vec<_>>().join("; ")),
    };
    format!("it answered {}: {said}", answer.status.as_u16())
}

async fn read_secret(path: &Path) -> Result<Zeroizing<String>, Error> {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read_secret_file(&owned)).await;
    read.map_err(|error| failed(error.to_string()))?
        .map_err(|why| failed(format!("cannot log in with {}: {why}", path.display())))
}

fn read_secret_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let bytes = Given::open(path, Kind::Secret).and_then(|given| given.read(MAX_SECRET_BYTES));
    let bytes = bytes.map_err(|error| error.to_string())?;
    let text = str::from_utf8(&bytes).map_err(|_| "it is not text".to_owned())?;
    let secret = Zeroizing::new(text.trim().to_owned());
    if secret.is_empty() { Err("it is empty".to_owned()) } else { Ok(secret) }
}
