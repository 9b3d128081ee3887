"""A vLLM-like server of scoring models in the test's own event loop, right or wrong on purpose.

Its tokenizer gives each word an id (marks and newlines are words), its model a probability that
depends on every token so far. What was asked is kept in `requests`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

MARK = "<extra_0>"
_WORDS = re.compile(re.escape(MARK) + r"|\n|[^\s<]+|<")


@dataclass
class PoolingServer:
    """One fake server; its fields say what it serves and how it misbehaves."""

    names: Sequence[str] = ("prm",)
    step_pooling: bool = False
    """Rows at the marks alone, as with `step_tag_id`."""
    rows: Callable[[list[Any]], Any] = lambda rows: rows
    """What becomes of the data of an answer."""
    usage: Any = None
    """Instead of the true one."""
    scores: Any = 0.25
    probs: Any = field(default_factory=lambda: [0.25, 0.75])
    context: int | None = None
    faults: list[Callable[[], Awaitable[tuple[int, dict[str, str], bytes]]]] = field(default_factory=list)
    requests: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    _words: dict[str, int] = field(default_factory=dict)

    def ids_of(self, text: str) -> list[int]:
        return [self._words.setdefault(word, 1000 + len(self._words)) for word in _WORDS.findall(text)]

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        return self.ids_of(" ".join(f"[{m['role']}] {m['content']}" for m in messages) + " [assistant]")

    @staticmethod
    def right(ids: Sequence[int]) -> float:
        """The model: the probability of right after these tokens."""
        total = sum((i + 1) * (t + 3) for i, t in enumerate(ids))
        return 0.05 + 0.9 * (total * 0.6180339887 % 1.0)

    def asked(self, path: str) -> list[dict[str, Any]]:
        return [body for where, body, _ in self.requests if where == path]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        raw = b""
        while True:
            message = await receive()
            raw += message.get("body", b"")
            if not message.get("more_body"):
                break
        body = json.loads(raw) if raw else {}
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append((scope["path"], body, headers))
        status, extra, answer = await self._answer(scope["path"], body)
        sent = [(name.encode(), value.encode()) for name, value in extra.items()]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": answer})

    async def _answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        if path == "/v1/models":
            return _json({"data": [{"id": name} for name in self.names]})
        if body.get("model") not in self.names:
            return _json({"error": {"message": f"The model `{body.get('model')}` does not exist."}}, 404)
        if path == "/tokenize":
            ids = self.prompt_ids(body["messages"]) if "messages" in body else self.ids_of(body["prompt"])
            return _json({"tokens": ids})
        if self.faults:
            return await self.faults.pop(0)()
        ids = self._read(body)
        if self.context is not None and len(ids) > self.context:
            return _json({"error": {"message": f"maximum context length is {self.context} tokens"}}, 400)
        item = {"/pooling": self._pooled, "/classify": self._classified, "/score": self._scored}.get(path)
        if item is None:
            return _json({"detail": "Not Found"}, 404)
        usage = self.usage if self.usage is not None else {"prompt_tokens": len(ids)}
        return _json({"data": self.rows([item(ids)]), "usage": usage})

    def _read(self, body: dict[str, Any]) -> list[int]:
        if isinstance(body.get("input"), list):
            return list(body["input"])
        if "messages" in body:
            return self.prompt_ids(body["messages"])
        return self.ids_of(body.get("input") or f"{body['text_1']} {body['text_2']}")

    def _pooled(self, ids: list[int]) -> dict[str, Any]:
        mark = self.ids_of(MARK)[0]
        ends = [i for i, t in enumerate(ids) if not self.step_pooling or t == mark]
        rows = [[1 - p, p] for p in (self.right(ids[: end + 1]) for end in ends)]
        return {"index": 0, "data": rows}

    def _classified(self, ids: list[int]) -> dict[str, Any]:
        return {"index": 0, "label": "x", "probs": self.probs, "num_classes": 2}

    def _scored(self, ids: list[int]) -> dict[str, Any]:
        return {"index": 0, "score": self.scores}


def _json(body: Any, status: int = 200) -> tuple[int, dict[str, str], bytes]:
    return status, {"content-type": "application/json"}, json.dumps(body).encode()
