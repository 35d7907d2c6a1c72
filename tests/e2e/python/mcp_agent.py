# SPDX-License-Identifier: Apache-2.0 OR MIT
"""An orchestrator that serves two users at once; each has an MCP server of its own, which runs a shell tool.

    mcp_agent.py SOCKET API FOLDER TOKEN-OF-ADA TOKEN-OF-BOB

Says for each user what its tool got, and lives until the test has looked.
"""

import json
import os
import sys

import anyio
import mcp

from agent_daemon import Client
from agent_daemon.mcp import call_tool, server_in

HERE = os.path.dirname(os.path.abspath(__file__))


async def serve(daemon, token, both):
    with daemon.open_session(user_token=token, agent="coder", purpose="the report") as session:
        environment = {"AGENT_SOCKET": daemon.path, "API": sys.argv[2]}
        server = server_in(session, sys.executable, [os.path.join(HERE, "mcp_server.py")], environment)
        with session.step("instruction", name="write the report"):
            async with mcp.Client(mcp.stdio_client(server)) as tools:
                # Neither goes on before the other is as far.
                both["ready"] += 1
                while both["ready"] < 2:
                    await anyio.sleep(0.01)
                answer = await call_tool(tools, session, "fetch", {"what": "report"})
                print(json.dumps({"user": session.user, "session": session.id, "tool": answer.content[0].text}), flush=True)
                while not os.path.exists(os.path.join(sys.argv[3], session.id)):
                    await anyio.sleep(0.05)


async def main():
    both = {"ready": 0}
    with Client(sys.argv[1]) as daemon:
        async with anyio.create_task_group() as tasks:
            for token in sys.argv[4:]:
                tasks.start_soon(serve, daemon, token, both)


anyio.run(main)
