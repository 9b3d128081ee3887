"""Answers that come in pieces: server-sent events, and the whole answer that they add up to.

What has come is known at any moment, so an answer that is cut off or no longer wanted is paid for
to the token that arrived (what was still on its way is not seen). A server that shows neither tokens
nor counts before the end is taken to send a token in each piece with text: no fewer were made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from itscale.models.openai.wire import Malformed, counts_in

__all__ = ["STREAMS", "Assembly", "Delta", "Events", "Streams", "stream_fields"]

Streams = Literal["counting", "closing"]
"""Whether a server states its token counts with every piece of a stream, or at its end."""
STREAMS: tuple[Streams, ...] = ("counting", "closing")


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of one of the texts of an answer, as it arrives."""

    index: int
    text: str
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """Pieces of calls, as the server sends them."""
    last: bool = False
    """Whether its text is whole with it."""


def stream_fields(style: Streams) -> dict[str, Any]:
    """What a request says to be answered in pieces."""
    options = {"include_usage": True} | ({"continuous_usage_stats": True} if style == "counting" else {})
    return {"stream": True, "stream_options": options}


class Events:
    """Server-sent events out of blocks of bytes; those of this protocol have one line of data each."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, block: bytes) -> list[bytes]:
        """The data of each event that has come with this block."""
        *lines, self._rest = (self._rest + block).split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]

    def end(self) -> list[bytes]:
        """What has come without the end of its line."""
        return self.feed(b"\n")


@dataclass(slots=True)
class _Part:
    """One of the n texts in the making."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)
    tokens: list[Any] = field(default_factory=list)
    """Texts of tokens (/completions), or objects that hold them (/chat/completions)."""
    logprobs: list[Any] = field(default_factory=list)
    likeliest: list[Any] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    finish: Any = None
    stopped_on: Any = None
    counted: int = 0
    pieces: int = 0
    """How many events said something: no fewer tokens came."""

    @property
    def generated(self) -> int:
        """Tokens so far: as shown, else as counted by the server, else as many as came in pieces."""
        return max(len(self.ids), len(self.tokens)) or self.counted or self.pieces


class Assembly:
    """One answer in the making."""

    def __init__(self) -> None:
        self.prompt = 0
        """Tokens of the prompt, once the server said."""
        self.counting = False
        """Whether pieces carry the counts so far."""
        self._parts: dict[int, _Part] = {}
        self._chat = False
        self._usage: Any = None
        self._total = 0

    @property
    def over(self) -> bool:
        """Whether the last event was, where a server says so in the event itself."""
        return False

    @property
    def generated(self) -> int:
        """Tokens that have come so far, of all texts."""
        return max(self._total, sum(part.generated for part in self._parts.values()))

    def add(self, chunk: Mapping[str, Any]) -> list[Delta]:
        """One event; what it says of each text.

        Raises:
            Malformed: it is not as the protocol says.
        """
        counts = counts_in(chunk)
        if counts is not None:
            self.prompt = counts.prompt
        choices = chunk.get("choices")
        if not choices:
            self._usage = chunk.get("usage") or self._usage
            self._total = counts.generated if counts else self._total
            return []
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise Malformed("a piece of a stream whose choices are none")
        deltas = [self._take(choice) for choice in choices]
        if counts is not None:
            self.counting = True
            self._usage = chunk["usage"]  # of the last event at least, where there is no closing one
            if len(deltas) == 1:
                self._parts[deltas[0].index].counted = counts.generated
        return deltas

    @property
    def numbers(self) -> list[int]:
        """Of the texts so far, in order."""
        return sorted(self._parts)

    @property
    def whole(self) -> dict[int, int]:
        """The texts that have ended: their numbers, and how many tokens of each have come."""
        return {i: part.generated for i, part in self._parts.items() if part.finish is not None}

    def body(self) -> dict[str, Any]:
        """The answer as it would have come in one piece."""
        return {"choices": [self._choice(index) for index in self.numbers], "usage": self._usage}

    def alone(self, index: int) -> dict[str, Any]:
        """One of the texts so far, as an answer of its own without counts."""
        return {"choices": [self._choice(index)]}

    def _choice(self, index: int) -> dict[str, Any]:
        part, whole = self._parts[index], _message if self._chat else _completion
        return {"index": index, "finish_reason": part.finish, "stop_reason": part.stopped_on, **whole(part)}

    def _take(self, choice: dict[str, Any]) -> Delta:
        index = choice.get("index", 0)
        if type(index) is not int or index < 0:
            raise Malformed("a piece of a stream without the number of its text")
        part = self._parts.get(index)
        if part is None:
            part = self._parts[index] = _Part()
        delta = choice.get("delta")
        last = choice.get("finish_reason") is not None
        if isinstance(delta, dict):
            self._chat = True
            said = _chat_piece(part, index, delta, choice.get("logprobs"), last)
        else:
            said = _text_piece(part, index, choice, last)
        if last:
            part.finish = choice["finish_reason"]
            part.stopped_on = choice.get("stop_reason", choice.get("matched_stop"))
        part.pieces += bool(said.text or said.reasoning or said.tool_calls)
        return said


def _text_piece(part: _Part, index: int, choice: dict[str, Any], last: bool) -> Delta:
    text = choice.get("text")
    if not isinstance(text, str):
        raise Malformed("a piece of a stream without text")
    part.texts.append(text)
    _extend(part.ids, choice.get("token_ids"))
    tokens = choice.get("logprobs")
    if isinstance(tokens, dict):
        _extend(part.tokens, tokens.get("tokens"))
        _extend(part.logprobs, tokens.get("token_logprobs"))
        _extend(part.likeliest, tokens.get("top_logprobs"))
    return Delta(index, text, last=last)


def _chat_piece(part: _Part, index: int, delta: dict[str, Any], logprobs: Any, last: bool) -> Delta:
    text = delta.get("content") or ""
    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
    calls = delta.get("tool_calls") or ()
    if not (isinstance(text, str) and isinstance(thought, str) and isinstance(calls, list | tuple)):
        raise Malformed("a piece of a stream whose content is no text")
    part.texts.append(text)
    part.thoughts.append(thought)
    for call in calls:
        _join_call(part.calls, call)
    if isinstance(logprobs, dict):
        _extend(part.tokens, logprobs.get("content"))
    return Delta(index, text, thought, tuple(calls), last)


def _join_call(calls: dict[int, dict[str, Any]], piece: Any) -> None:
    """A piece of a tool call put behind those before it: names and ids come whole, arguments in pieces."""
    if not isinstance(piece, dict):
        raise Malformed("a piece of a tool call that is no object")
    index = piece.get("index", len(calls))
    call = calls.setdefault(index, {})
    call.update({k: v for k, v in piece.items() if k not in ("index", "function") and v is not None})
    function = piece.get("function")
    if isinstance(function, dict):
        whole = call.setdefault("function", {})
        arguments = function.get("arguments")
        whole.update({k: v for k, v in function.items() if k != "arguments" and v is not None})
        if isinstance(arguments, str):
            whole["arguments"] = whole.get("arguments", "") + arguments


def _extend(values: list[Any], more: Any) -> None:
    if isinstance(more, list):
        values.extend(more)


def _completion(part: _Part) -> dict[str, Any]:
    shown = {"tokens": part.tokens, "token_logprobs": part.logprobs, "top_logprobs": part.likeliest}
    told = shown if part.tokens else None
    return {"text": "".join(part.texts), "token_ids": part.ids or None, "logprobs": told}


def _message(part: _Part) -> dict[str, Any]:
    message: dict[str, Any] = {
        "content": "".join(part.texts),
        "reasoning_content": "".join(part.thoughts) or None,
    }
    message |= {"tool_calls": [call for _, call in sorted(part.calls.items())]} if part.calls else {}
    return {"message": message, "logprobs": {"content": part.tokens} if part.tokens else None}
