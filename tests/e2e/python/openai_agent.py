# SPDX-License-Identifier: Apache-2.0 OR MIT
"""One agent of the OpenAI Agents SDK that serves two users at once, with tools that are called in parallel.

    openai_agent.py SOCKET KEYS TOKEN-OF-ADA TOKEN-OF-BOB

KEYS are those that the daemon signs with; the model server, which speaks the Responses API, answers nobody without a token.
Says for each user, a line of JSON each, what was done in which step; never a credential.
"""

import asyncio
import http.server
import json
import os
import sys
import threading
from dataclasses import dataclass, field

# Of those who have a key in their environment; nothing may use it.
os.environ["OPENAI_API_KEY"] = "sk-of-nobody"

import jwt  # noqa: E402
from agents import OpenAIProvider, RunContextWrapper, Runner, function_tool  # noqa: E402
from agents.tracing import TracingProcessor, set_trace_processors  # noqa: E402

from agent_daemon import Client, Session, current_traceparent  # noqa: E402
from agent_daemon.openai_agents import Agent, model_client, run_config  # noqa: E402

TOOLS = ["search", "count"]
#: Nobody's tool goes on before every tool of both users is called.
together = threading.Barrier(2 * len(TOOLS), timeout=60)


class Models(http.server.BaseHTTPRequestHandler):
    """Wants both tools in the first turn, and repeats in the second what they said."""

    keys = jwt.PyJWKSet.from_dict(json.loads(sys.argv[2]))
    shown = {}

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        items = [{"content": asked["input"]}] if isinstance(asked["input"], str) else asked["input"]
        shown = self.shown.setdefault(items[0]["content"], [])
        try:
            token = self.headers.get("authorization", "").removeprefix("Bearer ")
            key = self.keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(token, key, algorithms=["ES256"], audience="https://api.example.org")
        except (jwt.InvalidTokenError, KeyError) as error:
            shown.append({"refused": str(error)})
            return self.answer(401, {"error": {"message": "no"}})
        shown.append({"sub": claims["sub"], "span": span(self.headers.get("traceparent"))})
        said = [item["output"] for item in items if item.get("type") == "function_call_output"]
        if said:
            text = {"type": "output_text", "text": "; ".join(said), "annotations": []}
            output = [{"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}]
        else:
            call = {"type": "function_call", "arguments": '{"what": "it"}'}
            output = [{**call, "id": f"i-{name}", "call_id": f"c-{name}", "name": name} for name in TOOLS]
        self.answer(
            200,
            {
                "id": "r",
                "object": "response",
                "created_at": 0,
                "model": asked["model"],
                "status": "completed",
                "output": output,
                "parallel_tool_calls": True,
                "tool_choice": "auto",
                "tools": [],
            },
        )

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Spans(TracingProcessor):
    """In place of the one that sends them to OpenAI."""

    seen = 0

    def on_trace_start(self, trace):
        Spans.seen += 1

    def on_span_start(self, span):
        Spans.seen += 1

    def on_trace_end(self, trace):
        pass

    def on_span_end(self, span):
        pass

    def shutdown(self):
        pass

    def force_flush(self):
        pass


@dataclass
class Job:
    session: Session
    releases: dict = field(default_factory=dict)

    def release(self, tool, destination):
        credential = self.session.release(destination)
        self.releases[tool] = {
            "tool": tool,
            "destination": destination,
            "decision": credential.decision_id,
            "lease": credential.lease_id,
            "span": span(current_traceparent()),
            "on_main_thread": threading.current_thread() is threading.main_thread(),
        }
        return f"{tool} for {self.session.user}"


@function_tool
async def search(context: RunContextWrapper[Job], what: str) -> str:
    await asyncio.to_thread(together.wait)
    return context.context.release("search", "tools")


@function_tool
def count(context: RunContextWrapper[Job], what: str) -> str:
    together.wait()
    return context.context.release("count", "backend")


def span(traceparent):
    return traceparent.split("-")[2] if traceparent else None


async def serve(daemon, agent, url, token):
    with daemon.open_session(user_token=token, agent="coder", purpose="the report") as session:
        job, text = Job(session), f"the report for {session.user}"
        async with model_client(session, "api", url, binding="on-behalf") as client:
            config = run_config(session, OpenAIProvider(openai_client=client, use_responses=True))
            with session.step("instruction", name="write the report") as step:
                result = await Runner.run(agent, text, context=job, run_config=config)
        return {
            "user": session.user,
            "session": session.id,
            "said": result.final_output,
            "instruction": {"trace": step.trace_id, "span": step.span_id},
            # As the model server saw them: whom the token is about, and the `reasoning` step.
            "model": Models.shown[text],
            # As the tools saw them: the `tool_call` step.
            "releases": [job.releases[name] for name in TOOLS],
        }


async def main():
    set_trace_processors([Spans()])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Models)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    agent = Agent(name="reporter", model="model-1", tools=[search, count])
    with Client(sys.argv[1]) as daemon:
        for did in await asyncio.gather(*(serve(daemon, agent, url, token) for token in sys.argv[3:])):
            print(json.dumps(did), flush=True)
    print(json.dumps({"spans_seen": Spans.seen}), flush=True)


asyncio.run(main())
