"""Servers that run in the test's own event loop: an exact language model behind each dialect, and faults.

A prompt's token ids are 1000 and up, one a word; the fake model's ids are below. What was asked is
kept in `requests`, and tokens are counted on this side of the seam.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from itscale.models.fake import FakeModel, sampling_law
from itscale.models.openai.address import Address, Key
from itscale.models.openai.client import Endpoint
from itscale.models.openai.concurrency import Concurrency
from itscale.models.openai.model import OpenAIModel
from itscale.randomness import Seeded
from itscale.types import Sampling
from tests.models.openai.canned import error, ok
from tests.models.openai.transport import Sleeps, Transport

URL = "http://127.0.0.1:8000/v1"
BASE = 1000
ANSWERS = FakeModel(
    {
        (): {"one ": 0.7, "two ": 0.3},
        ("one ",): {"and|": 0.6, "or ": 0.4},
        ("two ",): {"and|": 0.2, "or ": 0.8},
        ("one ", "or "): {"more|": 1.0},
        ("two ", "or "): {"more|": 1.0},
        **{
            row: {"yes": 0.55, "no|": 0.45}
            for row in (
                ("one ", "and|"),
                ("two ", "and|"),
                ("one ", "or ", "more|"),
                ("two ", "or ", "more|"),
            )
        },
        **{
            (*row, word): {"$": 1.0}
            for row in (
                ("one ", "and|"),
                ("two ", "and|"),
                ("one ", "or ", "more|"),
                ("two ", "or ", "more|"),
            )
            for word in ("yes", "no|")
        },
    }
)
"""Two to three steps that end on |, then the end."""


@dataclass
class Said:
    ids: list[int]
    logprobs: list[float]
    finish: str
    stopped_on: str | None
    laws: list[dict[int, float]] = field(default_factory=list)
    """At each place the log-probabilities of the likeliest tokens, and of the one drawn."""


@dataclass
class Server:
    """One fake server; its fields say how it misbehaves."""

    model: FakeModel = field(default_factory=lambda: ANSWERS)
    tokens: bool = True
    """Whether it speaks the token dialect."""
    chat: bool = True
    n: str = "honours"  # or ignores, rejects, copies
    seeds: bool = True
    stride: int = 1  # from the seed of one text of a request to that of the next
    prefill: str | None = "continue"  # or prefix, trailing, None: a closed turn, always a new answer
    stop: str = "included"  # or named, silent
    logprobs: bool = True
    likeliest: int | None = 20
    """How many it tells at most; None if none."""
    laws: str = "raw"  # or sampled: those after temperature
    given: str | None = "echo"  # or prompt_logprobs, wrong, None: neither is known
    rejects: tuple[str, ...] = ()
    """Fields answered with 400."""
    usage: Callable[[dict[str, int]], Any] = lambda usage: usage
    names: Sequence[str] = ("tiny",)
    context: int | None = None
    key: str | None = None
    reasoning: str | None = None
    tool_calls: Sequence[dict[str, Any]] = ()
    """Where a request has tools, every answer makes these calls."""
    streams: str | None = "counting"  # or closing, uncounted, None: answers in one piece whatever was asked
    turns: int = 1
    """Of the event loop that an answer takes; of a streamed one, each token."""
    cuts: list[int] = field(default_factory=list)
    """After how many events the next streams break off."""
    faults: list[Callable[[], Awaitable[tuple[int, dict[str, str], bytes]]]] = field(default_factory=list)
    """Answers to the next generating requests instead of the true ones."""
    last_words: bytes = b"data: [DONE]\n\n"
    """What ends a stream."""
    requests: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    generated: int = 0
    running: int = 0
    peak: int = 0
    aborted: int = 0
    _unseeded: int = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        raw = b""
        while True:
            message = await receive()
            raw += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        body = json.loads(raw) if raw else {}
        self.requests.append((scope["path"], body, headers))
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            for _ in range(self.turns):
                await asyncio.sleep(0)
            status, extra, answer = await self._answer(scope["path"], body, headers)
            if not isinstance(answer, bytes):
                await self._send_events(send, answer)
                return
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.running -= 1
        sent = [(name.encode(), value.encode()) for name, value in extra.items()]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": answer})

    async def _send_events(self, send: Any, events: Iterator[dict[str, Any]]) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        left = self.cuts.pop(0) if self.cuts else math.inf
        for event in events:
            for _ in range(self.turns):
                await asyncio.sleep(0)
            data = f"data: {json.dumps(event)}\n\n".encode()
            await send({"type": "http.response.body", "body": data, "more_body": True})
            self.generated += self._made(event)
            left -= 1
            if left < 1:
                raise httpx.RemoteProtocolError("peer closed connection without sending the whole body")
        await send({"type": "http.response.body", "body": self.last_words})

    def _made(self, event: dict[str, Any]) -> int:
        """How many tokens an event shows."""
        return sum(1 for choice in event["choices"] if "finish_reason" in choice)

    async def _answer(
        self, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> tuple[int, dict[str, str], Any]:
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            return error(401, f"Incorrect API key provided: {headers.get('authorization')}")
        if path == "/v1/models":
            return ok({"data": [{"id": name, "max_model_len": self.context} for name in self.names]})
        if path == "/tokenize" and self.tokens:
            if body.get("add_special_tokens") is False:
                return ok({"tokens": self.ids_of(body["prompt"])})
            words = body.get("prompt") or " ".join(m["content"] for m in body["messages"])
            return ok({"tokens": [BASE + i for i in range(len(words.split()))]})
        if path.endswith("completions") and self.faults:
            return await self.faults.pop(0)()
        k = int(body.get("logprobs") or 0)
        if self.likeliest is not None and (k if k >= 0 else len(self.model.vocabulary)) > self.likeliest:
            return error(400, f"Requested sample logprobs of {k}, greater than max allowed: {self.likeliest}")
        refused = [name for name in self.rejects if name in body]
        if refused:
            return error(400, f"Unrecognized request argument supplied: {refused[0]}")
        if path == "/v1/completions" and self.tokens:
            prefix = [i for i in body["prompt"] if i < BASE]
            if body.get("echo") or "prompt_logprobs" in body:
                return self._tell(body, prefix)
            return self._generate(body, prefix, len(body["prompt"]), self._text_choice)
        if path == "/v1/chat/completions" and self.chat:
            return self._chat(body)
        return error(404, "Not Found")

    def _tell(self, body: dict[str, Any], prefix: list[int]) -> tuple[int, dict[str, str], bytes]:
        """Log-probabilities of the tokens of a prompt; those of the prompt's own words do not matter."""
        if self.given not in ("wrong", "echo" if body.get("echo") else "prompt_logprobs"):
            return error(400, "Unrecognized request argument supplied")
        words = [i for i in body["prompt"] if i >= BASE]
        laws = [self.model.probabilities(prefix[:at]) for at in range(len(prefix))]
        told = [-7.0 for _ in words] + [math.log(law[i]) for law, i in zip(laws, prefix, strict=True)]
        told = [p + (self.given == "wrong") * -1.0 for p in told]
        self.generated += body["max_tokens"]
        choice: dict[str, Any] = {"index": 0, "text": "", "finish_reason": "length"}
        if body.get("echo"):
            choice["logprobs"] = {"token_logprobs": [None, *told[1:]], "tokens": [""] * len(told)}
        else:
            rows = zip(body["prompt"], told, strict=True)
            choice["prompt_logprobs"] = [None, *({str(i): {"logprob": p}} for i, p in list(rows)[1:])]
        usage = {"prompt_tokens": len(told), "completion_tokens": body["max_tokens"]}
        return ok({"choices": [choice], "usage": usage})

    def _chat(self, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        messages, prefix = body["messages"], []
        asked = {
            "continue": body.get("continue_final_message") is True
            and body.get("add_generation_prompt") is False,
            "prefix": messages[-1].get("prefix") is True,
            "trailing": True,
        }
        if messages[-1]["role"] == "assistant" and self.prefill and asked[self.prefill]:
            prefix = self.ids_of(messages[-1]["content"])
        read = sum(len(m["content"].split()) for m in messages if isinstance(m.get("content"), str))
        return self._generate(body, prefix, read, self._message_choice)

    def _generate(
        self, body: dict[str, Any], prefix: list[int], read: int, choice: Callable[..., dict[str, Any]]
    ) -> tuple[int, dict[str, str], Any]:
        limit = body.get("max_tokens", body.get("max_completion_tokens"))
        if self.context is not None and read + limit > self.context:
            return error(400, f"This model's maximum context length is {self.context} tokens.")
        n = body.get("n", 1)
        if n > 1 and (self.n == "rejects" or body["temperature"] == 0):
            return error(400, "n must be 1")
        n = 1 if self.n == "ignores" else n
        seed = body.get("seed") if self.seeds else None
        if seed is None:
            self._unseeded += 1
            seed = self._unseeded + 10**6
        said = [
            self._say(body, prefix, limit, seed + (0 if self.n == "copies" else i * self.stride))
            for i in range(n)
        ]
        made = sum(len(one.ids) for one in said)
        if body.get("stream") and self.streams:
            choices = [choice(i, one, body, prefix) for i, one in enumerate(said)]
            return 200, {}, self._events(body, said, choices, read)
        self.generated += made
        usage = self.usage({"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made})
        return ok({"choices": [choice(i, one, body, prefix) for i, one in enumerate(said)], "usage": usage})

    def _events(
        self, body: dict[str, Any], said: list[Said], choices: list[dict[str, Any]], read: int
    ) -> Iterator[dict[str, Any]]:
        """An event a token, the texts in turn, and one with the usage."""
        made = sum(len(one.ids) for one in said)
        for at in range(max(len(one.ids) for one in said)):
            for one, choice in zip(said, choices, strict=True):
                if at >= len(one.ids):
                    continue
                event: dict[str, Any] = {"choices": [self._piece(one, choice, at)]}
                if self.streams == "counting" and body["stream_options"].get("continuous_usage_stats"):
                    event["usage"] = self.usage({"prompt_tokens": read, "completion_tokens": at + 1})
                yield event
        if self.streams != "uncounted" and body["stream_options"].get("include_usage"):
            yield {"choices": [], "usage": self.usage({"prompt_tokens": read, "completion_tokens": made})}

    def _piece(self, said: Said, choice: dict[str, Any], at: int) -> dict[str, Any]:
        """One token of a text, and with the last what the whole is told to be."""
        last = at == len(said.ids) - 1
        whole: str = choice["text"] if "text" in choice else choice["message"]["content"]
        edges = [len(self.model.text_of(said.ids[: at + i])) for i in (0, 1)]
        text = whole[edges[0] :] if last else whole[edges[0] : edges[1]]
        ends = {k: choice[k] for k in ("finish_reason", "stop_reason") if k in choice}
        piece = {"index": choice["index"], **(ends if last else dict.fromkeys(ends))}
        shown = choice.get("logprobs")
        if "text" in choice:
            piece |= {"text": text, "token_ids": [said.ids[at]] if choice["token_ids"] else None}
            return piece | {"logprobs": shown and {name: [values[at]] for name, values in shown.items()}}
        delta: dict[str, Any] = {"content": text} | ({"role": "assistant"} if at == 0 else {})
        message = choice["message"]
        if at == 0 and message.get("reasoning_content"):
            delta["reasoning_content"] = message["reasoning_content"]
        if last and message.get("tool_calls"):
            delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(message["tool_calls"])]
        return piece | {"delta": delta, "logprobs": shown and {"content": [shown["content"][at]]}}

    def _say(self, body: dict[str, Any], prefix: list[int], limit: int, seed: int) -> Said:
        assert {"temperature", "top_p"} <= set(body), "a server's own defaults must not show"
        law_of, draws = Sampling(temperature=body["temperature"], top_p=body["top_p"]), Seeded(seed)
        ids, logprobs, text, laws = [], [], "", []
        k = body.get("n_probs") or int(body.get("logprobs") or 0)
        while len(ids) < limit:
            raw = self.model.probabilities([*prefix, *ids])
            token = draws.choose(sampling_law(raw, law_of))
            ids.append(token)
            law = sampling_law(raw, law_of) if self.laws == "sampled" else raw
            logprobs.append(math.log(law[token]))
            laws.append(self._likeliest(law, k, token))
            text += self.model.text_of([token])
            if self.model.vocabulary[token] == self.model.eos:
                return Said(ids, logprobs, "stop", None, laws)
            for stop in body.get("stop", ()):
                if stop in text:
                    return Said(ids, logprobs, "stop", stop, laws)
        return Said(ids, logprobs, "length", None, laws)

    def _likeliest(self, law: Sequence[float], k: int, drawn: int) -> dict[int, float]:
        if self.likeliest is None:
            return {drawn: math.log(law[drawn])}
        best = sorted(range(len(law)), key=lambda i: -law[i])[: len(law) if k < 0 else k]
        return {i: max(-9999.0, math.log(law[i] or 1e-300)) for i in {drawn: None} | dict.fromkeys(best)}

    def _named(self, law: dict[int, float], body: dict[str, Any]) -> dict[str, float]:
        """What a token is called: its text, which several may have, or its number."""
        if body.get("return_tokens_as_token_ids"):
            return {f"token_id:{i}": p for i, p in law.items()}
        return {self.model.vocabulary[i].lower(): p for i, p in law.items()}

    def _text_choice(self, index: int, said: Said, body: dict[str, Any], prefix: list[int]) -> dict[str, Any]:
        pieces = [self.model.vocabulary[i] for i in said.ids]
        return {
            "index": index,
            "text": self._shown(said, body),
            "finish_reason": said.finish,
            "stop_reason": said.stopped_on,
            "token_ids": said.ids if body.get("return_token_ids") else None,
            "logprobs": {
                "tokens": pieces,
                "token_logprobs": said.logprobs,
                "top_logprobs": [self._named(law, body) for law in said.laws],
            }
            if self.logprobs
            else None,
        }

    def _message_choice(
        self, index: int, said: Said, body: dict[str, Any], prefix: list[int]
    ) -> dict[str, Any]:
        message = {"role": "assistant", "content": self._shown(said, body)}
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        choice: dict[str, Any] = {"index": index, "message": message, "finish_reason": said.finish}
        if self.tool_calls and body.get("tools"):
            message["tool_calls"], choice["finish_reason"] = list(self.tool_calls), "tool_calls"
        if self.stop != "silent":
            choice["stop_reason"] = said.stopped_on
        if self.logprobs and body.get("logprobs"):
            pieces = zip(said.ids, said.logprobs, strict=True)
            choice["logprobs"] = {
                "content": [{"token": self.model.vocabulary[i], "logprob": p} for i, p in pieces]
            }
        return choice

    def _shown(self, said: Said, body: dict[str, Any]) -> str:
        text = self.model.text_of(said.ids)
        if said.stopped_on is None:
            return text
        end = text.index(said.stopped_on)
        included = self.stop == "included" and body.get("include_stop_str_in_output")
        return text[: end + len(said.stopped_on)] if included else text[:end]

    def ids_of(self, text: str) -> list[int]:
        """The tokens of a prefilled text; the fake's vocabulary makes them unique."""
        ids = []
        while text:
            [token] = [t for t in self.model.vocabulary if t != self.model.eos and text.startswith(t)]
            ids.append(self.model.vocabulary.index(token))
            text = text[len(token) :]
        return ids

    def asked(self, path: str) -> list[dict[str, Any]]:
        """The bodies of the requests to a path."""
        return [body for where, body, _ in self.requests if where == path]


def endpoint_at(
    server: Any,
    *,
    url: str = URL,
    model: str = "tiny",
    timeout_s: float = 5.0,
    key: str | None = None,
    sleep: Sleeps | None = None,
    concurrency: Concurrency | None = None,
    top_logprobs: int | None = None,
) -> Endpoint:
    """The endpoint of a fake; time passes at once, and jitter is one half."""
    address = Address(model, url, boundary="|", timeout_s=timeout_s, top_logprobs=top_logprobs)
    return Endpoint(
        address,
        Key(key, address.host) if key else None,
        transport=Transport(server),
        sleep=sleep or Sleeps(),
        jitter=lambda: 0.5,
        concurrency=concurrency,
    )


async def connected(server: Server, **options: Any) -> OpenAIModel:
    """A model on the fake, probed; what the probe asked for is forgotten again."""
    model = await OpenAIModel.connect(endpoint_at(server, **options))
    server.requests.clear()
    server.generated = 0
    return model
