# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Tools over MCP, in the session of the user for whom they are called.

The agent:

    parameters = server_in(session, sys.executable, ["tools.py"])
    async with mcp.Client(mcp.stdio_client(parameters)) as tools:
        await call_tool(tools, session, "search", {"text": "…"})

The server, before it serves:

    enter_session(daemon)

and in a tool:

    with in_step_of(context):
        credential = daemon.release("search-api")
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import mcp

from .client import Client, Session, continued

#: Names the session to a server that is started for it. Only who descends from the session's opener can use it.
SESSION_VARIABLE = "AGENT_SESSION"
TRACEPARENT = "traceparent"


def server_in(
    session: Session, command: str, args: list[str] | None = None, env: Mapping[str, str] | None = None
) -> mcp.StdioServerParameters:
    """How to start a server that enters a session; see `enter_session`."""
    return mcp.StdioServerParameters(
        command=command, args=args or [], env={**(env or {}), SESSION_VARIABLE: session.handle}
    )


def enter_session(daemon: Client) -> Session | None:
    """Enters the session for which this server was started: the kernel has it and all that it starts in it, for good.

    None where it was not started for one; where `agentctl run` or a bound session is above it, it is in that already.
    """
    handle = os.environ.pop(SESSION_VARIABLE, None)
    return daemon.session(handle) if handle else None


async def call_tool(
    tools: mcp.Client, session: Session | Client, name: str, arguments: dict[str, Any] | None = None, **options: Any
) -> Any:
    """Calls a tool in a step of its own, which the server is told. The step refers to the arguments by their hash."""
    text = json.dumps(arguments or {}, sort_keys=True, separators=(",", ":"))
    reference = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    with session.step("tool_call", name=name, reference=reference) as step:
        meta = {**options.pop("meta", {}), TRACEPARENT: step.traceparent}
        return await tools.call_tool(name, arguments, meta=meta, **options)


def in_step_of(context: Any) -> AbstractContextManager[None]:
    """Works in the step in which a tool was called; `context` is what MCP gives the tool."""
    meta = context.request_context.meta or {}
    traceparent = meta.get(TRACEPARENT)
    return continued(traceparent if isinstance(traceparent, str) else None)
