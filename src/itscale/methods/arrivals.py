"""Waiting for calls: all together, within a run's time, or numbered and taken as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Generic, TypeVar

from itscale.budget import Ledger, OutOfBudget
from itscale.types import StopReason

__all__ = ["Arrivals", "together", "within"]

T = TypeVar("T")


class Arrivals(Generic[T]):
    """Calls 0, 1, 2, ... of one kind.

    Law: results are taken in the order of arrival, those of one turn of the event loop in the order
    of their numbers; with calls that never wait it is the order of numbers.
    """

    def __init__(self, call: Callable[[int], Coroutine[Any, Any, T]]) -> None:
        self._call = call
        self._started = 0
        self._waiting: dict[int, asyncio.Task[T]] = {}
        self._arrived: asyncio.Queue[int] = asyncio.Queue()
        self.taken = 0
        """How many results were given out."""

    @property
    def waiting(self) -> bool:
        """Whether a started call has not been taken yet."""
        return bool(self._waiting)

    def start(self, upto: int) -> None:
        """Have the first `upto` calls started."""
        for i in range(self._started, upto):
            task = self._waiting[i] = asyncio.ensure_future(self._call(i))
            task.add_done_callback(partial(self._note, i))
        self._started = max(self._started, upto)

    async def next(self, *, in_order: bool = False) -> T:
        """The next to arrive; with `in_order` the lowest number not taken. Raises what the call raised.

        Only while something is `waiting`; all calls to one object take the same `in_order`.
        """
        if in_order:
            number = min(self._waiting)
            await asyncio.wait([self._waiting[number]])
        else:
            number = await self._arrived.get()
        self.taken += 1
        return self._waiting.pop(number).result()

    def _note(self, number: int, _: asyncio.Task[T]) -> None:
        self._arrived.put_nowait(number)

    async def cancel(self) -> list[T]:
        """Cancel what is under way and see it to its end; the results that came all the same."""
        tasks, self._waiting = list(self._waiting.values()), {}
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        return [result for result in ended if not isinstance(result, BaseException)]


async def together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order. An error cancels the other calls, which `asyncio.gather` would leave running."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def within(ledger: Ledger, call: Awaitable[T]) -> T:
    """Await `call`, cancelling it when the run's seconds are over; raises OutOfBudget then."""
    seconds = ledger.budget.seconds
    if seconds is None:
        return await call
    limit = asyncio.timeout(max(0.0, seconds - ledger.seconds))
    try:
        async with limit:
            return await call
    except TimeoutError:
        if not limit.expired():
            raise  # the call's own
        raise OutOfBudget(StopReason.SECONDS) from None
