"""Randomness from one integer, without order: a stream is named, never advanced by somebody else.

Law: every draw of every method goes through `Randomness.choose`, a choice among finitely many
outcomes with stated probabilities. In a run a `Seeded` stream makes the choice; in a test the
enumerator of `itscale.testing` makes all of them, one after the other, in the unchanged algorithm.

Streams are derived by name (`rng.child("extend", 3)`), so concurrency and order change nothing.
The generator is SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number
generators") used as a counter-based hash, so that a whole batch of draws is one NumPy expression.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from itscale.errors import OptionError, whole_number

__all__ = [
    "Neighbours",
    "Randomness",
    "Seeded",
    "SomeChildren",
    "TheseChildren",
    "derive",
    "stream_of",
    "stretches",
    "uniforms",
]

UInt64s = npt.NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def derive(seed: int, *labels: str | int) -> int:
    """A 63-bit seed that depends on `seed` and the labels alone, the same on every machine."""
    digest = hashlib.blake2b(repr((seed, *labels)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def uniforms(seeds: UInt64s, counters: UInt64s) -> npt.NDArray[np.float64]:
    """One uniform in [0, 1) per `(seed, counter)` pair, shapes broadcast; no state."""
    with np.errstate(over="ignore"):
        z = seeds + (counters + np.uint64(1)) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    fractions: npt.NDArray[np.float64] = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return fractions


class Randomness(ABC):
    """A named stream of discrete draws."""

    @property
    @abstractmethod
    def seed(self) -> int:
        """A 63-bit integer for backends that draw by themselves."""

    @abstractmethod
    def choose(self, probabilities: Sequence[float] | npt.NDArray[np.float64]) -> int:
        """An index, drawn with the given probabilities (linear, shape (K,), summing to 1)."""

    @abstractmethod
    def child(self, *labels: str | int) -> Randomness:
        """The stream of that name below this one; the same object of draws each time it is asked."""


class Seeded(Randomness):
    """The stream of real runs. A seed is derived when it is wanted: most streams are only named."""

    __slots__ = ("_drawn", "_labels", "_parent", "_seed")

    def __init__(self, seed: int) -> None:
        self._seed: int | None = seed
        self._drawn = 0
        self._parent: Seeded | None = None
        self._labels: tuple[str | int, ...] = ()

    @property
    def seed(self) -> int:
        if self._seed is None:
            unnamed, above = list[Seeded](), self
            while above._seed is None and above._parent is not None:
                unnamed.append(above)
                above = above._parent
            for stream in reversed(unnamed):
                stream._seed = derive(above.seed, *stream._labels)
                above, stream._parent = stream, None
        assert self._seed is not None
        return self._seed

    def choose(self, probabilities: Sequence[float] | npt.NDArray[np.float64]) -> int:
        p = np.asarray(probabilities, dtype=np.float64)
        u = uniforms(np.array([self.seed], np.uint64), np.array([self._drawn], np.uint64))[0]
        self._drawn += 1
        edges = np.cumsum(p)
        # u * total absorbs rounding in the sum; side="right" never lands on a zero-probability index.
        index = int(np.searchsorted(edges, u * edges[-1], side="right"))
        return min(index, int(np.flatnonzero(p)[-1]))

    def child(self, *labels: str | int) -> Randomness:
        child = Seeded(0)
        child._seed, child._parent, child._labels = None, self, labels
        return child


def stream_of(seed: int | Randomness) -> Randomness:
    """The stream of a run: a seed's, or one that is given as it is.

    Raises:
        OptionError: the seed is no whole number from 0 to 2**63 - 1.
    """
    if isinstance(seed, Randomness):
        return seed
    allowed = "from 0 to 2**63 - 1"
    whole = whole_number("seed", seed, allowed)
    if not 0 <= whole < 2**63:
        raise OptionError(f"seed {whole} is out of range; give a whole number {allowed}")
    return Seeded(whole)


class _Regrouped(Randomness):
    """Children of other streams under numbers of its own; all else is drawn from a stream beside them."""

    def __init__(self, own: Randomness) -> None:
        self._own = own

    @property
    def seed(self) -> int:
        return self._own.seed

    def choose(self, probabilities: Sequence[float] | npt.NDArray[np.float64]) -> int:
        return self._own.choose(probabilities)


class SomeChildren(_Regrouped):
    """A few children of a stream as children 0, 1, ... of another, so as to ask for just those.

    Child i is the stream of child `indices[i]` of `parent`. Everything else (the seed of a backend
    that makes all its samples from one) is a stream of its own, named after the indices: the rest
    of some samples asked for later must not be the first of them again.
    """

    def __init__(self, parent: Randomness, indices: Sequence[int]) -> None:
        self._parent = parent
        self._indices = tuple(indices)
        super().__init__(parent.child("some", *self._indices))

    def child(self, *labels: str | int) -> Randomness:
        match labels:
            case (int(i),) if 0 <= i < len(self._indices):
                return self._parent.child(self._indices[i])
        return self._own.child(*labels)


class TheseChildren(_Regrouped):
    """Children of several streams as children 0, 1, ... of one, so as to ask for them together.

    Child i is the stream of the i-th pair (stream, its child's number), and what is named below it too.
    Everything else is a stream of its own: `own`, or one named after all of them.
    """

    def __init__(self, children: Sequence[tuple[Randomness, int]], own: Randomness | None = None) -> None:
        self._children = tuple(children)
        if own is None:
            names = (name for stream, i in children for name in (stream.seed, i))
            own = children[0][0].child("these", *names)
        super().__init__(own)

    def child(self, *labels: str | int) -> Randomness:
        match labels:
            case (*kind, int(i)) if 0 <= i < len(self._children):
                stream, own = self._children[i]
                return stream.child(*kind, own)
        return self._own.child(*labels)


class Neighbours(TheseChildren):
    """Streams of answers that may be drawn together: child i is child 0 of the i-th of `streams`.

    The seed is one that all have in common (that of `own`), plus the `place` of the first. So where a server
    makes text i of a request with the seed s from s + i, an answer is the same whichever of them are asked
    for at once (`Model.samples_alike`).
    """

    def __init__(self, streams: Sequence[Randomness], own: Randomness, place: int = 0) -> None:
        super().__init__([(stream, 0) for stream in streams], own)
        self.streams = tuple(streams)
        self._place = place

    @property
    def seed(self) -> int:
        return self._own.seed + self._place

    def some(self, first: int, n: int) -> Neighbours:
        """`n` of them, from this one on."""
        return Neighbours(self.streams[first : first + n], self._own, self._place + first)


def stretches(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Rising numbers as stretches without a gap: the first of each, and how many it has.

    >>> stretches([2, 3, 4, 7])
    [(2, 3), (7, 1)]
    """
    found = list[tuple[int, int]]()
    for number in numbers:
        if found and sum(found[-1]) == number:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((number, 1))
    return found
