// SPDX-License-Identifier: Apache-2.0 OR MIT

// Steps of an agent's work, and the one that is under way here.

import { AsyncLocalStorage } from "node:async_hooks";
import { randomBytes } from "node:crypto";

import type { Connection } from "./connection.js";
import { BeginStepRequest_Kind } from "./gen/agent/v1/agent.js";

const KINDS = {
  instruction: BeginStepRequest_Kind.KIND_INSTRUCTION,
  reasoning: BeginStepRequest_Kind.KIND_REASONING,
  tool_call: BeginStepRequest_Kind.KIND_TOOL_CALL,
  approval: BeginStepRequest_Kind.KIND_APPROVAL,
};

export type StepKind = keyof typeof KINDS;

export interface StepOptions {
  /** For example that of the tool. */
  name?: string;
  /** A hash or an id of what it is about. */
  reference?: string;
  /** What it is about, itself. The audit log keeps what the operator of the node wants of it, and nothing unless so. */
  content?: string;
}

/** Something that the agent says that it does. */
export interface Step {
  readonly traceId: string;
  readonly spanId: string;
  /** As in the header of that name (W3C trace context). */
  readonly traceparent: string;
}

interface Place {
  traceparent: string;
  /** Not there where somebody else began the step. */
  own?: { step: Step; handle: string };
}

/** More than is kept, because secrets go before it is cut; and within what one message may hold. */
const MAX_CONTENT_SENT_BYTES = 16_384;

const place = new AsyncLocalStorage<Place>();

/** That of the step under way here, for requests that the agent makes in it. */
export function currentTraceparent(): string | undefined {
  return place.getStore()?.traceparent || undefined;
}

/**
 * Works in a step that somebody else began, as its `traceparent` says: what is released inside names it.
 *
 * For a tool that is called over the network or a pipe. Nothing is told to the daemon.
 */
export function continued<T>(traceparent: string | undefined, work: () => T): T {
  return place.run({ traceparent: traceparent ?? "" }, work);
}

/** Works in a step of a session, or with no handle in one of that which the kernel has this process in. */
export async function inStep<T>(
  connection: Connection,
  handle: string,
  kind: StepKind,
  { name = "", reference = "", content = "" }: StepOptions,
  work: (step: Step) => T | Promise<T>,
): Promise<T> {
  if (!Object.hasOwn(KINDS, kind)) throw new TypeError(`kind: one of ${Object.keys(KINDS).join(", ")}`);
  const above = place.getStore()?.own;
  const parent = above?.handle === handle ? above.step : undefined;
  const traceId = parent?.traceId ?? randomBytes(16).toString("hex");
  const spanId = randomBytes(8).toString("hex");
  const traceparent = `00-${traceId}-${spanId}-01`;
  const step = Object.freeze({ traceId, spanId, traceparent });
  const { contentBytes } = await connection.call(connection.stub.beginStep, {
    sessionHandle: handle,
    kind: KINDS[kind],
    traceparent,
    parentSpanId: parent?.spanId ?? "",
    name,
    reference,
    // A thread of Node's serves many steps at a time.
    threadId: 0,
    content: connection.contentBytes === 0 ? "" : cut(content),
  });
  connection.contentBytes = contentBytes;
  let failed = true;
  try {
    const result = await place.run({ traceparent, own: { step, handle } }, () => work(step));
    failed = false;
    return result;
  } finally {
    try {
      await connection.call(connection.stub.endStep, { sessionHandle: handle, traceparent, failed });
    } catch (failure) {
      // What went wrong inside counts for more.
      if (!failed) throw failure;
    }
  }
}

function cut(content: string): string {
  if (content === "") return content;
  return content.slice(0, new TextEncoder().encodeInto(content, new Uint8Array(MAX_CONTENT_SENT_BYTES)).read);
}
