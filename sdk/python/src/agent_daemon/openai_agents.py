# SPDX-License-Identifier: Apache-2.0 OR MIT
"""The OpenAI Agents SDK, in the session of the user for whom it runs.

    agent = Agent(name="reporter", tools=[search])  # this module's

    with daemon.open_session(user_token=id_token, agent="reporter") as session:
        async with model_client(session, "models", "https://models.example.org/v1") as client:
            config = run_config(session, OpenAIProvider(openai_client=client))
            with session.step("instruction", name="write the report"):
                result = await Runner.run(agent, "…", run_config=config)

Each answer of a model is a `reasoning` step and each call of a function tool a `tool_call` step, with the hash of what it was
given. Both hang below the step around the run; what an agent that is a tool does hangs below the call of that tool. In the
body of a tool, `session.release(…)` names the step of exactly this call, in threads and parallel calls too.

Steps are taken around the two calls that matter, with the session that the SDK itself hands to both of them in the run's
configuration: what a tracing processor raises is only logged, and it does not see the arguments before the call; hooks run in
tasks of their own, where a context ends before the tool's body begins.

A step that the daemon does not take, for example one too deep, ends the run: `Runner.run` raises `AgentDaemonError`, or the
SDK's `UserError` from it, and neither tool nor model is called. The model is not told, lest it goes on unrecorded. Of an agent
that is a tool it ends that agent's run, which is the outer one's to handle like what goes wrong in any tool's body, a denied
credential among it: `failure_error_function=None` has the SDK raise that, too. A run that is cancelled ends its steps.

The SDK's own tracing, which would send prompts and results to OpenAI, is off in these runs. `OPENAI_AGENTS_DISABLE_TRACING=1`
has it off for the whole process, for spans of other code as well.

Hosted tools, and the SDK's computer, shell and patch tools, are not function tools and take no steps.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing
from typing import Any

import agents
import httpx
from agents.exceptions import UserError
from agents.models.interface import Model, ModelProvider
from agents.run_context import TContext
from agents.tool_context import ToolContext
from openai import AsyncOpenAI

from .client import Client, Session
from .httpx import ReleaseAuth


def model_client(
    session: Session | Client, destination: str, base_url: str, *, binding: str = "", **options: Any
) -> AsyncOpenAI:
    """A client of a model server whose key the daemon releases, for this destination and to the origin of `base_url` alone.

    One for each session, as the key is. `options` are those of `AsyncOpenAI`.
    """
    daemon, session = (session._client, session) if isinstance(session, Session) else (session, None)
    origin = str(httpx.URL(base_url).copy_with(raw_path=b"/", userinfo=b""))
    auth = _Auth(daemon, destination, {origin}, binding=binding, session=session)
    # The library wants a key and would else take one from the environment. Each request gets the released one instead.
    return AsyncOpenAI(
        api_key="released-by-agent-daemon", base_url=base_url, http_client=httpx.AsyncClient(auth=auth), **options
    )


def run_config(session: Session | Client, models: ModelProvider, **options: Any) -> agents.RunConfig:
    """For `Runner.run`: a run in this session. `options` are those of `agents.RunConfig`.

    Agents name their models, and `models` makes them.
    """
    if isinstance(options.get("model"), Model):
        raise UserError("model: give its name, so that its calls are steps")
    return agents.RunConfig(**{"tracing_disabled": True, **options, "model_provider": _Models(session, models)})


class Agent(agents.Agent[TContext]):
    """An `agents.Agent` whose function tools, those over MCP and agents among them, are called in steps."""

    async def get_all_tools(self, run_context: agents.RunContextWrapper[Any]) -> list[agents.Tool]:
        if isinstance(self.model, Model):
            raise UserError(f"agent {self.name}: give the name of its model, so that its calls are steps")
        tools = await super().get_all_tools(run_context)
        return [_in_steps(tool) if isinstance(tool, agents.FunctionTool) else tool for tool in tools]


class _Auth(ReleaseAuth):
    """Asks the daemon in a thread: it may wait for a person, and runs for other users go on."""

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        flow = self.auth_flow(request)
        response = None
        while (following := await asyncio.to_thread(_send, flow, response)) is not None:
            response = yield following


def _send(flow: Generator[httpx.Request, httpx.Response, None], response: httpx.Response | None) -> httpx.Request | None:
    # StopIteration does not get out of a thread.
    try:
        return flow.send(response)  # type: ignore[arg-type]
    except StopIteration:
        return None


class _Models(ModelProvider):
    def __init__(self, session: Session | Client, models: ModelProvider):
        self.session, self._models = session, models

    def get_model(self, model_name: str | None) -> Model:
        return _Model(self.session, self._models.get_model(model_name), model_name or "")

    async def aclose(self) -> None:
        await self._models.aclose()


class _Model(Model):
    def __init__(self, session: Session | Client, model: Model, name: str):
        self._session, self._model, self._name = session, model, name

    def _step(self, instructions: Any, input: Any, tools: list[agents.Tool]) -> Any:
        for tool in tools:
            if isinstance(tool, agents.FunctionTool) and not hasattr(tool.on_invoke_tool, "agent_daemon_in_steps"):
                raise UserError(f"tool {tool.name}: its agent has to be an agent_daemon.openai_agents.Agent")
        return self._session.step("reasoning", name=self._name, reference=_reference([instructions, input]))

    async def get_response(
        self,
        system_instructions: Any,
        input: Any,
        model_settings: Any,
        tools: list[agents.Tool],
        *further: Any,
        **options: Any,
    ) -> agents.ModelResponse:
        with self._step(system_instructions, input, tools):
            return await self._model.get_response(
                system_instructions, input, model_settings, tools, *further, **options
            )

    async def stream_response(
        self,
        system_instructions: Any,
        input: Any,
        model_settings: Any,
        tools: list[agents.Tool],
        *further: Any,
        **options: Any,
    ) -> AsyncIterator[Any]:
        with self._step(system_instructions, input, tools):
            events = self._model.stream_response(
                system_instructions, input, model_settings, tools, *further, **options
            )
            async with aclosing(events):  # type: ignore[type-var]
                async for event in events:
                    yield event

    def get_retry_advice(self, request: Any) -> Any:
        return self._model.get_retry_advice(request)

    async def _cleanup_on_run_end(self, owner: object) -> None:
        await self._model._cleanup_on_run_end(owner)

    async def close(self) -> None:
        await self._model.close()


def _in_steps(tool: agents.FunctionTool) -> agents.FunctionTool:
    tool = copy.copy(tool)
    invoke, name = tool.on_invoke_tool, tool.qualified_name

    async def in_step(context: ToolContext[Any], arguments: str) -> Any:
        models = context.run_config.model_provider if context.run_config else None
        if not isinstance(models, _Models):
            raise UserError("the run is in no session: give it agent_daemon.openai_agents.run_config")
        with models.session.step("tool_call", name=name, reference=_reference(arguments)):
            return await invoke(context, arguments)

    in_step.agent_daemon_in_steps = True  # type: ignore[attr-defined]
    tool.on_invoke_tool = in_step
    if callable(tool.needs_approval):
        # The SDK shows arguments to a policy only where its own invoker vouches that the tool gets the same. Ours cannot.
        tool.needs_approval = True
    return tool


def _reference(value: Any) -> str:
    """Of equal arguments the same as in `agent_daemon.mcp`, however the model wrote them."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}")
        except ValueError:
            return f"sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
