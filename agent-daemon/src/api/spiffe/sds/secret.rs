// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a name stands for, and how it is written for Envoy. The names are those that SPIRE's users have in their
//! configurations.

use std::collections::BTreeSet;
use std::sync::Arc;

use agent_proto::envoy::config::core::v3::data_source::Specifier;
use agent_proto::envoy::config::core::v3::node::UserAgentVersionType;
use agent_proto::envoy::config::core::v3::{DataSource, Node as EnvoyNode, TypedExtensionConfig};
use agent_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use agent_proto::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain;
use agent_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate,
};
use prost_types::Any;
use prost_types::value::Kind;

use crate::authority::TrustBundle;
use crate::identity::SpiffeId;
use crate::node::{Bundles, Released, Wanted};

/// The certificate of the default identity.
const DEFAULT: &str = "default";
/// The authorities of the own trust domain.
const ROOT_CA: &str = "ROOTCA";
/// Those of all trust domains that the caller trusts.
const ALL: &str = "ALL";
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.";
pub(super) const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
/// The first version of Envoy that has it.
const VALIDATOR_SINCE: (u32, u32) = (1, 18);
/// In the metadata of Envoy's node: plain authorities instead.
const PLAIN: &str = "disable_spiffe_cert_validation";

/// How authorities are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Validation {
    /// To Envoy's own SPIFFE validator, which chooses them by the peer's trust domain.
    Spiffe,
    /// As a plain list, which trusts them for every name.
    Plain,
}

impl Validation {
    pub(super) fn of(node: &EnvoyNode) -> Self {
        let is_off = node.metadata.as_ref().and_then(|metadata| metadata.fields.get(PLAIN)).is_some_and(|value| {
            match &value.kind {
                Some(Kind::BoolValue(is)) => *is,
                Some(Kind::StringValue(text)) => matches!(&**text, "1" | "t" | "T" | "true" | "TRUE" | "True"),
                _ => false,
            }
        });
        let version = match &node.user_agent_version_type {
            Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build.version.as_ref(),
            Some(UserAgentVersionType::UserAgentVersion(_)) | None => None,
        };
        let is_old = version.is_some_and(|version| (version.major_number, version.minor_number) < VALIDATOR_SINCE);
        if is_off || is_old { Self::Plain } else { Self::Spiffe }
    }
}

/// What of the names is a certificate; none when none is.
pub(super) fn certificates(names: &Names) -> Option<Wanted> {
    let Names::Listed(names) = names else { return Some(Wanted::All) };
    let default = names.contains(DEFAULT);
    let has_path = |id: &SpiffeId| !id.path().is_empty();
    let is_id = |name: &&String| name.parse::<SpiffeId>().is_ok_and(|id| has_path(&id));
    let ids: Vec<String> = names.iter().filter(is_id).cloned().collect();
    (default || !ids.is_empty()).then_some(Wanted::Some { default, ids })
}

/// Which secrets a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Names {
    /// No name was given: everything that the caller has.
    Everything,
    /// These.
    Listed(BTreeSet<String>),
}

impl Names {
    fn have(&self, name: &str) -> bool {
        match self {
            Self::Everything => false,
            Self::Listed(names) => names.contains(name),
        }
    }
}

/// The secrets behind the names, as far as the caller has them.
pub(super) fn secrets(
    names: &Names,
    svids: &[Released],
    default: Option<&SpiffeId>,
    bundles: &Bundles,
    validation: Validation,
) -> Vec<Secret> {
    let mut secrets = Vec::new();
    for svid in svids {
        let id = svid.lease.spiffe_id.to_string();
        let mut own = Vec::new();
        if default == Some(&svid.lease.spiffe_id) && names.have(DEFAULT) {
            own.push(DEFAULT.to_owned());
        }
        if *names == Names::Everything || names.have(&id) {
            own.push(id);
        }
        let certificate = certificate(svid);
        secrets.extend(
            own.into_iter().map(|name| Secret { name, r#type: Some(Type::TlsCertificate(certificate.clone())) }),
        );
    }
    let mut context = |name: String, bundles: &[&Arc<TrustBundle>]| {
        secrets.push(Secret { name, r#type: Some(Type::ValidationContext(validation_context(bundles, validation))) });
    };
    let own = &bundles.own;
    if names.have(ROOT_CA) {
        context(ROOT_CA.to_owned(), &[own]);
    }
    let all: Vec<&Arc<TrustBundle>> = [own].into_iter().chain(&bundles.foreign).collect();
    if names.have(ALL) {
        context(ALL.to_owned(), &all);
    }
    for bundle in all {
        let id = format!("spiffe://{}", bundle.trust_domain);
        if *names == Names::Everything || names.have(&id) {
            context(id, &[bundle]);
        }
    }
    secrets
}

pub(super) fn any(secret: &Secret) -> Any {
    Any { type_url: SECRET_TYPE.to_owned(), value: prost::Message::encode_to_vec(secret) }
}

fn certificate(svid: &Released) -> TlsCertificate {
    let key = pem("PRIVATE KEY", &svid.secret);
    TlsCertificate { certificate_chain: Some(inline(certificates_pem(&svid.chain))), private_key: Some(inline(key)) }
}

fn validation_context(bundles: &[&Arc<TrustBundle>], validation: Validation) -> CertificateValidationContext {
    match validation {
        Validation::Plain => CertificateValidationContext {
            trusted_ca: Some(inline(bundles.iter().map(|bundle| certificates_pem(&bundle.x509)).collect())),
            custom_validator_config: None,
        },
        Validation::Spiffe => {
            let trust_domains = bundles.iter().map(|bundle| TrustDomain {
                name: bundle.trust_domain.to_string(),
                trust_bundle: Some(inline(certificates_pem(&bundle.x509))),
            });
            let config = SpiffeCertValidatorConfig { trust_domains: trust_domains.collect() };
            let typed_config = Any {
                type_url: format!("{TLS}SPIFFECertValidatorConfig"),
                value: prost::Message::encode_to_vec(&config),
            };
            CertificateValidationContext {
                trusted_ca: None,
                custom_validator_config: Some(TypedExtensionConfig {
                    name: VALIDATOR.to_owned(),
                    typed_config: Some(typed_config),
                }),
            }
        }
    }
}

/// Certificates that stand one after the other.
fn certificates_pem(mut der: &[u8]) -> String {
    let mut text = String::new();
    // They were read when they came in, so what does not read here is nothing.
    while let Ok((rest, _)) = x509_parser::parse_x509_certificate(der) {
        let one = der.get(..der.len().saturating_sub(rest.len())).unwrap_or_default();
        text.push_str(&pem("CERTIFICATE", one));
        der = rest;
    }
    text
}

fn pem(tag: &str, der: &[u8]) -> String {
    pem::encode_config(&pem::Pem::new(tag, der), pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

fn inline(text: String) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(text.into_bytes())) }
}

#[cfg(test)]
mod tests {
    use agent_proto::envoy::config::core::v3::BuildVersion;
    use agent_proto::envoy::r#type::v3::SemanticVersion;

    use super::*;

    fn node(version: Option<(u32, u32)>, plain: Option<Kind>) -> EnvoyNode {
        let version = version.map(|(major_number, minor_number)| {
            let version = Some(SemanticVersion { major_number, minor_number, patch: 0 });
            UserAgentVersionType::UserAgentBuildVersion(BuildVersion { version, metadata: None })
        });
        let fields = plain.map(|kind| (PLAIN.to_owned(), prost_types::Value { kind: Some(kind) }));
        let metadata = Some(prost_types::Struct { fields: fields.into_iter().collect() });
        EnvoyNode { user_agent_version_type: version, metadata, ..EnvoyNode::default() }
    }

    #[test]
    fn authorities_are_plain_only_for_whoever_cannot_or_will_not_validate_spiffe() {
        for (version, plain, expected) in [
            (None, None, Validation::Spiffe),
            (Some((1, 17)), None, Validation::Plain),
            (Some((1, 18)), None, Validation::Spiffe),
            (Some((2, 0)), None, Validation::Spiffe),
            (None, Some(Kind::BoolValue(true)), Validation::Plain),
            (None, Some(Kind::BoolValue(false)), Validation::Spiffe),
            (None, Some(Kind::StringValue("true".into())), Validation::Plain),
            (None, Some(Kind::StringValue("maybe".into())), Validation::Spiffe),
            (None, Some(Kind::NumberValue(1.0)), Validation::Spiffe),
        ] {
            assert_eq!(Validation::of(&node(version, plain.clone())), expected, "{version:?} {plain:?}");
        }
    }

    #[test]
    fn only_names_of_certificates_ask_for_certificates() {
        let listed = |names: &[&str]| Names::Listed(names.iter().map(|name| (*name).to_owned()).collect());
        let id = "spiffe://example.org/a";
        for (names, expected) in [
            (Names::Everything, Some(Wanted::All)),
            (listed(&["ROOTCA", "ALL", "spiffe://example.org", "nonsense"]), None),
            (listed(&["default"]), Some(Wanted::Some { default: true, ids: vec![] })),
            (listed(&["ROOTCA", id]), Some(Wanted::Some { default: false, ids: vec![id.to_owned()] })),
        ] {
            assert_eq!(certificates(&names), expected, "{names:?}");
        }
    }
}
