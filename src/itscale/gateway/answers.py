"""POST /v1/chat/completions and /v1/completions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from itscale.gateway.asking import Asking
from itscale.gateway.encoding import Json
from itscale.gateway.envelope import Envelope
from itscale.gateway.faults import Fault
from itscale.gateway.routing import Plan
from itscale.gateway.running import Job, chat_prompt, prepare, run_all
from itscale.gateway.runtime import ServedModel
from itscale.gateway.schema import ChatRequest, CompletionRequest, MethodRequest, read_request
from itscale.gateway.streaming import EventStream, chat_events, completion_events, connected, opened
from itscale.gateway.upstream import ask, stream
from itscale.methods.base import Result
from itscale.models.openai.wire import Counts
from itscale.types import Prompt, to_json

if TYPE_CHECKING:
    from itscale.gateway.app import Gateway

__all__ = ["answered", "chat", "completions", "refuse_reasoning", "streamed"]

Chunks = Callable[[Job, Envelope, bool, Callable[[list[Result]], None]], AsyncGenerator[bytes, None]]


async def chat(gateway: Gateway, asking: Asking) -> Response:
    """The answer to a chat request."""
    plan, served = await _begin(gateway, asking)
    if _passes(plan, served):
        return await _passed(gateway, asking, served, "chat/completions")
    request = read_request(ChatRequest, asking.said)
    if request.logprobs or request.top_logprobs:
        raise _no_logprobs("logprobs" if request.logprobs else "top_logprobs")
    _check_tools(request)
    prompt = chat_prompt(request.messages, request.forwarded())
    limit = request.max_completion_tokens or request.max_tokens

    async def job() -> Job:
        return await prepare(asking.runtime, served, plan, prompt, request, limit)

    if request.stream:
        envelope = Envelope("chatcmpl", "chat.completion.chunk", plan.name)
        return await streamed(gateway, asking, served, job, envelope, chat_events, request)
    envelope = Envelope("chatcmpl", "chat.completion", plan.name)
    return await answered(gateway, asking, served, job, envelope.chat)


async def completions(gateway: Gateway, asking: Asking) -> Response:
    """The answer to a completion request."""
    plan, served = await _begin(gateway, asking)
    if _passes(plan, served):
        return await _passed(gateway, asking, served, "completions")
    request = read_request(CompletionRequest, asking.said)
    if request.logprobs is not None:
        raise _no_logprobs("logprobs")
    if isinstance(request.prompt, list) and len(request.prompt) > 1:
        raise Fault(
            400,
            "prompt: several prompts in one request are not honoured here; send a request for each",
            param="prompt",
            code="unsupported_value",
        )
    refuse_reasoning(plan)
    text = request.prompt if isinstance(request.prompt, str) else request.prompt[0]
    fields = request.forwarded()
    prompt = Prompt(raw=text, request=to_json(fields) if fields else None)

    async def job() -> Job:
        # OpenAI's default of 16 tokens would cut every method's answers; the limit is the method's own.
        return await prepare(asking.runtime, served, plan, prompt, request, request.max_tokens)

    envelope = Envelope("cmpl", "text_completion", plan.name)
    if request.stream:
        return await streamed(gateway, asking, served, job, envelope, completion_events, request)
    return await answered(gateway, asking, served, job, envelope.completion)


async def _begin(gateway: Gateway, asking: Asking) -> tuple[Plan, ServedModel]:
    """Who asks, and for what."""
    asking.identify(gateway.accounts)
    await asking.read()
    plan = asking.plan()
    if asking.runtime.config.server.log_prompts:
        asking.record.texts = {"prompt": asking.said.get("messages", asking.said.get("prompt"))}
    return plan, asking.runtime.models[plan.model]


def _passes(plan: Plan, served: ServedModel) -> bool:
    """Whether the request goes through untouched."""
    return plan.method is None and served.address is not None


async def answered(
    gateway: Gateway,
    asking: Asking,
    served: ServedModel,
    job: Callable[[], Any],
    envelope: Callable[[Job, list[Result]], Awaitable[dict[str, Any]]],
) -> Response:
    """Run a job while the client waits, and send the whole answer."""
    options = asking.plan().options.model_dump(exclude_defaults=True)
    key = gateway.cache.key(asking.record.route, asking.record.key, asking.said, options)
    if (kept := gateway.cache.get(key)) is not None:
        asking.record.cache = "hit"
        return Json(kept)
    asking.record.cache = "miss" if key is not None else None

    async def work() -> dict[str, Any]:
        async with AsyncExitStack() as places:
            made = await _begun(places, gateway, asking, served, job)
            results = await run_all(made)
            _note(asking, results)
            return await envelope(made, results)

    said = await connected(asking.request.receive, work())
    gateway.cache.put(key, said)
    return Json(said)


async def streamed(
    gateway: Gateway,
    asking: Asking,
    served: ServedModel,
    job: Callable[[], Any],
    envelope: Envelope,
    chunks: Chunks,
    request: MethodRequest,
) -> Response:
    """Run a job and send what is certain as soon as it is."""
    asking.record.streamed = True
    usage = request.stream_options is not None and request.stream_options.include_usage

    async def pieces() -> AsyncGenerator[bytes, None]:
        async with AsyncExitStack() as places:
            made = await _begun(places, gateway, asking, served, job)
            async for piece in chunks(made, envelope, usage, lambda results: _note(asking, results)):
                yield piece

    begun = await connected(asking.request.receive, opened(pieces()))
    return EventStream(begun, failed=gateway.fault(asking.record))


@asynccontextmanager
async def _place(gateway: Gateway, served: ServedModel) -> AsyncIterator[None]:
    """A place at the gateway and one at the model."""
    async with gateway.gate.pass_through(), served.held(), served.gate.pass_through():
        yield


async def _begun(
    places: AsyncExitStack,
    gateway: Gateway,
    asking: Asking,
    served: ServedModel,
    job: Callable[[], Awaitable[Job]],
) -> Job:
    """The job, with its place, and what is left of the request's time after waiting for that."""
    seconds = asking.plan().budget.seconds
    assert seconds is not None  # the operator's limit, if nothing else
    ends = time.monotonic() + seconds
    with _deadline(seconds):
        async with asyncio.timeout(seconds):
            await places.enter_async_context(_place(gateway, served))
            made = await job()
    return replace(made, ends=ends, spent=lambda usage: asking.record.spent([usage]))


@contextmanager
def _deadline(seconds: float | None) -> Iterator[None]:
    """A time limit that is over, in the client's terms."""
    try:
        yield
    except TimeoutError:
        raise Fault(
            504, f"no answer within {seconds:g} s; allow more itscale.seconds", code="deadline_exceeded"
        ) from None


async def _within(pieces: AsyncGenerator[bytes, None], seconds: float | None) -> AsyncGenerator[bytes, None]:
    """The pieces that come in time; then a Fault."""
    ends = None if seconds is None else asyncio.get_running_loop().time() + seconds
    async with aclosing(pieces):
        while True:
            with _deadline(seconds):
                async with asyncio.timeout_at(ends):
                    piece = await anext(pieces, None)
            if piece is None:
                return
            yield piece


async def _passed(gateway: Gateway, asking: Asking, served: ServedModel, route: str) -> Response:
    """Through to the server, and back."""
    options = asking.plan().options
    spoken = options.model_dump(exclude_unset=True).keys() - {"seconds", "progress"}
    if spoken:
        name = f"itscale.{min(spoken)}"
        raise Fault(
            400,
            f"{name} speaks of a method and none is named; add itscale.method or ask for METHOD/MODEL",
            param=name,
            code="invalid_value",
        )
    _check_stream(asking.said)
    if not asking.said.get("stream"):

        async def work() -> Response:
            with _deadline(options.seconds):
                async with asyncio.timeout(options.seconds), _place(gateway, served):
                    passed = await ask(served, route, asking.body, asking.said)
            asking.record.counted(passed.counts)
            return Response(passed.body, media_type=passed.content_type)

        return await connected(asking.request.receive, work())
    asking.record.streamed = True
    counted: list[Counts] = []

    async def pieces() -> AsyncGenerator[bytes, None]:
        try:
            async with _place(gateway, served):
                async for piece in stream(
                    served, route, asking.body, asking.said, count=asking.budgeted, counted=counted
                ):
                    yield piece
        finally:
            asking.record.counted(counted[0] if counted else None)

    begun = await connected(asking.request.receive, opened(_within(pieces(), options.seconds)))
    return EventStream(begun, failed=gateway.fault(asking.record))


def _note(asking: Asking, results: list[Result]) -> None:
    asking.record.stop_reason = results[0].stop_reason.value
    if asking.record.texts is not None:
        asking.record.texts["answer"] = [result.text for result in results]


def _check_stream(said: dict[str, Any]) -> None:
    """What the gateway itself reads of a request that passes."""
    for name, kind, word in (("stream", bool, "true or false"), ("stream_options", dict, "an object")):
        if said.get(name) is not None and not isinstance(said[name], kind):
            raise Fault(400, f"{name} must be {word}; change it", param=name, code="invalid_value")


def _check_tools(request: ChatRequest) -> None:
    if request.tool_choice not in (None, "none") and not request.tools:
        raise Fault(400, "tool_choice needs tools; give some", param="tool_choice", code="invalid_value")


def refuse_reasoning(plan: Plan) -> None:
    """Raises Fault where progress is wanted as deltas that only a chat's stream has."""
    if plan.options.progress == "reasoning":
        raise Fault(
            400,
            "itscale.progress: reasoning deltas are of /v1/chat/completions; ask for comments or events",
            param="itscale.progress",
            code="unsupported_value",
        )


def _no_logprobs(name: str) -> Fault:
    return Fault(
        400,
        f"{name}: answers made here have none of the API's kind; ask the plain model of a server",
        param=name,
        code="unsupported_parameter",
    )
