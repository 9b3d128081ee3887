"""Calls on one path, made at the same time, as one call for several children.

A filter's population holds a path several times over: N times at the start, and as often as it was
resampled later. Where a backend makes n children of a path in one request for less than n requests
cost (`Model.prefers_n`), the copies are asked for together. Which calls are gathered depends on the
population alone, so one seed still gives one result; on a backend whose seeds are its own, other
draws of the same law than one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from itscale.randomness import Randomness, TheseChildren
from itscale.types import Path

__all__ = ["Counts", "Gathered", "gather", "in_slots"]

T = TypeVar("T")
Counts = int | Sequence[int]
"""One number of children for every path, or one for each."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """One call: a path, and how many children each of some slots wants of it."""

    path: Path
    slots: tuple[int, ...]
    counts: tuple[int, ...]
    stream: Randomness
    """Child i of it is that of the call the i-th child would have come from."""

    @property
    def count(self) -> int:
        """Children in all."""
        return sum(self.counts)

    def shared(self, children: Sequence[T]) -> list[list[T]]:
        """The children of each slot; those that are missing are missing in the last ones."""
        left = iter(children)
        return [[child for _, child in zip(range(count), left, strict=False)] for count in self.counts]


def gather(
    paths: Sequence[Path], n: Counts, streams: Sequence[Randomness], *, together: bool
) -> list[Gathered]:
    """The calls for all slots, in the order of their first ones; a call for each slot if not `together`."""
    counts = [n] * len(paths) if isinstance(n, int) else n
    if not together:
        return [Gathered(path, (i,), (counts[i],), streams[i]) for i, path in enumerate(paths)]
    slots: dict[Path, list[int]] = {}
    for i, path in enumerate(paths):
        slots.setdefault(path, []).append(i)
    return [
        Gathered(path, tuple(own), tuple(counts[i] for i in own), _stream_of(own, counts, streams))
        for path, own in slots.items()
    ]


def in_slots(calls: Sequence[Gathered], came: Sequence[Sequence[T]]) -> list[T]:
    """What came of each call for each of its slots, in the order of the slots."""
    of_slot = {
        slot: own
        for call, each in zip(calls, came, strict=True)
        for slot, own in zip(call.slots, each, strict=True)
    }
    return [of_slot[slot] for slot in sorted(of_slot)]


def _stream_of(slots: Sequence[int], counts: Sequence[int], streams: Sequence[Randomness]) -> Randomness:
    if len(slots) == 1:
        return streams[slots[0]]
    return TheseChildren([(streams[i], child) for i in slots for child in range(counts[i])])
