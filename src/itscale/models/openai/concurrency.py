"""How many requests one endpoint gets at a time: more while it copes, half as many when it does not.

Additive increase, multiplicative decrease (Chiu & Jain 1989), as TCP does. One burst of refusals
counts once: only a request that began after the last decrease can cause another.
"""

from __future__ import annotations

import asyncio
from collections import deque

from itscale.errors import OptionError

__all__ = ["Concurrency"]


class Concurrency:
    """Slots of one endpoint, first come first served; whoever is cancelled while waiting leaves no trace.

    Raises:
        OptionError: unless 1 <= start <= ceiling.
    """

    def __init__(self, start: int = 32, ceiling: int = 512) -> None:
        if not 1 <= start <= ceiling:
            raise OptionError(
                f"concurrency starts at {start} of at most {ceiling}; give 1 or more, up to that"
            )
        self.limit = float(start)
        """Requests in flight at most, rounded down."""
        self.ceiling = ceiling
        self.in_flight = 0
        self.peak = 0
        """Most requests in flight so far."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._decreases = 0

    def cap(self, most: int) -> None:
        """Never more than so many in flight from now on."""
        self.ceiling = min(self.ceiling, most)
        self.limit = min(self.limit, float(most))

    async def acquire(self) -> int:
        """Wait for a slot; the mark that `release` wants back."""
        if self.in_flight < int(self.limit) and not self._waiting:
            self._take()
            return self._decreases
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give()  # the slot came in the very moment of the cancellation
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise
        return self._decreases

    def release(self, mark: int, *, overloaded: bool = False, succeeded: bool = False) -> None:
        """Give the slot back, saying how the server coped; neither says nothing of its load."""
        if overloaded and mark == self._decreases:
            self.limit = max(1.0, self.limit / 2)
            self._decreases += 1
        elif succeeded and self.in_flight >= int(self.limit):
            self.limit = min(float(self.ceiling), self.limit + 0.25)  # grows only while it is what binds
        self._give()

    def _take(self) -> None:
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)

    def _give(self) -> None:
        self.in_flight -= 1
        while self._waiting and self.in_flight < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self._take()
                turn.set_result(None)
