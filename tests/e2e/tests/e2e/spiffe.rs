// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Programs that speak SPIFFE through libraries that we did not write, told nothing but where the daemon is.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{NOBODY, Setup, Talker, World, wait_for, with_daemon};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::calls::{release_loose, released};

/// Nothing here takes longer unless it is broken.
const SOON: Duration = Duration::from_secs(20);
const ID: &str = "spiffe://example.org/workload/client";

const ENTRIES: &str = r#"
[[entry]]
id = "client"
spiffe_id = "spiffe://example.org/workload/client"
kind = "workload"
selectors = ["unix:uid:65534", "unix:path:@BIN@/spiffe-client"]
groups = ["agents"]
hint = "internal"
"#;

fn setup(ttl: &str) -> Setup {
    Setup::default().with_entries(ENTRIES).with_svids(ttl)
}

fn client(world: &World, uid: u32, arguments: &[&str]) -> Result<Talker> {
    let program = world.install_as("spiffe-client", "spiffe-client")?;
    world.talk(&program, uid, arguments)
}

/// The serial number of a certificate is the id of its lease.
fn lease_of(world: &World, serial: &str) -> Result<Value> {
    use std::fmt::Write as _;
    let of = |id: &str| -> Option<String> {
        let mut hex = String::new();
        for byte in e2e::base64url(id)? {
            write!(hex, "{byte:02x}").ok()?;
        }
        Some(hex.trim_start_matches("00").to_owned())
    };
    let is_it = |record: &Value| record["lease_id"].as_str().and_then(of).as_deref() == Some(serial);
    wait_for("the record of a certificate", || {
        Ok(world.audit()?.into_iter().find(|record| record["kind"] == "decision" && is_it(record)))
    })
}

#[test]
fn the_rust_library_gets_certificates_that_are_recorded_and_replaced() -> Result<()> {
    with_daemon(setup("4s"), |world| {
        let client = client(world, NOBODY, &["source"])?;
        let mut serials = Vec::new();
        for _ in 0..3 {
            let svid = client.next(SOON)?;
            assert_eq!((&svid["spiffe_id"], &svid["hint"]), (&ID.into(), &"internal".into()), "{svid}");
            assert_eq!(svid["authorities"], 1, "{svid}");
            let serial = svid["serial"].as_str().context("no serial number")?.to_owned();
            let record = lease_of(world, &serial)?;
            assert_eq!(record["exec"]["tgid"], client.pid(), "{record}");
            assert_eq!((&record["spiffe_id"], &record["credential_type"]), (&ID.into(), &"x509-svid".into()));
            serials.push(serial);
        }
        serials.dedup();
        assert_eq!(serials.len(), 3, "each is a new one: {serials:?}");
        Ok(())
    })
}

#[test]
fn the_rust_library_gets_a_token_and_has_it_validated() -> Result<()> {
    with_daemon(setup("1m"), |world| {
        let mut client = client(world, NOBODY, &["jwt", e2e::AUDIENCE])?;
        let said = client.next(SOON)?;
        assert_eq!((&said["spiffe_id"], &said["hint"]), (&ID.into(), &"internal".into()), "{said}");
        assert_eq!((&said["valid_elsewhere"], &said["key_is_published"]), (&false.into(), &true.into()), "{said}");
        assert!(client.wait()?.success());
        let token = said["token"].as_str().context("no token")?;
        // Its holder is gone, and the token with it.
        assert!(!world.authority.is_active(token)?);
        Ok(())
    })
}

#[test]
fn whoever_has_no_identity_is_denied_and_whoever_may_not_ask_an_audience_too() -> Result<()> {
    with_daemon(setup("1m"), |world| {
        for (uid, arguments, reason) in [
            (0, &["x509"][..], "no_identity"),
            (0, &["jwt", e2e::AUDIENCE], "no_identity"),
            (NOBODY, &["jwt", "https://unknown.example"], "no_destination"),
        ] {
            let client = client(world, uid, arguments)?;
            let said = client.next(SOON)?;
            // By these words the library knows that it is denied.
            assert_eq!(said["error"], "no identity issued", "{said}");
            world.record("decision", &[("/reason", reason.into()), ("/exec/tgid", client.pid().into())])?;
        }
        assert_eq!(world.ask(&["leases"])?["leases"], serde_json::json!([]));
        Ok(())
    })
}

#[test]
fn an_exec_ends_the_stream_although_the_new_image_keeps_the_connection() -> Result<()> {
    with_daemon(setup("2s"), |world| {
        let gone = client(world, NOBODY, &["exec", "/bin/sleep", "60"])?;
        let other = world.talk(&world.program("spiffe-client"), NOBODY, &["x509"])?;
        let first = gone.next(SOON)?;
        let record = lease_of(world, first["serial"].as_str().context("no serial number")?)?;
        let ended = world.record("lease_ended", &[("/lease_id", record["lease_id"].clone())])?;
        assert_eq!(ended["cause"], "exec", "{ended}");
        // Several times the life of the certificate, by the stream of another.
        for _ in 0..4 {
            other.next(SOON)?;
        }
        let of_gone = |record: &&Value| record["kind"] == "decision" && record["exec"]["tgid"] == gone.pid();
        assert_eq!(world.audit()?.iter().filter(of_gone).count(), 1, "nothing was issued after the exec");
        Ok(())
    })
}

/// Builds the chain from a bundle to an SVID.
const VERIFY: &str = r#"
import sys
from cryptography import x509

bundle, svid = (x509.load_pem_x509_certificates(open(path, "rb").read()) for path in sys.argv[1:])
policy = x509.verification.PolicyBuilder().store(x509.verification.Store(bundle))
policy.build_client_verifier().verify(svid[0], svid[1:])
"#;

/// `examples/run` as it stands.
#[test]
fn the_children_of_a_plain_shell_have_the_identity_of_the_example() -> Result<()> {
    let mut setup = Setup::default();
    setup.entries = include_str!("../../../../examples/run/entries.toml").to_owned();
    setup.destinations = include_str!("../../../../examples/run/destinations.toml").to_owned();
    setup.policies = include_str!("../../../../examples/run/policies/playground.cedar").to_owned();
    with_daemon(setup, |world| {
        let ctl = e2e::binaries()?.join("agentctl").canonicalize()?;
        let endpoint = format!("unix:{}", world.text("sockets/spiffe.sock"));
        let fetch = |program: &str, arguments: &[&str]| {
            let mut command = std::process::Command::new(program);
            command.args(arguments).env_clear().env("SPIFFE_ENDPOINT_SOCKET", &endpoint).env("CTL", &ctl);
            command.output().context("cannot run it")
        };
        // The second command keeps the shell from becoming the first one.
        let line = "\"$CTL\" spiffe fetch x509 --output json; exit $?";
        let below = fetch("/bin/bash", &["-c", line])?;
        ensure!(below.status.success(), "{}", String::from_utf8_lossy(&below.stderr));
        let said: Value = serde_json::from_slice(&below.stdout)?;
        assert_eq!(said["svids"][0]["spiffe_id"], "spiffe://example.org/agent/playground", "{said}");
        Ok(())
    })
}

#[test]
fn agentctl_speaks_spiffe_as_itself() -> Result<()> {
    let entry = r#"
[[entry]]
id = "operator-tool"
spiffe_id = "spiffe://example.org/workload/agentctl"
kind = "workload"
selectors = ["unix:uid:0", "unix:path:@CTL@"]
groups = ["agents"]
"#;
    let ctl = e2e::binaries()?.join("agentctl").canonicalize()?;
    let setup = setup("1m").with_entries(&entry.replace("@CTL@", &ctl.to_string_lossy()));
    with_daemon(setup, |world| {
        let socket = world.text("sockets/spiffe.sock");
        let folder = world.text("svids");
        let fetched = world.ask(&["spiffe", "fetch", "x509", "--spiffe-socket", &socket, "--write", &folder])?;
        assert_eq!(fetched["svids"][0]["spiffe_id"], "spiffe://example.org/workload/agentctl", "{fetched}");
        ensure!(!fetched.to_string().contains("PRIVATE"), "the key is in the output");
        let key = std::fs::metadata(world.path("svids/svid.0.key"))?;
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777, 0o600);
        // A library of somebody else verifies what was written.
        let verified = std::process::Command::new(world.interop()?.join("bin/python3"))
            .args(["-c", VERIFY])
            .args([world.path("svids/bundle.0.pem"), world.path("svids/svid.0.pem")])
            .output()
            .context("cannot run Python")?;
        ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        let token = world.ask(&["spiffe", "fetch", "jwt", "--audience", e2e::AUDIENCE, "--spiffe-socket", &socket])?;
        world.write("token", token["svids"][0]["token"].as_str().context("no token")?)?;
        let file = world.text("token");
        let asked = ["spiffe", "validate", "--audience", e2e::AUDIENCE, "--spiffe-socket", &socket, "--file", &file];
        let told = world.ctl(&asked)?;
        // The process that fetched it has ended.
        assert_eq!((told.code, &told.said["valid"]), (1, &false.into()), "{}", told.said);
        assert_eq!(told.said["reason"], "the token is not valid: it is over");
        // That of an agent which lives, and still holds it.
        let mut agent = world.agent_with_channel()?;
        world.write("token", &released(&mut agent, &release_loose())?.token)?;
        let told = world.ask(&asked)?;
        assert_eq!(told["spiffe_id"], "spiffe://example.org/agent/one", "{told}");
        assert_eq!(told["claims"]["aud"], serde_json::json!([e2e::AUDIENCE]), "{told}");
        let watched = world.ask(&["spiffe", "watch", "-n", "1", "--spiffe-socket", &socket])?;
        assert_eq!(watched["schema"], "agentctl.spiffe.watch/v1", "{watched}");
        assert_eq!(watched["svids"][0]["spiffe_id"], "spiffe://example.org/workload/agentctl", "{watched}");
        let mut shown = std::process::Command::new(&ctl);
        shown.args(["spiffe", "bundle", "show", "--trust-domain", "example.org", "--format", "pem"]);
        let shown = shown.args(["--admin-socket", &world.text("sockets/admin.sock")]).output()?;
        assert_eq!(String::from_utf8(shown.stdout)?, std::fs::read_to_string(world.path("svids/bundle.0.pem"))?);
        let told = world.ctl(&["spiffe", "fetch", "jwt", "--audience", "nobody", "--spiffe-socket", &socket])?;
        assert_eq!(told.code, 2);
        ensure!(
            told.complaint.contains("does not allow this") && told.complaint.contains("hint:"),
            "{}",
            told.complaint
        );
        Ok(())
    })
}

/// Processes, identities of each, seconds with all of them.
const SOAK: (usize, usize, u64) = (200, 10, 12);

#[test]
fn two_thousand_certificates_of_two_seconds_are_rotated_without_a_gap() -> Result<()> {
    let (processes, identities, seconds) = SOAK;
    let entry = |number: usize| {
        format!(
            r#"
[[entry]]
id = "soak-{number}"
spiffe_id = "spiffe://example.org/workload/soak-{number}"
kind = "workload"
selectors = ["unix:uid:65534", "unix:path:@BIN@/soak"]
groups = ["agents"]
"#
        )
    };
    let entries: String = (0..identities).map(entry).collect();
    let setup = setup("2s").with_entries(&entries).set("api.max_connections_per_uid", processes + 1);
    with_daemon(setup, |world| {
        let program = world.install_as("spiffe-client", "soak")?;
        let arguments = ["rotate", &identities.to_string()];
        // One after another: what is soaked are rotations, and not two hundred programs that all start at once.
        let start = |_| {
            let client = world.talk(&program, NOBODY, &arguments)?;
            let said = client.next(SOON)?;
            ensure!(said["svids"] == identities, "{said}");
            Ok(client)
        };
        let clients: Vec<Talker> = (0..processes).map(start).collect::<Result<_>>()?;
        std::thread::sleep(Duration::from_secs(seconds));
        for client in &clients {
            let pid = Pid::from_raw(client.pid().try_into()?).context("no process number")?;
            kill_process(pid, Signal::TERM)?;
        }
        let mut rotations = 0;
        for client in &clients {
            let said = client.next(SOON)?;
            ensure!(said["error"].is_null(), "{said}");
            rotations += said["rotations"].as_u64().context("no count")?;
        }
        // At half of two seconds at the latest, from whenever each began.
        let least = processes as u64 * (seconds - 3);
        ensure!(rotations >= least, "{rotations} rotations of {identities} certificates instead of {least}");
        drop(clients);
        wait_for("every lease ends with its process", || {
            Ok((world.ask(&["leases"])?["leases"].as_array().context("no leases")?.is_empty()).then_some(()))
        })?;
        assert_eq!(world.ask(&["audit", "verify"])?["valid"], true);
        Ok(())
    })
}
