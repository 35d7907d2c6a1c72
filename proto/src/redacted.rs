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

#[cfg(test)]
mod tests {
    #[test]
    fn secrets_do_not_print() {
        let credential = crate::v1::Credential { secret: b"canary".to_vec(), ..Default::default() };
        assert!(!format!("{credential:?}").contains("canary"));
        assert!(!format!("{credential:?}").contains("99, 97"));
        let put = crate::admin::PutSecretRequest { name: "n".into(), secret: b"canary".to_vec() };
        assert!(!format!("{put:?}").contains("canary") && !format!("{put:?}").contains("99, 97"));
    }
}
