"""The values every room knows: prompts, steps, paths, sampling, usage-free results.

Nothing here computes; everything is immutable. A path is a node with a parent, so a thousand
paths that share a prefix share its memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal, NewType, get_args

from itscale.errors import PromptError

__all__ = [
    "Candidate",
    "End",
    "Json",
    "Message",
    "Path",
    "Problem",
    "Prompt",
    "Sampling",
    "Step",
    "StopReason",
    "Until",
    "to_json",
]

Json = NewType("Json", str)
"""A JSON value as its text: immutable, hashable, and read with `json.loads`. Made by `to_json`."""


def to_json(value: Any) -> Json:
    """A plain value as `Json`, the order of its keys kept (a chat template shows it to the model).

    >>> to_json({"b": [1, None], "a": "x"})
    '{"b":[1,null],"a":"x"}'
    """
    return Json(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


Role = Literal["system", "user", "assistant", "tool", "developer"]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message: a role and a text, and the whole of it where it says more than that.

    More are tool calls and their ids, names, content in parts (images, say), content that is null.
    """

    role: Role
    content: str
    """Its text; of content in parts the texts, one after the other."""
    whole: Json | None = None
    """The message as it was given, where it is more than role and content."""

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Message:
        """The message in the shape of the chat protocol; `as_given` gives the same back.

        >>> Message.of({"role": "user", "content": "hi"})
        Message(role='user', content='hi', whole=None)

        Raises:
            ValueError: its role is unknown, or its content is neither text, parts nor null.
        """
        role: Any = message.get("role")
        content: Any = message.get("content")
        if role not in get_args(Role):
            raise ValueError(f"a message has the role {role!r}; give one of {', '.join(get_args(Role))}")
        if isinstance(content, str) and set(message) == {"role", "content"}:
            return cls(role, content)
        parts = [] if content is None else [content] if isinstance(content, str) else content
        if not isinstance(parts, Sequence) or not all(isinstance(part, str | Mapping) for part in parts):
            raise ValueError("the content of a message is neither text nor parts; give a text or a list")
        texts = [part if isinstance(part, str) else part.get("text", "") for part in parts]
        return cls(role, "".join(text for text in texts if isinstance(text, str)), to_json(dict(message)))

    def as_given(self) -> dict[str, Any]:
        """The message in the shape of the chat protocol, every field of it."""
        given: dict[str, Any] = json.loads(self.whole) if self.whole is not None else {}
        return given or {"role": self.role, "content": self.content}

    @property
    def more(self) -> tuple[str, ...]:
        """What it says beyond a role and a text, by the names of the fields."""
        given = self.as_given()
        fields = [name for name in given if name not in ("role", "content")]
        return (*fields, *(() if isinstance(given.get("content"), str) else ("content",)))


_OF_DRAWING = {
    *("stop", "frequency_penalty", "presence_penalty", "logit_bias", "response_format"),
    *("reasoning_effort", "verbosity", "parallel_tool_calls"),
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be answered: chat messages, or (exactly one of the two) raw text to continue.

    Raises:
        PromptError: both were given, or neither.
    """

    messages: tuple[Message, ...] = ()
    raw: str | None = None
    request: Json | None = None
    """Fields of a chat request that go to the model's server as they are: tools, response_format, stop.

    A JSON object. Not what a run decides itself (model, messages, n, seed, temperature, limits). A
    backend that cannot honour one refuses the prompt."""

    def __post_init__(self) -> None:
        if bool(self.messages) is (self.raw is not None):
            said = "both messages and raw text" if self.messages else "neither messages nor raw text"
            raise PromptError(f"a prompt has {said}; give messages for a chat, or raw to continue a text")

    @classmethod
    def user(cls, text: str) -> Prompt:
        """A prompt of one user message."""
        return cls(messages=(Message("user", text),))

    @property
    def question(self) -> str:
        """The last user message, or the raw text."""
        if self.raw is not None:
            return self.raw
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def fields(self) -> dict[str, Any]:
        """What `request` says, as plain values."""
        said: dict[str, Any] = json.loads(self.request) if self.request is not None else {}
        return said

    @property
    def more(self) -> tuple[str, ...]:
        """What only a chat server can read: fields of the request and of messages, by name."""
        return tuple(dict.fromkeys([*self.fields, *(name for m in self.messages for name in m.more)]))

    @property
    def judged(self) -> Prompt:
        """The prompt as a scorer reads it: without the fields that only say how an answer is drawn."""
        if self.request is None:
            return self
        kept = {name: value for name, value in self.fields.items() if name not in _OF_DRAWING}
        return replace(self, request=to_json(kept) if kept else None)

    def plain(self) -> dict[str, Any]:
        """Plain values that tell it from every other prompt."""
        messages = [
            {"role": m.role, "content": m.content} | ({"whole": m.whole} if m.whole is not None else {})
            for m in self.messages
        ]
        said = {"request": self.request} if self.request is not None else {}
        return {"messages": messages, "raw": self.raw} | said


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt with an id and a private reference. No method ever sees the reference."""

    id: str
    prompt: Prompt
    reference: str
    level: int | None = None


class End(StrEnum):
    """Why a step ended. `LENGTH` (a token limit) and `ABORT` (cut off) never mean finished."""

    BOUNDARY = "boundary"
    EOS = "eos"
    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Step:
    """A chunk of generation.

    `token_ids` includes the boundary or end-of-sequence token it ended on. `logprob` is the sum
    over its tokens in nats under the sampling distribution (after temperature), None where the
    backend does not tell.
    """

    token_ids: tuple[int, ...]
    """Empty where the backend gives text alone."""
    text: str
    end: End
    logprob: float | None = None
    counted: int | None = None
    """How many tokens the backend counted, where it does not give their ids."""
    reasoning: str | None = None
    """What the model thought aloud before it, where the backend keeps that apart from the answer."""
    tool_calls: Json | None = None
    """The tool calls it makes, a list as the chat protocol writes it; its text is what stands beside them."""
    finish: str | None = None
    """The server's own word for why it ended, where `end` says less: tool_calls, content_filter."""
    token_logprobs: tuple[float, ...] | None = None
    """Of each token, nats under the sampling distribution; their sum is `logprob`. None if untold."""
    token_entropies: tuple[float, ...] | None = None
    """Of the law each token was drawn from, in nats, at temperature 1 and before top-p and top-k. From a
    backend of `Model.top_logprobs` the least that what it tells of the law allows."""
    token_certainties: tuple[float, ...] | None = None
    """Of the same laws, KL(uniform, law) in nats: the self-certainty of a text is their mean."""
    forced: bool = False
    """Put there by a method rather than drawn: it was not generated, and has no log-probability."""
    token_ends: tuple[int, ...] | None = None
    """Of each token, where what it says ends in `text`, where the backend tells so that paths can be cut
    there. None where it does not, or spells token ids itself (`Model.forced`)."""

    @property
    def n_tokens(self) -> int:
        """Generated tokens of this step."""
        return len(self.token_ids) if self.counted is None else self.counted


class Path:
    """A prefix of steps: an immutable node that knows its parent. Compared by identity."""

    __slots__ = ("__weakref__", "depth", "n_tokens", "parent", "prompt", "step")

    def __init__(self, prompt: Prompt, parent: Path | None = None, step: Step | None = None) -> None:
        self.prompt = prompt
        self.parent = parent
        self.step = step
        self.depth: int = 0 if parent is None else parent.depth + 1
        """How many steps."""
        self.n_tokens: int = (parent.n_tokens if parent else 0) + (step.n_tokens if step else 0)
        """Generated tokens from the prompt to here; the prompt is not counted."""

    @classmethod
    def root(cls, prompt: Prompt) -> Path:
        """The empty path of a prompt."""
        return cls(prompt)

    def child(self, step: Step) -> Path:
        """This path with one more step."""
        return Path(self.prompt, self, step)

    def nodes(self) -> Iterator[Path]:
        """From this node up to and including the root."""
        node: Path | None = self
        while node is not None:
            yield node
            node = node.parent

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps, first to last."""
        return tuple(n.step for n in self.nodes() if n.step is not None)[::-1]

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All generated token ids, first to last."""
        return tuple(t for step in self.steps for t in step.token_ids)

    @property
    def text(self) -> str:
        """All generated text."""
        return "".join(step.text for step in self.steps)

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The tool calls of the answer, as the chat protocol writes them."""
        return [call for step in self.steps if step.tool_calls for call in json.loads(step.tool_calls)]

    @property
    def finished(self) -> bool:
        """Whether the model itself ended here (end of sequence or a stop string)."""
        return self.step is not None and self.step.end in (End.EOS, End.STOP)

    @property
    def truncated(self) -> bool:
        """Whether a limit or an abort cut this path; it is not finished and cannot go on."""
        return self.step is not None and self.step.end in (End.LENGTH, End.ABORT)

    @property
    def ended(self) -> bool:
        """Finished or truncated: nothing more will be proposed."""
        return self.finished or self.truncated

    def __repr__(self) -> str:
        state = self.step.end.value if self.step else "root"
        return f"Path(depth={self.depth}, n_tokens={self.n_tokens}, {state}, {self.text[-40:]!r})"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""
    top_logprobs: int = 0
    """How many of the likeliest tokens the backend is to tell at every place (`Model.top_logprobs`). It
    changes nothing of what is drawn."""

    @property
    def plain(self) -> bool:
        """Whether tokens are drawn from the model's own law, or are its likeliest."""
        return self.temperature in (0, 1) and self.top_p == 1 and not self.top_k


@dataclass(frozen=True, slots=True)
class Until:
    """Where one extension stops: at the next step boundary, or only when the answer is complete."""

    what: Literal["step", "end"] = "step"
    max_tokens: int = 128
    """Tokens this one extension may generate per child."""


class StopReason(StrEnum):
    """Why a run ended. Anything but `DONE` means a limit bound and the best so far was returned."""

    DONE = "done"
    GENERATIONS = "generations"
    TOKENS = "tokens"
    SCORER_CALLS = "scorer_calls"
    SECONDS = "seconds"
    DOLLARS = "dollars"
    STEPS = "steps"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One path a run ended with.

    `score` is the scorer's aggregated judgement in its own units, `weight` the linear share of the
    method's final distribution (sums to 1 over candidates), `answer` what was extracted, if any.
    """

    path: Path
    answer: str | None
    score: float | None = None
    weight: float | None = None
    step_scores: Sequence[float] = ()

    def to_json(self) -> Mapping[str, Any]:
        """Plain values for `--json` and the store."""
        calls = self.path.tool_calls
        return {
            "text": self.path.text,
            "answer": self.answer,
            "score": self.score,
            "weight": self.weight,
            "step_scores": list(self.step_scores),
            "finished": self.path.finished,
            "truncated": self.path.truncated,
            "tokens": self.path.n_tokens,
        } | ({"tool_calls": calls} if calls else {})
