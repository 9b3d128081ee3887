"""Which tokens are already computed: one segment of slots for every path node, shared by its forks.

A segment belongs to a `Path` and is released when the path is garbage, or evicted (least recently
used, leaves first) when the memory limit is reached; an evicted segment is recomputed when needed.
All methods run on the engine's thread; only the weak-reference callback does not.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from itscale.errors import MemoryLimitError
from itscale.models.engine.pool import SlotPool, Slots
from itscale.types import Path

__all__ = ["PrefixCache", "Segment"]

_NONE: Slots = np.empty(0, dtype=np.int64)


class Segment:
    """The tokens of one path node and the slots of those already computed (a prefix of them)."""

    __slots__ = (
        "cached_children",
        "output",
        "parent",
        "promised",
        "reference",
        "slots",
        "start",
        "tokens",
        "touched",
        "users",
    )

    def __init__(self, path: Path, parent: Segment | None, tokens: Sequence[int]) -> None:
        self.parent = parent
        self.tokens = tokens
        self.start: int = 0 if parent is None else parent.start + len(parent.tokens)
        """Position of the first token in the whole sequence."""
        self.slots: Slots = _NONE
        self.output: Any = None
        """What the model said at the last token: next-token logits or a score."""
        self.promised = False
        """Whether slots for what is missing are reserved already."""
        self.users = 0
        self.cached_children = 0
        self.touched = 0
        self.reference: weakref.ref[Path] | None = None

    @property
    def end(self) -> int:
        """Tokens in the whole sequence up to and including this segment."""
        return self.start + len(self.tokens)

    @property
    def computed(self) -> bool:
        """Whether every token up to here has a slot. Without tokens of its own it is so with its parent."""
        if not self.tokens and self.parent is not None:
            return self.parent.computed
        return len(self.slots) == len(self.tokens)

    def chain(self) -> list[Segment]:
        """From the root to here."""
        chain, segment = [], self
        while True:
            chain.append(segment)
            if segment.parent is None:
                return chain[::-1]
            segment = segment.parent

    def context(self) -> Slots:
        """Slots of all computed tokens from the root to here."""
        return np.concatenate([segment.slots for segment in self.chain()])


class PrefixCache:
    """Segments by path."""

    def __init__(
        self,
        pool: SlotPool,
        prompt_tokens: Callable[[Path], Sequence[int]],
        step_tokens: Callable[[Path], Sequence[int]] | None = None,
    ) -> None:
        self.pool = pool
        self.reserved = 0
        """Slots promised to rows in flight and not taken yet."""
        self._prompt_tokens = prompt_tokens
        self._step_tokens = step_tokens or _own_tokens
        self._segments: dict[int, Segment] = {}
        self._dead: deque[tuple[int, weakref.ref[Path]]] = deque()
        self._clock = 0

    def segment(self, path: Path) -> Segment:
        """The segment of a path, made (with its ancestors) if there is none."""
        unknown: list[Path] = []
        node: Path | None = path
        while node is not None and self._known(node) is None:
            unknown.append(node)
            node = node.parent
        segment = None if node is None else self._known(node)
        for new in reversed(unknown):
            tokens = self._prompt_tokens(new) if new.step is None else self._step_tokens(new)
            segment = self.adopt(new, segment, tokens, _NONE)
        assert segment is not None
        return segment

    def _known(self, path: Path) -> Segment | None:
        """The segment of a path, if there is one: the id alone may be that of a dead path, reused."""
        known = self._segments.get(id(path))
        return known if known is not None and known.reference and known.reference() is path else None

    def adopt(self, path: Path, parent: Segment | None, tokens: Sequence[int], slots: Slots) -> Segment:
        """A new segment that owns `slots`, already computed."""
        segment = Segment(path, parent, tokens)
        key, dead = id(path), self._dead
        if key in self._segments:
            self._drop(key)  # of a dead path that was not collected before its id was reused
        segment.reference = weakref.ref(path, lambda gone: dead.append((key, gone)))
        self._segments[key] = segment
        self.fill(segment, slots)
        return segment

    def fill(self, segment: Segment, slots: Slots) -> None:
        """Append computed slots to a segment."""
        if len(slots) == 0:
            return
        if len(segment.slots) == 0 and segment.parent is not None:
            segment.parent.cached_children += 1
        segment.slots = np.concatenate([segment.slots, slots]) if len(segment.slots) else slots
        self._clock += 1
        segment.touched = self._clock

    def use(self, segment: Segment, change: int) -> None:
        """Pin (+1) or unpin (-1) a segment and its ancestors against eviction."""
        self._clock += 1
        for link in segment.chain():
            link.users += change
            link.touched = self._clock

    def collect(self) -> None:
        """Release the segments of paths that are garbage."""
        while self._dead:
            key, gone = self._dead.popleft()
            segment = self._segments.get(key)
            if segment is not None and segment.reference is gone:
                self._drop(key)

    def fits(self, n: int) -> bool:
        """Whether `n` more slots can be promised now, after evicting what nobody uses."""
        wanted = n + self.reserved
        if self.pool.n_available < wanted:
            self.collect()
            self._evict(wanted - self.pool.n_available)
        return self.pool.n_available >= wanted

    def require_possible(self, n: int) -> None:
        """Raises MemoryLimitError if `n` slots exceed the limit even on their own."""
        if n > self.pool.limit - 1:
            raise MemoryLimitError(
                f"one path needs {n} tokens of key-value memory but the limit holds {self.pool.limit - 1}; "
                f"raise kv_memory_bytes to at least {(n + 1) * self.pool.bytes_per_slot}, or lower max_tokens"
            )

    def plan(self, targets: Iterable[Segment]) -> list[list[Segment]]:
        """Rows to compute now, so that targets come closer to being computed.

        A row is a chain of segments below computed ancestors that all its targets share; where
        targets part, their shared chain is a row of its own and they wait for the next plan.
        """
        wanted = dict.fromkeys(targets)
        passing: dict[Segment, int] = {}
        for target in wanted:
            for link in target.chain():
                if not link.computed:
                    passing[link] = passing.get(link, 0) + 1
        rows: dict[Segment, list[Segment]] = {}
        for target in wanted:
            chain = [link for link in target.chain() if not link.computed]
            row = [link for link in chain if passing[link] == passing[chain[0]]]
            if row:
                rows[row[0]] = row
        return list(rows.values())

    def _drop(self, key: int) -> None:
        segment = self._segments.pop(key)
        self._release(segment)

    def _release(self, segment: Segment) -> None:
        if len(segment.slots):
            self.pool.give_back(segment.slots)
            segment.slots = _NONE
            if segment.parent is not None:
                segment.parent.cached_children -= 1
        segment.output = None

    def _evict(self, n: int) -> None:
        """Release least recently used leaves until `n` slots are freed or nothing is idle."""
        freed = 0
        while freed < n:
            idle = [
                s for s in self._segments.values() if len(s.slots) and s.users == 0 and s.cached_children == 0
            ]
            if not idle:
                return
            for segment in sorted(idle, key=lambda s: s.touched):
                freed += len(segment.slots)
                self._release(segment)
                if freed >= n:
                    return


def _own_tokens(path: Path) -> Sequence[int]:
    """The tokens the step itself is made of."""
    return path.step.token_ids if path.step is not None else ()
