"""A judge behind a server of its own, with a price in the file: what an answer costs then."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from itscale.budget import Price
from tests.gateway.worlds import CONFIG, World, toy, within

OWN = Price(prompt_usd=2.0, cached_usd=2.0, generated_usd=5.0)
JUDGE = {"prompt_usd": 3.0, "cached_usd": 1.0, "generated_usd": 20.0}


class JudgeServer(ThreadingHTTPServer):
    """Prefers 2, says so in five tokens, has a word a token, and keeps its own account."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.billed: list[dict[str, Any]] = []

    @property
    def dollars(self) -> float:
        """What the account comes to."""
        cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in self.billed)
        read = sum(usage["prompt_tokens"] for usage in self.billed) - cached
        written = sum(usage["completion_tokens"] for usage in self.billed)
        return (3.0 * read + 1.0 * cached + 20.0 * written) / 1e6


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = self.path == "/v1/models"
        self._send(200 if found else 404, {"data": [{"id": "critic"}]} if found else {"error": {}})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path != "/v1/chat/completions":
            self._send(404, {"error": {"message": "no such path"}})
            return
        if asked.get("stream"):
            self._send(400, {"error": {"message": "stream is not offered"}})
            return
        said = " ".join(message["content"] for message in asked["messages"])
        verdict = "Score: 9" if "Answer: 2" in said else "Score: 2"
        usage = {
            "prompt_tokens": len(said.split()),
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens": 5,
        }
        self.server.billed.append(usage)
        choice = {"index": 0, "message": {"role": "assistant", "content": f"Well.\n{verdict}"}}
        self._send(200, {"choices": [{**choice, "finish_reason": "stop"}], "usage": usage})

    def _send(self, status: int, answer: Any) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def judging() -> Iterator[JudgeServer]:
    with JudgeServer() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("price", [JUDGE, {}])
def test_a_judge_is_paid_at_the_price_in_the_file(price: dict[str, float]):
    """To the token as its server counts them, beside the model at its own price; without a price, nothing.
    What finding out about the server took is in no answer's account."""
    with judging() as server:
        spec = f"judge:openai:critic@http://127.0.0.1:{server.server_port}/v1#"
        sections = {
            "models": {"toy": {**CONFIG["models"]["toy"], "scorer": "critic"}},
            "scorers": {**CONFIG["scorers"], "critic": {"spec": spec, **price}},
        }

        async def ask(world: World) -> tuple[dict[str, Any], str]:
            assert await world.gateway.runtime.scorer("critic") is not None
            server.billed.clear()
            answer = (await world.chat("best-of-n:n=3/toy", seed=1)).json()
            return answer, (await world.client.get("/metrics")).text

        answer, metrics = within(ask, toy(price=OWN), **sections)
    block = answer["itscale"]
    assert (block["scorer"], block["answer"]) == ("critic", "2")
    assert len(server.billed) == block["spend"]["scoring"]["calls"] >= 2
    spent = block["spend"]["generation"]
    own = (2.0 * spent["prompt_tokens"] + 5.0 * spent["generated_tokens"]) / 1e6
    dollars = block["spend"]["dollars"]
    assert dollars == pytest.approx(own + (server.dollars if price else 0.0), rel=1e-9)
    name = r'itscale_dollars_total\{method="best-of-n",model="toy"\}'
    [counted] = re.findall(rf"^{name} (\S+)$", metrics, re.MULTILINE)
    assert float(counted) == pytest.approx(dollars, rel=1e-9)
