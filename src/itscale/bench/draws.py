"""Whole answers to one prompt, each drawn once, whoever asks for which of them together.

For models that make several answers in one call, each the very same in any call (`Model.samples_alike`).
Who asks gets what was drawn before or is being drawn, and one call is made for the rest.

Law: whoever asks is charged what one call for those answers alone is charged: their tokens, the prompt
once and one call, whatever calls they really came from. (A call that took one for each answer, as a server
that turns out not to honour n and some recordings do, is charged one for each.) Of a call that failed or
was cancelled it is charged what that was charged by then. An answer that did not come is forgotten, and
asked for anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial

from itscale.budget import Budget, Charges, Ledger
from itscale.models.base import Came
from itscale.randomness import stretches
from itscale.types import Path

__all__ = ["Draw", "Draws"]

Draw = Callable[[int, int, Ledger, Came], Awaitable[list[Path]]]
"""Makes one call for so many of the wanted answers, from the first of these on."""
_OF_ANSWERS = ("generated_tokens", "replayed_tokens", "failed_calls")
"""What answers are charged each; all else is a call's, however many it makes."""


class _Call:
    """One real call for `n` answers, and those who wait for some of them."""

    def __init__(self, n: int, work: Callable[[Ledger, Came], Awaitable[list[Path]]]) -> None:
        self.spent = Ledger(Budget())
        self.accounted = 0
        """Tokens made by it that are in somebody's charge."""
        self.answers: dict[int, Path] = {}
        self.told: list[Came] = []
        """Of those who wait for it."""
        self._n = n
        self._given_up = False
        self.task: asyncio.Future[list[Path]] = asyncio.ensure_future(work(self.spent, self._came))

    def gives(self, number: int) -> bool:
        """Whether an answer has come, or may yet come."""
        return number in self.answers or not (self._given_up or self.task.done())

    def give_up(self) -> None:
        """Cancel it: nobody waits for it any more."""
        self._given_up = True
        self.task.cancel()

    def charges(self, numbers: set[int]) -> Charges:
        """What some of its answers cost in a call of their own; all of its account if it came to no end."""
        whole = dict(self.spent.charges())
        if not self.task.done() or self.task.cancelled() or self.task.exception():
            return whole
        sizes = {i: self.answers[i].n_tokens if i in self.answers else 0 for i in range(self._n)}
        sizes[0] += whole.get("generated_tokens", 0) - sum(sizes.values())  # what is in no answer
        free, own, replayed = whole.get("replayed_tokens", 0), 0, 0
        for number, size in sizes.items():  # a recording has the first ones, if any
            if number in numbers:
                own, replayed = own + size, replayed + min(free, size)
            free -= min(free, size)
        failed = min(whole.get("failed_calls", 0), len(numbers - self.answers.keys()))
        if self.each_alone:
            whole = {name: amount * len(numbers) // self._n for name, amount in whole.items()}
        own_part = {"generated_tokens": own, "replayed_tokens": replayed, "failed_calls": failed}
        return {**whole, **own_part}

    @property
    def each_alone(self) -> bool:
        """Whether it took a call for each of its answers."""
        return 1 < self._n <= self.spent.model_calls

    def _came(self, number: int, path: Path) -> None:
        self.answers[number] = path
        for came in list(self.told):
            came(number, path)


class Draws:
    """The answers to one prompt by what was asked."""

    def __init__(self) -> None:
        self.shared_tokens = 0
        """Generated tokens charged to somebody without being generated again."""
        self._drawn: dict[Hashable, tuple[_Call, int]] = {}

    async def draw(
        self, asked: Sequence[Hashable], work: Draw, ledger: Ledger, came: Came
    ) -> dict[int, Path]:
        """The answers that are `asked` for, by their places there; `came` is told of each.

        Raises:
            ModelError: a call for some of them failed for good; what was told stands.
        """
        wanted: dict[_Call, dict[int, int]] = {}
        for place, (call, number) in enumerate(self._calls(asked, work)):
            wanted.setdefault(call, {})[number] = place
        answers: dict[int, Path] = {}

        def tells(places: dict[int, int]) -> Came:
            def told(number: int, path: Path) -> None:
                if number in places:
                    answers[places[number]] = path
                    came(places[number], path)

            return told

        waits = {call: tells(places) for call, places in wanted.items()}
        for call, told in waits.items():
            call.told.append(told)
            for number, path in call.answers.items():
                told(number, path)
        try:
            await _all_ended(list(wanted))
        finally:
            for call, told in waits.items():
                call.told.remove(told)
            self._charge(ledger, {call: set(places) for call, places in wanted.items()})
        return answers

    def _calls(self, asked: Sequence[Hashable], work: Draw) -> list[tuple[_Call, int]]:
        """Where each of the answers comes from, in calls that are made now if need be."""
        missing = [place for place, one in enumerate(asked) if not self._is_there(one)]
        for first, n in stretches(missing):
            call = _Call(n, partial(work, first, n))
            for number in range(n):
                self._drawn[asked[first + number]] = call, number
        return [self._drawn[one] for one in asked]

    def _is_there(self, one: Hashable) -> bool:
        if one not in self._drawn:
            return False
        call, number = self._drawn[one]
        return call.gives(number)

    def _charge(self, ledger: Ledger, wanted: dict[_Call, set[int]]) -> None:
        """As one call for all of them: what each call charged for its answers, and the most for a call."""
        account: dict[str, int] = {}
        alone = any(call.each_alone for call in wanted)
        for call, numbers in wanted.items():
            own = call.charges(numbers)
            for name, amount in own.items():
                before = account.get(name, 0)
                account[name] = before + amount if alone or name in _OF_ANSWERS else max(before, amount)
            live = own.get("generated_tokens", 0) - own.get("replayed_tokens", 0)
            fresh = max(0, live - call.accounted)
            call.accounted += fresh
            self.shared_tokens += live - fresh
        if account.get("replayed_tokens", 0) < account.get("generated_tokens", 0):
            account.pop("replayed_calls", None)  # a call for what a recording lacks is made
        ledger.charge(account)


async def _all_ended(calls: Sequence[_Call]) -> None:
    """Wait for calls, and raise what one of them did.

    Those that nobody else waits for are cancelled with the one who waits, and seen to their end.
    """
    try:
        ends = await asyncio.gather(*(asyncio.shield(call.task) for call in calls), return_exceptions=True)
    except asyncio.CancelledError:
        alone = [call for call in calls if len(call.told) == 1 and not call.task.done()]
        for call in alone:
            call.give_up()
        if alone:
            await asyncio.wait([call.task for call in alone])
        raise
    for end in ends:
        if isinstance(end, BaseException):
            raise end
