// SPDX-License-Identifier: Apache-2.0 OR MIT

// The client of the agents' socket.

import type { Socket } from "node:net";
import { inspect, type InspectOptions } from "node:util";

import { Connection } from "./connection.js";
import {
  type ConnectionRef,
  type ExecInstance,
  OpenSessionRequest_Binding,
  type ReleaseResponse,
} from "./gen/agent/v1/agent.js";
import { currentTraceparent, inStep, type Step, type StepKind, type StepOptions } from "./step.js";

const DEFAULT_SOCKET = "/run/agent-daemon/agent.sock";
/** Longer than a request waits for a person (`[approvals] wait`), so that it is the daemon who ends it. */
const DEFAULT_TIMEOUT_MS = 90_000;

export interface ClientOptions {
  /** `AGENT_SOCKET`, or else `/run/agent-daemon/agent.sock`. */
  socket?: string;
  timeoutMs?: number;
}

export interface RenewOptions {
  /** The TCP socket that the credential is for, connected already; or the cookie of one. */
  connection?: Socket | bigint;
  session?: Session;
  signal?: AbortSignal;
}

export interface ReleaseOptions extends RenewOptions {
  /** Which of several bindings. */
  binding?: string;
  /** Which of this process's identities. */
  spiffeId?: string;
}

export interface SessionOptions {
  /** An ID or access token of the user; without one the session is on behalf of the local user. */
  userToken?: string;
  /** What the runtime had the issuer put into the token. */
  nonce?: string;
  /** The name under which the agent acts. */
  agent?: string;
  purpose?: string;
  /** The destinations that it reaches, by name or label; without any: all that policy permits. */
  scopes?: readonly string[];
  lifetimeSeconds?: number;
  /**
   * The kernel has this process and all that it starts in the session from now on, for good.
   * Otherwise requests name it, as those of the session's own methods do.
   */
  bound?: boolean;
  /** The session that it is delegated from. */
  parent?: Session;
  spiffeId?: string;
}

/** A released credential. Its secret does not show when it is printed or serialized. */
export class Credential {
  /** "jwt-svid", "access-token", "x509-svid", "wit-svid" or "static". */
  readonly type: string;
  readonly spiffeId: string;
  readonly audience: string;
  readonly destination: string;
  readonly leaseId: string;
  readonly expiresAt: Date;
  readonly decisionId: string;
  readonly #secret: Uint8Array;

  /** @internal */
  constructor({ credential, lease, decisionId }: ReleaseResponse) {
    if (!credential || !lease?.expiresAt) throw new Error("the daemon's answer is incomplete");
    this.type = credential.type;
    this.spiffeId = credential.spiffeId;
    this.audience = credential.audience;
    this.destination = lease.destination;
    this.leaseId = lease.leaseId;
    this.expiresAt = lease.expiresAt;
    this.decisionId = decisionId;
    this.#secret = credential.secret;
  }

  get secret(): Uint8Array {
    return this.#secret;
  }

  /** The secret as text: a JWT, or a static secret that is one. */
  get token(): string {
    return new TextDecoder("utf-8", { fatal: true }).decode(this.#secret);
  }

  /** How long it is good for, as far as is known beforehand: it ends earlier with its holder or session. */
  secondsLeft(): number {
    return (this.expiresAt.getTime() - Date.now()) / 1000;
  }

  /** Else the options `showHidden` and `getters` would have the getters called. */
  [inspect.custom](_depth: number, options: InspectOptions): string {
    return `Credential ${inspect({ ...this }, options)}`;
  }
}

/** A delegated context, in which an agent acts for a user. */
export class Session {
  /** Names it in records and lists; not a secret. */
  readonly id: string;
  /** As policies name the user. */
  readonly user: string;
  readonly expiresAt: Date;
  readonly #client: Client;
  readonly #connection: Connection;
  readonly #handle: string;

  /** @internal */
  constructor(client: Client, connection: Connection, handle: string, id: string, user: string, expiresAt?: Date) {
    if (!expiresAt) throw new Error("the daemon's answer is incomplete");
    this.#client = client;
    this.#connection = connection;
    this.#handle = handle;
    this.id = id;
    this.user = user;
    this.expiresAt = expiresAt;
  }

  /** Names it in requests of this process and of what descends from it. A secret: never log it. */
  get handle(): string {
    return this.#handle;
  }

  /** As `Client.release`, in this session. */
  release(destination: string, options: Omit<ReleaseOptions, "session"> = {}): Promise<Credential> {
    return this.#client.release(destination, { ...options, session: this });
  }

  /** As `Client.step`, in this session. */
  step<T>(kind: StepKind, options: StepOptions, work: (step: Step) => T | Promise<T>): Promise<T> {
    return inStep(this.#connection, this.#handle, kind, options, work);
  }

  /** Delegates from it to a session that is no wider. */
  openSession(options: Omit<SessionOptions, "parent"> = {}): Promise<Session> {
    return this.#client.openSession({ ...options, parent: this });
  }

  /** Ends it, all that was delegated from it, and what was released in them. */
  async close(): Promise<void> {
    await this.#connection.call(this.#connection.stub.closeSession, { sessionHandle: this.#handle });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  [inspect.custom](_depth: number, options: InspectOptions): string {
    return `Session ${inspect({ ...this }, options)}`;
  }
}

/**
 * The daemon, over its socket for workloads.
 *
 * A connection belongs to the program image that opened it: each process makes a client of its own.
 */
export class Client {
  readonly #connection: Connection;

  constructor({ socket, timeoutMs = DEFAULT_TIMEOUT_MS }: ClientOptions = {}) {
    this.#connection = new Connection(socket || process.env.AGENT_SOCKET || DEFAULT_SOCKET, timeoutMs);
  }

  /** Who this process is, by the kernel's word. */
  async attest(): Promise<ExecInstance> {
    const { caller } = await this.#connection.call(this.#connection.stub.attest, {});
    if (!caller) throw new Error("the daemon's answer is incomplete");
    return caller;
  }

  /** A credential for one destination; for a socket that is connected to it, where given. */
  async release(destination: string, options: ReleaseOptions = {}): Promise<Credential> {
    const { connection, binding = "", spiffeId = "", session, signal } = options;
    const request = {
      destination,
      connection: connectionRef(connection),
      binding,
      spiffeId,
      traceparent: currentTraceparent() ?? "",
      sessionHandle: session?.handle ?? "",
    };
    return new Credential(await this.#connection.call(this.#connection.stub.release, request, signal));
  }

  /** A new credential in place of one that this process holds. */
  async renew(credential: Credential, { connection, session, signal }: RenewOptions = {}): Promise<Credential> {
    const request = {
      leaseId: credential.leaseId,
      connection: connectionRef(connection),
      traceparent: currentTraceparent() ?? "",
      sessionHandle: session?.handle ?? "",
    };
    return new Credential(await this.#connection.call(this.#connection.stub.renew, request, signal));
  }

  /** Ends a credential that is not needed any more. */
  async giveBack(credential: Credential): Promise<void> {
    await this.#connection.call(this.#connection.stub.giveBack, { leaseId: credential.leaseId });
  }

  /** Opens a session on behalf of the user whom a token names, or else of the local one. */
  async openSession(options: SessionOptions = {}): Promise<Session> {
    const {
      userToken,
      nonce = "",
      agent = "",
      purpose = "",
      scopes,
      lifetimeSeconds = 0,
      parent,
      spiffeId = "",
    } = options;
    const opened = await this.#connection.call(this.#connection.stub.openSession, {
      token: userToken === undefined ? undefined : { token: userToken, nonce },
      agent,
      purpose,
      scopes: scopes && { names: [...scopes] },
      lifetimeSeconds,
      binding: options.bound ? OpenSessionRequest_Binding.BINDING_PROCESS : OpenSessionRequest_Binding.BINDING_HANDLE,
      parentHandle: parent?.handle ?? "",
      spiffeId,
    });
    return new Session(this, this.#connection, opened.sessionHandle, opened.sessionId, opened.user, opened.expiresAt);
  }

  /** The session of a handle that the opener handed down. Enters it: the kernel has this process in it for good. */
  async session(handle: string): Promise<Session> {
    const entered = await this.#connection.call(this.#connection.stub.enterSession, { sessionHandle: handle });
    return new Session(this, this.#connection, handle, entered.sessionId, entered.user, entered.expiresAt);
  }

  /**
   * Works in a step of the session that the kernel has this process in. The step fails with the work.
   *
   * Steps nest where one is called in another's work. What the daemon is asked inside names the step.
   */
  step<T>(kind: StepKind, options: StepOptions, work: (step: Step) => T | Promise<T>): Promise<T> {
    return inStep(this.#connection, "", kind, options, work);
  }

  /** An access token for another audience in exchange for one that this process was given (RFC 8693). */
  exchange(token: string, audience: string, scope?: string): Promise<string> {
    const form = new URLSearchParams({
      grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
      subject_token: token,
      subject_token_type: "urn:ietf:params:oauth:token-type:access_token",
      audience,
    });
    if (scope !== undefined) form.set("scope", scope);
    const traceparent = currentTraceparent();
    return this.#connection.token(form, traceparent ? { traceparent } : {});
  }

  /** Closes the connection. */
  close(): void {
    this.#connection.stub.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

function connectionRef(connection: Socket | bigint | undefined): ConnectionRef | undefined {
  if (connection === undefined) return undefined;
  if (typeof connection === "bigint") return { cookie: connection };
  const { localAddress, localPort, remoteAddress, remotePort } = connection;
  if (
    localAddress === undefined ||
    localPort === undefined ||
    remoteAddress === undefined ||
    remotePort === undefined
  ) {
    throw new TypeError("connection: not a connected TCP socket");
  }
  return { tuple: { localAddress, localPort, remoteAddress, remotePort } };
}
