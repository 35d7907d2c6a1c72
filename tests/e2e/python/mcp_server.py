# SPDX-License-Identifier: Apache-2.0 OR MIT
"""An MCP server with one tool, which a shell runs."""

import os
import subprocess
import sys

from mcp.server.mcpserver import Context, MCPServer

from agent_daemon import Client
from agent_daemon.mcp import enter_session, in_step_of

HERE = os.path.dirname(os.path.abspath(__file__))
server = MCPServer("tools")
daemon = Client()
enter_session(daemon)


@server.tool()
def fetch(what: str, context: Context) -> str:
    with in_step_of(context):
        script = f"echo {what} >/dev/null; {sys.executable} {HERE}/mcp_tool.py; true"
        return subprocess.run(["/bin/sh", "-c", script], check=True, capture_output=True, text=True).stdout


server.run("stdio")
