"""POST /v1/responses: text in, text out. Nothing is stored, so nothing can be continued by its id."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from itscale.gateway.answers import answered, refuse_reasoning, streamed
from itscale.gateway.asking import Asking
from itscale.gateway.envelope import Envelope, block, finish_of, usage_of
from itscale.gateway.faults import Fault
from itscale.gateway.live import Ended, Said, live
from itscale.gateway.running import Job, chat_prompt, prepare
from itscale.gateway.schema import ChatMessage, ResponsesRequest, read_request
from itscale.gateway.streaming import Progress, data
from itscale.methods.base import Result
from itscale.types import Prompt

if TYPE_CHECKING:
    from itscale.gateway.app import Gateway

__all__ = ["create"]

_TEXT_PARTS = ("input_text", "output_text", "text")
_OF_A_MESSAGE = {"type", "role", "content", "id", "status"}
"""What a message of the input may say; an earlier answer, sent back, has an id and a status."""


async def create(gateway: Gateway, asking: Asking) -> Response:
    """The answer to a responses request."""
    asking.identify(gateway.accounts)
    await asking.read()
    plan = asking.plan()
    served = asking.runtime.models[plan.model]
    request = read_request(ResponsesRequest, asking.said)
    _refuse_kept(request)
    _refuse_more_than_text(request)
    refuse_reasoning(plan)
    prompt = _prompt(request)
    shell = _Shell(plan.name, request)

    async def job() -> Job:
        return await prepare(asking.runtime, served, plan, prompt, request, request.max_output_tokens)

    if request.stream:
        envelope = Envelope("resp", "response", plan.name)
        return await streamed(gateway, asking, served, job, envelope, shell.events, request)
    return await answered(gateway, asking, served, job, shell.whole)


class _Shell:
    """One response, from created to completed."""

    def __init__(self, model: str, request: ResponsesRequest) -> None:
        self.id = f"resp_{secrets.token_hex(16)}"
        self.item = f"msg_{secrets.token_hex(16)}"
        self.created = int(time.time())
        self.model = model
        self.request = request

    def of(self, status: str, **fields: Any) -> dict[str, Any]:
        """The response object in some state."""
        request = self.request
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": self.model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "temperature": request.temperature,
            "text": {"format": {"type": "text"}, **(request.text or {})},
            "tool_choice": "auto",
            "tools": [],
            "top_p": request.top_p,
            "truncation": "disabled",
            "usage": None,
            **fields,
        }

    def message(self, text: str, status: str) -> dict[str, Any]:
        """The one output item."""
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        content = [part] if status != "in_progress" else []
        return {
            "id": self.item,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    async def whole(self, job: Job, results: Sequence[Result]) -> dict[str, Any]:
        """The complete response."""
        [result] = results
        cut = finish_of(result) == "length"
        status = "incomplete" if cut else "completed"
        spent = usage_of(results)
        return self.of(
            status,
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            output=[self.message(result.text, status)],
            usage={
                "input_tokens": spent["prompt_tokens"],
                "input_tokens_details": spent["prompt_tokens_details"],
                "output_tokens": spent["completion_tokens"],
                "output_tokens_details": spent["completion_tokens_details"],
                "total_tokens": spent["total_tokens"],
            },
            itscale=await block(job, results),
        )

    async def events(
        self, job: Job, envelope: Envelope, include_usage: bool, ended: Callable[[list[Result]], None]
    ) -> AsyncGenerator[bytes, None]:
        """The response's typed events."""
        number = -1

        def event(kind: str, **fields: Any) -> bytes:
            nonlocal number
            number += 1
            return f"event: {kind}\n".encode() + data({"type": kind, "sequence_number": number, **fields})

        at = {"item_id": self.item, "output_index": 0, "content_index": 0}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        begun, progress = False, Progress(job)
        async with aclosing(live(job)) as happening:
            async for item in happening:
                if not begun:
                    begun = True
                    yield event("response.created", response=self.of("in_progress"))
                    yield event("response.in_progress", response=self.of("in_progress"))
                    yield event(
                        "response.output_item.added", output_index=0, item=self.message("", "in_progress")
                    )
                    yield event("response.content_part.added", **at, part=part)
                if isinstance(item, Said) and item.text:
                    yield event("response.output_text.delta", **at, delta=item.text, logprobs=[])
                elif isinstance(item, Ended):
                    ended([item.result])
                    text, whole = item.result.text, await self.whole(job, [item.result])
                    yield event("response.output_text.done", **at, text=text, logprobs=[])
                    yield event("response.content_part.done", **at, part={**part, "text": text})
                    yield event("response.output_item.done", output_index=0, item=whole["output"][0])
                    kind = "response.completed" if whole["status"] == "completed" else "response.incomplete"
                    yield event(kind, response=whole)
                elif not isinstance(item, Said) and (said := progress.bytes_for(item)):
                    yield said


def _refuse_kept(request: ResponsesRequest) -> None:
    """What speaks of answers that were kept."""
    if request.store:
        raise Fault(400, "store: nothing is kept here; send false", param="store", code="unsupported_value")
    for name in ("previous_response_id", "conversation"):
        if getattr(request, name) is not None:
            raise Fault(
                400,
                f"{name}: nothing is kept here; send the whole history as input",
                param=name,
                code="unsupported_parameter",
            )


def _refuse_more_than_text(request: ResponsesRequest) -> None:
    """What speaks of more than text in and out."""
    for name in ("tools", "include"):
        if getattr(request, name):
            raise _unsupported(name)


def _prompt(request: ResponsesRequest) -> Prompt:
    """The prompt of a request: its instructions, then its input.

    Raises:
        Fault: an input that is no text.
    """
    said = [{"role": "system", "content": request.instructions}] if request.instructions else []
    if isinstance(request.input, str):
        said.append({"role": "user", "content": request.input})
    else:
        said += [_message(i, item) for i, item in enumerate(request.input)]
    fields: dict[str, Any] = {}
    unknown = set(request.text or {}) - {"format", "verbosity"}
    form = (request.text or {}).get("format") or {"type": "text"}
    if unknown or not isinstance(form, dict):
        raise _unsupported(f"text.{min(unknown)}" if unknown else "text.format")
    if form.get("type") == "json_schema":
        fields["response_format"] = {
            "type": "json_schema",
            "json_schema": {k: v for k, v in form.items() if k != "type"},
        }
    elif form.get("type") == "json_object":
        fields["response_format"] = dict(form)
    elif form != {"type": "text"}:
        raise _unsupported("text.format")
    if (verbosity := (request.text or {}).get("verbosity")) is not None:
        fields["verbosity"] = verbosity
    reasoning = request.reasoning or {}
    if set(reasoning) - {"effort"}:
        raise _unsupported(f"reasoning.{min(set(reasoning) - {'effort'})}")
    if reasoning.get("effort") is not None:
        fields["reasoning_effort"] = reasoning["effort"]
    return chat_prompt([read_request(ChatMessage, one) for one in said], fields)


def _message(i: int, item: dict[str, Any]) -> dict[str, Any]:
    if item.get("type", "message") != "message":
        raise _unsupported(f"input.{i}.type")
    if unknown := item.keys() - _OF_A_MESSAGE:
        raise _unsupported(f"input.{i}.{min(unknown)}")
    content = item.get("content")
    if isinstance(content, list):
        texts = [p.get("text") for p in content if isinstance(p, dict) and p.get("type") in _TEXT_PARTS]
        if len(texts) != len(content) or not all(isinstance(text, str) for text in texts):
            raise _unsupported(f"input.{i}.content")
        content = "".join(map(str, texts))
    if not isinstance(content, str):
        raise _unsupported(f"input.{i}.content")
    return {"role": item.get("role"), "content": content}


def _unsupported(name: str) -> Fault:
    return Fault(
        400,
        f"{name} is not honoured here; send text, or use /v1/chat/completions",
        param=name,
        code="unsupported_parameter",
    )
