// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fmt;

impl fmt::Debug for crate::v1::Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("type", &self.r#type)
            .field("secret", &"...")
            .field("spiffe_id", &self.spiffe_id)
            .field("audience", &self.audience)
            .finish()
    }
}

impl fmt::Debug for crate::v1::ReleaseRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReleaseRequest")
            .field("destination", &self.destination)
            .field("connection", &self.connection)
            .field("binding", &self.binding)
            .field("spiffe_id", &self.spiffe_id)
            .field("traceparent", &self.traceparent)
            .field("session_handle", &"...")
            .finish()
    }
}

impl fmt::Debug for crate::v1::RenewRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenewRequest")
            .field("lease_id", &self.lease_id)
            .field("connection", &self.connection)
            .field("traceparent", &self.traceparent)
            .field("session_handle", &"...")
            .finish()
    }
}

impl fmt::Debug for crate::v1::OpenSessionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSessionRequest")
            .field("user", &self.user)
            .field("agent", &self.agent)
            .field("purpose", &self.purpose)
            .field("scopes", &self.scopes)
            .field("lifetime_seconds", &self.lifetime_seconds)
            .field("binding", &self.binding)
            .field("parent_handle", &"...")
            .field("spiffe_id", &self.spiffe_id)
            .finish()
    }
}

impl fmt::Debug for crate::v1::open_session_request::User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(local) => local.fmt(f),
            Self::Token(token) => token.fmt(f),
        }
    }
}

impl fmt::Debug for crate::v1::OpenSessionResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSessionResponse")
            .field("session_id", &self.session_id)
            .field("session_handle", &"...")
            .field("user", &self.user)
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

impl fmt::Debug for crate::v1::UserToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserToken(\"...\")")
    }
}

impl fmt::Debug for crate::v1::EnterSessionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnterSessionRequest(\"...\")")
    }
}

impl fmt::Debug for crate::v1::CloseSessionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CloseSessionRequest(\"...\")")
    }
}

impl fmt::Debug for crate::v1::BeginStepRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BeginStepRequest")
            .field("session_handle", &"...")
            .field("kind", &self.kind)
            .field("traceparent", &self.traceparent)
            .field("parent_span_id", &self.parent_span_id)
            .field("name", &self.name)
            .field("reference", &self.reference)
            .field("thread_id", &self.thread_id)
            .field("content", &"...")
            .finish()
    }
}

impl fmt::Debug for crate::v1::EndStepRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndStepRequest")
            .field("session_handle", &"...")
            .field("traceparent", &self.traceparent)
            .field("failed", &self.failed)
            .finish()
    }
}

impl fmt::Debug for crate::admin::PutSecretRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PutSecretRequest").field("name", &self.name).field("secret", &"...").finish()
    }
}

impl fmt::Debug for crate::spiffe::X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("x509_svid_key", &"...")
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for crate::spiffe::Witsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witsvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("wit_svid_key", &"...")
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for crate::spiffe::Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwtsvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("svid", &"...")
            .field("hint", &self.hint)
            .finish()
    }
}

impl fmt::Debug for crate::spiffe::ValidateJwtsvidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidateJwtsvidRequest").field("audience", &self.audience).field("svid", &"...").finish()
    }
}

impl fmt::Debug for crate::envoy::config::core::v3::DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataSource(\"...\")")
    }
}

impl fmt::Debug for crate::envoy::config::core::v3::data_source::Specifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Specifier(\"...\")")
    }
}

impl fmt::Debug for crate::envoy::service::discovery::v3::DiscoveryResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryResponse")
            .field("version_info", &self.version_info)
            .field("resources", &self.resources.len())
            .field("nonce", &self.nonce)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for crate::envoy::service::discovery::v3::Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("resource", &"...")
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn secrets_do_not_print() {
        let credential = crate::v1::Credential { secret: b"canary".to_vec(), ..Default::default() };
        assert!(!format!("{credential:?}").contains("canary"));
        assert!(!format!("{credential:?}").contains("99, 97"));
        let put = crate::admin::PutSecretRequest { name: "n".into(), secret: b"canary".to_vec() };
        assert!(!format!("{put:?}").contains("canary") && !format!("{put:?}").contains("99, 97"));
        let svid = crate::spiffe::X509svid { x509_svid_key: b"canary".to_vec(), ..Default::default() };
        let response = crate::spiffe::X509svidResponse { svids: vec![svid], ..Default::default() };
        assert!(!format!("{response:?}").contains("99, 97"));
        let svid = crate::spiffe::Jwtsvid { svid: "canary".into(), ..Default::default() };
        let response = crate::spiffe::JwtsvidResponse { svids: vec![svid] };
        assert!(!format!("{response:?}").contains("canary"));
        let any = || prost_types::Any { value: b"canary".to_vec(), ..Default::default() };
        let resource = crate::envoy::service::discovery::v3::Resource { resource: Some(any()), ..Default::default() };
        assert!(!format!("{resource:?}").contains("99, 97"));
        let response =
            crate::envoy::service::discovery::v3::DiscoveryResponse { resources: vec![any()], ..Default::default() };
        assert!(!format!("{response:?}").contains("99, 97"));
        let specifier = crate::envoy::config::core::v3::data_source::Specifier::InlineBytes(b"canary".to_vec());
        let certificate = crate::envoy::extensions::transport_sockets::tls::v3::TlsCertificate {
            private_key: Some(crate::envoy::config::core::v3::DataSource { specifier: Some(specifier) }),
            ..Default::default()
        };
        assert!(!format!("{certificate:?}").contains("99, 97"));
        let request = crate::spiffe::ValidateJwtsvidRequest { svid: "canary".into(), ..Default::default() };
        assert!(!format!("{request:?}").contains("canary"));
    }

    #[test]
    fn handles_and_tokens_of_users_do_not_print() {
        use crate::v1;
        let canary = || "canary".to_owned();
        let user = Some(v1::open_session_request::User::Token(v1::UserToken { token: canary(), nonce: canary() }));
        for shown in [
            format!("{:?}", v1::ReleaseRequest { session_handle: canary(), ..Default::default() }),
            format!("{:?}", v1::RenewRequest { session_handle: canary(), ..Default::default() }),
            format!("{:?}", v1::OpenSessionRequest { user, parent_handle: canary(), ..Default::default() }),
            format!("{:?}", v1::OpenSessionResponse { session_handle: canary(), ..Default::default() }),
            format!("{:?}", v1::EnterSessionRequest { session_handle: canary() }),
            format!("{:?}", v1::CloseSessionRequest { session_handle: canary() }),
            format!("{:?}", v1::BeginStepRequest { session_handle: canary(), content: canary(), ..Default::default() }),
            format!("{:?}", v1::EndStepRequest { session_handle: canary(), ..Default::default() }),
        ] {
            assert!(!shown.contains("canary"), "{shown}");
        }
    }
}
