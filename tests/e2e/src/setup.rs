// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::BTreeMap;

/// The trust domain of every test.
pub const TRUST_DOMAIN: &str = "example.org";
/// Of the destination `api`.
pub const AUDIENCE: &str = "https://api.example.org";

/// The identity `agent`: nobody's program at one path with one content.
const ENTRIES: &str = r#"
[[entry]]
id = "agent"
spiffe_id = "spiffe://example.org/agent/one"
kind = "agent"
selectors = ["unix:uid:65534", "unix:path:@BIN@/agent", "unix:sha256:@SHA256@"]
groups = ["agents"]

[[entry]]
id = "gateway"
spiffe_id = "spiffe://example.org/component/gateway"
kind = "component"
selectors = ["unix:uid:65534", "unix:path:@BIN@/gateway", "unix:sha256:@SHA256@"]
"#;

const DESTINATIONS: &str = r#"
[[destination]]
name = "api"
cidrs = ["127.0.0.1/32", "::1/128"]
ports = [@PORT@]
audience = "https://api.example.org"

[[destination]]
name = "udp-api"
cidrs = ["127.0.0.1/32", "::1/128"]
ports = [@PORT@]
protocol = "udp"
audience = "https://api.example.org"

[[source]]
name = "node-jwt"
type = "jwt-svid"

[[binding]]
name = "token"
destination = "api"
identities = ["spiffe://example.org/*"]
source = "node-jwt"
observed_connect = "required"
ttl = "5m"

[[binding]]
name = "datagram"
destination = "udp-api"
identities = ["spiffe://example.org/*"]
source = "node-jwt"
observed_connect = "required"
ttl = "5m"

[[binding]]
name = "loose"
destination = "api"
identities = ["spiffe://example.org/*"]
source = "node-jwt"
observed_connect = "optional"
ttl = "5m"

[[binding]]
name = "short"
destination = "api"
identities = ["spiffe://example.org/*"]
source = "node-jwt"
observed_connect = "optional"
ttl = "5s"
"#;

/// SVIDs over the Workload API for every workload.
const SVIDS: &str = r#"
[[destination]]
name = "mesh"
audience = "spiffe://example.org"

[[source]]
name = "node-x509"
type = "x509-svid"

[[binding]]
name = "certificates"
destination = "mesh"
identities = ["spiffe://example.org/workload/*"]
source = "node-x509"
delivery = "workload-api"
ttl = "@TTL@"

[[binding]]
name = "token-for-spiffe"
destination = "api"
identities = ["spiffe://example.org/workload/*"]
source = "node-jwt"
delivery = "workload-api"
ttl = "5m"
"#;

const POLICIES: &str = r#"
@id("agents-release")
permit (principal in Group::"agents", action == Action::"release", resource);

@id("gateways-attest")
permit (principal == Workload::"spiffe://example.org/component/gateway", action == Action::"attest", resource);

@id("no-doubtful-images")
forbid (principal, action == Action::"release", resource)
when { context.evidence.flags.containsAny(["memfd", "deleted", "traced"]) };
"#;

/// What a daemon is given. `@BIN@`, `@SHA256@`, `@PORT@` and `@DIR@` are filled in.
#[derive(Debug, Clone)]
pub struct Setup {
    /// `entries.toml`.
    pub entries: String,
    /// `destinations.toml`.
    pub destinations: String,
    /// `policies/e2e.cedar`.
    pub policies: String,
    settings: BTreeMap<String, String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            entries: ENTRIES.to_owned(),
            destinations: DESTINATIONS.to_owned(),
            policies: POLICIES.to_owned(),
            settings: BTreeMap::new(),
        }
    }
}

impl Setup {
    /// Sets a key of the configuration, `table.key` or `key`, to a TOML value.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.insert(key.to_owned(), value.to_string());
        self
    }

    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str)
    }

    pub(crate) fn with_defaults(mut self, defaults: &[(&str, String)]) -> Self {
        for (key, value) in defaults {
            self.settings.entry((*key).to_owned()).or_insert_with(|| value.clone());
        }
        self
    }

    /// More registration entries.
    #[must_use]
    pub fn with_entries(mut self, entries: &str) -> Self {
        self.entries.push_str(entries);
        self
    }

    /// More policies.
    #[must_use]
    pub fn with_policies(mut self, policies: &str) -> Self {
        self.policies.push_str(policies);
        self
    }

    /// More destinations, sources and bindings.
    #[must_use]
    pub fn with_destinations(mut self, destinations: &str) -> Self {
        self.destinations.push_str(destinations);
        self
    }

    /// SVIDs over the Workload API for the identities `workload/*`: certificates of this life, and tokens for `api`.
    #[must_use]
    pub fn with_svids(self, ttl: &str) -> Self {
        self.with_destinations(&SVIDS.replace("@TTL@", ttl))
    }

    /// `config.toml`.
    pub(crate) fn config(&self) -> String {
        let mut tables: BTreeMap<&str, String> = BTreeMap::new();
        for (key, value) in &self.settings {
            let (table, key) = key.split_once('.').unwrap_or(("", key));
            tables.entry(table).or_default().push_str(&format!("{key} = {value}\n"));
        }
        let written = tables.into_iter().map(|(table, keys)| match table {
            "" => keys,
            table => format!("[{table}]\n{keys}"),
        });
        written.collect()
    }
}
