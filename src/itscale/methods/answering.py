"""The verbs of a session that draw whole answers from the prompt.

Sample i has a stream of its own, named after i. Where the model makes several answers in one call for
less than several calls cost, and tells of each as soon as it is whole (`Model.samples_together`), the
samples of `sample` and `sample_scored` are asked for together: each is judged when it is there, and
those that are whole when time is up are candidates. Where tokens are limited, and has to be seen how
many a sample leaves for the next, they are asked for one by one; so is what may be stopped early
(`sample_while`). Where samples are alike either way (`Model.samples_alike`), all of these are the very same.
"""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence

from itscale.methods.arrivals import Arrivals, together
from itscale.methods.lineage import How
from itscale.methods.steering import Steering
from itscale.models.base import Came
from itscale.randomness import Neighbours, Randomness
from itscale.types import Path

__all__ = ["Answering", "Judged"]

Judged = tuple[Path, tuple[float, ...] | None]
"""A path with what the scorer says: a score a step, or one in all; None if it was not judged."""
MOST_TOGETHER = 16
"""Answers of one call. More gains little, and puts all work on one of the servers behind an address."""
_WHOLE = How(until="end")


class Answering(Steering):
    """A part of `Session`, which has the state and the call that draws."""

    root: Path
    rng: Randomness

    async def sample(self, n: int) -> list[Path]:
        """`n` whole answers, in the order of their seeds; fewer when some failed or a limit bound,
        the empty path alone when it bound before the first.

        Sample i depends on the run's seed and i alone, so runs of different n share a prefix. Drawn together,
        that is the server's affair (`Model.samples_alike`): vLLM's seeds keep it.
        """
        return [path for path, _ in await self._sample(n, scored=False)]

    async def sample_number(self, i: int) -> Path | None:
        """Sample i of `sample` and no other; None when its call failed, or a limit bound before it."""
        drawn = await self._drawn(i, scored=False)
        return next((path for path, _ in drawn if path is not self.root), None)

    async def sample_scored(self, n: int) -> list[Judged]:
        """Like `sample`, each answer with what the scorer says, judged as soon as it is there."""
        return await self._sample(n, scored=True)

    async def sample_while(
        self, n: int, wanted: Callable[[Sequence[Path]], Awaitable[int]], *, in_order: bool = False
    ) -> list[Path]:
        """Whole answers for as long as more are wanted, `n` at most, in the order of their seeds; the very
        samples of `sample`, unless that draws others together than one by one.

        `wanted` is given the answers so far, first to arrive first, and says how many more to have
        under way. At 0 the sampling ends: what still runs is cancelled upstream, and charged for
        what it had generated. Answers that arrive at the same time are looked at one by one, in
        the order of their seeds.

        With `in_order` an answer is looked at only after those of all earlier seeds, so that what
        comes back depends on the seed alone and not on speed.
        """
        seen: list[Path] = []
        numbers: dict[Path, int] = {}

        async def drawn(i: int) -> list[Path]:
            paths = [path for path, _ in await self._drawn(i, scored=False) if path is not self.root]
            numbers.update(dict.fromkeys(paths, i))
            return paths

        arrived = Arrivals(drawn)
        try:
            while (more := await wanted(seen)) > 0:
                arrived.start(min(n, arrived.taken + more) if not self.exhausted else 0)
                if not arrived.waiting:
                    break
                seen += await arrived.next(in_order=in_order)
        finally:
            unwanted = await arrived.cancel()
        self.pruned([path for paths in unwanted for path in paths])
        self.survivors(seen)
        seen.sort(key=numbers.__getitem__)
        return seen or ([self.root] if self.exhausted else [])

    async def _drawn(self, i: int, *, scored: bool) -> list[Judged]:
        """Whole answer `i`, judged if that is wanted; no or the empty path where there is none."""
        children = await self._propose(self.root, 1, _WHOLE, self._streams(range(i, i + 1)))
        return [
            (child, await self._judge(child) if scored and child is not self.root else None)
            for child in children
        ]

    async def _sample(self, n: int, *, scored: bool) -> list[Judged]:
        if self._are_together(n) and n <= MOST_TOGETHER:
            groups = [await self._drawn_together(range(n), scored=scored)]  # here: a task waits for its turns
        elif self._are_together(n):
            firsts = range(0, n, MOST_TOGETHER)
            calls = (range(first, min(n, first + MOST_TOGETHER)) for first in firsts)
            groups = await together(self._drawn_together(numbers, scored=scored) for numbers in calls)
        else:
            groups = await together(self._drawn(i, scored=scored) for i in range(n))
        pairs = [pair for group in groups for pair in group if pair[0] is not self.root]
        self.survivors([path for path, _ in pairs])
        if not pairs and self.exhausted:
            return [(self.root, None)]  # the best so far: a limit bound before the first answer
        return pairs

    def _are_together(self, n: int) -> bool:
        """Whether n samples are asked for together: not where a limit on tokens is to be shared out."""
        many = n > 1 and self._model.samples_together and self._sampling.temperature > 0
        return many and math.isinf(self.ledger.left)

    async def _drawn_together(self, numbers: range, *, scored: bool) -> list[Judged]:
        """The numbered whole answers out of one call, each judged when it is there, if that is wanted."""
        stream = self._streams(numbers)
        drawn: dict[int, Path] = {}
        judging: dict[int, asyncio.Task[tuple[float, ...] | None]] = {}

        def came(i: int, child: Path) -> None:
            self._lineage.proposed(self.root, child, stream.child("then", i))
            drawn[i] = child
            if scored:
                judging[i] = asyncio.ensure_future(self._judge(child))

        try:
            await self._tried(self.root, len(numbers), _WHOLE, stream, came)
            scores = {i: await judgement for i, judgement in judging.items()}
        except BaseException:
            for judgement in judging.values():
                judgement.cancel()
            await asyncio.gather(*judging.values(), return_exceptions=True)
            raise
        return [(drawn[i], scores.get(i)) for i in sorted(drawn)]

    def _streams(self, numbers: range) -> Neighbours:
        """The streams of numbered samples, which are neighbours up to `MOST_TOGETHER`.

        Their common stream is named after the first that may be asked for with them, so that a server that
        derives the seed of each text from one and its number gives the first of n as the first of more.
        """
        first = numbers[0] - numbers[0] % MOST_TOGETHER
        own = self.rng.child("samples", first)
        return Neighbours([self.rng.child("sample", i) for i in numbers], own, numbers[0] - first)

    @abstractmethod
    def survivors(self, paths: list[Path]) -> list[Path]:
        """`paths`, unless every single call failed."""

    @abstractmethod
    def pruned(self, paths: Sequence[Path]) -> None:
        """Record that these paths were dropped for good."""

    @abstractmethod
    def _room(self, path: Path, how: How) -> int:
        """How many tokens an extension may have."""

    @abstractmethod
    async def _tried(
        self, path: Path, n: int, how: How, rng: Randomness, came: Came | None = None
    ) -> list[Path]:
        """As `_propose`, and what came is in no trace yet. `came` is told of each child."""

    @abstractmethod
    async def _judge(self, path: Path) -> tuple[float, ...] | None:
        """What the scorer says; None if it failed or a limit bound."""
