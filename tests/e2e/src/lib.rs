// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The harness of the whole-program tests: the real daemon on the running kernel, processes that obey, and what
//! the outside can see of both.
#![expect(
    clippy::indexing_slicing,
    reason = "an index into JSON gives null, and what is not as expected ends the test"
)]

mod actor;
mod authority;
mod control;
mod daemon;
mod peers;
mod setup;
mod spire;
mod talker;
mod tiny;
mod wait;
mod watcher;
mod world;

pub use actor::Actor;
pub use authority::Authority;
pub use control::Control;
pub use daemon::{Daemon, binaries};
pub use peers::{
    CLIENT, CLIENT_ID, SERVER, SERVER_ID, SOON, beside, free_port, node_script, on_path, python, python_script,
    readable, sdk_script, two_workloads,
};
pub use setup::{AUDIENCE, Setup, TRUST_DOMAIN};
pub use spire::{Spire, SpireSetup};
pub use talker::Talker;
pub use wait::{wait_for, wait_until};
pub use watcher::Watcher;
pub use world::{NOBODY, OTHER, Told, World};

/// Runs a scene; what the daemon logged stands beside what went wrong.
///
/// # Errors
/// With the scene's own error.
pub fn with_daemon(setup: Setup, scene: impl FnOnce(&mut World) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut world = World::start(setup)?;
    scene(&mut world).map_err(|error| match world.daemon.complaint() {
        log if log.is_empty() => error,
        log => error.context(format!("the daemon's log:\n{log}\nfailed")),
    })
}

/// What base64 stands for.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// What base64url stands for.
pub fn base64url(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()
}
