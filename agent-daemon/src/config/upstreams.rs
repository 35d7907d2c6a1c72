// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who signs the CA, from the key that chooses and the table of the one that was chosen.

use std::path::Path;

use super::Checks;
use super::file::{ConfigFile, DiskTable, OpenBaoTable, SpireTable};
use super::value::FilePath;
use super::words::LoginMethod;
use crate::authority::{CaFiles, CaSource, Origin};
use crate::diagnostic::Diagnostic;
use crate::upstream::{self, Login, OpenBaoConfig, SpireConfig};

impl ConfigFile {
    /// The source of the CA, and who is asked for it. What is missing is reported, and stands empty here.
    pub(super) fn upstream(
        &self,
        base: &Path,
        checks: &mut Checks<'_>,
        warnings: &mut Vec<Diagnostic>,
    ) -> (CaSource, Option<upstream::Config>) {
        let chosen = self.authority.upstream;
        let tables = [
            (Origin::Disk, self.disk != DiskTable::default()),
            (Origin::OpenBao, self.openbao != OpenBaoTable::default()),
            (Origin::Spire, self.spire != SpireTable::default()),
        ];
        for (origin, is_set) in tables {
            if is_set && origin != chosen {
                let message = format!("[{origin}] is not used: authority.upstream is \"{chosen}\"");
                let help = format!("upstream = \"{origin}\" in [authority] uses it");
                warnings.push(checks.warning(&[origin.as_str()], &message, &help));
            }
        }
        match chosen {
            Origin::Embedded => (CaSource::Embedded, None),
            Origin::Disk => (CaSource::Disk(self.disk.files(base, checks)), None),
            Origin::OpenBao => (
                CaSource::Upstream(Origin::OpenBao),
                Some(upstream::Config::OpenBao(self.openbao.config(base, checks))),
            ),
            Origin::Spire => {
                let config = self.spire.config(base, checks).map(upstream::Config::Spire);
                (CaSource::Upstream(Origin::Spire), config)
            }
        }
    }
}

/// What has to be there when a table is used.
pub(super) fn needed<T: Clone>(value: Option<&T>, key: [&str; 2], checks: &mut Checks<'_>) -> Option<T> {
    if value.is_none() {
        let [table, name] = key;
        let message = format!("[{table}] is used and has no {name}");
        checks.error(&key, message, "--print-default-config shows what it can be");
    }
    value.cloned()
}

impl DiskTable {
    fn files(&self, base: &Path, checks: &mut Checks<'_>) -> CaFiles {
        let certificate = needed(self.certificate_file.as_ref(), ["disk", "certificate_file"], checks);
        let key = needed(self.key_file.as_ref(), ["disk", "key_file"], checks);
        let below = |path: Option<FilePath>| path.map(|path| path.below(base)).unwrap_or_default();
        CaFiles {
            certificate: below(certificate),
            key: below(key),
            bundle: self.bundle_file.as_ref().map(|path| path.below(base)),
        }
    }
}

impl SpireTable {
    fn config(&self, base: &Path, checks: &mut Checks<'_>) -> Option<SpireConfig> {
        let agent_socket = needed(self.agent_socket.as_ref(), ["spire", "agent_socket"], checks);
        let server = needed(self.server.as_ref(), ["spire", "server"], checks);
        Some(SpireConfig {
            agent_socket: agent_socket?.below(base),
            server: server?,
            spiffe_id: self.spiffe_id.clone(),
        })
    }
}

impl OpenBaoTable {
    fn config(&self, base: &Path, checks: &mut Checks<'_>) -> OpenBaoConfig {
        let address = needed(self.address.as_ref(), ["openbao", "address"], checks);
        let secret = needed(self.secret_file.as_ref(), ["openbao", "secret_file"], checks);
        let file = secret.map(|path| path.below(base)).unwrap_or_default();
        let method = self.login;
        let role = match method {
            LoginMethod::Token => None,
            LoginMethod::AppRole | LoginMethod::Jwt => needed(self.role.as_ref(), ["openbao", "role"], checks),
        };
        let role = role.map(|role| role.0).unwrap_or_default();
        let mount = self.login_mount.as_ref().map_or_else(|| method.as_str().to_owned(), |mount| mount.0.clone());
        OpenBaoConfig {
            address: address.map(|address| address.0).unwrap_or_default(),
            roots: self.ca_file.as_ref().map(|path| path.below(base)),
            namespace: self.namespace.as_ref().map(|namespace| namespace.0.clone()),
            mount: self.mount.0.clone(),
            login: match method {
                LoginMethod::Token => Login::Token { file },
                LoginMethod::AppRole => Login::AppRole { mount, role_id: role, secret_id_file: file },
                LoginMethod::Jwt => Login::Jwt { mount, role, file },
            },
        }
    }
}
