// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the kernel's tables say of governed programs, and what becomes of them when something goes wrong.

use std::sync::Arc;
use std::time::Duration;

use agent_daemon::egress::Tables as _;
use agent_daemon::process::{Records as _, Verdict};
use agent_daemon::testing::{Call, Fault, Setup, TestNode};
use tokio_util::sync::CancellationToken;

const PERMIT: &str = r#"@id("connect") permit (principal in Group::"agents", action == Action::"connect", resource);"#;
const NAMED: &str = r#"
    @id("connect")
    permit (principal in Group::"agents", action == Action::"connect", resource == Destination::"named");
"#;
const REPORTS: &str = "192.0.2.1:443";
const ELSEWHERE: &str = "198.51.100.1:443";

fn entry(settings: &str) -> String {
    Setup::entry("agent", "agent/a", "") + &format!("egress = {{ {settings} }}\n")
}

fn setup() -> Setup {
    let policies = [Setup::PERMIT, PERMIT].concat();
    Setup { entries: entry("mode = \"enforce\""), policies, ..Setup::default() }
}

/// Its tables are kept until this is dropped.
struct Governed {
    t: TestNode,
    cancel: CancellationToken,
}

impl Drop for Governed {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Governed {
    async fn build(setup: Setup) -> Self {
        let t = setup.build();
        // Whoever asks for anything is governed from then on.
        t.node.release(&t.peer(), t.ask()).await.unwrap();
        let cancel = CancellationToken::new();
        let (node, until) = (Arc::clone(&t.node), cancel.clone());
        #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
        tokio::spawn(async move { node.govern(until).await });
        Self { t, cancel }
    }

    fn verdict(&self, remote: &str) -> Verdict {
        self.t.kernel.verdict(self.t.tgid, remote.parse().unwrap())
    }

    /// Whatever is changed makes it do so.
    fn looks_names_up_anew(&self, comment: &str) {
        self.t.sources.write_policies(&format!("{}{NAMED} // {comment}\n", Setup::PERMIT));
        assert!(self.t.node.reload("test", None).unwrap().is_changed);
    }

    async fn waits_for(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..2000 {
            if is_so(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("waited in vain: {what}");
    }

    async fn says(&self, remote: &str, expected: Verdict) {
        self.waits_for(&format!("{expected:?} for {remote}"), |this| this.verdict(remote) == expected).await;
    }
}

#[tokio::test]
async fn who_is_governed_reaches_what_policy_permits_and_loses_it_with_the_permit() {
    let governed = Governed::build(setup()).await;
    governed.says(REPORTS, Verdict::Allow).await;
    assert_eq!(governed.verdict(ELSEWHERE), Verdict::Deny);
    governed.t.sources.write_policies(Setup::PERMIT);
    governed.t.node.reload("test", None).unwrap();
    governed.says(REPORTS, Verdict::Deny).await;
}

#[tokio::test]
async fn a_child_that_nobody_classified_loses_what_its_parent_had_at_the_next_reload() {
    let governed = Governed::build(setup()).await;
    governed.says(REPORTS, Verdict::Allow).await;
    governed.t.sources.write_policies(Setup::PERMIT);
    // Nobody who is there now can be told anything from here on.
    governed.t.kernel.fail(Call::Classify, Fault::Map);
    governed.t.node.reload("test", None).unwrap();
    governed.says(REPORTS, Verdict::Deny).await;
}

#[tokio::test]
async fn what_the_kernel_does_not_take_leaves_in_force_what_it_had_and_is_tried_again() {
    let governed = Governed::build(setup()).await;
    governed.says(REPORTS, Verdict::Allow).await;
    // The new policies permit nothing, the new tree only audits, and the new tables cannot be written.
    governed.t.kernel.fail(Call::Put, Fault::Map);
    governed.t.sources.write_policies(Setup::PERMIT);
    governed.t.sources.write_entries(&entry("mode = \"audit\""));
    governed.t.node.reload("test", None).unwrap();
    governed.waits_for("a problem", |this| this.t.node.egress().problem.is_some()).await;
    assert_eq!(governed.verdict(REPORTS), Verdict::Allow);
    assert_eq!(governed.verdict(ELSEWHERE), Verdict::Deny, "a tree changes with its tables");
    governed.t.kernel.mend();
    governed.says(REPORTS, Verdict::Audit).await;
    assert_eq!(governed.verdict(ELSEWHERE), Verdict::Audit);
    governed.waits_for("no problem", |this| this.t.node.egress().problem.is_none()).await;
}

#[tokio::test]
async fn a_name_is_where_the_resolver_said_last_and_never_where_it_may_not_be() {
    let destination =
        "\n[[destination]]\nname = \"named\"\nhosts = [\"named.example\"]\nports = [443]\naudience = \"n\"\n";
    let catalog = Setup::catalog("enforce", "required", "jwt") + destination;
    let setup = Setup { catalog, policies: [Setup::PERMIT, NAMED].concat(), ..setup() };
    let governed = Governed::build(setup).await;
    governed.t.resolver.go_down();
    governed.waits_for("a class", |this| this.t.node.egress().counts.classes > 0).await;
    assert_eq!(governed.verdict(ELSEWHERE), Verdict::Deny);
    governed
        .t
        .resolver
        .tell("named.example", &["198.51.100.1", "192.0.2.1", "127.0.0.1", "169.254.169.254", "0.0.0.0"]);
    governed.t.resolver.come_back();
    governed.looks_names_up_anew("come back");
    governed.says(ELSEWHERE, Verdict::Allow).await;
    for not in [REPORTS, "127.0.0.1:443", "169.254.169.254:443", "0.0.0.0:443", "198.51.100.2:443", "198.51.100.1:80"] {
        assert_eq!(governed.verdict(not), Verdict::Deny, "{not}");
    }
    // Without a resolver holds what was learned.
    governed.t.resolver.go_down();
    governed.looks_names_up_anew("down again");
    tokio::time::sleep(Duration::from_millis(100)).await;
    governed.says(ELSEWHERE, Verdict::Allow).await;
}

#[tokio::test]
async fn what_was_reached_by_a_name_stays_open_when_the_name_moves_and_ends_with_the_permit() {
    let destination =
        "\n[[destination]]\nname = \"named\"\nhosts = [\"named.example\"]\nports = [443]\naudience = \"n\"\n";
    let catalog = Setup::catalog("enforce", "required", "jwt") + destination;
    let governed = Governed::build(Setup { catalog, policies: [Setup::PERMIT, NAMED].concat(), ..setup() }).await;
    governed.waits_for("a class", |this| this.t.node.egress().counts.classes > 0).await;
    // The daemon that let it through knew an address that this one does not.
    let by_name = governed.t.connect(ELSEWHERE);
    let declared = governed.t.connect(REPORTS);
    let is_closed = |cookie: u64| governed.t.kernel.connection(cookie).unwrap().unwrap().is_closed;
    governed.looks_names_up_anew("once more");
    governed.waits_for("what was never permitted to be closed", |_| is_closed(declared)).await;
    assert!(!is_closed(by_name), "nothing was taken back");
    governed.t.sources.write_policies(Setup::PERMIT);
    governed.t.node.reload("test", None).unwrap();
    governed.waits_for("what was taken back to be closed", |_| is_closed(by_name)).await;
    let closed = governed.t.records_of("decision").into_iter().filter(|one| one["reason"] == "egress_withdrawn");
    assert_eq!(closed.count(), 2);
}

#[tokio::test]
async fn what_cannot_be_closed_is_tried_a_few_times_and_said() {
    let governed = Governed::build(setup()).await;
    governed.says(REPORTS, Verdict::Allow).await;
    let cookie = governed.t.connect(REPORTS);
    governed.t.kernel.fail(Call::Disconnect, Fault::Map);
    governed.t.sources.write_policies(Setup::PERMIT);
    governed.t.node.reload("test", None).unwrap();
    let unclosed = |this: &Governed| {
        let counts = this.t.node.counts();
        counts.iter().find(|count| count.name == "egress_unclosed").map(|count| count.value)
    };
    governed.waits_for("it to be said", |this| unclosed(this) == Some(1)).await;
    assert!(!governed.t.kernel.connection(cookie).unwrap().unwrap().is_closed);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(unclosed(&governed), Some(1), "and not again and again");
}

#[tokio::test]
async fn a_tree_keeps_its_programs_when_its_entry_governs_no_more_and_none_of_another_list() {
    let listing = |program: &str| {
        entry("mode = \"audit\"") + &format!("exec = {{ mode = \"enforce\", programs = [\"{program}\"] }}\n")
    };
    let governed = Governed::build(Setup { entries: listing("/bin/sh"), ..setup() }).await;
    let images = |this: &Governed| this.t.kernel.images().unwrap();
    governed.waits_for("the program to be found", |this| !images(this).is_empty()).await;
    let before = images(&governed);
    governed.t.sources.write_entries(&listing("/bin/cat"));
    governed.t.node.reload("test", None).unwrap();
    governed.waits_for("another program", |this| images(this) != before && !images(this).is_empty()).await;
    let after = images(&governed);
    assert!(before.keys().all(|place| !after.contains_key(place)), "what is not listed any more is gone");
    // An entry that governs nothing leaves its tree as it was: those in it are still ruled.
    governed.t.sources.write_entries(&Setup::entry("agent", "agent/a", ""));
    governed.t.node.reload("test", None).unwrap();
    governed.t.sources.write_policies(Setup::PERMIT);
    governed.t.node.reload("test", None).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(images(&governed), after);
}
