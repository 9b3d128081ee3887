"""What clients may send, field by field. A field that is not here is answered with 400 that names it.

Each field of a request that runs a method is either an option of the run (temperature, seed, n), or
goes to the model's server with the prompt (tools, response_format, stop), which refuses what it
cannot honour. Requests for a plain model behind a server are not read through this: they pass
untouched.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from itscale.errors import did_you_mean
from itscale.gateway.faults import Fault

__all__ = [
    "ChatMessage",
    "ChatRequest",
    "CompletionRequest",
    "ItscaleOptions",
    "MethodRequest",
    "ResponsesRequest",
    "StreamOptions",
    "Strict",
    "read_json",
    "read_request",
]

Request = TypeVar("Request", bound=BaseModel)
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Stops = str | Annotated[list[str], Field(max_length=16)]


class Strict(BaseModel):
    """Exact types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ItscaleOptions(Strict):
    """What a request may say about how its answer is found, within the operator's limits."""

    method: str | None = Field(None, max_length=500)
    """`best-of-n`, or with options: `beam:width=4`."""
    scorer: str | None = Field(None, max_length=200)
    """The name of a scorer the operator configured."""
    n: Count | None = None
    """How many answers are started: the budget's generations."""
    tokens: Count | None = None
    """Limit on generated tokens in all."""
    scorer_calls: Count | None = None
    seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """Deadline; the best so far is the answer."""
    candidates: bool = False
    """Whether the answer lists all candidates."""
    trace: bool = False
    """Whether the answer holds every event of the run."""
    progress: Literal["none", "comments", "events", "reasoning"] = "comments"
    """Streaming, before the answer is certain: nothing, counts or events as SSE comments, or prose as
    reasoning deltas."""


class ContentPart(BaseModel):
    """A piece of a message: text, image, audio, file."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: str


class ChatMessage(BaseModel):
    """A message; fields beyond role and content go to the server as they are."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: Literal["system", "user", "assistant", "tool", "developer"]
    content: str | Annotated[list[ContentPart], Field(max_length=1000)] | None = None


class StreamOptions(Strict):
    """Of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class MethodRequest(Strict):
    """What all three kinds of request share."""

    model: Annotated[str, Field(min_length=1, max_length=1000)]
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Seed | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    itscale: ItscaleOptions | None = None

    def forwarded(self) -> dict[str, Any]:
        """Fields that go to the model's server with the prompt."""
        given = {name: getattr(self, name, None) for name in _FORWARDED}
        asked = {
            name: value
            for name, value in given.items()
            if value is not None and value != _NEUTRAL.get(name, _NOTHING)
        }
        if "tools" in asked and given["tool_choice"] is not None:
            asked["tool_choice"] = given["tool_choice"]  # to call none of them asks for something
        return asked


_NOTHING = object()
_NEUTRAL: dict[str, Any] = {
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "response_format": {"type": "text"},
    "tools": [],
    "parallel_tool_calls": True,
    "tool_choice": "none",
    "stop": [],
}
"""Values that ask for nothing: a backend that cannot honour the field can honour these."""
_FORWARDED = (
    *("stop", "frequency_penalty", "presence_penalty", "logit_bias", "response_format", "tools"),
    *("tool_choice", "parallel_tool_calls", "reasoning_effort", "verbosity"),
)


class ChatRequest(MethodRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    stop: Stops | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=1000)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default"] | None = None


class CompletionRequest(MethodRequest):
    """POST /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=64)]
    max_tokens: Count | None = None
    stop: Stops | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None


class ResponsesRequest(MethodRequest):
    """POST /v1/responses: text in, text out, nothing stored."""

    input: str | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=10_000)]
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    background: Literal[False] | None = None
    include: Annotated[list[str], Field(max_length=1000)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=1000)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    service_tier: Literal["auto", "default"] | None = None
    instructions: str | None = None
    max_output_tokens: Count | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    truncation: Literal["disabled"] | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    n: None = None
    seed: Seed | None = None


def read_json(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        Fault: it is none, or not UTF-8.
    """
    try:
        text = body.decode("utf-8")
        said = json.loads(text, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_unique)
    except UnicodeDecodeError:
        raise Fault(400, "the body is not UTF-8; send JSON in UTF-8", code="invalid_json") from None
    except (ValueError, RecursionError):
        raise Fault(400, "the body is no JSON; send a JSON object", code="invalid_json") from None
    if not isinstance(said, dict):
        raise Fault(400, "the body is no JSON object; send one", code="invalid_json")
    return said


def _no_number(name: str) -> None:
    """NaN and the infinities, which Python reads and JSON does not know."""
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise Fault(400, f"{text[:50]} is too large a number; send a smaller one", code="invalid_json")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. One that says a name twice means two things: what passes on could mean the other one."""
    said = dict(pairs)
    if len(said) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in said if names.count(name) > 1)
        raise Fault(
            400, f"the body says {twice[:100]!r} twice in one object; say it once", code="invalid_json"
        )
    return said


def read_request(kind: type[Request], said: dict[str, Any]) -> Request:
    """A request with every field checked.

    Raises:
        Fault: 400 that names the first field at fault.
    """
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        raise _refusal(kind, error) from None


def _refusal(kind: type[BaseModel], error: ValidationError) -> Fault:
    """The most telling of the faults: an unknown field first, then the one that got furthest."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    worst = max(
        found,
        key=lambda one: (one["type"] == "extra_forbidden", len(one["loc"]), one["type"] != "string_type"),
    )
    place = [part for part in worst["loc"] if not isinstance(part, str) or _is_name(part)]
    param = ".".join(map(str, place)) or None
    if worst["type"] == "extra_forbidden":
        name = str(worst["loc"][-1])
        known = ItscaleOptions.model_fields if worst["loc"][0] == "itscale" else kind.model_fields
        sentence = f"{did_you_mean('field', name, known)}; leave out what is not honoured"
        return Fault(400, sentence, param=param, code="unknown_parameter")
    code = "missing_required_parameter" if worst["type"] == "missing" else "invalid_value"
    return Fault(400, f"{param or 'the body'}: {worst['msg']}; change it", param=param, code=code)


def _is_name(part: str) -> bool:
    """Whether a part of a place is a field's name, and not that of a type which was tried."""
    return part.isidentifier() and part not in ("str", "dict")
