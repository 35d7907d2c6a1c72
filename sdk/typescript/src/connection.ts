// SPDX-License-Identifier: Apache-2.0 OR MIT

// The way to the daemon: calls over gRPC, and the token endpoint beside them on the same socket.

import { once } from "node:events";
import { connect } from "node:http2";
import { createConnection } from "node:net";
import { text } from "node:stream/consumers";

import { type CallOptions, type ClientUnaryCall, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";

import { errorOf, fromGrpc } from "./errors.js";
import { AgentServiceClient } from "./gen/agent/v1/agent.js";

type Method<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (failure: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;

export class Connection {
  readonly stub: AgentServiceClient;
  /** What the node keeps of a step; not known before the first. */
  contentBytes?: number;
  readonly #path: string;
  readonly #timeoutMs: number;

  constructor(socket: string, timeoutMs: number) {
    this.#path = socket.replace(/^unix:/, "");
    this.#timeoutMs = timeoutMs;
    this.stub = new AgentServiceClient(`unix:${this.#path}`, credentials.createInsecure(), {
      // What was recorded once must not be asked for twice.
      "grpc.enable_retries": 0,
      // Each client has a connection of its own, so that after `NotAttested` a new client is a new connection.
      "grpc.use_local_subchannel_pool": 1,
    });
  }

  /** Calls a method of the stub. */
  call<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    signal?: AbortSignal,
  ): Promise<Response> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const cancel = () => {
        call.cancel();
        reject(signal?.reason);
      };
      const options = { deadline: Date.now() + this.#timeoutMs };
      const call = method.call(this.stub, request, new Metadata(), options, (failure, response) => {
        signal?.removeEventListener("abort", cancel);
        if (failure) reject(fromGrpc(failure));
        else resolve(response);
      });
      signal?.addEventListener("abort", cancel);
    });
  }

  /** Posts a form to the token endpoint, and gives the token of the answer. */
  async token(form: URLSearchParams, headers: Record<string, string>): Promise<string> {
    const signal = AbortSignal.timeout(this.#timeoutMs);
    const session = connect("http://localhost", { createConnection: () => createConnection(this.#path) });
    // It and its stream may fail at any time; whoever waits is told.
    session.on("error", () => {});
    let status: unknown;
    let body: string;
    try {
      const type = "application/x-www-form-urlencoded";
      const request = { ...headers, ":method": "POST", ":path": "/token", "content-type": type };
      const stream = session.request(request, { signal });
      stream.on("error", () => {});
      stream.end(form.toString());
      const [head] = await once(stream, "response", { signal });
      status = head[":status"];
      body = await text(stream);
    } catch (failure) {
      const code = signal.aborted ? "DEADLINE_EXCEEDED" : "UNAVAILABLE";
      throw errorOf(code, failure instanceof Error ? failure.message : "");
    } finally {
      session.destroy();
    }
    const answer = object(body);
    if (status === 200 && typeof answer.access_token === "string") return answer.access_token;
    const { error = `http_${status}`, error_description: description = "" } = answer;
    throw errorOf(String(error), String(description));
  }
}

/** The members of a JSON object; none where it is something else. */
function object(text: string): Record<string, unknown> {
  try {
    return { ...JSON.parse(text) };
  } catch {
    return {};
  }
}
