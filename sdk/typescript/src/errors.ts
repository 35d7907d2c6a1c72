// SPDX-License-Identifier: Apache-2.0 OR MIT

// What went wrong, by what the caller can do about it.

import { type ServiceError, status } from "@grpc/grpc-js";

/** The daemon did not do what was asked. `code` is gRPC's word, or that of an OAuth error. */
export class AgentDaemonError extends Error {
  override readonly name: string = "AgentDaemonError";
  readonly code: string;
  /** Names the record in the audit log in which an operator finds the reasons. */
  readonly decisionId: string | undefined;

  constructor(code: string, message: string) {
    super(`${code}: ${message}`);
    this.code = code;
    this.decisionId = /decision id ([0-9a-f]+)/.exec(message)?.[1];
  }
}

/** Decided, and recorded. Asking again changes nothing until policy does. */
export class Denied extends AgentDaemonError {
  override readonly name = "Denied";
}

/** The caller could not be tied to a live program image: a new connection may help. */
export class NotAttested extends AgentDaemonError {
  override readonly name = "NotAttested";
}

/** Not now: too many requests, or the daemon is not there or not ready. Try again later. */
export class Unavailable extends AgentDaemonError {
  override readonly name = "Unavailable";
}

const KINDS = new Map<string, typeof AgentDaemonError>([
  ["PERMISSION_DENIED", Denied],
  ["invalid_target", Denied],
  ["UNAUTHENTICATED", NotAttested],
  ["invalid_client", NotAttested],
  ["UNAVAILABLE", Unavailable],
  ["RESOURCE_EXHAUSTED", Unavailable],
  ["DEADLINE_EXCEEDED", Unavailable],
  ["temporarily_unavailable", Unavailable],
]);

/** The error for a code. */
export function errorOf(code: string, message: string): AgentDaemonError {
  return new (KINDS.get(code) ?? AgentDaemonError)(code, message);
}

/** The error for a failed call. */
export function fromGrpc(failure: ServiceError): AgentDaemonError {
  return errorOf(status[failure.code], failure.details);
}
