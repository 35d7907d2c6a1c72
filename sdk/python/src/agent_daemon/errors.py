# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What went wrong, by what the caller can do about it."""

from __future__ import annotations

import re

import grpc

_DECISION = re.compile(r"decision id ([0-9a-f]+)")


class AgentDaemonError(Exception):
    """The daemon did not do what was asked. `code` is gRPC's word, or that of an OAuth error."""

    def __init__(self, code: str, message: str):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        found = _DECISION.search(message)
        #: Names the record in the audit log in which an operator finds the reasons.
        self.decision_id: str | None = found.group(1) if found else None


class Denied(AgentDaemonError):
    """Decided, and recorded. Asking again changes nothing until policy does."""


class NotAttested(AgentDaemonError):
    """The caller could not be tied to a live program image: a new connection may help."""


class Unavailable(AgentDaemonError):
    """Not now: too many requests, or the daemon is not there or not ready. Try again later."""


_KINDS = {
    "PERMISSION_DENIED": Denied,
    "invalid_target": Denied,
    "UNAUTHENTICATED": NotAttested,
    "invalid_client": NotAttested,
    "UNAVAILABLE": Unavailable,
    "RESOURCE_EXHAUSTED": Unavailable,
    "DEADLINE_EXCEEDED": Unavailable,
    "temporarily_unavailable": Unavailable,
}


def error(code: str, message: str) -> AgentDaemonError:
    """The exception for a code."""
    return _KINDS.get(code, AgentDaemonError)(code, message)


def from_grpc(failure: grpc.RpcError) -> AgentDaemonError:
    """The exception for a failed call."""
    return error(failure.code().name, failure.details() or "")
