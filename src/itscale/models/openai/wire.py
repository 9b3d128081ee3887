"""What servers answer, read with suspicion: whatever is not as the protocol says is malformed or unknown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Choice", "Counts", "Malformed", "Reply", "counts_in", "read_chat", "read_completion"]


class Malformed(ValueError):  # noqa: N818  a signal inside this room; the user sees a ModelError
    """An answer that does not follow the protocol; says how."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of one request as the server counts them."""

    prompt: int
    cached: int
    generated: int
    hidden: int = 0
    """The part of `generated` that no text shows."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the n texts of an answer."""

    text: str
    finish: str
    """`stop`, `length`, or the server's word for something else; empty if it gave none."""
    stopped_on: str | int | None = None
    """The stop string or token id it ended on, where the server says."""
    token_ids: tuple[int, ...] | None = None
    pieces: tuple[str, ...] | None = None
    """The text of each token, special ones included."""
    logprobs: tuple[float, ...] | None = None
    """Of each token, nats, at temperature 1."""
    likeliest: tuple[tuple[float, ...], ...] | None = None
    """At the place of each token, the log-probabilities of the likeliest ones and its own, where told."""
    reasoning: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    choices: tuple[Choice, ...]
    counts: Counts | None
    """None where the server gives no usable usage."""
    method_on: str | None = None
    """The model that a method of an itscale gateway made the answer with; None for a model's own answer."""


def read_completion(body: Mapping[str, Any], *, likeliest: bool = False) -> Reply:
    """An answer of /completions; with `likeliest` also what it tells beside the tokens drawn.

    Raises:
        Malformed: it is none.
    """
    return Reply(tuple(_completion_choice(c, likeliest) for c in _choices(body)), counts_in(body))


def read_chat(body: Mapping[str, Any]) -> Reply:
    """An answer of /chat/completions.

    Raises:
        Malformed: it is none.
    """
    made = _object(body.get("itscale"))
    method_on = str(made.get("model")) if made.get("method", "none") != "none" else None
    return Reply(tuple(map(_chat_choice, _choices(body))), counts_in(body), method_on)


def counts_in(body: Mapping[str, Any]) -> Counts | None:
    """The usage an answer states; None if it states none, or nonsense."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return _native_counts(body) if "tokens_evaluated" in body else None
    prompt, generated = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if prompt is None or generated is None:
        return _native_counts(body)
    cached = _count(_object(usage.get("prompt_tokens_details")).get("cached_tokens")) or 0
    hidden = _count(_object(usage.get("completion_tokens_details")).get("reasoning_tokens")) or 0
    return Counts(prompt, min(cached, prompt), generated, min(hidden, generated))


def _native_counts(body: Mapping[str, Any]) -> Counts | None:
    """The usage as llama.cpp's own endpoint states it."""
    prompt, generated = _count(body.get("tokens_evaluated")), _count(body.get("tokens_predicted"))
    if prompt is None or generated is None:
        return None
    cached = _count(_object(body.get("timings")).get("cache_n")) or 0
    return Counts(prompt, min(cached, prompt), generated)


def _choices(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(c, dict) for c in choices):
        raise Malformed("no choices in it")
    return sorted(choices, key=lambda choice: _count(choice.get("index")) or 0)


def _completion_choice(choice: Mapping[str, Any], likeliest: bool) -> Choice:
    text = choice.get("text")
    if not isinstance(text, str):
        raise Malformed("a choice without text")
    ids = choice.get("token_ids")
    tokens = _object(choice.get("logprobs"))
    token_ids = None
    if isinstance(ids, list) and all(_count(i) is not None for i in ids):
        token_ids = tuple(ids)
    return Choice(
        text,
        _finish(choice),
        _stopped_on(choice),
        token_ids,
        _all_of(str, tokens.get("tokens")),
        _logprobs(tokens.get("token_logprobs")),
        _laws(tokens.get("top_logprobs")) if likeliest else None,
    )


def _laws(told: Any) -> tuple[tuple[float, ...], ...] | None:
    if not isinstance(told, list) or not all(isinstance(law, dict) for law in told):
        return None
    laws = [_logprobs(list(law.values())) for law in told]
    return None if None in laws else tuple(law for law in laws if law is not None)


def _chat_choice(choice: Mapping[str, Any]) -> Choice:
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Malformed("a choice without message")
    text = message.get("content")
    if text is not None and not isinstance(text, str):
        raise Malformed("a message whose content is no text")
    content = _object(choice.get("logprobs")).get("content")
    tokens = content if isinstance(content, list) and all(isinstance(t, dict) for t in content) else None
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    return Choice(
        text or "",
        _finish(choice),
        _stopped_on(choice),
        None,
        None if tokens is None else _all_of(str, [t.get("token") for t in tokens]),
        None if tokens is None else _logprobs([t.get("logprob") for t in tokens]),
        reasoning=reasoning if isinstance(reasoning, str) else None,
        tool_calls=_tool_calls(message.get("tool_calls")),
    )


def _tool_calls(calls: Any) -> tuple[Mapping[str, Any], ...]:
    if not calls:
        return ()
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise Malformed("tool calls that are no list of objects")
    return tuple(calls)


def _finish(choice: Mapping[str, Any]) -> str:
    said = choice.get("finish_reason")
    return said if isinstance(said, str) else ""


def _stopped_on(choice: Mapping[str, Any]) -> str | int | None:
    said = choice.get("stop_reason", choice.get("matched_stop"))  # vLLM's word, SGLang's word
    return said if isinstance(said, str | int) else None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _all_of(kind: type[str], values: Any) -> tuple[str, ...] | None:
    return tuple(values) if isinstance(values, list) and all(isinstance(v, kind) for v in values) else None


def _logprobs(values: Any) -> tuple[float, ...] | None:
    if not isinstance(values, list):
        return None
    if not all(isinstance(v, int | float) and not math.isnan(v) for v in values):
        return None
    return tuple(map(float, values))
