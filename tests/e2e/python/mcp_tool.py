# SPDX-License-Identifier: Apache-2.0 OR MIT
"""Connects to an API and gets a credential for that connection."""

import json
import os
import socket

from agent_daemon import Client

host, port = os.environ["API"].rsplit(":", 1)
with Client() as daemon, socket.create_connection((host, int(port))) as connection:
    credential = daemon.release("api", binding="token", connection=connection)
    print(json.dumps({"lease": credential.lease_id, "pid": os.getpid(), "identity": credential.spiffe_id}))
