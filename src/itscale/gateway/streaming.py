"""Server-sent events in OpenAI's form, sent as they come and abandoned as soon as nobody listens.

Before the answer is certain a client sees comments (`: itscale steps=12 tokens=340`), which every
SSE parser skips, or what else it asked for with `itscale.progress`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from itscale.events import Failed
from itscale.gateway.encoding import encoded
from itscale.gateway.envelope import Envelope, block, finish_of, tool_calls_of, usage_of
from itscale.gateway.faults import Fault, fault_of
from itscale.gateway.live import Ended, Happened, Quiet, Said, Tally, event_json, live
from itscale.gateway.running import Job
from itscale.methods.base import Result

__all__ = [
    "DONE",
    "EventStream",
    "HungUp",
    "Progress",
    "chat_events",
    "completion_events",
    "connected",
    "data",
    "opened",
]

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
COUNTS_S = 0.25
"""Progress counts are said this often at most."""


class HungUp(Exception):  # noqa: N818  a signal, not an error
    """The client is gone; nobody is left to answer."""


def data(value: Mapping[str, Any]) -> bytes:
    """One event."""
    return b"data: " + encoded(value) + b"\n\n"


def comment(text: bytes) -> bytes:
    """A line every parser skips."""
    return b": itscale " + text + b"\n\n"


class Progress:
    """What a client is told before the answer is certain, in the way it asked for."""

    def __init__(self, job: Job) -> None:
        self.way = job.plan.options.progress
        self._began = time.monotonic()
        self._said_at = 0.0
        self._tally = Tally()

    def bytes_for(self, happened: Happened | Quiet) -> bytes:
        """A comment, or nothing."""
        if isinstance(happened, Quiet):
            return comment(b"keep-alive")
        self._tally.add(happened.event)
        if self.way == "events":
            said = event_json(happened.event, self._began) | {"choice": happened.choice}
            return comment(encoded(said))
        return comment(str(self._tally).encode()) if self.way == "comments" and self._due() else b""

    def prose_for(self, happened: Happened | Quiet) -> str:
        """A sentence for a reasoning delta, or nothing."""
        if self.way != "reasoning" or isinstance(happened, Quiet):
            return ""
        if isinstance(happened.event, Failed):
            return "A call failed; it costs one candidate.\n"
        return f"{self._tally}\n" if self._due() else ""

    def _due(self) -> bool:
        now = time.monotonic()
        due = now - self._said_at >= COUNTS_S
        if due:
            self._said_at = now
        return due


async def chat_events(
    job: Job, envelope: Envelope, include_usage: bool, ended: Callable[[list[Result]], None]
) -> AsyncGenerator[bytes, None]:
    """The answer to a chat request, in chunks. `ended` is told what the runs came to."""
    progress, results = Progress(job), dict[int, Result]()

    def chunk(choice: int, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        one = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if include_usage else {}
        return data(envelope.of(choices=[one], **usage, **more))

    async with aclosing(live(job)) as happening:
        begun = False
        async for item in happening:
            if not begun:
                begun = True
                for choice in range(len(job.seeds)):
                    yield chunk(choice, {"role": "assistant", "content": "", "refusal": None})
            if isinstance(item, Said):
                if item.text:
                    yield chunk(item.choice, {"content": item.text})
            elif isinstance(item, Ended):
                results[item.choice] = item.result
                path = item.result.candidates[item.result.chosen].path
                for i, call in enumerate(tool_calls_of(path)):
                    yield chunk(item.choice, {"tool_calls": [{"index": i, **call}]})
                last = len(results) == len(job.seeds)
                told = {"itscale": await block(job, [results[i] for i in sorted(results)])} if last else {}
                yield chunk(item.choice, {}, finish_of(item.result), **told)
            elif said := progress.bytes_for(item):
                yield said
            elif isinstance(item, Happened) and (prose := progress.prose_for(item)):
                yield chunk(item.choice, {"reasoning_content": prose})
    inside = [results[i] for i in sorted(results)]
    ended(inside)
    if include_usage:
        yield data(envelope.of(choices=[], usage=usage_of(inside)))
    yield DONE


async def completion_events(
    job: Job, envelope: Envelope, include_usage: bool, ended: Callable[[list[Result]], None]
) -> AsyncGenerator[bytes, None]:
    """The answer to a completion request, in chunks."""
    progress, results = Progress(job), dict[int, Result]()

    def chunk(choice: int, text: str, finish: str | None = None, **more: Any) -> bytes:
        one = {"index": choice, "text": text, "logprobs": None, "finish_reason": finish}
        return data(envelope.of(choices=[one], **more))

    async with aclosing(live(job)) as happening:
        begun = False
        async for item in happening:
            if not begun:
                begun = True
                yield comment(b"begun")  # a choice has no opening of its own here
            if isinstance(item, Said):
                if item.text:
                    yield chunk(item.choice, item.text)
            elif isinstance(item, Ended):
                results[item.choice] = item.result
                last = len(results) == len(job.seeds)
                told = {"itscale": await block(job, [results[i] for i in sorted(results)])} if last else {}
                yield chunk(item.choice, "", finish_of(item.result), **told)
            elif said := progress.bytes_for(item):
                yield said
    inside = [results[i] for i in sorted(results)]
    ended(inside)
    if include_usage:
        yield data(envelope.of(choices=[], usage=usage_of(inside)))
    yield DONE


class Opened:
    """A stream of bytes whose first are there. Closing it closes the stream, begun to be read or not."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None]) -> None:
        self._first = first
        self._rest = rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._first
        async for piece in self._rest:
            yield piece

    async def aclose(self) -> None:
        """Let go of everything the stream holds."""
        await self._rest.aclose()


async def opened(events: AsyncGenerator[bytes, None]) -> Opened:
    """A stream whose first bytes are there, so that what fails before them has a status of its own.

    Raises:
        Fault, ItscaleError: it failed before them.
    """
    return Opened(await anext(events), events)


async def connected(receive: Receive, work: Awaitable[T]) -> T:
    """`work`, unless the client hangs up first: then it is cancelled.

    It is done in the task of the request. One of its own would cost several turns of the event loop, and in
    every turn all other requests have theirs: those of a burst would all be answered at its end, in place of
    one after another.

    Raises:
        HungUp: the client is gone.
    """
    task = asyncio.current_task()
    assert task is not None
    before, over, hung_up = task.cancelling(), False, False

    def ended(watch: asyncio.Task[None]) -> None:
        nonlocal hung_up
        if not over and not watch.cancelled():
            watch.exception()  # seen: whatever it is, nobody can be answered
            hung_up = True
            task.cancel()

    gone = asyncio.ensure_future(_hung_up(receive))
    gone.add_done_callback(ended)
    try:
        return await work
    except asyncio.CancelledError:
        if hung_up and task.cancelling() == before + 1:
            raise HungUp from None
        raise
    finally:
        over = True
        gone.cancel()
        if hung_up:
            task.uncancel()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends pieces as they come. A client that hangs up ends them at once; a failure is one last event.

    `failed` is told of every failure, and `over` is called at the very end.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        pieces: Opened,
        headers: Mapping[str, str] | None = None,
        *,
        failed: Callable[[BaseException], Fault] = fault_of,
        over: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self._pieces = pieces
        self._failed = failed
        self._over = over
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        super().init_headers(headers)
        self.raw_headers = [(k, v) for k, v in self.raw_headers if k != b"content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await connected(receive, self._send(send))
        finally:
            if self._over is not None:
                await self._over()

    async def _send(self, send: Send) -> None:
        async with aclosing(self._pieces) as pieces:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except HungUp:
                raise
            except Exception as error:  # noqa: BLE001  whatever it is, the client is told in the stream
                await send(
                    {
                        "type": "http.response.body",
                        "body": data(self._failed(error).body),
                        "more_body": True,
                    }
                )
        await send({"type": "http.response.body", "body": b""})
