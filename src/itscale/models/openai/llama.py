"""The token dialect of llama.cpp's own server (`llama-server`), spoken at /completion.

Its OpenAI-compatible endpoints name neither token ids nor the stop string an answer ended on, so
nothing could be continued exactly there. /completion takes ids and gives them back, with
`stop_type` and `stopping_word`.

Answers are streamed: a token an event, each with its log-probability (in one piece the server leaves
out those of the last tokens of an answer that ends on a stop string). Of a character that takes
several tokens a stream shows the last one only, so such an answer is continued from its text. What may
become a stop string is held back, and never shown where the answer reaches its limit inside it: then the
text of those tokens is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from itscale.errors import ModelError, PromptError
from itscale.models.openai.client import Endpoint
from itscale.models.openai.dialects import Request, TokenDialect, messages_of
from itscale.models.openai.failures import Refused
from itscale.models.openai.steps import text_steps
from itscale.models.openai.stream import Assembly, Delta
from itscale.models.openai.wire import Choice, Malformed, Reply, counts_in
from itscale.types import Prompt, Sampling, Step, Until

__all__ = ["LlamaAssembly", "LlamaDialect", "completion_body", "prompt_ids", "read_native"]


class LlamaAssembly(Assembly):
    """An answer of /completion in the making: a token an event, and a last event with the counts."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: list[str] = []
        self._ids: list[int] = []
        self._shown: list[Any] = []
        self._newest: Mapping[str, Any] = {}

    @property
    def over(self) -> bool:
        return self._newest.get("stop") is True

    def add(self, chunk: Mapping[str, Any]) -> list[Delta]:
        text, ids, counts = chunk.get("content"), chunk.get("tokens"), counts_in(chunk)
        if not isinstance(text, str) or not isinstance(ids, list):
            raise Malformed("a piece of a stream without content or tokens")
        self._newest = chunk
        if counts is not None:
            self.counting, self.prompt, self._total = True, counts.prompt, counts.generated
        if self.over:
            return []  # it tells the log-probabilities of the whole once more
        self._texts.append(text)
        self._ids += ids
        self._shown += chunk.get("completion_probabilities") or []
        return [Delta(0, text)]

    def body(self) -> dict[str, Any]:
        own = {"content": "".join(self._texts), "tokens": self._ids, "completion_probabilities": self._shown}
        return {**self._newest, **own}


class LlamaDialect(TokenDialect):
    """Token ids in, token ids out, in llama.cpp's own words."""

    assembly = LlamaAssembly

    def posted(self, ids: list[int], until: Until, sampling: Sampling) -> tuple[str, dict[str, Any]]:
        stops = [self.endpoint.address.boundary] if until.what == "step" else []
        body = completion_body(ids, until.max_tokens, sampling, stops, stream=self.facts.streams is not None)
        return f"{self.endpoint.address.root}/completion", body

    async def completed(self, body: dict[str, Any]) -> dict[str, Any]:
        """With the half stop string at which it reached its limit, which a stream holds back."""
        ids, shown = body.get("tokens"), body.get("completion_probabilities")
        if self.facts.streams is None or body.get("stop_type") != "limit":
            return body
        if not isinstance(ids, list) or not isinstance(shown, list):
            return body
        silent = takewhile(lambda own: isinstance(own, dict) and own.get("token") == "", reversed(shown))
        held = [own["id"] for own in silent][::-1]
        if not held or held != ids[-len(held) :]:
            return body
        answer = await self.endpoint.post(f"{self.endpoint.address.root}/detokenize", {"tokens": held})
        text = answer.get("content")
        if not isinstance(text, str) or not self.endpoint.address.boundary.startswith(text):
            return body
        last = {**shown[-1], "token": text}
        content = str(body.get("content", "")) + text
        return {**body, "content": content, "completion_probabilities": [*shown[:-1], last]}

    def read(self, body: Mapping[str, Any], sampling: Sampling) -> Reply:
        return read_native(body, likeliest=sampling.top_logprobs > 0)

    def steps(self, choice: Choice, request: Request, sampling: Sampling, count: int | None) -> list[Step]:
        if choice.token_ids is None and count is not None:
            return text_steps(choice, self.endpoint.address.boundary, request.until, sampling, count)
        return super().steps(choice, request, sampling, count)

    async def read_ids(self, said: Prompt | str) -> tuple[int, ...]:
        return await prompt_ids(self.endpoint, said)


def completion_body(
    ids: list[int], max_tokens: int, sampling: Sampling, stops: list[str], *, stream: bool = False
) -> dict[str, Any]:
    """A request for /completion. Of the server's samplers only ours run, in our order: its own
    default cuts to top-p before the temperature, which is another distribution."""
    return {
        "prompt": ids,
        "n_predict": max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "samplers": ["temperature", "top_k", "top_p"],
        "stop": stops,
        "return_tokens": True,
        "n_probs": max(1, sampling.top_logprobs),  # one brings the text of each token
        "stream": stream,
    }


def read_native(body: Mapping[str, Any], *, likeliest: bool = False) -> Reply:
    """An answer of /completion; with `likeliest` also what it tells beside the tokens drawn.

    Raises:
        Malformed: it is none.
    """
    text, ids, why = body.get("content"), body.get("tokens"), body.get("stop_type")
    if not isinstance(text, str) or not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise Malformed("no content or no tokens in it")
    shown = body.get("completion_probabilities") or []
    if not isinstance(shown, list) or not all(isinstance(p, dict) for p in shown):
        raise Malformed("completion_probabilities that are no list of objects")
    counts = counts_in(body)
    pieces = _pieces(ids, shown)
    word = body.get("stopping_word") if why == "word" else None
    if word:
        text += word  # the server shows neither the stop string nor the texts of its tokens
        pieces[-1:] = [pieces[-1] + text[len("".join(pieces)) :]] if pieces else []
    finish = "stop" if why in ("eos", "word") else "length"
    told = [p.get("logprob") for p in shown]
    logprobs = tuple(p for p in told if isinstance(p, int | float)) if len(told) == len(ids) else ()
    whole = counts is None or counts.generated == len(ids)
    choice = Choice(
        text,
        finish,
        word or None,
        tuple(ids) if whole else None,
        tuple(pieces),
        logprobs if len(logprobs) == len(ids) else None,
        _laws(shown) if likeliest else None,
    )
    return Reply((choice,), counts)


def _laws(shown: list[dict[str, Any]]) -> tuple[tuple[float, ...], ...] | None:
    """The log-probabilities told at the place of each token that is shown; None if one is no number."""
    laws: list[tuple[Any, ...]] = []
    for own in shown:
        told = own.get("top_logprobs")
        others = [t for t in told if isinstance(t, dict)] if isinstance(told, list) else []
        beside = [] if any(t.get("id") == own.get("id") for t in others) else [own]
        laws.append(tuple(t.get("logprob") for t in (*others, *beside)))
    if not all(isinstance(p, int | float) for law in laws for p in law):
        return None
    return tuple(laws)


def _pieces(ids: list[int], shown: list[dict[str, Any]]) -> list[str]:
    """The text of each token. What is not shown, a part of a character, has its text with the next that is.

    Raises:
        Malformed: something is shown of a token that is not there.
    """
    pieces, at = [""] * len(ids), 0
    for probability in shown:
        while at < len(ids) and ids[at] != probability.get("id"):
            at += 1
        if at == len(ids):
            raise Malformed("probabilities of tokens that it did not generate")
        pieces[at] = str(probability.get("token", ""))
        at += 1
    return pieces


async def prompt_ids(endpoint: Endpoint, prompt: Prompt | str) -> tuple[int, ...]:
    """A prompt as the server's chat template and tokenizer write it, or a text that goes on in it.

    Raises:
        PromptError: the template refused the messages.
        ModelError: the server could not be asked, or is not llama.cpp's.
    """
    root, text = endpoint.address.root, prompt if isinstance(prompt, str) else prompt.raw
    try:
        if text is None:
            assert isinstance(prompt, Prompt)
            answer = await endpoint.post(f"{root}/apply-template", {"messages": messages_of(prompt)})
            text = str(answer.get("prompt"))
        body = {"content": text, "add_special": not isinstance(prompt, str), "parse_special": True}
        tokens = (await endpoint.post(f"{root}/tokenize", body)).get("tokens")
    except Refused as refused:
        if refused.status == 400:
            raise PromptError(f"the server's chat template refused the messages: {refused.detail}") from None
        raise
    if not isinstance(tokens, list) or not tokens or not all(type(t) is int for t in tokens):
        raise ModelError(f"{root}/tokenize gives no token ids; use a server that does")
    return tuple(tokens)
