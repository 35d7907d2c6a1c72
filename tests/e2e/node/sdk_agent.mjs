// SPDX-License-Identifier: Apache-2.0 OR MIT

// What the TypeScript SDK does, against the daemon of a test.
//
//     sdk_agent.mjs SOCKET agent FOLDER TOKEN-OF-ADA TOKEN-OF-BOB
//     sdk_agent.mjs SOCKET tool TOKEN
//
// Says what came of it, a line of JSON each; never a credential that is still good after it.

import { once } from "node:events";
import { existsSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { inspect } from "node:util";

import { AgentDaemonError, Client, Denied, withCredential } from "./agent-daemon/index.js";

function say(fields) {
  console.log(JSON.stringify(fields));
}

/** Says that something was denied, by its decision's id. */
async function sayDenied(asked) {
  try {
    await asked;
  } catch (error) {
    if (!(error instanceof Denied)) throw error;
    say({ denied: error.decisionId });
  }
}

/** Takes no token the first time, and says what it was shown. */
async function serveApi() {
  let refuse = 1;
  const server = createServer((request, response) => {
    response.statusCode = refuse-- > 0 ? 401 : 200;
    const { authorization = "", traceparent = "" } = request.headers;
    response.end(JSON.stringify({ authorization, traceparent }));
  });
  // `localhost` may be either family.
  server.listen(0);
  await once(server, "listening");
  return server;
}

async function agent(daemon, folder, ...tokens) {
  const server = await serveApi();
  const url = `http://127.0.0.1:${server.address().port}/`;
  say({ spiffe_ids: (await daemon.attest()).spiffeIds });
  let session;
  for (const userToken of tokens) {
    session = await daemon.openSession({ userToken, agent: "coder", purpose: "the report", scopes: ["api", "code"] });
    const api = withCredential(daemon, "api", { hosts: [url], binding: "on-behalf", session });
    await session.step("reasoning", {}, () =>
      session.step("tool_call", { name: "search", reference: "sha256:aa" }, async (step) => {
        const [first, second] = [await api(url), await api(url)];
        const elsewhere = await api(url.replace("127.0.0.1", "localhost"));
        const [before, shown] = [await first.text(), await second.text()];
        const { authorization, traceparent } = JSON.parse(shown);
        const passedOn = await session.release("tools");
        const everything = { showHidden: true, getters: true };
        const printed = [passedOn, session].map(
          (shown) => JSON.stringify(shown) + inspect(shown) + inspect(shown, everything),
        );
        say({
          user: session.user,
          session: session.id,
          statuses: [first.status, second.status],
          same: before === shown,
          token: authorization.replace(/^Bearer /, ""),
          in_step: traceparent === step.traceparent,
          elsewhere: (await elsewhere.json()).authorization,
          secret_shows: printed[0].includes(passedOn.token) || printed[1].includes(session.handle),
          passed_on: passedOn.token,
          span: step.spanId,
        });
      }),
    );
    await sayDenied(session.release("mail"));
    const inner = await session.openSession({ agent: "helper", scopes: ["code"] });
    await sayDenied(inner.release("api", { binding: "on-behalf" }));
    // Until the test has looked.
    while (!existsSync(join(folder, session.id))) await setTimeout(50);
    await session.close();
  }
  await sayDenied(session.release("api", { binding: "on-behalf" }));
  server.close();
  server.closeAllConnections();
}

async function tool(daemon, token) {
  say({ token: await daemon.exchange(token, "https://backend.example.org") });
  try {
    await daemon.exchange(token, "https://backend.example.org", "mail");
  } catch (error) {
    if (!(error instanceof AgentDaemonError)) throw error;
    say({ code: error.code });
  }
}

const [socket, command, ...further] = process.argv.slice(2);
const daemon = new Client({ socket });
await { agent, tool }[command](daemon, ...further);
daemon.close();
