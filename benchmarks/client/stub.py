"""A model server that costs little, misbehaves when told to, and keeps a bill.

Speaks the token dialect (/v1/models, /tokenize, /v1/completions, whole or streamed, with `n`): answers are
five tokens a line, four lines, drawn from the seed. Told to misbehave, it answers a share of requests with
500 or 429, cuts them in the middle, holds them for a moment, or for longer than anybody should wait.

The bill (GET /stats) has what a client can know of: a token is billed when it was written to a connection
that was open, a prompt with its first token. Cut connections are closed only when everything written before
is on its way, so none of it is lost.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

__all__ = ["Faults", "bill", "misbehave", "stub"]

ROOT = Path(__file__).parents[2]
EOS, LINE, SAYS, FORTY_TWO, WORDS = 0, 1, 2, 3, 4
"""Token ids: the end, the boundary, "Answer:", " 42", and from there on words."""
VOCABULARY = ["", "\n", "Answer:", " 42", *(f" w{i}" for i in range(60))]
PER_LINE, LINES = 5, 4
BASE = 1000
"""A prompt's ids are from here on, one a word."""
LOGPROB = -4.0


@dataclass(frozen=True)
class Faults:
    """How a stub misbehaves: shares of its generating requests, and seconds."""

    errors: float = 0.0
    """Half 500, half 429 with Retry-After."""
    cuts: float = 0.0
    spikes: float = 0.0
    """Held for `spike_s` before the first token."""
    stalls: float = 0.0
    """Held for `stall_s`, more than a client's time limit."""
    latency_s: float = 0.0
    spike_s: float = 0.5
    stall_s: float = 5.0
    retry_after_s: float = 0.2
    streams: bool = True
    """Whether answers come in pieces where that is asked for."""


@contextmanager
def stub() -> Iterator[str]:
    """The URL, up to /v1, of a stub in a process of its own; when the block is left it is gone."""
    command = [sys.executable, "-m", "benchmarks.client.stub"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


def bill(url: str) -> dict[str, int]:
    """What a stub counted so far."""
    counted: dict[str, int] = httpx.get(url.removesuffix("/v1") + "/stats", timeout=30).json()
    return counted


def misbehave(url: str, faults: Faults) -> None:
    """From now on like that, and with an empty bill."""
    httpx.post(url.removesuffix("/v1") + "/misbehave", json=asdict(faults), timeout=30).raise_for_status()


@dataclass
class Bill:
    """What was asked, and what was written out."""

    requests: int = 0
    running: int = 0
    peak: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    connections: int = 0
    open: int = 0
    errors: int = 0
    cuts: int = 0
    spikes: int = 0
    stalls: int = 0
    hung_up: int = 0
    """The client closed its connection while its answer was on the way."""


@dataclass
class Stub:
    """One server."""

    faults: Faults = field(default_factory=Faults)
    bill: Bill = field(default_factory=Bill)
    draws: random.Random = field(default_factory=lambda: random.Random(0))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request after the other."""
        self.bill.connections += 1
        self.bill.open += 1
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    at = head.lower().find(b"content-length:")
                    length = int(head[at + 15 : head.index(b"\r\n", at)]) if at >= 0 else 0
                    body = json.loads(await reader.readexactly(length)) if length else {}
                    if not await self.answer(head.split(b" ", 2)[1], body, reader, writer):
                        break
                    await writer.drain()
        finally:
            self.bill.open -= 1
            writer.close()

    async def answer(
        self, path: bytes, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """One request; whether the connection stays."""
        if path == b"/v1/models":
            return reply(writer, {"data": [{"id": "stub"}]})
        if path == b"/tokenize":
            words = body.get("prompt") or " ".join(m["content"] for m in body["messages"])
            return reply(writer, {"tokens": [BASE + i for i in range(len(words.split()))]})
        if path == b"/stats":
            return reply(writer, asdict(self.bill))
        if path == b"/misbehave":  # the probe is over
            self.faults = Faults(**body)
            self.bill, self.draws = Bill(open=self.bill.open), random.Random(0)
            return reply(writer, {})
        if path != b"/v1/completions" or "echo" in body or "prompt_logprobs" in body:
            return reply(writer, {"error": {"message": "Not Found"}}, b"404 Not Found")
        self.bill.requests += 1
        self.bill.running += 1
        self.bill.peak = max(self.bill.peak, self.bill.running)
        try:
            return await self.complete(body, reader, writer)
        finally:
            self.bill.running -= 1

    async def complete(
        self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """A generating request, and what goes wrong with it."""
        faults, fault = self.faults, self.draws.random()
        edges = [faults.errors, faults.cuts, faults.spikes, faults.stalls]
        error, cut, spike, stall = (sum(edges[:i]) <= fault < sum(edges[: i + 1]) for i in range(4))
        self.bill.errors += error
        self.bill.cuts += cut
        self.bill.spikes += spike
        self.bill.stalls += stall
        await asyncio.sleep(faults.latency_s + spike * faults.spike_s + stall * faults.stall_s)
        if reader.at_eof() or writer.is_closing():
            self.bill.hung_up += 1
            return False
        if error:
            if self.draws.random() < 0.5:
                return reply(writer, {"error": {"message": "oops"}}, b"500 Internal Server Error")
            wait = b"retry-after: %g\r\n" % faults.retry_after_s
            return reply(writer, {"error": {"message": "slow down"}}, b"429 Too Many Requests", wait)
        said = [generate(body, i) for i in range(body.get("n", 1))]
        read = len(body["prompt"])
        if body.get("stream") and faults.streams:
            return self.streamed(writer, said, read, cut)
        usage = {"prompt_tokens": read, "completion_tokens": sum(len(one.ids) for one in said)}
        whole = {"choices": [choice(i, one) for i, one in enumerate(said)], "usage": usage}
        if cut:  # of half an answer in one piece a client knows nothing, so none of it is billed
            announced = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 90000\r\n\r\n"
            writer.write(announced + json.dumps(whole).encode()[:100])
            return False
        self.charge(read, usage["completion_tokens"])
        return reply(writer, whole)

    def streamed(self, writer: asyncio.StreamWriter, said: list[Said], read: int, cut: bool) -> bool:
        """An event a token, the texts in turn; cut somewhere before the end."""
        events = [
            {"choices": [choice(i, one, at)]}
            for at in range(max(len(one.ids) for one in said))
            for i, one in enumerate(said)
            if at < len(one.ids)
        ]
        made = len(events)
        if cut:
            made = self.draws.randrange(made)
            del events[made:]
        lines = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        if not cut:
            usage = {"prompt_tokens": read, "completion_tokens": made}
            lines.append(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
            lines.append(b"data: [DONE]\n\n")
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in lines)
        writer.write(head + chunks + (b"" if cut else b"0\r\n\r\n"))
        if made:
            self.charge(read, made)
        return not cut

    def charge(self, read: int, made: int) -> None:
        """An answer, or a part of one, went out."""
        self.bill.prompt_tokens += read
        self.bill.generated_tokens += made


@dataclass(frozen=True)
class Said:
    """One of n texts."""

    ids: list[int]
    finish: str
    stopped_on: str | None = None


def generate(body: dict[str, Any], index: int) -> Said:
    """One text. Greedy says the first word; else position and seed decide."""
    before = sum(1 for i in body["prompt"] if i < BASE)
    seed = 0 if body["temperature"] == 0 else body.get("seed", 0) + index + 1
    ids: list[int] = []
    while len(ids) < body["max_tokens"]:
        at = before + len(ids)
        line, column = divmod(at, PER_LINE)
        if line >= LINES - 1:
            ids.append((SAYS, FORTY_TWO, EOS)[min(column, 2)])
        elif column == PER_LINE - 1:
            ids.append(LINE)
        else:
            ids.append(WORDS + (random.Random(seed * 1009 + at).randrange(60) if seed else 0))
        if ids[-1] == EOS:
            return Said(ids, "stop")
        for stop in body.get("stop", ()):
            if stop in VOCABULARY[ids[-1]]:
                return Said(ids, "stop", stop)
    return Said(ids, "length")


def choice(index: int, said: Said, at: int | None = None) -> dict[str, Any]:
    """One text as /completions says it, or one token of it."""
    ids = said.ids if at is None else [said.ids[at]]
    last = at is None or at == len(said.ids) - 1
    texts = [VOCABULARY[i] for i in ids]
    return {
        "index": index,
        "text": "".join(texts),
        "finish_reason": said.finish if last else None,
        "stop_reason": said.stopped_on if last else None,
        "token_ids": ids,
        "logprobs": {"tokens": texts, "token_logprobs": [LOGPROB] * len(ids)},
    }


def reply(
    writer: asyncio.StreamWriter, said: dict[str, Any], status: bytes = b"200 OK", more: bytes = b""
) -> bool:
    """A JSON answer."""
    body = json.dumps(said).encode()
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
    writer.write(head % (status, more, len(body)) + body)
    return True


async def main() -> None:
    """Serve until ended."""
    server = await asyncio.start_server(Stub().serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        try:
            import uvloop

            uvloop.run(main())
        except ImportError:
            asyncio.run(main())
