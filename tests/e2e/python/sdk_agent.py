# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What the Python SDK does, against the daemon of a test.

    sdk_agent.py SOCKET stubs
    sdk_agent.py SOCKET agent FOLDER TOKEN-OF-ADA TOKEN-OF-BOB
    sdk_agent.py SOCKET tool TOKEN

Says what came of it, a line of JSON each; never a credential that is still good after it.
"""

import base64
import contextvars
import http.server
import json
import os
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import httpx  # noqa: E402

from agent_daemon import AgentDaemonError, Client, Denied, current_traceparent  # noqa: E402
from agent_daemon._proto import agent_pb2  # noqa: E402
from agent_daemon.httpx import ReleaseAuth  # noqa: E402


def say(**fields):
    print(json.dumps(fields), flush=True)


class Api(http.server.BaseHTTPRequestHandler):
    """Takes no token the first time, and says what it was shown."""

    refuse = 1

    def do_GET(self):
        shown = {name: self.headers.get(name, "") for name in ("authorization", "traceparent")}
        status = 401 if Api.refuse else 200
        Api.refuse = max(Api.refuse - 1, 0)
        body = json.dumps(shown).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def elsewhere_ended(session):
    """A generator that takes a step and is closed in another context than it was begun in."""

    def held():
        with session.step("reasoning", name="held"):
            yield

    steps = held()
    contextvars.copy_context().run(next, steps)
    steps.close()
    assert current_traceparent() is None


def agent(daemon, folder, *tokens):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    say(spiffe_ids=list(daemon.attest().spiffe_ids))
    for token in tokens:
        with daemon.open_session(user_token=token, agent="coder", purpose="the report", scopes=["api", "code"]) as session:
            auth = ReleaseAuth(daemon, "api", {url}, binding="on-behalf", session=session)
            with session.step("reasoning"), session.step("tool_call", name="search", reference="sha256:aa") as step:
                with httpx.Client(auth=auth) as client:
                    first, second = client.get(url), client.get(url)
                    elsewhere = client.get(url.replace("127.0.0.1", "localhost"))
                shown = second.json()
                passed_on = session.release("tools")
            elsewhere_ended(session)
            say(
                user=session.user,
                session=session.id,
                statuses=[first.status_code, second.status_code],
                same=first.json() == shown,
                token=shown["authorization"].removeprefix("Bearer "),
                in_step=shown["traceparent"] == step.traceparent,
                elsewhere=elsewhere.json()["authorization"],
                secret_shows=passed_on.token in repr(passed_on) or session.handle in repr(session),
                passed_on=passed_on.token,
                span=step.span_id,
            )
            try:
                session.release("mail")
            except Denied as denied:
                say(denied=denied.decision_id)
            inner = session.open_session(agent="helper", scopes=["code"])
            try:
                inner.release("api", binding="on-behalf")
            except Denied as denied:
                say(denied=denied.decision_id)
            # Until the test has looked.
            while not os.path.exists(os.path.join(folder, session.id)):
                time.sleep(0.05)
    try:
        session.release("api", binding="on-behalf")
    except Denied as denied:
        say(denied=denied.decision_id)


def tool(daemon, token):
    say(token=daemon.exchange(token, "https://backend.example.org"))
    try:
        daemon.exchange(token, "https://backend.example.org", scope="mail")
    except AgentDaemonError as error:
        say(code=error.code)


with Client(sys.argv[1]) as daemon:
    match sys.argv[2]:
        case "stubs":
            say(descriptor=base64.b64encode(agent_pb2.DESCRIPTOR.serialized_pb).decode())
        case "agent":
            agent(daemon, *sys.argv[3:])
        case "tool":
            tool(daemon, sys.argv[3])
