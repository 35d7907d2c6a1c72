// SPDX-License-Identifier: Apache-2.0 OR MIT

// A daemon that permits everything, and remembers what it was asked; and a service that takes tokens.

import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { Server, ServerCredentials } from "@grpc/grpc-js";

import { Client } from "../dist/index.js";
import { AgentServiceService, ExecInstance } from "../dist/gen/agent/v1/agent.js";

export const SECRET = "canary";

/** A folder for a socket, until the test is over. */
export async function folder(t) {
  const path = await mkdtemp(join(tmpdir(), "agent-sdk-"));
  t.after(() => rm(path, { recursive: true }));
  return path;
}

/** `answers` are those that are not the usual ones: the answer to a request, or what is thrown. */
export async function fakeDaemon(t, answers = {}) {
  const calls = [];
  const usual = {
    attest: () => ({ caller: { ...ExecInstance.decode(new Uint8Array()), spiffeIds: ["spiffe://example.org/agent"] } }),
    release: ({ destination }) => released(destination, calls.length),
    renew: () => released("api", calls.length),
    giveBack: () => ({}),
    openSession: ({ agent }) => ({
      sessionId: `s-${agent}`,
      sessionHandle: `${SECRET}-${agent}`,
      user: "corp:ada",
      expiresAt: new Date(Date.now() + 60_000),
    }),
    enterSession: () => ({ sessionId: "s-entered", user: "corp:ada", expiresAt: new Date(Date.now() + 60_000) }),
    closeSession: () => ({}),
    beginStep: () => ({ contentBytes: 0 }),
    endStep: () => ({}),
    ...answers,
  };
  const server = new Server();
  const methods = Object.entries(usual).map(([method, answer]) => [
    method,
    async ({ request }, callback) => {
      calls.push({ method, ...request });
      try {
        callback(null, await answer(request));
      } catch (failure) {
        callback(failure);
      }
    },
  ]);
  server.addService(AgentServiceService, Object.fromEntries(methods));
  const socket = join(await folder(t), "agent.sock");
  await new Promise((resolve, reject) => {
    server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (failure) =>
      failure ? reject(failure) : resolve(),
    );
  });
  t.after(() => server.forceShutdown());
  const client = new Client({ socket });
  t.after(() => client.close());
  const asked = (method) => calls.filter((call) => call.method === method);
  return { client, socket, asked };
}

/** A release; each has another secret. */
export function released(destination, number, seconds = 300) {
  const now = Date.now();
  return {
    credential: {
      type: "jwt-svid",
      secret: Buffer.from(`${SECRET}-${number}`),
      spiffeId: "spiffe://example.org/agent",
      audience: "api",
    },
    lease: {
      leaseId: `lease-${number}`,
      execId: 1n,
      destination,
      binding: "",
      expiresAt: new Date(now + seconds * 1000),
    },
    decisionId: `d${number}`,
  };
}

/** A service on the loopback interface; `answer` gets each request, its response and how many there were so far. */
export async function service(t, answer = (_request, response) => response.end()) {
  const seen = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    seen.push({ path: request.url, ...request.headers, body });
    await answer(request, response, seen.length);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { origin: `http://127.0.0.1:${server.address().port}`, seen };
}
