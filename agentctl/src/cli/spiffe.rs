// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{from_environment, socket_path};

const DEFAULT_SPIFFE_SOCKET: &str = "/run/agent-daemon/spiffe.sock";

#[derive(Debug, Subcommand)]
pub(crate) enum SpiffeCommand {
    /// Fetch SVIDs over the Workload API; they end with this process
    #[command(subcommand)]
    Fetch(FetchCommand),
    /// Follow this process's X509-SVIDs as they are replaced
    Watch {
        #[command(flatten)]
        socket: SpiffeSocket,
        /// End after N updates
        #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Check a JWT-SVID, read from standard input or a file; exit 1 when it is not valid
    Validate {
        #[command(flatten)]
        socket: SpiffeSocket,
        /// Whom it has to be for
        #[arg(long, value_name = "AUDIENCE")]
        audience: String,
        /// Read the token from here instead of standard input
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
    },
    /// Trust bundles that the daemon knows: its own and those of other trust domains (operators only)
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Registration entries of SPIRE as entries for this daemon; exit 1 when something is left out
    Import {
        /// Only entries of this parent (repeatable): the ids of this node there
        #[arg(long = "parent", value_name = "SPIFFE-ID")]
        parents: Vec<String>,
        /// What `spire-server entry show -output json` printed; - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// All of them in short, or one as it is; exit 1 when none is known of that trust domain
    Show {
        /// Only this one, whole
        #[arg(long, value_name = "TRUST-DOMAIN")]
        trust_domain: Option<String>,
        /// How one is printed
        #[arg(long, default_value = "spiffe", requires = "trust_domain")]
        format: BundleFormat,
    },
    /// Trust the authorities in a file for a trust domain, in place of what is known of it
    Set {
        /// Whose
        #[arg(long, value_name = "TRUST-DOMAIN")]
        trust_domain: String,
        /// How the file is written
        #[arg(long, default_value = "spiffe")]
        format: BundleFormat,
        /// The bundle; - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Forget what is known of a trust domain; exit 1 when that is nothing
    Remove {
        /// Whose
        #[arg(value_name = "TRUST-DOMAIN")]
        trust_domain: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BundleFormat {
    /// A SPIFFE bundle document (JSON)
    Spiffe,
    /// X.509 authorities
    Pem,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FetchCommand {
    /// The X509-SVIDs of every identity, with the trust bundles
    X509 {
        #[command(flatten)]
        socket: SpiffeSocket,
        /// Write svid.N.pem, svid.N.key (mode 0600) and bundle.N.pem into this folder
        #[arg(long, value_name = "DIR")]
        write: Option<PathBuf>,
    },
    /// A JWT-SVID; it is printed, so it is as safe as what you do with the output
    Jwt {
        #[command(flatten)]
        socket: SpiffeSocket,
        /// Whom it is for; several only where the daemon allows it
        #[arg(long, required = true, value_name = "AUDIENCE")]
        audience: Vec<String>,
        /// For this identity only
        #[arg(long, default_value = "", hide_default_value = true, value_name = "SPIFFE-ID")]
        spiffe_id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SpiffeSocket {
    /// The Workload API [env: SPIFFE_ENDPOINT_SOCKET] [default: /run/agent-daemon/spiffe.sock]
    #[arg(long, value_name = "PATH", value_parser = socket_path)]
    spiffe_socket: Option<PathBuf>,
}

impl SpiffeSocket {
    /// Flag, then environment, then the packaged default.
    pub(crate) fn path(&self) -> PathBuf {
        self.spiffe_socket
            .clone()
            .or_else(|| from_environment("SPIFFE_ENDPOINT_SOCKET"))
            .unwrap_or_else(|| PathBuf::from(DEFAULT_SPIFFE_SOCKET))
    }
}
