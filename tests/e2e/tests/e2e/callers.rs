// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who may speak on a connection: only the exec instance that opened it.

use anyhow::{Context as _, Result, ensure};
use e2e::{Actor, NOBODY, Setup, World, with_daemon};
use serde_json::{Value, json};

use crate::calls::{attest, cut_off, denied, refused, release_for, release_loose, released};

/// A caller was refused for this, by this process's connection.
fn refusal(world: &World, reason: &str, opener: &Actor) -> Result<Value> {
    world.record("caller_refused", &[("/reason", reason.into()), ("/caller/tgid", opener.pid().into())])
}

#[test]
fn an_image_that_takes_over_a_process_with_its_channel_is_unauthenticated() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        // Into the very same file as well: what counts is the exec, not the content.
        for (image, spoken) in [("other", false), ("other", true), ("agent", true)] {
            let mut agent = world.agent_with_channel()?;
            if spoken {
                released(&mut agent, &release_loose())?;
            }
            agent.exec(&world.program(image), &["channel"])?;
            if spoken {
                // The new image goes on where the old one stopped, in the middle of HTTP/2.
                agent.act(&json!({"do": "write", "socket": "channel", "bytes": release_on_stream(3)}))?;
                let answer = agent.act(&json!({"do": "read", "socket": "channel"}))?;
                ensure!(tokens(answer["text"].as_str().unwrap_or_default()).is_empty(), "a token: {answer}");
            } else {
                cut_off(&mut agent, &release_loose())?;
            }
            refusal(world, "originator_gone", &agent)?;
        }
        Ok(())
    })
}

#[test]
fn a_forked_child_that_writes_on_its_parents_channel_ends_it_for_both() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let got = released(&mut agent, &release_loose())?;
        let mut child = agent.fork(None)?;
        // A PING frame of HTTP/2, as good as any other byte.
        child.act(&json!({"do": "write", "socket": "channel", "bytes": "0000080600000000000102030405060708"}))?;
        refusal(world, "originator_mismatch", &agent)?;
        cut_off(&mut agent, &release_loose())?;
        // What was released before is the parent's as before.
        assert!(world.authority.is_active(&got.token)?);
        // On a connection of its own the parent is who it was.
        world.open_channel(&mut agent)?;
        agent.act(&json!({"do": "channel", "as": "second", "to": world.socket()}))?;
        let mut call = release_loose();
        call["on"] = "second".into();
        released(&mut agent, &call).map(drop)
    })
}

#[test]
fn a_forked_child_cannot_speak_first_on_a_connection_its_parent_opened() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let mut child = agent.fork(None)?;
        cut_off(&mut child, &release_loose())?;
        refusal(world, "originator_mismatch", &agent)?;
        ensure!(!world.audit()?.iter().any(|record| record["kind"] == "decision"), "something was decided");
        Ok(())
    })
}

#[test]
fn a_forked_child_is_an_exec_instance_of_its_own_with_its_parents_facts() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let cookie = agent.connect("api", &world.api("127.0.0.1"))?;
        let mut child = agent.fork(None)?;
        child.act(&json!({"do": "channel", "as": "own", "to": world.socket()}))?;
        let on_its_own = |mut call: Value| {
            call["on"] = "own".into();
            call
        };
        let parent = agent.act(&attest())?["ok"]["exec_id"].as_u64().context("no exec id")?;
        let attested = child.act(&on_its_own(attest()))?;
        assert_eq!(attested["ok"]["tgid"], child.pid());
        assert_ne!(attested["ok"]["exec_id"], parent);
        // The parent's connection, although the child has the descriptor too.
        let record = denied(world, &mut child, &on_its_own(release_for(cookie)), "connection_not_yours")?;
        assert_eq!(record["connection"]["cookie"], cookie);
        let own = child.connect("mine", &world.api("127.0.0.1"))?;
        denied(world, &mut agent, &release_for(own), "connection_not_yours")?;
        let got = released(&mut child, &on_its_own(release_for(own)))?;
        let record = world.record("decision", &[("/decision_id", got.decision.as_str().into())])?;
        assert_eq!(record["lineage"][0]["exec_id"], parent);
        assert_eq!(record["lineage"][0]["spiffe_id"], "spiffe://example.org/agent/one");
        Ok(())
    })
}

#[test]
fn a_channel_that_was_passed_on_is_of_no_use_to_who_gets_it() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let mut other = world.spawn(&world.program("other"), NOBODY, &[])?;
        let door = world.text("open/door");
        other.act(&json!({"do": "await_fd", "at": door, "as": "door"}))?;
        agent.act(&json!({"do": "pass", "socket": "channel", "to": door}))?;
        other.act(&json!({"do": "take", "from": "door", "as": "channel"}))?;
        cut_off(&mut other, &release_loose())?;
        refusal(world, "originator_mismatch", &agent)?;
        cut_off(&mut agent, &release_loose())
    })
}

#[test]
fn a_connection_that_was_passed_on_stays_its_openers() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let mut second = world.agent_with_channel()?;
        let cookie = agent.connect("api", &world.api("127.0.0.1"))?;
        let door = world.text("open/door");
        second.act(&json!({"do": "await_fd", "at": door, "as": "door"}))?;
        agent.act(&json!({"do": "pass", "socket": "api", "to": door}))?;
        second.act(&json!({"do": "take", "from": "door", "as": "api"}))?;
        assert_eq!(second.act(&json!({"do": "cookie", "socket": "api"}))?["cookie"], cookie);
        denied(world, &mut second, &release_for(cookie), "connection_not_yours")?;
        // The opener is gone; its connection lives on in other hands and answers nothing.
        agent.exit()?;
        denied(world, &mut second, &release_for(cookie), "connection_not_yours").map(drop)
    })
}

#[test]
fn a_process_with_a_used_again_number_inherits_nothing() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let pid = agent.pid();
        let cookie = agent.connect("api", &world.api("127.0.0.1"))?;
        let got = released(&mut agent, &release_for(cookie))?;
        // Somebody keeps the agent's connections open beyond its end.
        let mut keeper = world.spawn(&world.program("other"), 0, &[])?;
        for name in ["channel", "api"] {
            let door = world.text(&format!("open/{name}"));
            keeper.act(&json!({"do": "await_fd", "at": door, "as": "door"}))?;
            agent.act(&json!({"do": "pass", "socket": name, "to": door}))?;
            keeper.act(&json!({"do": "take", "from": "door", "as": name}))?;
        }
        agent.exit()?;
        let mut reborn = keeper.fork(Some(pid))?;
        assert_eq!(reborn.pid(), pid);
        reborn.act(&json!({"do": "set_uid", "uid": NOBODY}))?;
        assert!(!world.authority.is_active(&got.token)?, "the token of an ended process is good");
        // The kernel's word on the writer is now the opener's number and user; the process is another all the same.
        cut_off(&mut reborn, &release_loose())?;
        reborn.exec(&world.program("agent"), &["channel", "api"])?;
        assert!(!world.authority.is_active(&got.token)?, "the token of an ended process is good");
        cut_off(&mut reborn, &release_loose())?;
        reborn.act(&json!({"do": "channel", "as": "new", "to": world.socket()}))?;
        let on_new = |mut call: Value| {
            call["on"] = "new".into();
            call
        };
        denied(world, &mut reborn, &on_new(release_for(cookie)), "connection_not_yours")?;
        let renew = json!({"do": "call", "call": "renew", "lease": got.lease, "on": "new"});
        let record = denied(world, &mut reborn, &renew, "lease_not_yours")?;
        assert_ne!(record["exec"]["exec_id"], got.exec_id);
        // As itself it is an agent like any other.
        released(&mut reborn, &on_new(release_loose())).map(drop)
    })
}

#[test]
fn an_answer_that_races_with_an_exec_never_leaves_a_good_token_with_the_new_image() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let (mut told, mut silent) = (0, 0);
        for round in 0..24_u32 {
            let mut agent = world.agent_with_channel()?;
            if round % 2 == 0 {
                agent.act(&attest())?;
            }
            let mut call = release_loose();
            call["do"] = "call_and_exec".into();
            call["program"] = world.program("other").into();
            call["keep"] = json!(["channel"]);
            call["after_us"] = (round * 150).into();
            let before = agent.call_and_exec(&call)?;
            let read = agent.act(&json!({"do": "read", "socket": "channel"}))?;
            let mut tokens: Vec<String> = tokens(read["text"].as_str().unwrap_or_default());
            tokens.extend(before["ok"]["token"].as_str().map(str::to_owned));
            if tokens.is_empty() {
                silent += 1;
            } else {
                told += 1;
            }
            for token in tokens {
                ensure!(!world.authority.is_active(&token)?, "round {round}: a token outlived the image it was for");
            }
        }
        // Which of the two comes first is the machine's affair: a quick daemon answers every time before the exec. That
        // an exec first gets no answer is shown without a race where the kernel can be held (tests/daemon).
        ensure!(told > 0, "no call was answered: {silent} rounds");
        Ok(())
    })
}

/// A release in bare HTTP/2 frames (RFC 9113), in hexadecimal: what a client sends that is not the first to speak.
fn release_on_stream(stream: u32) -> String {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/agent.v1.AgentService/Release"),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    let mut headers = Vec::new();
    for (name, value) in fields {
        // A literal that is never indexed, with a new name.
        headers.push(0x10);
        for text in [name, value] {
            headers.push(text.len() as u8);
            headers.extend(text.bytes());
        }
    }
    // Members 1 and 3: destination and binding.
    let message = [b"\x0a\x03api".as_slice(), b"\x1a\x05loose"].concat();
    let data = [&[0, 0, 0, 0, message.len() as u8], message.as_slice()].concat();
    let frames = [frame(1, 4, stream, &headers), frame(0, 1, stream, &data)].concat();
    frames.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Everything in a stream that looks like a compact JWS.
fn tokens(text: &str) -> Vec<String> {
    let form = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let words = text.split(|letter| !form(letter));
    words
        .filter_map(|word| word.get(word.find("eyJ")?..))
        .filter(|word| word.matches('.').count() == 2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn an_exec_by_a_thread_that_is_not_the_leader_is_seen_as_any_other() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        for leader_ends_first in [false, true] {
            let mut agent = world.agent_with_channel()?;
            let got = released(&mut agent, &release_loose())?;
            if leader_ends_first {
                agent.act(&json!({"do": "abandon_leader"}))?;
            }
            let exec =
                json!({"do": "exec", "program": world.program("agent"), "keep": ["channel"], "from_thread": true});
            agent.become_image(&exec)?;
            assert!(!world.authority.is_active(&got.token)?);
            cut_off(&mut agent, &release_loose())?;
            agent.act(&json!({"do": "channel", "as": "new", "to": world.socket()}))?;
            let mut call = release_loose();
            call["on"] = "new".into();
            let again = released(&mut agent, &call)?;
            assert_ne!(again.exec_id, got.exec_id);
            let record = world.record("decision", &[("/decision_id", again.decision.as_str().into())])?;
            assert_eq!(record["exec"]["tgid"], agent.pid());
        }
        Ok(())
    })
}

#[test]
fn a_process_whose_leader_has_ended_is_no_ghost_and_its_lease_lives_on() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let got = released(&mut agent, &release_loose())?;
        agent.act(&json!({"do": "abandon_leader"}))?;
        assert!(world.authority.is_active(&got.token)?, "the process lives, only its first thread ended");
        // Nothing in /proc says what such a process runs, so it is who it was known to be, or nobody.
        let answer = agent.act(&release_loose())?;
        ensure!(answer["ok"].is_object() || answer["status"] == "PermissionDenied", "{answer}");
        agent.exit()?;
        assert!(!world.authority.is_active(&got.token)?);
        Ok(())
    })
}

#[test]
fn too_many_connections_of_one_user_are_turned_away_and_others_are_not() -> Result<()> {
    with_daemon(Setup::default().set("api.max_connections_per_uid", 4), |world| {
        let mut greedy = world.spawn(&world.program("other"), NOBODY, &[])?;
        for number in 0..12 {
            greedy.act(&json!({"do": "channel", "as": format!("c{number}"), "to": world.socket()}))?;
        }
        refusal(world, "connection_limit", &greedy)?;
        let mut call = attest();
        call["on"] = "c11".into();
        refused(&mut greedy, &call, "CLOSED")?;
        let mut root = world.spawn(&world.program("agent"), 0, &[])?;
        world.open_channel(&mut root)?;
        root.act(&attest())?["ok"]["exec_id"].as_u64().context("root was turned away too")?;
        // Places come back.
        greedy.exit()?;
        let mut agent = world.agent()?;
        e2e::wait_until("a place for the agent", || {
            world.open_channel(&mut agent)?;
            Ok(agent.act(&attest())?["ok"].is_object())
        })
    })
}
