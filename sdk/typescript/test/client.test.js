// SPDX-License-Identifier: Apache-2.0 OR MIT

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http2";
import { createConnection } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { inspect } from "node:util";

import { status } from "@grpc/grpc-js";

import {
  AgentDaemonError,
  Client,
  continued,
  currentTraceparent,
  Denied,
  NotAttested,
  Unavailable,
} from "../dist/index.js";
import { fakeDaemon, folder, SECRET, service } from "./fake.js";

test("steps_nest_by_context_and_only_in_their_own_session", async (t) => {
  const { client, asked } = await fakeDaemon(t);
  const [one, two] = await Promise.all(["one", "two"].map((agent) => client.openSession({ agent })));
  await one.step("reasoning", {}, async (outer) => {
    await Promise.all([
      one.step("tool_call", { name: "search", reference: "sha256:aa" }, async (inner) => {
        assert.equal(inner.traceId, outer.traceId);
        assert.equal(currentTraceparent(), inner.traceparent);
        await one.release("api");
      }),
      two.step("tool_call", {}, async (other) => {
        assert.notEqual(other.traceId, outer.traceId);
        // Nor does one that is called by the other session's.
        await one.step("tool_call", {}, () => {});
      }),
    ]);
    assert.equal(currentTraceparent(), outer.traceparent);
  });
  assert.equal(currentTraceparent(), undefined);
  const outer = asked("beginStep")[0];
  const search = asked("beginStep").find(({ name }) => name === "search");
  assert.match(search.traceparent, /^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
  assert.equal(search.parentSpanId, outer.traceparent.slice(36, 52));
  assert.equal(search.reference, "sha256:aa");
  assert.equal(asked("beginStep").filter(({ parentSpanId }) => parentSpanId !== "").length, 1);
  assert.equal(asked("release")[0].traceparent, search.traceparent);
  assert.equal(asked("endStep").filter(({ failed }) => failed).length, 0);
  assert.equal(asked("endStep").length, 4);
});

test("a_step_fails_with_its_work_and_the_error_inside_counts_for_more", async (t) => {
  const endStep = () => {
    throw { code: status.NOT_FOUND, details: "no such step" };
  };
  const { client, asked } = await fakeDaemon(t, { endStep });
  const inside = new Error("inside");
  await assert.rejects(
    client.step("reasoning", {}, () => Promise.reject(inside)),
    inside,
  );
  await assert.rejects(
    client.step("reasoning", {}, () => 1),
    { code: "NOT_FOUND" },
  );
  assert.deepEqual(
    asked("endStep").map(({ failed }) => failed),
    [true, false],
  );
  await assert.rejects(
    client.step("toString", {}, () => 1),
    TypeError,
  );
});

test("the_content_of_a_step_is_sent_where_it_is_kept_and_is_cut", async (t) => {
  let contentBytes = 4096;
  const { client, asked } = await fakeDaemon(t, { beginStep: () => ({ contentBytes }) });
  const step = (content) => client.step("instruction", { content }, () => {});
  await step("é".repeat(10_000));
  contentBytes = 0;
  await step("short");
  await step("not wanted any more");
  assert.deepEqual(
    asked("beginStep").map(({ content }) => content),
    ["é".repeat(8192), "short", ""],
  );
});

test("what_is_released_in_a_continued_step_names_it", async (t) => {
  const { client, asked } = await fakeDaemon(t);
  const traceparent = `00-${"a".repeat(32)}-${"b".repeat(16)}-01`;
  await continued(traceparent, () => client.release("api"));
  await client.step("reasoning", {}, () => continued(undefined, () => client.release("api")));
  assert.deepEqual(
    asked("release").map((request) => request.traceparent),
    [traceparent, ""],
  );
});

test("requests_say_what_was_asked_for", async (t) => {
  const { client, asked } = await fakeDaemon(t);
  assert.deepEqual((await client.attest()).spiffeIds, ["spiffe://example.org/agent"]);
  const session = await client.openSession({ userToken: "t", nonce: "n", purpose: "p", scopes: [], bound: true });
  const inner = await session.openSession({ agent: "helper", lifetimeSeconds: 5 });
  const [first, second] = asked("openSession");
  assert.deepEqual(
    [first.token, first.scopes, first.binding, first.parentHandle],
    [{ token: "t", nonce: "n" }, { names: [] }, 0, ""],
  );
  assert.deepEqual([second.token, second.scopes, second.binding, second.lifetimeSeconds], [undefined, undefined, 1, 5]);
  assert.equal(second.parentHandle, session.handle);

  const { origin } = await service(t);
  const socket = createConnection(new URL(origin).port, "127.0.0.1");
  await assert.rejects(client.release("api", { connection: socket }), TypeError);
  await once(socket, "connect");
  const credential = await inner.release("api", { connection: socket, binding: "b", spiffeId: "i" });
  await client.renew(credential, { connection: 7n, session: inner });
  await client.giveBack(credential);
  const tuple = {
    localAddress: "127.0.0.1",
    localPort: socket.localPort,
    remoteAddress: "127.0.0.1",
    remotePort: socket.remotePort,
  };
  socket.destroy();
  const [release] = asked("release");
  assert.deepEqual([release.connection.tuple, release.binding, release.spiffeId], [tuple, "b", "i"]);
  assert.equal(release.sessionHandle, inner.handle);
  const [renew] = asked("renew");
  assert.deepEqual(
    [renew.connection.cookie, renew.leaseId, renew.sessionHandle],
    [7n, credential.leaseId, inner.handle],
  );
  assert.equal(asked("giveBack")[0].leaseId, credential.leaseId);

  await inner[Symbol.asyncDispose]();
  assert.equal(asked("closeSession")[0].sessionHandle, inner.handle);
  assert.equal((await client.session("handed-down")).handle, "handed-down");
  assert.equal(asked("enterSession")[0].sessionHandle, "handed-down");
});

test("secrets_do_not_show", async (t) => {
  const { client } = await fakeDaemon(t);
  const session = await client.openSession({ agent: "one" });
  const credential = await session.release("api");
  assert.ok(credential.token.startsWith(SECRET) && session.handle.startsWith(SECRET));
  const everything = { showHidden: true, getters: true, depth: Infinity };
  for (const shown of [credential, session]) {
    const texts = [inspect(shown), inspect({ shown }, everything), JSON.stringify(shown), `${shown}`];
    texts.push(JSON.stringify({ ...shown }), JSON.stringify(structuredClone(shown)));
    for (const text of texts) assert.ok(!text.includes(SECRET), text);
    assert.match(inspect(shown), /expiresAt/);
  }
});

test("errors_say_what_can_be_done", async (t) => {
  let failure;
  const release = () => {
    throw failure;
  };
  const { client } = await fakeDaemon(t, { release });
  for (const [code, kind] of [
    ["PERMISSION_DENIED", Denied],
    ["UNAUTHENTICATED", NotAttested],
    ["UNAVAILABLE", Unavailable],
    ["RESOURCE_EXHAUSTED", Unavailable],
    ["INVALID_ARGUMENT", AgentDaemonError],
    ["INTERNAL", AgentDaemonError],
  ]) {
    failure = { code: status[code], details: "denied: decision id 00ff" };
    await assert.rejects(client.release("api"), (error) => {
      assert.equal(error.constructor, kind);
      assert.deepEqual([error.code, error.decisionId], [code, "00ff"]);
      return true;
    });
  }
  failure = { code: status.PERMISSION_DENIED, details: "denied" };
  await assert.rejects(client.release("api"), { decisionId: undefined });
});

test("a_call_ends_with_its_signal_or_its_time_and_without_a_daemon", async (t) => {
  const { client, socket, asked } = await fakeDaemon(t, { release: () => new Promise(() => {}) });
  const controller = new AbortController();
  const reason = new Error("enough");
  const release = client.release("api", { signal: controller.signal });
  while (asked("release").length === 0) await new Promise(setImmediate);
  controller.abort(reason);
  await assert.rejects(release, reason);
  await assert.rejects(client.release("api", { signal: controller.signal }), reason);
  assert.equal(asked("release").length, 1);
  for (const [options, code] of [
    [{ socket, timeoutMs: 50 }, "DEADLINE_EXCEEDED"],
    [{ socket: `${socket}-not` }, "UNAVAILABLE"],
  ]) {
    const other = new Client(options);
    t.after(() => other.close());
    await assert.rejects(other.release("api"), (error) => error instanceof Unavailable && error.code === code);
  }
});

test("tokens_are_exchanged_over_the_same_socket", async (t) => {
  const asked = [];
  let answer;
  const server = createServer();
  server.on("stream", async (stream, headers) => {
    let body = "";
    for await (const chunk of stream) body += chunk;
    asked.push({ ...headers, form: Object.fromEntries(new URLSearchParams(body)) });
    if (!answer) return;
    stream.respond({ ":status": answer[0] });
    stream.end(answer[1]);
  });
  const socket = join(await folder(t), "agent.sock");
  await new Promise((resolve) => server.listen(socket, resolve));
  t.after(() => server.close());
  const client = new Client({ socket: `unix:${socket}`, timeoutMs: 500 });
  t.after(() => client.close());

  answer = [200, JSON.stringify({ access_token: "own" })];
  const traceparent = `00-${"a".repeat(32)}-${"b".repeat(16)}-01`;
  assert.equal(
    await continued(traceparent, () => client.exchange("the ir&s", "https://backend.example.org", "a b")),
    "own",
  );
  const [{ form, ...headers }] = asked;
  assert.deepEqual([headers[":method"], headers[":path"], headers.traceparent], ["POST", "/token", traceparent]);
  assert.equal(headers["content-type"], "application/x-www-form-urlencoded");
  assert.deepEqual(form, {
    grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
    subject_token: "the ir&s",
    subject_token_type: "urn:ietf:params:oauth:token-type:access_token",
    audience: "https://backend.example.org",
    scope: "a b",
  });
  for (const [status, body, kind, code] of [
    [
      400,
      JSON.stringify({ error: "invalid_target", error_description: "denied: decision id 00ff" }),
      Denied,
      "invalid_target",
    ],
    [400, JSON.stringify({ error: "invalid_scope" }), AgentDaemonError, "invalid_scope"],
    [401, JSON.stringify({ error: "invalid_client" }), NotAttested, "invalid_client"],
    [503, JSON.stringify({ error: "temporarily_unavailable" }), Unavailable, "temporarily_unavailable"],
    [502, "<html>", AgentDaemonError, "http_502"],
    [200, "null", AgentDaemonError, "http_200"],
  ]) {
    answer = [status, body];
    await assert.rejects(client.exchange("t", "a"), (error) => error.constructor === kind && error.code === code);
  }
  answer = undefined;
  await assert.rejects(
    client.exchange("t", "a"),
    (error) => error instanceof Unavailable && error.code === "DEADLINE_EXCEEDED",
  );
});
