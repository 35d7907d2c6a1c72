#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR MIT
"""A small agent: connects to the API first, asks the daemon for a credential for exactly
that connection, then speaks TLS and HTTP on it.

Install it with the interpreter's own path in the first line. Through `env` the kernel sees
two execs, and the script belongs to the first one only.

Prints one JSON object per step; never the credential.
Exit codes: 0 served, 1 refused (by the daemon or the API), 2 anything else.
"""

import argparse
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "gen"))

import grpc  # noqa: E402
from agent.v1 import agent_pb2, agent_pb2_grpc  # noqa: E402

SO_COOKIE = 57
TIMEOUT_SECONDS = 15
MAX_BODY_BYTES = 64 * 1024


def say(step, **fields):
    line = {"program": os.path.basename(sys.argv[0]), "pid": os.getpid(), "step": step, **fields}
    print(json.dumps(line), flush=True)


def arguments():
    parser = argparse.ArgumentParser(description="Fetches a report with a credential for its own connection.")
    parser.add_argument("--socket", help="the daemon's socket, unix:/path; default: AGENT_SOCKET")
    parser.add_argument("--destination", required=True, help="as the daemon's configuration names it")
    parser.add_argument("--connect", required=True, metavar="ADDRESS:PORT", help="the API's address")
    parser.add_argument("--server-name", default="localhost", help="the API's name in its certificate")
    parser.add_argument("--ca", required=True, help="PEM file of the authority that signed that certificate")
    parser.add_argument("--path", default="/reports/today", help="what to fetch")
    parser.add_argument("--token-out", help="write the credential to this new file (the demo shows that it dies)")
    parser.add_argument("--child-tool", metavar="PROGRAM", help="afterwards start this tool with the same arguments")
    parser.add_argument("--hold", action="store_true", help="go on living until standard input closes")
    return parser.parse_args()


def ask(target, destination, cookie):
    """Asks for a credential for the connection that the kernel knows by this cookie."""
    if not target.startswith("unix:"):
        target = "unix:" + target
    with grpc.insecure_channel(target, options=[("grpc.enable_retries", 0)]) as channel:
        request = agent_pb2.ReleaseRequest(
            destination=destination, connection=agent_pb2.ConnectionRef(cookie=cookie)
        )
        return agent_pb2_grpc.AgentServiceStub(channel).Release(request, timeout=TIMEOUT_SECONDS)


def keep(path, secret):
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)


def fetch(connection, options, credential):
    """One request over TLS on a TCP connection that is already open; it stays open."""
    context = ssl.create_default_context(cafile=options.ca)
    client = http.client.HTTPSConnection(options.server_name, timeout=TIMEOUT_SECONDS)
    client.sock = context.wrap_socket(connection, server_hostname=options.server_name)
    if credential.type == "static":
        headers = {"X-Api-Key": credential.secret.decode()}
    else:
        headers = {"Authorization": "Bearer " + credential.secret.decode()}
    client.request("GET", options.path, headers=headers)
    response = client.getresponse()
    body = response.read(MAX_BODY_BYTES)
    try:
        body = json.loads(body)
    except ValueError:
        body = None
    return client, response.status, body


def work(options):
    """Returns whether the API served us, and the connection to keep open."""
    address, port = options.connect.rsplit(":", 1)
    connection = socket.create_connection((address.strip("[]"), int(port)), timeout=TIMEOUT_SECONDS)
    cookie = int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), sys.byteorder)
    local, remote = connection.getsockname(), connection.getpeername()
    say("connected", local=f"{local[0]}:{local[1]}", remote=f"{remote[0]}:{remote[1]}", cookie=str(cookie))

    try:
        release = ask(options.socket or os.environ["AGENT_SOCKET"], options.destination, cookie)
    except grpc.RpcError as refusal:
        say("refused", code=refusal.code().name, message=refusal.details())
        return False, connection
    say(
        "released",
        type=release.credential.type,
        spiffe_id=release.credential.spiffe_id,
        audience=release.credential.audience,
        lease_id=release.lease.lease_id,
        exec_id=str(release.lease.exec_id),
        binding=release.lease.binding,
        expires_at=release.lease.expires_at.seconds,
        decision_id=release.decision_id,
    )
    if options.token_out:
        keep(options.token_out, release.credential.secret)

    client, status, body = fetch(connection, options, release.credential)
    say("response", status=status, body=body)
    return status == 200, client


def start_tool(options):
    """A tool gets what the agent has: user, environment, arguments. Not its identity."""
    command = [options.child_tool, "--destination", options.destination, "--connect", options.connect]
    command += ["--server-name", options.server_name, "--ca", options.ca, "--path", options.path]
    if options.socket:
        command += ["--socket", options.socket]
    # Not our standard input: whoever holds it open must not have to wait for the tool.
    tool = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=60, check=False)
    say("tool ended", tool=os.path.basename(options.child_tool), exit=tool.returncode)


def main():
    options = arguments()
    try:
        served, _open = work(options)
        if options.child_tool:
            start_tool(options)
    except (OSError, KeyError, ValueError, subprocess.SubprocessError, http.client.HTTPException) as cause:
        say("failed", reason=f"{type(cause).__name__}: {cause}")
        return 2
    if options.hold:
        say("holding")
        sys.stdin.read()
    return 0 if served else 1


if __name__ == "__main__":
    sys.exit(main())
