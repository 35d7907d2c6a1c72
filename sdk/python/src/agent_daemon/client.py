# SPDX-License-Identifier: Apache-2.0 OR MIT
"""The client of the agents' socket."""

from __future__ import annotations

import contextvars
import os
import secrets
import socket as sockets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone

import grpc

from ._proto import agent_pb2 as pb
from ._proto import agent_pb2_grpc
from .errors import error, from_grpc

DEFAULT_SOCKET = "/run/agent-daemon/agent.sock"
#: Longer than a request waits for a person (`[approvals] wait`), so that it is the daemon who ends it.
DEFAULT_TIMEOUT = 90.0

_SO_COOKIE = 57
_MAX_CONTENT_SENT = 16_384
_KINDS = {
    "instruction": pb.BeginStepRequest.KIND_INSTRUCTION,
    "reasoning": pb.BeginStepRequest.KIND_REASONING,
    "tool_call": pb.BeginStepRequest.KIND_TOOL_CALL,
    "approval": pb.BeginStepRequest.KIND_APPROVAL,
}
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"

#: The `traceparent` of a step of somebody else's.
_above: contextvars.ContextVar[str] = contextvars.ContextVar("agent_daemon_above", default="")
_current: contextvars.ContextVar[Step | None] = contextvars.ContextVar("agent_daemon_step", default=None)


@dataclass(frozen=True)
class Credential:
    """A released credential. Its secret never shows in `repr`."""

    type: str
    secret: bytes = field(repr=False)
    spiffe_id: str
    audience: str
    destination: str
    lease_id: str
    expires_at: datetime
    decision_id: str

    @property
    def token(self) -> str:
        """The secret as text: a JWT, or a static secret that is one."""
        return self.secret.decode()

    def seconds_left(self) -> float:
        """How long it is good for, as far as is known beforehand: it ends earlier with its holder or session."""
        return (self.expires_at - datetime.now(timezone.utc)).total_seconds()


class Step:
    """Something that the agent says that it does; a context manager.

    Steps of one context (thread or task) nest. What the daemon is asked inside names the step.
    """

    def __init__(
        self,
        client: Client,
        session: Session | None,
        kind: str,
        name: str = "",
        reference: str = "",
        content: str = "",
        on_thread: bool = False,
    ):
        if kind not in _KINDS:
            raise ValueError(f"kind: one of {', '.join(_KINDS)}")
        self._client, self._session, self._kind = client, session, kind
        self._name, self._reference, self._content, self._on_thread = name, reference, content, on_thread
        self._token: contextvars.Token[Step | None] | None = None
        self._is_over = False
        self.trace_id = self.span_id = ""

    @property
    def traceparent(self) -> str:
        """As in the header of that name (W3C trace context)."""
        return f"00-{self.trace_id}-{self.span_id}-01"

    def _handle(self) -> str:
        return self._session._handle if self._session else ""

    def __enter__(self) -> Step:
        above = _step()
        if above is not None and above._handle() != self._handle():
            above = None
        self.trace_id = above.trace_id if above else secrets.token_hex(16)
        self.span_id = secrets.token_hex(8)
        request = pb.BeginStepRequest(
            session_handle=self._handle(),
            kind=_KINDS[self._kind],
            traceparent=self.traceparent,
            parent_span_id=above.span_id if above else "",
            name=self._name,
            reference=self._reference,
            content=self._client._kept(self._content),
            thread_id=threading.get_native_id() if self._on_thread else 0,
        )
        self._client._content_bytes = self._client._call("BeginStep", request).content_bytes
        self._token = _current.set(self)
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if self._token is not None:
            try:
                _current.reset(self._token)
            except ValueError:
                # A generator that is closed elsewhere ends in another context. The step is over all the same.
                if _current.get() is self:
                    _current.set(None)
            self._token = None
        self._is_over = True
        request = pb.EndStepRequest(
            session_handle=self._handle(), traceparent=self.traceparent, failed=value is not None
        )
        try:
            self._client._call("EndStep", request)
        except Exception:
            # What went wrong inside counts for more.
            if value is None:
                raise


class Session:
    """A delegated context, in which an agent acts for a user; a context manager that closes it."""

    def __init__(self, client: Client, id: str, handle: str, user: str, expires_at: datetime):
        self._client, self._handle = client, handle
        self.id, self.user, self.expires_at = id, user, expires_at

    def __repr__(self) -> str:
        return f"Session(id={self.id!r}, user={self.user!r}, expires_at={self.expires_at.isoformat()!r})"

    @property
    def handle(self) -> str:
        """Names it in requests of this process and of what descends from it. A secret: never log it."""
        return self._handle

    def release(self, destination: str, **options: object) -> Credential:
        """As `Client.release`, in this session."""
        return self._client.release(destination, session=self, **options)  # type: ignore[arg-type]

    def step(self, kind: str, name: str = "", reference: str = "", **options: object) -> Step:
        """As `Client.step`, in this session."""
        return Step(self._client, self, kind, name, reference, **options)  # type: ignore[arg-type]

    def open_session(self, **options: object) -> Session:
        """Delegates from it to a session that is no wider."""
        return self._client.open_session(parent=self, **options)  # type: ignore[arg-type]

    def close(self) -> None:
        """Ends it, all that was delegated from it, and what was released in them."""
        self._client._call("CloseSession", pb.CloseSessionRequest(session_handle=self._handle))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        try:
            self.close()
        except Exception:
            if value is None:
                raise


class Client:
    """The daemon, over its socket for workloads (`AGENT_SOCKET`). Safe to share between threads.

    A connection belongs to the program image that opened it: after `fork` make a new client.
    """

    def __init__(self, socket: str | None = None, timeout: float = DEFAULT_TIMEOUT):
        path = socket or os.environ.get("AGENT_SOCKET") or DEFAULT_SOCKET
        self.path = path.removeprefix("unix:")
        self.timeout = timeout
        self._channel = grpc.insecure_channel(f"unix:{self.path}", options=[("grpc.enable_retries", 0)])
        self._stub = agent_pb2_grpc.AgentServiceStub(self._channel)
        # What the node keeps of a step; not known before the first.
        self._content_bytes: int | None = None

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.close()

    def attest(self) -> pb.ExecInstance:
        """Who this process is, by the kernel's word."""
        return self._call("Attest", pb.AttestRequest()).caller

    def release(
        self,
        destination: str,
        *,
        connection: sockets.socket | int | None = None,
        binding: str = "",
        spiffe_id: str = "",
        session: Session | None = None,
        timeout: float | None = None,
    ) -> Credential:
        """A credential for one destination; for a socket that is connected to it, or its cookie, where given."""
        request = pb.ReleaseRequest(
            destination=destination,
            connection=_connection(connection),
            binding=binding,
            spiffe_id=spiffe_id,
            traceparent=_traceparent(),
            session_handle=session.handle if session else "",
        )
        return _credential(self._call("Release", request, timeout))

    def renew(
        self,
        credential: Credential,
        *,
        connection: sockets.socket | int | None = None,
        session: Session | None = None,
        timeout: float | None = None,
    ) -> Credential:
        """A new credential in place of one that this process holds."""
        request = pb.RenewRequest(
            lease_id=credential.lease_id,
            connection=_connection(connection),
            traceparent=_traceparent(),
            session_handle=session.handle if session else "",
        )
        return _credential(self._call("Renew", request, timeout))

    def give_back(self, credential: Credential) -> None:
        """Ends a credential that is not needed any more."""
        self._call("GiveBack", pb.GiveBackRequest(lease_id=credential.lease_id))

    def open_session(
        self,
        *,
        user_token: str | None = None,
        nonce: str = "",
        agent: str = "",
        purpose: str = "",
        scopes: Iterable[str] | None = None,
        lifetime_seconds: int = 0,
        bound: bool = False,
        parent: Session | None = None,
        spiffe_id: str = "",
    ) -> Session:
        """Opens a session on behalf of the user whom a token names, or else of the local one.

        Not bound: requests name it, as those of the session's own methods do. Bound: the kernel has this process and all
        that it starts in it from now on, for good.
        """
        request = pb.OpenSessionRequest(
            token=pb.UserToken(token=user_token, nonce=nonce) if user_token is not None else None,
            agent=agent,
            purpose=purpose,
            scopes=pb.Scopes(names=list(scopes)) if scopes is not None else None,
            lifetime_seconds=lifetime_seconds,
            binding=pb.OpenSessionRequest.BINDING_PROCESS if bound else pb.OpenSessionRequest.BINDING_HANDLE,
            parent_handle=parent.handle if parent else "",
            spiffe_id=spiffe_id,
        )
        opened = self._call("OpenSession", request)
        return Session(self, opened.session_id, opened.session_handle, opened.user, _moment(opened.expires_at))

    def session(self, handle: str) -> Session:
        """The session of a handle that the opener handed down. Enters it: the kernel has this process in it for good."""
        entered = self._call("EnterSession", pb.EnterSessionRequest(session_handle=handle))
        return Session(self, entered.session_id, handle, entered.user, _moment(entered.expires_at))

    def step(
        self, kind: str, name: str = "", reference: str = "", content: str = "", on_thread: bool = False
    ) -> Step:
        """A step in the session that the kernel has this process in: `with client.step("tool_call", "search"):`.

        `reference` is a hash or an id of what it is about. `content` is that itself, of which the audit log keeps what the
        operator of the node wants, and nothing unless so.
        """
        return Step(self, None, kind, name, reference, content, on_thread)

    def exchange(self, token: str, audience: str, scope: str | None = None) -> str:
        """An access token for another audience in exchange for one that this process was given (RFC 8693).

        Needs httpx with HTTP/2: `pip install agent-daemon[httpx]`.
        """
        try:
            import httpx
        except ImportError as missing:
            raise RuntimeError("exchange needs httpx: pip install agent-daemon[httpx]") from missing
        form = {
            "grant_type": _EXCHANGE,
            "subject_token": token,
            "subject_token_type": _ACCESS_TOKEN,
            "audience": audience,
        }
        if scope is not None:
            form["scope"] = scope
        headers = {"traceparent": _traceparent()} if _traceparent() else {}
        transport = httpx.HTTPTransport(uds=self.path, http1=False, http2=True)
        with httpx.Client(transport=transport, timeout=self.timeout) as client:
            answer = client.post("http://localhost/token", data=form, headers=headers)
        try:
            body = answer.json()
        except ValueError:
            body = {}
        if answer.status_code != 200:
            code = body.get("error", f"http_{answer.status_code}")
            raise error(code, body.get("error_description", answer.text.strip()))
        return body["access_token"]

    def _kept(self, content: str) -> str:
        if self._content_bytes == 0:
            return ""
        # More than it keeps, because secrets go before it is cut; and within what one message may hold.
        return content.encode(errors="replace")[:_MAX_CONTENT_SENT].decode(errors="ignore")

    def _call(self, name: str, request: object, timeout: float | None = None):  # noqa: ANN202
        try:
            return getattr(self._stub, name)(request, timeout=self.timeout if timeout is None else timeout)
        except grpc.RpcError as failure:
            raise from_grpc(failure) from None


def current_traceparent() -> str | None:
    """That of the step of this context, for requests that the agent makes in it."""
    return _traceparent() or None


@contextmanager
def continued(traceparent: str | None) -> Iterator[None]:
    """Works in a step that somebody else began, as its `traceparent` says: what is released inside names it.

    For a tool that is called over the network or a pipe. Nothing is told to the daemon.
    """
    token = _above.set(traceparent or "")
    try:
        yield
    finally:
        _above.reset(token)


def _step() -> Step | None:
    step = _current.get()
    # One that ended in another context is still the current one here.
    return None if step is None or step._is_over else step


def _traceparent() -> str:
    step = _step()
    return step.traceparent if step else _above.get()


def _connection(named: sockets.socket | int | None) -> pb.ConnectionRef | None:
    if named is None:
        return None
    if isinstance(named, sockets.socket):
        named = int.from_bytes(named.getsockopt(sockets.SOL_SOCKET, _SO_COOKIE, 8), "little")
    return pb.ConnectionRef(cookie=named)


def _credential(answer: pb.ReleaseResponse) -> Credential:
    return Credential(
        type=answer.credential.type,
        secret=answer.credential.secret,
        spiffe_id=answer.credential.spiffe_id,
        audience=answer.credential.audience,
        destination=answer.lease.destination,
        lease_id=answer.lease.lease_id,
        expires_at=_moment(answer.lease.expires_at),
        decision_id=answer.decision_id,
    )


def _moment(timestamp) -> datetime:  # noqa: ANN001
    return timestamp.ToDatetime(tzinfo=timezone.utc)
