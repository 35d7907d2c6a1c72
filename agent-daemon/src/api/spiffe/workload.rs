// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::HashMap;
use std::sync::Arc;

use agent_proto::spiffe::spiffe_workload_api_server::SpiffeWorkloadApi;
use agent_proto::spiffe::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, Witsvid, WitsvidRequest, WitsvidResponse,
    X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};
use futures_util::stream::unfold;
use jiff::Timestamp;
use prost_types::value::Kind;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Open, Updates, caller, is_passing, malformed, status};
use crate::attest::Peer;
use crate::authority::{MAX_TOKEN_BYTES, TrustBundle};
use crate::credential::Lease;
use crate::credential::destination::MAX_AUDIENCE_BYTES;
use crate::identity::{Entry, MAX_SPIFFE_ID_BYTES};
use crate::node::{Bundles, Node, Part, Refusal, Released, Svids, Wanted};

/// The Workload API.
#[derive(Debug)]
pub(in crate::api) struct Workload {
    node: Arc<Node>,
    cancel: CancellationToken,
}

/// What a stream of SVIDs said last.
struct Given {
    leases: Vec<Arc<Lease>>,
    rotate_at: Timestamp,
    ends_at: Timestamp,
}

impl Given {
    fn of(svids: &Svids) -> Self {
        let leases: Vec<Arc<Lease>> = svids.svids.iter().map(|(_, svid)| Arc::clone(&svid.lease)).collect();
        let ends_at = leases.iter().map(|lease| lease.expires_at).min().unwrap_or(svids.rotate_at);
        Self { leases, rotate_at: svids.rotate_at, ends_at }
    }
}

impl Workload {
    /// Streams end with `cancel`.
    pub(in crate::api) fn new(node: Arc<Node>, cancel: CancellationToken) -> Self {
        Self { node, cancel }
    }

    async fn open<T>(&self, request: Request<T>, operation: &str) -> Result<Open<()>, Status> {
        let peer = caller(&request, operation).await?;
        Open::new(&self.node, peer, &self.cancel)
    }

    /// As the draft says it of an endpoint without this profile.
    fn wants_wit(&self) -> Result<(), Status> {
        let wit = self.node.authority.wit.as_ref();
        wit.map(|_| ()).ok_or_else(|| Status::unimplemented("experimental.wit_svid is off"))
    }

    async fn bundles<T, R: Send + 'static>(
        &self,
        request: Request<T>,
        part: Part,
        answer: fn(&Bundles) -> R,
    ) -> Result<Response<Updates<R>>, Status> {
        let operation = match part {
            Part::X509 => "fetch_x509_bundles",
            Part::Jwt => "fetch_jwt_bundles",
            Part::Wit => "fetch_wit_bundles",
        };
        let mut open = self.open(request, operation).await?;
        let bundles = self.node.bundles(&open.peer).await.map_err(|refusal| status(&refusal))?;
        open.told(&bundles, part);
        let state = Step::First(Box::new((open, answer(&bundles))));
        Ok(Response::new(Box::pin(unfold(state, move |state| next_bundles(state, part, answer)))))
    }
}

/// Where a stream is. The first answer is made before the stream begins, so that a refusal is the answer of the call.
enum Step<S, R> {
    First(Box<(Open<S>, R)>),
    Next(Box<Open<S>>),
    End,
}

/// What a stream says, and where it is then; none at its end.
type Said<S, R> = Option<(Result<R, Status>, Step<S, R>)>;

impl<S, R> Step<S, R> {
    /// The open stream when there is something to wait for, or else what is said at once.
    fn resume(self) -> Result<Box<Open<S>>, Said<S, R>> {
        match self {
            Self::First(first) => {
                let (open, answer) = *first;
                Err(Some((Ok(answer), Self::Next(Box::new(open)))))
            }
            Self::Next(open) => Ok(open),
            Self::End => Err(None),
        }
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Workload {
    type FetchX509SVIDStream = Updates<X509svidResponse>;
    type FetchX509BundlesStream = Updates<X509BundlesResponse>;
    type FetchJWTBundlesStream = Updates<JwtBundlesResponse>;
    type FetchWITSVIDStream = Updates<WitsvidResponse>;
    type FetchWITBundlesStream = Updates<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        X509.stream(self.open(request, "fetch_x509_svid").await?).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let answer = |bundles: &Bundles| X509BundlesResponse { crl: Vec::new(), bundles: all(bundles, Part::X509) };
        self.bundles(request, Part::X509, answer).await
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        let operation = "fetch_jwt_svid";
        let peer = caller(&request, operation).await?;
        let request = request.into_inner();
        let refused = |detail: String| malformed(&self.node, &peer, operation, detail);
        self.node.check_audiences(&request.audience).map_err(refused)?;
        if request.spiffe_id.len() > MAX_SPIFFE_ID_BYTES || request.spiffe_id.chars().any(char::is_control) {
            return Err(refused("spiffe_id: not a SPIFFE ID".to_owned()));
        }
        let audiences: Vec<Arc<str>> = request.audience.into_iter().map(Into::into).collect();
        let spiffe_id = (!request.spiffe_id.is_empty()).then_some(request.spiffe_id.as_str());
        let svids = self.node.jwt_svids(&peer, &audiences, spiffe_id).await.map_err(|refusal| status(&refusal))?;
        let mut hints = Vec::new();
        Ok(Response::new(JwtsvidResponse {
            svids: svids.into_iter().map(|(entry, svid)| jwt_svid(&entry, svid, &mut hints)).collect(),
        }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let answer = |bundles: &Bundles| JwtBundlesResponse { bundles: all(bundles, Part::Jwt) };
        self.bundles(request, Part::Jwt, answer).await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let operation = "validate_jwt_svid";
        let peer = caller(&request, operation).await?;
        let request = request.into_inner();
        for (field, length, limit) in
            [("audience", request.audience.len(), MAX_AUDIENCE_BYTES), ("svid", request.svid.len(), MAX_TOKEN_BYTES)]
        {
            if !(1..=limit).contains(&length) {
                return Err(malformed(&self.node, &peer, operation, format!("{field}: from 1 to {limit} bytes")));
            }
        }
        let valid = self.node.validate(&peer, &request.svid, &request.audience).await;
        let (spiffe_id, claims) = valid
            .map_err(|refusal| status(&refusal))?
            .map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
        let fields = claims.into_iter().map(|(name, claim)| (name, value(claim))).collect();
        Ok(Response::new(ValidateJwtsvidResponse {
            spiffe_id: spiffe_id.to_string(),
            claims: Some(prost_types::Struct { fields }),
        }))
    }

    async fn fetch_witsvid(
        &self,
        request: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        let open = self.open(request, "fetch_wit_svid").await?;
        self.wants_wit()?;
        WIT.stream(open).await
    }

    async fn fetch_wit_bundles(
        &self,
        request: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        self.wants_wit()?;
        let answer = |bundles: &Bundles| {
            let all = all(bundles, Part::Wit).into_iter();
            let as_text = |(id, keys)| Some((id, String::from_utf8(keys).ok()?));
            WitBundlesResponse { bundles: all.filter_map(as_text).collect(), more: false }
        };
        self.bundles(request, Part::Wit, answer).await
    }
}

/// A type of SVID that a stream gives: how it is asked for, and told.
struct Profile<R> {
    part: Part,
    answer: fn(Svids) -> (R, Given),
}

impl<R> Clone for Profile<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Profile<R> {}

const X509: Profile<X509svidResponse> = Profile { part: Part::X509, answer: x509_answer };
const WIT: Profile<WitsvidResponse> = Profile { part: Part::Wit, answer: wit_answer };

impl<R: Send + 'static> Profile<R> {
    async fn ask(self, node: &Node, peer: &Peer, held: &[Arc<Lease>]) -> Result<Svids, Refusal> {
        match self.part {
            Part::Wit => node.wit_svids(peer, held).await,
            Part::X509 | Part::Jwt => node.x509_svids(peer, &Wanted::All, held).await,
        }
    }

    async fn stream(self, mut open: Open<()>) -> Result<Response<Updates<R>>, Status> {
        let svids = self.ask(&open.node, &open.peer, &[]).await.map_err(|refusal| status(&refusal))?;
        open.told(&svids.bundles, self.part);
        let (answer, given) = (self.answer)(svids);
        let state = Step::First(Box::new((open.with(given), answer)));
        Ok(Response::new(Box::pin(unfold(state, move |state| next_svids(state, self)))))
    }
}

async fn next_svids<R: Send + 'static>(step: Step<Given, R>, kind: Profile<R>) -> Said<Given, R> {
    let mut open = match step.resume() {
        Ok(open) => open,
        Err(said) => return said,
    };
    let mut rotate_at = open.said.rotate_at;
    loop {
        if let Err(over) = open.wait(Some(rotate_at)).await {
            return Some((Err(over), Step::End));
        }
        match kind.ask(&open.node, &open.peer, &open.said.leases).await {
            Ok(svids) => {
                open.told(&svids.bundles, kind.part);
                let (answer, given) = (kind.answer)(svids);
                open.said = given;
                return Some((Ok(answer), Step::Next(open)));
            }
            // What the caller has goes on being good for a while, and so does the stream.
            Err(refusal) if is_passing(&refusal) && open.node.clock.now() < open.said.ends_at => {
                rotate_at = open.goes_on_without(&refusal);
            }
            Err(refusal) => return Some((Err(status(&refusal)), Step::End)),
        }
    }
}

async fn next_bundles<R>(step: Step<(), R>, part: Part, answer: fn(&Bundles) -> R) -> Said<(), R> {
    let mut open = match step.resume() {
        Ok(open) => open,
        Err(said) => return said,
    };
    let mut again_at = None;
    loop {
        if let Err(over) = open.wait(again_at).await {
            return Some((Err(over), Step::End));
        }
        match open.node.bundles(&open.peer).await {
            Ok(bundles) => match open.told(&bundles, part) {
                true => return Some((Ok(answer(&bundles)), Step::Next(open))),
                false => again_at = None,
            },
            Err(refusal) if is_passing(&refusal) => again_at = Some(open.goes_on_without(&refusal)),
            Err(refusal) => return Some((Err(status(&refusal)), Step::End)),
        }
    }
}

fn wit_answer(svids: Svids) -> (WitsvidResponse, Given) {
    let given = Given::of(&svids);
    let mut hints = Vec::new();
    let svids = svids.svids.into_iter().map(|(entry, svid)| {
        let Released { mut secret, chain, lease, .. } = svid;
        Witsvid {
            spiffe_id: lease.spiffe_id.to_string(),
            // Both are ASCII, made by us.
            wit_svid: String::from_utf8(chain).unwrap_or_default(),
            wit_svid_key: String::from_utf8(std::mem::take(&mut *secret)).unwrap_or_default(),
            hint: unique(&entry, &mut hints),
        }
    });
    (WitsvidResponse { svids: svids.collect() }, given)
}

fn x509_answer(svids: Svids) -> (X509svidResponse, Given) {
    let given = Given::of(&svids);
    let Svids { svids, bundles, .. } = svids;
    let foreign = bundles.foreign.iter().map(|bundle| (key_of(bundle), bundle.x509.to_vec())).collect();
    let mut hints = Vec::new();
    let svids = svids.into_iter().map(|(entry, svid)| x509_svid(&entry, svid, &bundles.own, &mut hints)).collect();
    (X509svidResponse { svids, crl: Vec::new(), federated_bundles: foreign }, given)
}

fn x509_svid(entry: &Entry, svid: Released, own: &TrustBundle, hints: &mut Vec<Arc<str>>) -> X509svid {
    let Released { mut secret, chain, lease, .. } = svid;
    X509svid {
        spiffe_id: lease.spiffe_id.to_string(),
        x509_svid: chain,
        x509_svid_key: std::mem::take(&mut *secret),
        bundle: own.x509.to_vec(),
        hint: unique(entry, hints),
    }
}

/// A hint picks one identity, so only the first that has it gets it.
fn unique(entry: &Entry, hints: &mut Vec<Arc<str>>) -> String {
    match &entry.hint {
        Some(hint) if !hints.contains(hint) => {
            hints.push(Arc::clone(hint));
            hint.to_string()
        }
        Some(_) | None => String::new(),
    }
}

fn jwt_svid(entry: &Entry, svid: Released, hints: &mut Vec<Arc<str>>) -> Jwtsvid {
    let Released { mut secret, lease, .. } = svid;
    Jwtsvid {
        spiffe_id: lease.spiffe_id.to_string(),
        // Base64 and dots, made by us.
        svid: String::from_utf8(std::mem::take(&mut *secret)).unwrap_or_default(),
        hint: unique(entry, hints),
    }
}

fn all(bundles: &Bundles, part: Part) -> HashMap<String, Vec<u8>> {
    bundles.all().map(|bundle| (key_of(bundle), part.of(bundle).to_vec())).collect()
}

/// The SPIFFE ID of a trust domain.
fn key_of(bundle: &TrustBundle) -> String {
    format!("spiffe://{}", bundle.trust_domain)
}

fn value(json: serde_json::Value) -> prost_types::Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(is) => Kind::BoolValue(is),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.into_iter().map(value).collect() })
        }
        serde_json::Value::Object(members) => Kind::StructValue(prost_types::Struct {
            fields: members.into_iter().map(|(name, member)| (name, value(member))).collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}
