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
        let request = crate::spiffe::ValidateJwtsvidRequest { svid: "canary".into(), ..Default::default() };
        assert!(!format!("{request:?}").contains("canary"));
    }
}
