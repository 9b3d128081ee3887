"""The ways servers continue an answer, and what a probe found of one.

*Token dialect*: /completions takes token ids and gives them back, so a path is continued exactly
where it ended (vLLM; llama.cpp in words of its own, see `llama.py`). *Chat dialect*:
/chat/completions continues a prefilled assistant turn, and text is the unit; where not even that
exists, only whole answers can be sampled.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from itscale.errors import ContextLimitError, ModelError, OptionError, PromptError
from itscale.models.base import Capability
from itscale.models.likeliest import statistics_of
from itscale.models.openai.client import Endpoint
from itscale.models.openai.failures import Refused
from itscale.models.openai.steps import text_steps, token_steps
from itscale.models.openai.stream import Assembly, Streams, stream_fields
from itscale.models.openai.wire import Choice, Malformed, Reply, read_chat, read_completion
from itscale.types import Path, Prompt, Sampling, Step, Until

__all__ = [
    "ChatDialect",
    "Dialect",
    "Facts",
    "Given",
    "Request",
    "TokenDialect",
    "prefilled",
    "token_ids_of",
]

Prefill = Literal["continue", "prefix", "trailing"]
Given = Literal["echo", "prompt_logprobs"]
_REMEMBERED = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one model on one server honours, as a probe found it."""

    model: str
    dialect: Literal["token", "llama", "chat"]
    n: bool
    """n texts in one request; fan-out if not."""
    each: bool = True
    """Whether the tokens of each of n texts are told; only whole answers are asked for together if not."""
    counts_up: bool = False
    """Whether text i of a request with the seed s is that of a request with the seed s + i."""
    seeds: bool
    """The same seed gives the same text."""
    takes_seed: bool
    """Whether requests may name a seed."""
    logprobs: bool
    neutral: bool
    """Whether top_k, min_p and repetition_penalty can be switched off in a request."""
    no_top_k: Literal[-1, 0] = -1
    """What switches top_k off there."""
    limit_field: str = "max_tokens"
    max_context: int | None = None
    """Tokens of prompt and answer together."""
    method_on: str | None = None
    """The model behind, where what was probed is a method of an itscale gateway: its answers come from many
    candidates, which are counted and not shown."""
    slots: int | None = None
    """How many requests the server works on at once, where it says."""
    prefill: Prefill | None = None
    """Chat: how an assistant turn is continued."""
    stop: Literal["included", "named"] | None = None
    """How an answer that hit a stop string is told: it holds the string, or names it."""
    streams: Streams | None = None
    """Whether answers can be had in pieces, and how often the server then says its counts."""
    given: Given | None = None
    """How the log-probabilities of given tokens are asked for, where the server tells them."""
    top_logprobs: int | None = None
    """How many likeliest tokens it is asked for where entropies are wanted; None if it tells none."""
    vocabulary: int | None = None
    """How many tokens there are, where that many are told, so that entropies are exact."""

    @property
    def steps(self) -> bool:
        """Whether answers can be made step by step."""
        return self.stop is not None and (self.dialect != "chat" or self.prefill is not None)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """In the words of the model seam."""
        has = {
            Capability.STEPS: self.steps,
            Capability.SEEDS: self.seeds,
            Capability.LOGPROBS: self.logprobs,
            Capability.FORCING: self.steps,
            Capability.GIVEN: self.given is not None,
            Capability.TOKEN_STATISTICS: self.logprobs and self.top_logprobs is not None,
            Capability.SELF_CERTAINTY: self.logprobs and self.vocabulary is not None,
        }
        return frozenset(capability for capability, honoured in has.items() if honoured)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "steps": self.steps, "entropies": self.entropies}

    @property
    def entropies(self) -> str | None:
        """What the entropies of tokens are, in words; None if there are none."""
        if self.top_logprobs is None:
            return None
        if self.vocabulary is not None:
            return f"exact, from all {self.vocabulary} tokens"
        return f"estimated from the {self.top_logprobs} likeliest tokens, never above the true ones"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be posted where, before n and seed."""

    url: str
    body: Mapping[str, Any]
    until: Until
    """As wanted, or less where the context has no more room."""
    prompt_tokens: int | None
    """Where they are known before the server counts them."""
    told: bool = True
    """Whether the server's log-probabilities are those of what is drawn, as far as the fields go."""


class Dialect(ABC):
    """How paths become requests, and answers steps."""

    assembly: Callable[[], Assembly] = Assembly
    """Puts an answer that comes in pieces together."""

    def __init__(self, endpoint: Endpoint, facts: Facts) -> None:
        self.endpoint = endpoint
        self.facts = facts

    @abstractmethod
    async def request(self, path: Path, until: Until, sampling: Sampling) -> Request | None:
        """What to post for children of `path`; None if the context has no room for another token.

        Raises:
            PromptError: this server cannot read such a prompt.
            ModelError: it could not be asked.
        """

    async def ids_of(self, path: Path) -> list[int]:
        """The token ids of a prompt and all that was said, forced text included.

        Raises:
            ModelError: this dialect has none, or the server could not be asked.
        """
        raise ModelError(f"{self.endpoint.address.url} speaks no token ids; use a server that does")

    async def completed(self, body: dict[str, Any]) -> dict[str, Any]:
        """The server's answer with what it left out of it, where that can be asked for.

        Raises:
            ModelError: the server could not be asked.
        """
        return body

    @abstractmethod
    def read(self, body: Mapping[str, Any], sampling: Sampling) -> Reply:
        """The server's answer. Raises Malformed if it is none."""

    @abstractmethod
    def steps(self, choice: Choice, request: Request, sampling: Sampling, count: int | None) -> list[Step]:
        """The steps of a choice, which has `count` tokens where the server counted them for it alone.

        Raises:
            Malformed: the choice contradicts itself, or nobody knows how many tokens it has.
        """

    def count(self, choice: Choice) -> int | None:
        """How many tokens the server shows a choice to have; None if it shows none."""
        shown = choice.token_ids if choice.token_ids is not None else choice.pieces
        return None if shown is None else len(shown)

    def _common(self, until: Until, sampling: Sampling) -> dict[str, Any]:
        """Every field whose server default may be anything is named."""
        if sampling.top_k and not self.facts.neutral:
            raise OptionError(f"{self.endpoint.address.url} takes no top_k; leave it out")
        body: dict[str, Any] = {
            "model": self.facts.model,
            self.facts.limit_field: until.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if self.facts.neutral:
            body |= {"top_k": sampling.top_k or self.facts.no_top_k, "min_p": 0.0, "repetition_penalty": 1.0}
            if self.facts.no_top_k == 0:
                body["repeat_penalty"] = 1.0  # llama-cpp-python's word for it, and there 1.1 by default
        if self.facts.streams:
            body |= stream_fields(self.facts.streams)
        if until.what == "step":
            body["stop"] = [self.endpoint.address.boundary]
            if self.facts.stop == "included":
                body["include_stop_str_in_output"] = True
        return body


class TokenDialect(Dialect):
    """Token ids in, token ids out."""

    def __init__(self, endpoint: Endpoint, facts: Facts) -> None:
        super().__init__(endpoint, facts)
        self.left_out = 0.0
        """The most probability that entropies told so far have left out at one place."""
        self._ids: dict[Prompt | str, tuple[int, ...]] = {}
        self._reading: dict[Prompt | str, asyncio.Lock] = {}

    async def request(self, path: Path, until: Until, sampling: Sampling) -> Request | None:
        ids = await self.ids_of(path)
        room = (self.facts.max_context or len(ids) + until.max_tokens) - len(ids)
        if room < 1:
            if path.step is not None:
                return None
            raise ContextLimitError(
                f"the prompt has {len(ids)} tokens and the model's context holds {self.facts.max_context}; "
                "shorten it"
            )
        until = Until(until.what, min(until.max_tokens, room))
        url, body = self.posted(ids, until, sampling)
        return Request(url, body, until, len(ids))

    def posted(self, ids: list[int], until: Until, sampling: Sampling) -> tuple[str, dict[str, Any]]:
        """Where to send what, so that the server goes on from `ids`."""
        logprobs = max(1, sampling.top_logprobs)
        body = self._common(until, sampling) | {"prompt": ids, "logprobs": logprobs, "return_token_ids": True}
        return f"{self.endpoint.address.url}/completions", body

    async def read_ids(self, said: Prompt | str) -> tuple[int, ...]:
        """Token ids of a prompt or of text in it, as the server sees it. Errors: those of `token_ids_of`."""
        return await token_ids_of(self.endpoint, self.facts.model, said)

    def read(self, body: Mapping[str, Any], sampling: Sampling) -> Reply:
        return read_completion(body, likeliest=sampling.top_logprobs > 0)

    def steps(self, choice: Choice, request: Request, sampling: Sampling, count: int | None) -> list[Step]:
        statistics, laws = None, choice.likeliest
        if sampling.top_logprobs and laws is not None and len(laws) == len(choice.token_ids or ()):
            statistics = statistics_of(laws, sampling.top_logprobs, self.facts.vocabulary)
            self.left_out = max(self.left_out, statistics.left_out)
        return token_steps(choice, self.endpoint.address.boundary, request.until, sampling, statistics)

    async def ids_of(self, path: Path) -> list[int]:
        ids = [*await self._read_once(path.prompt)]
        for step in path.steps:
            ids += step.token_ids
            if step.text and not step.token_ids:  # forced, or its ids were not told
                ids += await self._read_once(step.text)
        return ids

    async def _read_once(self, said: Prompt | str) -> tuple[int, ...]:
        """The token ids of a prompt or of forced text: asked for once, however many calls want them."""
        while said not in self._ids:
            lock = self._reading.setdefault(said, asyncio.Lock())
            try:
                async with lock:
                    if said not in self._ids:
                        ids = await self.read_ids(said)
                        while len(self._ids) >= _REMEMBERED:
                            del self._ids[next(iter(self._ids))]
                        self._ids[said] = ids
                    return self._ids[said]
            finally:
                self._reading.pop(said, None)
        return self._ids[said]


async def token_ids_of(endpoint: Endpoint, model: str, prompt: Prompt | str) -> tuple[int, ...]:
    """A prompt as the server's chat template and tokenizer write it, or a text that goes on in it.

    Raises:
        PromptError: the template refused the messages.
        ModelError: the server could not be asked, or has no tokenizer to offer.
    """
    body: dict[str, Any]
    if isinstance(prompt, str):
        body = {"model": model, "prompt": prompt, "add_special_tokens": False}
    elif prompt.raw is not None:
        body = {"model": model, "prompt": prompt.raw}
    else:
        body = {"model": model, "messages": messages_of(prompt), "add_generation_prompt": True}
    try:
        answer = await endpoint.post(f"{endpoint.address.root}/tokenize", body)
    except Refused as refused:
        if refused.status == 400:
            raise PromptError(f"the server's chat template refused the messages: {refused.detail}") from None
        raise
    tokens = answer.get("tokens")
    if not isinstance(tokens, list) or not tokens or not all(type(t) is int for t in tokens):
        raise ModelError(f"{endpoint.address.root}/tokenize gives no token ids; use a server that does")
    return tuple(tokens)


class ChatDialect(Dialect):
    """Messages in, text out; a path is continued as a prefilled assistant turn."""

    async def request(self, path: Path, until: Until, sampling: Sampling) -> Request | None:
        url = self.endpoint.address.url
        if sampling.top_logprobs:
            raise PromptError(
                f"{url} tells the statistics of tokens where a prompt is plain messages; leave out "
                f"{', '.join(path.prompt.more) or 'methods that need them'}"
            )
        if path.prompt.raw is not None:
            raise PromptError(f"{url} takes chat messages only; give the prompt as messages")
        if (path.parent is not None or until.what == "step") and not self.facts.steps:
            raise ModelError(
                f"{url} cannot continue an answer; use a method that samples whole ones (majority, best-of-n)"
            )
        body = self._common(until, sampling)
        if self.facts.logprobs:
            body["logprobs"] = True
        body |= prefilled(messages_of(path.prompt), path.text, self.facts.prefill)
        body |= forwarded(path.prompt, body.get("stop", ()))
        told = set(path.prompt.fields) <= _WITHOUT_SAY
        return Request(f"{url}/chat/completions", body, until, None, told)

    def read(self, body: Mapping[str, Any], sampling: Sampling) -> Reply:
        return read_chat(body)

    def steps(self, choice: Choice, request: Request, sampling: Sampling, count: int | None) -> list[Step]:
        boundary = self.endpoint.address.boundary
        if count is None:
            raise Malformed("the server says nowhere how many tokens it generated, so none can be paid for")
        if count > request.until.max_tokens:
            raise Malformed(f"{count} tokens where at most {request.until.max_tokens} were allowed")
        text = choice.text
        if self.facts.stop == "named" and choice.stopped_on == boundary:
            text += boundary
        elif isinstance(choice.stopped_on, str) and choice.stopped_on != boundary:
            text = text.removesuffix(choice.stopped_on)  # a stop of the prompt's own is no part of the answer
        choice = replace(choice, text=text, logprobs=choice.logprobs if request.told else None)
        return text_steps(choice, boundary, request.until, sampling, count)


def messages_of(prompt: Prompt) -> list[dict[str, Any]]:
    """The messages as they are: every role, every turn, every field."""
    return [message.as_given() for message in prompt.messages]


_DECIDED_HERE = (
    *("model", "messages", "prompt", "n", "seed", "temperature", "top_p", "top_k", "max_tokens"),
    *("max_completion_tokens", "stream", "stream_options", "logprobs", "top_logprobs", "echo"),
    *("include_stop_str_in_output", "add_generation_prompt", "continue_final_message"),
)

_WITHOUT_SAY = {"tools", "stop", "user", "metadata", "store", "parallel_tool_calls", "chat_template_kwargs"}
"""Fields of a request that change what the model reads at most, not how its tokens are drawn."""


def forwarded(prompt: Prompt, stops: Sequence[str]) -> dict[str, Any]:
    """The fields of a prompt's own request, its stop strings behind those asked for here.

    Raises:
        PromptError: a field is one that the run decides.
    """
    fields = prompt.fields
    for name in fields:
        if name in _DECIDED_HERE:
            raise PromptError(f"a prompt's request must not name {name}; it is an option of the run or model")
    if fields.get("stop") and stops:
        own = [fields["stop"]] if isinstance(fields["stop"], str) else fields["stop"]
        fields["stop"] = [*stops, *own]
    return fields


def prefilled(messages: list[dict[str, Any]], text: str, style: Prefill | None) -> dict[str, Any]:
    """The fields that let the assistant go on from `text`."""
    if not text:
        return {"messages": messages}
    turn: dict[str, Any] = {"role": "assistant", "content": text}
    if style == "prefix":
        turn["prefix"] = True
    body: dict[str, Any] = {"messages": [*messages, turn]}
    if style == "continue":
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body
