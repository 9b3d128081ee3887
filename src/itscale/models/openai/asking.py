"""One request for children of a path, and its account.

Charged is what the server counted, or what it showed where that is more; of an answer that was given
up or broke off, what had come of it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from itscale.budget import Ledger
from itscale.errors import ModelError, PromptError
from itscale.models.base import Came
from itscale.models.openai.client import Call
from itscale.models.openai.dialects import Dialect, Request
from itscale.models.openai.failures import NOT_ACCEPTED, Refused, Unanswered
from itscale.models.openai.stream import Assembly, Delta
from itscale.models.openai.wire import Choice, Counts, Malformed, Reply, counts_in
from itscale.types import Path, Sampling

__all__ = ["Asking", "Early", "Heard"]

Heard = Callable[[Delta], None]
"""Told of every piece of a streamed answer."""


@dataclass(slots=True)
class Early:
    """The children of one request that are told of before it ends.

    A text is told when it is whole, if its own tokens are known by then and no other says the same:
    whether equal ones are samples at all is seen at the end. Of a request that was given up or broke
    off, every text that is whole is told.
    """

    came: Came
    n: int
    """How many are wanted; what a server says beyond them is not told."""
    told: dict[int, Path] = field(default_factory=dict)
    numbers: Sequence[int] = ()
    """Of the texts of the whole answer, in order."""

    def tell(self, number: int, child: Path) -> None:
        """Tell of a child, once."""
        if number < self.n and number not in self.told:
            self.told[number] = child
            self.came(number, child)

    def is_new(self, child: Path) -> bool:
        """Whether no child told of says the same."""
        said = child.text, child.token_ids
        return all((other.text, other.token_ids) != said for other in self.told.values())


@dataclass(frozen=True, slots=True)
class Asking:
    """What is wanted of whom, and who pays: all requests for some children of one path."""

    dialect: Dialect
    path: Path
    request: Request
    sampling: Sampling
    ledger: Ledger
    heard: Heard | None = None

    async def ask(
        self, extra: Mapping[str, Any], early: Early | None = None
    ) -> tuple[tuple[Choice, ...], list[Path]]:
        """One request, with these fields beside the common ones: its choices, and a child for each.

        A request of which something was told `early` is not made again.

        Raises:
            PromptError: a gateway's model cannot read the prompt.
            Refused: the server said no.
            ModelError: no usable answer after all attempts, or one against the protocol.
        """
        # Neither holds the call: a cycle would have to be searched for after every request.
        call = Call(
            self._hears(early),
            lambda call: not (early and early.told) and self._settled(call),
            assembly=self.dialect.assembly,
        )
        body: dict[str, Any] = {}
        reply: Reply | None = None
        try:
            body = await self.dialect.endpoint.post(self.request.url, {**self.request.body, **extra}, call)
            reply = self.dialect.read(await self.dialect.completed(body), self.sampling)
            counts = self._counts(reply)
            children = [self._child(*counted) for counted in zip(reply.choices, counts, strict=True)]
            if early is not None:
                early.numbers = call.came.numbers or range(len(children))
        except (Unanswered, asyncio.CancelledError):
            if early is not None:
                self._tell_rest(call.came, early)
            raise
        except Refused as error:
            if error.error.get("code") == NOT_ACCEPTED:
                raise PromptError(f"{self.request.url} cannot read this prompt: {error.detail}") from None
            raise
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

    def _hears(self, early: Early | None) -> Callable[[Assembly, Delta], None] | None:
        """Who is told of the pieces of an answer."""
        if early is not None:
            return lambda came, delta: self._tell_whole(came, delta, early)
        heard = self.heard
        return heard and (lambda _, delta: heard(delta))

    def _tell_whole(self, came: Assembly, delta: Delta, early: Early) -> None:
        if not (delta.last and self.dialect.facts.each):
            return
        [choice] = self.dialect.read(came.alone(delta.index), self.sampling).choices
        count = self.dialect.count(choice)
        if count is not None and early.is_new(child := self._child(choice, count)):
            early.tell(delta.index, child)

    def _tell_rest(self, came: Assembly, early: Early) -> None:
        for number, generated in sorted(came.whole.items()):
            with suppress(Malformed):  # it is given up anyway
                [choice] = self.dialect.read(came.alone(number), self.sampling).choices
                early.tell(number, self._child(choice, self.dialect.count(choice) or generated))

    def _child(self, choice: Choice, count: int | None) -> Path:
        path = self.path
        for step in self.dialect.steps(choice, self.request, self.sampling, count):
            path = path.child(step)
        return path

    def _counts(self, reply: Reply) -> Sequence[int | None]:
        """Tokens of each choice: as shown, or the server's count, which several share by length."""
        shown = [self.dialect.count(choice) for choice in reply.choices]
        if reply.counts is None:
            return shown
        generated = reply.counts.generated
        if self.dialect.facts.method_on is not None:
            generated -= reply.counts.hidden  # the other candidates: charged, and no part of this answer
        if len(shown) == 1:  # what is not shown (a hidden thought) was generated for this one too
            return [max(shown[0] or 0, generated)]
        if any(count is not None for count in shown):
            return shown
        said = [len(c.text) + len(c.reasoning or "") + len(str(c.tool_calls)) for c in reply.choices]
        return _shares(generated, said, self.request.until.max_tokens)

    def _settled(self, call: Call) -> bool:
        """Charge what a broken attempt brought, if another may be made.

        It may not where the budget has no room for as much once more, or its time is over before the server
        wants to be asked again, nor where somebody heard of it.
        """
        lost, seconds = call.came.generated, self.ledger.budget.seconds
        if seconds is not None and call.wait_s >= seconds - self.ledger.seconds:
            return False
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


def _shares(total: int, lengths: Sequence[int], most: int) -> list[int]:
    """`total` in parts like `lengths` (each above 0), none of them over `most` if there is a way."""
    shares, left, ahead = [0] * len(lengths), total, sum(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):  # what the long ones cannot have goes on
        own = math.ceil(left * lengths[i] / ahead)
        shares[i] = min(own, most) if ahead > lengths[i] else left
        left, ahead = left - shares[i], ahead - lengths[i]
    return shares
