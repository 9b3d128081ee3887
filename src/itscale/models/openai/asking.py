"""One request for children of a path, and its account.

Charged is what the server counted, or what it showed where that is more; of an answer that was given
up or broke off, what had come of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from itscale.budget import Ledger
from itscale.errors import ModelError
from itscale.models.openai.client import Call
from itscale.models.openai.dialects import Dialect, Request
from itscale.models.openai.stream import Delta
from itscale.models.openai.wire import Choice, Counts, Malformed, Reply, counts_in
from itscale.types import Path, Sampling

__all__ = ["Asking", "Heard"]

Heard = Callable[[Delta], None]
"""Told of every piece of a streamed answer."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What is wanted of whom, and who pays: all requests for some children of one path."""

    dialect: Dialect
    path: Path
    request: Request
    sampling: Sampling
    ledger: Ledger
    heard: Heard | None = None

    async def ask(self, extra: Mapping[str, Any]) -> tuple[tuple[Choice, ...], list[Path]]:
        """One request, with these fields beside the common ones: its choices, and a child for each.

        Raises:
            Refused: the server said no.
            ModelError: no usable answer after all attempts, or one against the protocol.
        """
        call = Call(self.heard, assembly=self.dialect.assembly)
        call.again = lambda: self._settled(call)
        body: dict[str, Any] = {}
        reply: Reply | None = None
        try:
            body = await self.dialect.endpoint.post(self.request.url, {**self.request.body, **extra}, call)
            reply = self.dialect.read(body, self.sampling)
            children = [self._child(choice, reply) for choice in reply.choices]
        except Malformed as error:
            address = self.dialect.endpoint.address
            raise ModelError(
                f"{self.request.url} answered against the protocol: {error}; "
                f"see: itscale doctor openai:{address.model}@{address.url}"
            ) from None
        finally:
            self._charge(call, counts_in(body), reply)
        return reply.choices, children

    def for_child(self, index: int) -> Asking:
        """The same for one child alone, whose pieces are heard under its own number."""
        heard = self.heard
        if heard is None:
            return self
        return replace(self, heard=lambda delta: heard(replace(delta, index=index)))

    def _child(self, choice: Choice, reply: Reply) -> Path:
        count = shown = self.dialect.count(choice)
        if reply.counts and len(reply.choices) == 1:
            # What is not shown (a hidden thought) was generated for this one too.
            count = max(shown or 0, reply.counts.generated)
        path = self.path
        for step in self.dialect.steps(choice, self.request, self.sampling, count):
            path = path.child(step)
        return path

    def _settled(self, call: Call) -> bool:
        """Charge what a broken attempt brought, if another may be made.

        It may not where the budget has no room for as much once more, nor where somebody heard of it.
        """
        lost = call.came.generated
        if not self.ledger.affords(lost) or (lost and self.heard):
            return False
        if lost:
            self.ledger.charge({"prompt_tokens": self._read(call), "generated_tokens": lost})
        return True

    def _read(self, call: Call) -> int:
        """Tokens of the prompt, as far as anybody said."""
        return max(self.request.prompt_tokens or 0, call.came.prompt)

    def _charge(self, call: Call, counts: Counts | None, reply: Reply | None) -> None:
        if not call.sent:
            return
        shown = call.came.generated
        if reply is not None:
            shown = sum(self.dialect.count(choice) or 0 for choice in reply.choices)
        self.ledger.retries += call.retries
        self.ledger.charge_model(
            prompt=max(self._read(call) if call.worked_on else 0, counts.prompt if counts else 0),
            cached=counts.cached if counts else 0,
            generated=max(shown, counts.generated if counts else 0),
        )
