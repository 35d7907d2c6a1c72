# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Sessions, steps and short-lived credentials from agent-daemon.

    from agent_daemon import Client

    client = Client()
    with client.open_session(agent="coder", purpose="triage") as session:
        with session.step("tool_call", name="search"):
            credential = session.release("search-api")

Who the caller is, is the kernel's word: there is nothing to log in with.
"""

from .client import Client, Credential, Session, Step, continued, current_traceparent
from .errors import AgentDaemonError, Denied, NotAttested, Unavailable

__all__ = [
    "AgentDaemonError",
    "Client",
    "Credential",
    "Denied",
    "NotAttested",
    "Session",
    "Step",
    "Unavailable",
    "continued",
    "current_traceparent",
]
