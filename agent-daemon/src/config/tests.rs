// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::credential::Catalog;
use crate::identity::{Entries, Issuer};
use crate::policy::Policies;

const BASE: &str = "/etc/agent-daemon";

fn parsed(text: &str) -> Result<Config, Vec<Diagnostic>> {
    Config::parse(&source(text), Path::new(BASE), None)
}

fn source(text: &str) -> SourceFile {
    SourceFile { name: "config.toml".into(), text: text.into() }
}

fn minimal(rest: &str) -> Config {
    parsed(&format!("trust_domain = \"example.org\"\n{rest}")).unwrap()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn the_printed_default_reads_back_as_the_default() {
    let mut report = Vec::new();
    let read: ConfigFile = table::read(&source(&print_default()), &mut report);
    assert_eq!(report, []);
    assert_eq!(read, ConfigFile::default());
}

#[test]
fn every_example_in_the_printed_default_can_be_used() {
    let text: String = print_default()
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let config = parsed(&text).unwrap();
    assert_eq!(config.issuer.as_deref(), Some("https://issuer.example.org"));
    assert_eq!(config.kernel.max_processes, Some(131_072));
}

#[test]
fn every_key_is_printed_with_what_it_is_for() {
    let text = print_default();
    let mut before = "";
    let mut keys = 0;
    for line in text.lines() {
        if line.contains(" = ") && !line.starts_with("# \"") {
            assert!(before.starts_with("# "), "{line:?} has no comment");
            keys += 1;
        }
        before = line;
    }
    assert!(keys >= 38, "{keys} keys");
}

#[test]
fn the_documentation_holds_the_printed_default_as_it_is() {
    let docs = fs::read_to_string(repository().join("docs/configuration.md")).unwrap();
    let block = format!("```toml\n{}```\n", print_default());
    assert!(docs.contains(&block), "put the output of --print-default-config into docs/configuration.md");
}

#[test]
fn defaults_are_those_of_the_areas() {
    let config = minimal("");
    let measure = MeasureConfig::default();
    assert_eq!(config.measure.max_file_bytes, measure.max_file_bytes);
    assert_eq!(config.measure.cache_entries, measure.cache_entries);
    assert_eq!(config.measure.concurrency, measure.concurrency);
    let expected = audit::Config { checkpoint_records: 10_000, ..audit::Config::new("/var/lib/agent-daemon/audit") };
    assert_eq!(config.audit, expected);
    assert_eq!(config.sources.policies, [PathBuf::from("/etc/agent-daemon/policies")]);
    assert_eq!(config.sealing_key, PathBuf::from("/var/lib/agent-daemon/kek"));
    assert_eq!(config.accepted_tier, kernel::Tier::Egress);
    assert_eq!(config.leases.total, usize::try_from(agent_ebpf::limits::WATCHED).unwrap());
    assert_eq!(config.rate.refill, Duration::from_millis(5));
    assert_eq!(config.warnings, []);
    // The socket of agentctl.
    assert_eq!(config.api.admin_socket, PathBuf::from("/run/agent-daemon/admin.sock"));
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let config = minimal(
        "state_dir = \"../state\"\nentries = [\"a.toml\", \"/x/b.toml\"]\n\
         [api]\nagent_socket = \"s/agent.sock\"\n[authority]\nlisten = \"unix:s/authority.sock\"\n",
    );
    assert_eq!(config.state_dir, PathBuf::from("/etc/state"));
    assert_eq!(config.audit.dir, PathBuf::from("/etc/state/audit"));
    assert_eq!(config.sources.entries, [PathBuf::from("/etc/agent-daemon/a.toml"), PathBuf::from("/x/b.toml")]);
    assert_eq!(config.api.agent_socket, PathBuf::from("/etc/agent-daemon/s/agent.sock"));
    assert_eq!(config.authority.listen, Listen::Unix("/etc/agent-daemon/s/authority.sock".into()));
}

#[test]
fn everything_that_is_wrong_is_reported_with_its_place() {
    let text = "trust_domain = \"Example\"
state_dir = 5
entries = [\"a.toml\", 7, \"b/../c\"]
polices = []
[api]
agent_socket_mode = \"0777\"
request_timeout = \"10\"
rate_burst = 0
[kernel]
accept_tier = \"none\"
[measure]
colour = \"red\"
[authority]
listen = \"0.0.0.0:8181\"
";
    let findings = parsed(text).unwrap_err();
    let places: Vec<_> = findings.iter().map(|finding| (finding.line, finding.column)).collect();
    let expected = [(1, 16), (2, 13), (3, 22), (3, 25), (4, 1), (6, 21), (7, 19), (8, 14), (10, 15), (12, 1), (14, 10)];
    assert_eq!(places, expected, "{findings:#?}");
    assert!(findings.iter().all(|finding| finding.help.is_some()), "{findings:#?}");
    assert_eq!(
        findings[6].to_string(),
        "config.toml:7:19: error: request_timeout has to be a duration from 100ms to 10m, \
         written as a whole number with us, ms, s, m or h\n  help: for example request_timeout = \"10s\""
    );
}

#[test]
fn what_is_no_toml_is_reported_with_its_place() {
    let findings = parsed("trust_domain = \"example.org\"\n[api\nx = 1\nx = 2\n").unwrap_err();
    assert!(findings.iter().any(|finding| finding.line == 2), "{findings:#?}");
    assert!(findings.iter().all(|finding| finding.message.starts_with("not TOML: ")), "{findings:#?}");
}

#[test]
fn values_beyond_their_bounds_are_refused_and_those_on_them_are_not() {
    for (table, key, good, bad) in [
        ("api", "max_connections", &["256", "65536", "0x1000"][..], &["0", "65537", "-1", "1.5", "\"5\"", "true"][..]),
        ("api", "max_streams_per_connection", &["1", "1024"], &["0", "1025"]),
        ("api", "max_message_bytes", &["1024", "1048576"], &["1023", "1048577"]),
        ("api", "request_timeout", &["\"100ms\"", "\"10m\""], &["\"99ms\"", "\"601s\"", "10", "\"\""]),
        ("api", "rate_refill", &["\"1us\"", "\"10m\""], &["\"0s\"", "\"11m\""]),
        (
            "api",
            "agent_socket_mode",
            &["\"0600\"", "\"660\"", "\"0666\""],
            &["\"0400\"", "\"0066\"", "\"0777\"", "\"4666\"", "\"+666\"", "\"0668\"", "0o666", "\"\"", "\"00666\""],
        ),
        ("kernel", "max_processes", &["64", "4194304"], &["63", "4194305"]),
        ("kernel", "event_buffer_bytes", &["65536", "1073741824"], &["65537", "32768", "2147483648", "0"]),
        ("kernel", "accept_tier", &["\"egress\"", "\"observe\""], &["\"lsm\"", "\"Egress\"", "\"\""]),
        ("audit", "durability", &["\"written\"", "\"synced\""], &["\"none\"", "1"]),
        ("audit", "sync_interval", &["\"100us\"", "\"1s\""], &["\"0s\"", "\"2s\""]),
        ("credentials", "max_leases", &["256", "65536"], &["0", "65537"]),
        (
            "authority",
            "listen",
            &["\"127.0.0.1:1\"", "\"[::1]:8181\"", "\"unix:/a\""],
            &[
                "\"0.0.0.0:1\"",
                "\"[::]:1\"",
                "\"10.0.0.1:1\"",
                "\"[::ffff:127.0.0.1]:1\"",
                "\"localhost:1\"",
                "\"unix:\"",
                "\"/run/a.sock\"",
                "\"127.0.0.1\"",
            ],
        ),
    ] {
        for value in good {
            minimal(&format!("[{table}]\n{key} = {value}\n"));
        }
        for value in bad {
            let text = format!("trust_domain = \"example.org\"\n[{table}]\n{key} = {value}\n");
            let findings = parsed(&text).expect_err(&text);
            assert_eq!(findings.len(), 1, "{text}: {findings:?}");
            assert_eq!(findings[0].line, 3, "{text}");
        }
    }
}

#[test]
fn issuers_are_uris() {
    for (issuer, expected) in [
        ("https://issuer.example.org", true),
        ("https://issuer.example.org/tenant?x", true),
        ("spiffe://example.org", true),
        ("", false),
        ("issuer", false),
        ("https://", false),
        ("https://a b", false),
        ("://x", false),
    ] {
        let text = format!("trust_domain = \"example.org\"\nissuer = \"{issuer}\"\n");
        assert_eq!(parsed(&text).is_ok(), expected, "{issuer:?}");
    }
}

#[test]
fn keys_that_do_not_fit_each_other_are_refused() {
    let long = "x".repeat(120);
    for (rest, line, expected) in [
        ("[api]\nmax_connections = 5\nmax_connections_per_uid = 6\n", 4, "is more than max_connections (5)"),
        ("[credentials]\nmax_leases = 5\n", 2, "is more than max_leases (5)"),
        ("[api]\nagent_socket = \"/a\"\nadmin_socket = \"/a\"\n", 4, "/a is the path of another socket too"),
        ("[api]\nagent_socket = \"/a\"\n[authority]\nlisten = \"unix:/./a\"\n", 5, "the path of another socket too"),
        (&format!("[api]\nagent_socket = \"/{long}\"\n"), 3, "has 121 bytes"),
        ("state_dir = \"/s\"\n[audit]\ndir = \"/s\"\n", 4, "a folder of its own"),
        ("[kernel]\npin_dir = \"/etc\"\n", 3, "pin_dir is /etc, not a folder below /sys/fs/bpf"),
        ("[kernel]\npin_dir = \"/sys/fs/bpf\"\n", 3, "not a folder below /sys/fs/bpf"),
        ("[kernel]\npin_dir = \"/sys/fs/bpf-other/a\"\n", 3, "not a folder below /sys/fs/bpf"),
        ("[kernel]\npin_dir = \"pins\"\n", 3, "not a folder below /sys/fs/bpf"),
    ] {
        let findings = parsed(&format!("trust_domain = \"example.org\"\n{rest}")).unwrap_err();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].message.contains(expected), "{findings:?}");
        assert_eq!(findings[0].line, line, "{findings:?}");
    }
}

#[test]
fn the_trust_domain_has_no_default() {
    let findings = parsed("").unwrap_err();
    assert_eq!(
        findings[0].to_string(),
        "config.toml:1:1: error: trust_domain is missing\n  help: for example trust_domain = \"example.org\""
    );
}

#[test]
fn accepting_a_lower_tier_is_warned_about() {
    let warnings = minimal("[kernel]\naccept_tier = \"observe\"\n").warnings;
    assert_eq!(warnings.len(), 1);
    assert_eq!((warnings[0].severity, warnings[0].line), (Severity::Warning, 3));
}

#[test]
fn the_sealing_key_is_the_configured_one_then_that_of_systemd_then_our_own() {
    let systemd = Path::new("/run/credentials/agent-daemon.service/kek");
    for (text, given, expected) in [
        ("[seal]\nkey_file = \"k\"\n", Some(systemd), "/etc/agent-daemon/k"),
        ("", Some(systemd), "/run/credentials/agent-daemon.service/kek"),
        ("", None, "/var/lib/agent-daemon/kek"),
    ] {
        let text = format!("trust_domain = \"example.org\"\n{text}");
        let config = Config::parse(&source(&text), Path::new(BASE), given).unwrap();
        assert_eq!(config.sealing_key, PathBuf::from(expected));
    }
}

#[test]
fn a_credential_of_systemd_is_used_only_if_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(&path, "trust_domain = \"example.org\"\n").unwrap();
    let own = Path::new("/var/lib/agent-daemon/kek");
    assert_eq!(load(&path, Some(folder.path())).unwrap().sealing_key, own);
    let key = folder.path().join(SYSTEMD_KEY_NAME);
    fs::write(&key, [0; 32]).unwrap();
    assert_eq!(load(&path, Some(folder.path())).unwrap().sealing_key, key);
    assert_eq!(load(&path, None).unwrap().sealing_key, own);
}

#[test]
fn folders_are_read_in_the_order_of_names_and_by_extension() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["20-b.toml", "10-a.toml", ".hidden.toml", "c.toml~", "d.cedar"] {
        fs::write(path(name), name).unwrap();
    }
    fs::create_dir(path("e.toml")).unwrap();
    symlink(path("d.cedar"), path("15-link.toml")).unwrap();
    let named = tempfile::NamedTempFile::new().unwrap();
    fs::write(named.path(), "alone").unwrap();
    let sources = read_sources(&[named.path().to_owned(), folder.path().to_owned()], "toml").unwrap();
    let texts: Vec<&str> = sources.iter().map(|source| source.text.as_str()).collect();
    assert_eq!(texts, ["alone", "10-a.toml", "d.cedar", "20-b.toml"]);
}

#[test]
fn what_cannot_be_read_safely_is_refused_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("large.toml"), "#".repeat(MAX_FILE_BYTES + 1)).unwrap();
    fs::write(path("edge.toml"), "#".repeat(MAX_FILE_BYTES)).unwrap();
    fs::write(path("bytes.toml"), b"a = 1\nb = \"\xff\"\n").unwrap();
    fs::write(path("open.toml"), "").unwrap();
    fs::set_permissions(path("open.toml"), fs::Permissions::from_mode(0o646)).unwrap();
    fs::create_dir(path("open")).unwrap();
    fs::set_permissions(path("open"), fs::Permissions::from_mode(0o777)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let paths = ["missing", "large.toml", "edge.toml", "bytes.toml", "open.toml", "open", "pipe"].map(path).to_vec();
    let findings = read_sources(&paths, "toml").unwrap_err();
    let messages: Vec<String> = findings.iter().map(|finding| finding.message.clone()).collect();
    assert_eq!(messages.len(), 6, "{messages:?}");
    for (message, expected) in messages.iter().zip([
        "cannot be read: No such file",
        "every user can put files into this folder",
        "has more than 4194304 bytes",
        "is not UTF-8",
        "every user can change this file",
        "is not a file",
    ]) {
        assert!(message.starts_with(expected), "{message:?}, expected {expected:?}");
    }
    assert_eq!((findings[3].line, findings[3].column), (2, 6));
}

#[test]
fn files_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..MAX_FILES {
        fs::write(folder.path().join(format!("{number:04}.toml")), "").unwrap();
    }
    assert_eq!(read_sources(&[folder.path().to_owned()], "toml").unwrap().len(), MAX_FILES);
    fs::write(folder.path().join("one-more.toml"), "").unwrap();
    assert_eq!(read_sources(&[folder.path().to_owned()], "toml").unwrap_err().len(), 1);
}

#[test]
fn the_example_works_as_it_stands() {
    let checked = check(&repository().join("examples/config.toml"), None).unwrap();
    assert_eq!(checked.warnings(), []);
    let config = &checked.config;
    assert_eq!(config.state_dir, repository().canonicalize().unwrap().join("target/run/state"));
    assert_eq!(config.kernel.pin_dir, PathBuf::from("/sys/fs/bpf/agent-daemon-run"));
    // The same through each area alone.
    let sources = config.sources.read().unwrap();
    assert_eq!(Entries::parse(&sources.entries, &config.trust_domain).unwrap().len(), 2);
    assert_eq!(Catalog::parse(&sources.catalog, &config.trust_domain).unwrap().bindings().len(), 4);
    assert!(!Policies::parse(&sources.policies).unwrap().is_empty());
    let text = checked.to_string();
    assert!(text.contains("trust domain   example.org") && text.contains("generation sha256:"), "{text}");
}

#[test]
fn checking_reports_what_a_start_would_refuse() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("config.toml", "trust_domain = \"example.org\"\npolicies = [\"p.cedar\"]\n");
    write("entries.toml", "[[entry]]\nid = \"x\"\n");
    write("destinations.toml", "[[destination]]\n");
    write("p.cedar", "permit (principal, action, resource) when { context.nothing };\n");
    let findings = check(&folder.path().join("config.toml"), None).unwrap_err();
    for name in ["entries.toml", "destinations.toml", "p.cedar"] {
        assert!(findings.iter().any(|finding| finding.file.ends_with(name) && finding.line > 0), "{findings:#?}");
    }
}

#[test]
fn bindings_of_nobody_are_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("config.toml", "trust_domain = \"example.org\"\npolicies = []\n");
    write("entries.toml", "");
    write(
        "destinations.toml",
        "[[destination]]\nname = \"d\"\nhosts = [\"localhost\"]\nports = [1]\n[[source]]\nname = \"s\"\n\
         type = \"jwt-svid\"\n[[binding]]\nname = \"b\"\ndestination = \"d\"\nsource = \"s\"\n\
         identities = [\"spiffe://example.org/nobody\"]\n",
    );
    let warnings = check(&folder.path().join("config.toml"), None).unwrap().warnings();
    let messages: Vec<&str> = warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "there is no policy, so nothing is released",
            "binding b names spiffe://example.org/nobody, which no entry gives"
        ]
    );
}

/// The fenced blocks of this language, in order.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| Some(rest.split_once("```")?.0.to_owned())).collect()
}

#[test]
fn what_the_documentation_shows_can_be_used() {
    let docs = fs::read_to_string(repository().join("docs/configuration.md")).unwrap();
    let domain: TrustDomain = "example.org".parse().unwrap();
    let toml = blocks(&docs, "toml");
    let of = |table: &str| {
        let found: Vec<SourceFile> =
            toml.iter().filter(|text| text.starts_with(table)).map(|text| source(text)).collect();
        assert!(!found.is_empty(), "no {table} in the documentation");
        found
    };
    assert_eq!(Entries::parse(&of("[[entry]]"), &domain).unwrap().len(), 2);
    assert_eq!(Catalog::parse(&of("[[destination]]"), &domain).unwrap().bindings().len(), 3);
    let policies: Vec<SourceFile> = blocks(&docs, "cedar").iter().map(|text| source(text)).collect();
    assert_eq!(Policies::parse(&policies).unwrap().len(), 7);
    assert_eq!(Issuer::parse(&of("[[issuer]]")).unwrap().len(), 1);
}

#[test]
fn the_documentation_names_every_selector_and_every_word_of_the_policy_schema() {
    let docs = fs::read_to_string(repository().join("docs/configuration.md")).unwrap();
    let words = crate::policy::SCHEMA.lines().filter_map(|line| {
        let (word, _) = line.strip_prefix("  ")?.split_once(": ")?;
        let word = word.trim().trim_end_matches('?');
        word.chars().all(|character| character.is_ascii_lowercase() || character == '_').then_some(word)
    });
    let selectors = crate::identity::KNOWN_SELECTORS.iter().map(|known| known.kind);
    for word in words.chain(selectors).filter(|word| !["principal", "resource", "context"].contains(word)) {
        assert!(docs.contains(&format!("`{word}`")) || docs.contains(&format!("`context.{word}`")), "{word}");
    }
}

proptest::proptest! {
    #[test]
    fn hostile_values_are_refused_or_read_and_never_a_panic(value in ".{0,40}", at in 0_usize..60) {
        let default = print_default();
        let keys: Vec<&str> = default.lines().filter(|line| line.contains(" = ")).collect();
        let line = keys[at % keys.len()];
        let (key, _) = line.trim_start_matches("# ").split_once(" = ").unwrap();
        for written in [value.clone(), format!("{value:?}")] {
            let text = default.replacen(line, &format!("{key} = {written}"), 1);
            if let Err(findings) = parsed(&text) {
                proptest::prop_assert!(!findings.is_empty());
            }
        }
    }
}
