// SPDX-License-Identifier: Apache-2.0 OR MIT

import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { test } from "node:test";

import { status } from "@grpc/grpc-js";

import { Denied, withCredential } from "../dist/index.js";
import { fakeDaemon, released, SECRET, service } from "./fake.js";

/** A fetch that only says what it was given. */
function recorder() {
  const sent = [];
  const fetch = async (input, init) => {
    sent.push({
      url: input.url ?? input,
      authorization: new Headers(init?.headers).get("authorization"),
      redirect: init?.redirect,
    });
    return new Response();
  };
  return { fetch, sent };
}

test("named_hosts_get_the_credential_and_the_step", async (t) => {
  const { client, asked } = await fakeDaemon(t);
  const { origin, seen } = await service(t);
  const session = await client.openSession({ agent: "one" });
  const fetch = withCredential(client, "api", { hosts: [origin], session, binding: "on-behalf" });
  const headers = { authorization: "Bearer of-the-caller", accept: "text/plain" };
  await session.step("tool_call", {}, async (step) => {
    await fetch(`${origin}/a`, { method: "POST", body: "text", headers });
    await fetch(new URL("/b", origin));
    await fetch(new Request(`${origin}/c`, { headers }));
    await fetch(`${origin}/d`, { headers: { traceparent: "of-the-caller" } });
    assert.deepEqual(
      seen.map(({ path, body }) => path + body),
      ["/atext", "/b", "/c", "/d"],
    );
    assert.deepEqual(new Set(seen.map(({ authorization }) => authorization)).size, 1);
    assert.ok(seen[0].authorization.startsWith(`Bearer ${SECRET}-`));
    const own = step.traceparent;
    assert.deepEqual(
      seen.map(({ traceparent }) => traceparent),
      [own, own, own, "of-the-caller"],
    );
    assert.deepEqual(
      seen.map(({ accept }) => accept),
      ["text/plain", "*/*", "text/plain", "*/*"],
    );
  });
  assert.equal(asked("release").length, 1);
  assert.deepEqual([asked("release")[0].sessionHandle, asked("release")[0].binding], [session.handle, "on-behalf"]);
  assert.equal(headers.authorization, "Bearer of-the-caller");
});

test("no_other_origin_gets_it", async (t) => {
  const { client, asked } = await fakeDaemon(t);
  const { fetch: send, sent } = recorder();
  const fetch = withCredential(client, "api", {
    hosts: ["API.example.org", "http://127.0.0.1:8080", "[::1]:8443"],
    fetch: send,
  });
  const check = async (url, gets) => {
    await fetch(url);
    const { authorization, redirect } = sent.at(-1);
    assert.equal(authorization !== null, gets, url);
    assert.equal(redirect, gets ? "manual" : undefined, url);
  };
  for (const url of [
    "https://api.example.org/",
    "HTTPS://API.EXAMPLE.ORG:443/path",
    "https:\\\\api.example.org\\path",
    "http://127.0.0.1:8080/",
    "http://2130706433:8080/",
    "https://[0:0:0:0:0:0:0:1]:8443/",
  ]) {
    await check(url, true);
  }
  assert.equal(sent[2].url, "https://api.example.org/path");
  const before = asked("release").length;
  for (const url of [
    "http://api.example.org/",
    "https://api.example.org:8443/",
    "https://api.example.org./",
    "https://api.example.org.evil.example/",
    "https://evil.example/api.example.org",
    "https://api.example.org@evil.example/",
    "https://evil.example\\@api.example.org/",
    "https://evil.example#@api.example.org/",
    "https://sub.api.example.org/",
    "http://localhost:8080/",
    "https://127.0.0.1:8080/",
    "data:,api.example.org",
  ]) {
    await check(url, false);
  }
  assert.equal(asked("release").length, before);
  for (const hosts of [[], ["https://api.example.org/path"], ["user@api.example.org"], ["data:text"], ["x://"], [""]]) {
    assert.throws(() => withCredential(client, "api", { hosts }), TypeError, String(hosts));
  }
});

test("a_url_that_changes_while_a_credential_is_awaited_does_not_lead_it_astray", async (t) => {
  const { client } = await fakeDaemon(t);
  const { fetch: send, sent } = recorder();
  const url = new URL("https://api.example.org/");
  const answer = withCredential(client, "api", { hosts: ["api.example.org"], fetch: send })(url);
  url.host = "evil.example";
  await answer;
  assert.equal(sent[0].url, "https://api.example.org/");
});

test("a_redirect_does_not_carry_it_away", async (t) => {
  const { client } = await fakeDaemon(t);
  const elsewhere = await service(t);
  const redirect = (_request, response) => response.writeHead(307, { location: elsewhere.origin }).end();
  const { origin } = await service(t, redirect);
  const fetch = withCredential(client, "api", { hosts: [origin] });
  for (const [input, init] of [[origin], [origin, { redirect: "follow" }], [new Request(origin)]]) {
    const answer = await fetch(input, init);
    assert.deepEqual([answer.status, answer.headers.get("location")], [307, elsewhere.origin]);
  }
  await assert.rejects(fetch(origin, { redirect: "error" }), TypeError);
  await assert.rejects(fetch(new Request(origin, { redirect: "error" })), TypeError);
  assert.equal(elsewhere.seen.length, 0);
  // A host that is not named may redirect to one that is, which gets nothing by it.
  const named = withCredential(client, "api", { hosts: [elsewhere.origin] });
  assert.equal((await named(origin)).status, 200);
  assert.equal(elsewhere.seen[0].authorization, undefined);
});

test("a_401_has_it_replaced_once", async (t) => {
  const { client, asked } = await fakeDaemon(t);
  let refused = 1;
  const { origin, seen } = await service(t, (_request, response) => {
    response.statusCode = refused-- > 0 ? 401 : 200;
    response.end();
  });
  const fetch = withCredential(client, "api", { hosts: [origin] });
  assert.equal((await fetch(origin, { method: "POST", body: "again" })).status, 200);
  assert.deepEqual(
    seen.map(({ body }) => body),
    ["again", "again"],
  );
  assert.notEqual(seen[0].authorization, seen[1].authorization);
  refused = 2;
  assert.equal((await fetch(origin)).status, 401);
  assert.equal(seen.length, 4);
  // What cannot be sent again is not, but the next request has a new one.
  for (const body of [Readable.from(["once"]), new Blob(["once"]).stream()]) {
    const before = asked("release").length;
    refused = 1;
    assert.equal((await fetch(origin, { method: "POST", body, duplex: "half" })).status, 401);
    assert.equal(seen.at(-1).body, "once");
    assert.equal((await fetch(origin)).status, 200);
    assert.equal(asked("release").length, before + 1);
  }
  refused = 1;
  assert.equal((await fetch(new Request(origin, { method: "POST", body: "once" }))).status, 401);
});

test("it_is_replaced_before_it_ends_and_once_for_all_that_wait", async (t) => {
  let seconds = 20;
  let number = 0;
  const { client, asked } = await fakeDaemon(t, { release: () => released("api", number++, seconds) });
  const { origin } = await service(t);
  const fetch = withCredential(client, "api", { hosts: [origin] });
  // One that is short is good for half of its life.
  await Promise.all([fetch(origin), fetch(origin), fetch(origin)]);
  await fetch(origin);
  assert.equal(asked("release").length, 1);
  const now = Date.now;
  t.after(() => (Date.now = now));
  Date.now = () => now() + 11_000;
  seconds = 300;
  await fetch(origin);
  assert.equal(asked("release").length, 2);
  Date.now = () => now() + 11_000 + 269_000;
  await fetch(origin);
  assert.equal(asked("release").length, 2);
  Date.now = () => now() + 11_000 + 271_000;
  await fetch(origin);
  assert.equal(asked("release").length, 3);
});

test("where_none_is_released_nothing_is_sent", async (t) => {
  let failure = { code: status.PERMISSION_DENIED, details: "denied: decision id 00ff" };
  const release = () => {
    if (failure) throw failure;
    return new Promise((resolve) => (answer = () => resolve(released("api", 1))));
  };
  let answer;
  const { client, asked } = await fakeDaemon(t, { release });
  const { origin, seen } = await service(t);
  const fetch = withCredential(client, "api", { hosts: [origin] });
  await assert.rejects(fetch(origin), Denied);
  // Who gives up waiting does not have others give up.
  failure = undefined;
  const controller = new AbortController();
  const [first, second] = [fetch(origin, { signal: controller.signal }), fetch(origin)];
  while (!answer) await new Promise(setImmediate);
  controller.abort(new Error("enough"));
  await assert.rejects(first, { message: "enough" });
  assert.equal(seen.length, 0);
  answer();
  assert.equal((await second).status, 200);
  assert.equal(asked("release").length, 2);
  await assert.rejects(fetch(origin, { signal: AbortSignal.abort() }), { name: "AbortError" });
  assert.equal(seen.length, 1);
});

test("a_secret_that_is_no_bearer_token_is_neither_sent_nor_shown", async (t) => {
  const secret = Buffer.from(`-----BEGIN\n${SECRET}\n`);
  const release = () => ({ ...released("api", 1), credential: { type: "static", secret, spiffeId: "", audience: "" } });
  const { client } = await fakeDaemon(t, { release });
  const { origin, seen } = await service(t);
  await assert.rejects(
    withCredential(client, "api", { hosts: [origin] })(origin),
    (error) => !error.stack.includes(SECRET),
  );
  assert.equal(seen.length, 0);
});
