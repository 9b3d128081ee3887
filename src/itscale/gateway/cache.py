"""Answers kept for equal requests, where the operator asks for it: only requests that ask for one
reproducible answer (a seed, or temperature 0), never streams, never faults."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from typing import Any

__all__ = ["Cache"]


class Cache:
    """The last `size` answers used, least recently used out first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def key(self, route: str, who: str | None, said: dict[str, Any], options: dict[str, Any]) -> str | None:
        """What an equal request would have; None for one that is not kept. Keys never share answers."""
        fixed = said.get("seed") is not None or said.get("temperature") == 0
        if not self.size or said.get("stream") or not fixed:
            return None
        text = json.dumps([route, who, said, options], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def get(self, key: str | None) -> dict[str, Any] | None:
        """An answer kept; it took nothing this time, and its usage says so."""
        if key is None or key not in self._kept:
            return None
        self._kept.move_to_end(key)
        kept = self._kept[key]
        nothing = {
            name: 0 if isinstance(n, int) else dict.fromkeys(n, 0) for name, n in kept["usage"].items()
        }
        return {**kept, "usage": nothing, "itscale": {**kept["itscale"], "cache": "hit"}}

    def put(self, key: str | None, answer: dict[str, Any]) -> None:
        """Keep an answer."""
        if key is None:
            return
        self._kept[key] = answer
        while len(self._kept) > self.size:
            self._kept.popitem(last=False)
