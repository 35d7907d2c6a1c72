// SPDX-License-Identifier: Apache-2.0 OR MIT

// Sessions, steps and short-lived credentials from agent-daemon.
// Who the caller is, is the kernel's word: there is nothing to log in with.

export {
  Client,
  type ClientOptions,
  Credential,
  type ReleaseOptions,
  type RenewOptions,
  Session,
  type SessionOptions,
} from "./client.js";
export { AgentDaemonError, Denied, NotAttested, Unavailable } from "./errors.js";
export { type Fetch, withCredential, type WithCredentialOptions } from "./fetch.js";
export { type ExecInstance } from "./gen/agent/v1/agent.js";
export { continued, currentTraceparent, type Step, type StepKind, type StepOptions } from "./step.js";
