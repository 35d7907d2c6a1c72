// SPDX-License-Identifier: Apache-2.0 OR MIT

// Credentials on the way out for `fetch`.

import type { Client, Credential, Session } from "./client.js";
import { currentTraceparent } from "./step.js";

/** Seconds before its end at which a credential is replaced. */
const MARGIN = 30;

export type Fetch = typeof globalThis.fetch;

export interface WithCredentialOptions {
  /** `api.example.org` stands for `https://api.example.org`; an origin stands for itself. */
  hosts: readonly string[];
  session?: Session;
  binding?: string;
  /** What sends the requests; without it the global one. */
  fetch?: Fetch;
}

/**
 * A `fetch` that releases a credential for a destination when a request needs one, and replaces it before it ends.
 *
 * It goes to the hosts that are named and to no others; their redirects are returned, not followed, because it would go
 * along. An answer of 401 has it replaced once. In a step these requests carry its `traceparent`.
 */
export function withCredential(client: Client, destination: string, options: WithCredentialOptions): Fetch {
  const { session, binding, fetch = globalThis.fetch } = options;
  const origins = new Set(options.hosts.map(origin));
  if (origins.size === 0) throw new TypeError("hosts: name those that may get the credential");

  let held: Credential | undefined;
  let pending: Promise<Credential> | undefined;
  let margin = MARGIN;

  async function release(): Promise<Credential> {
    try {
      held = await client.release(destination, { session, binding });
      // One that lives shorter than the margin would else be replaced for every request.
      margin = Math.min(MARGIN, held.secondsLeft() / 2);
      return held;
    } finally {
      pending = undefined;
    }
  }

  async function current(): Promise<Credential> {
    if (held && held.secondsLeft() >= margin) return held;
    // All that wait get the same one.
    return (pending ??= release());
  }

  return async (input, init) => {
    const given = input instanceof Request ? input : undefined;
    // As it is now: a URL object can be changed while a credential is awaited.
    const url = new URL(given ? given.url : String(input));
    if (!origins.has(url.origin)) return fetch(input, init);

    const headers = new Headers(init?.headers ?? given?.headers);
    const traceparent = currentTraceparent();
    if (traceparent && !headers.has("traceparent")) headers.set("traceparent", traceparent);
    const redirect = (init?.redirect ?? given?.redirect) === "error" ? "error" : "manual";
    const signal = init?.signal ?? given?.signal;
    const send = (credential: Credential) => {
      headers.set("authorization", `Bearer ${bearer(credential)}`);
      return fetch(given ?? url.href, { ...init, headers, redirect });
    };

    signal?.throwIfAborted();
    const used = await unlessAborted(current(), signal);
    const answer = await send(used);
    if (answer.status !== 401) return answer;
    if (held === used) held = undefined;
    // A stream is used up.
    if (Symbol.asyncIterator in Object(init?.body ?? given?.body)) return answer;
    await answer.body?.cancel();
    return send(await unlessAborted(current(), signal));
  };
}

function origin(host: string): string {
  const url = new URL(host.includes("://") ? host : `https://${host}`);
  if (url.href !== `${url.origin}/`) throw new TypeError(`hosts: ${host} is neither a host nor an origin`);
  return url.origin;
}

function bearer({ destination, token }: Credential): string {
  // `Headers` would name it in its error.
  if (!/^[\x21-\x7e]+$/.test(token)) throw new TypeError(`what is released for ${destination} is no bearer token`);
  return token;
}

/** Others may wait for the same, so it goes on. */
function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | null | undefined): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort);
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}
