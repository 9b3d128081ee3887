"""Chat requests that a probe sends, in the widest form a server accepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from itscale.models.openai.client import Call, Endpoint
from itscale.models.openai.dialects import Prefill, prefilled
from itscale.models.openai.failures import NOT_ACCEPTED, Refused
from itscale.models.openai.wire import Reply, read_chat
from itscale.types import Prompt

__all__ = ["NEUTRAL", "QUESTION", "SAMPLED", "TOKENS", "UNWANTED", "ChatTrial"]

TOKENS = 16
QUESTION = Prompt.user("Count from one to nine, in words.")
OF_ITS_OWN = "Make 45 from 3, 7, 12, 23."
"""For the embedded model behind a gateway, which refuses everything but its own tasks."""
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
SAMPLED = {"temperature": 1.0, "top_p": 1.0}
UNWANTED = (400, 422, 501)
_DROPPABLE = ("neutral", "logprobs", "n", "seed")
_MENTIONS = {
    "neutral": ("top_k", "min_p", "repetition_penalty"),
    "logprobs": ("logprob",),
    "n": ("'n'", '"n"', "`n`", " n ", "n=", "multiple completions"),
    "seed": ("seed",),
    "limit": ("max_tokens", "max_completion_tokens"),
}


class ChatTrial:
    """Chat requests in the widest form the server accepts."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self.features = set(_DROPPABLE)
        self.limit_field = "max_tokens"
        self.no_top_k: Literal[-1, 0] = -1
        self._questions = [QUESTION.question, OF_ITS_OWN]
        self._endpoint = endpoint
        self._model = model

    async def ask(
        self,
        extra: Mapping[str, Any],
        *,
        n: int = 1,
        text: str = "",
        style: Prefill | None = None,
        call: Call | None = None,
    ) -> Reply:
        """The answer to the question, going on from `text`. Raises Refused, Malformed, ModelError."""
        messages = [{"role": "user", "content": self._questions[0]}]
        body = {"model": self._model, self.limit_field: TOKENS, **prefilled(messages, text, style), **extra}
        if "neutral" in self.features:
            body |= NEUTRAL | {"top_k": self.no_top_k}
            body |= {} if self.no_top_k else {"repeat_penalty": 1.0}
        if "logprobs" in self.features:
            body["logprobs"] = True
        if "seed" in self.features:
            body.setdefault("seed", 7)
        if n > 1 and "n" in self.features:
            body["n"] = n
        url = f"{self._endpoint.address.url}/chat/completions"
        return read_chat(await self._endpoint.post(url, body, call))

    async def settle(self) -> Reply:
        """Two samples; what the server refuses is dropped until it answers, the question first."""
        while True:
            try:
                return await self.ask(SAMPLED, n=2)
            except Refused as refused:
                if refused.error.get("code") == NOT_ACCEPTED and len(self._questions) > 1:
                    del self._questions[0]
                    self.features = set(_DROPPABLE)
                    continue
                if refused.status not in UNWANTED or not self._dropped(refused.detail):
                    raise

    def _dropped(self, detail: str) -> bool:
        """Drop what the refusal mentions, else the next in order; False if nothing is left."""
        if self.limit_field == "max_tokens" and any(word in detail for word in _MENTIONS["limit"]):
            self.limit_field = "max_completion_tokens"
            return True
        if self.no_top_k and "top_k" in detail:
            self.no_top_k = 0  # llama-cpp-python's way
            return True
        left = [feature for feature in _DROPPABLE if feature in self.features]
        named = [f for f in left if any(word in f" {detail} " for word in _MENTIONS[f])]
        for feature in (named or left)[:1]:
            self.features.discard(feature)
            return True
        return False
