"""Which of llama.cpp's sequences holds which tokens, so that a prefix is computed once.

llama.cpp keeps keys and values in cells and marks each cell with the sequences that see it. A fork
is a mark: no cell is copied. There are at most 256 sequences, so this room keeps account of them:
who is in use, what idle ones still hold, and which of those to give up (least recently used first).

Nothing here calls llama.cpp, so it is tested without. Cells are counted exactly: a cell is used
while at least one sequence sees it.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from itscale.types import Path

__all__ = ["Held", "Sequences"]

Ints = npt.NDArray[np.int64]
_NONE: Ints = np.empty(0, dtype=np.int64)


class Held:
    """One sequence: the tokens it holds, and the cells they are in."""

    __slots__ = ("cells", "output", "planned", "reference", "slot", "tokens", "touched", "users")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        """llama.cpp's sequence id."""
        self.tokens: Ints = _NONE
        """Those it holds and, at the end, those it is about to."""
        self.planned = 0
        """How many of them are not computed yet."""
        self.cells: Ints = _NONE
        """Our own numbers for the cells of `tokens`."""
        self.output: Any = None
        """Logits after the last token, where they were kept."""
        self.users = 0
        """Requests that need it; it is not given up while there are any."""
        self.touched = 0
        self.reference: weakref.ref[Path] | None = None

    @property
    def computed(self) -> int:
        """How many tokens llama.cpp has keys and values of."""
        return len(self.tokens) - self.planned


class Sequences:
    """All sequences of one llama.cpp context of `cells` cells.

    `forked(source, target, n)` is called to mark the first n cells of a sequence as another's, and
    `dropped(slot)` to remove a sequence's marks.
    """

    def __init__(
        self,
        count: int,
        cells: int,
        forked: Callable[[int, int, int], None],
        dropped: Callable[[int], None],
    ) -> None:
        self.capacity = cells
        self.reserved = 0
        """Cells promised to rows in flight and not taken yet."""
        self._forked = forked
        self._dropped = dropped
        self._free_slots = list(range(count))[::-1]
        self._readers = np.zeros(cells, dtype=np.int32)
        self._free_cells = np.arange(cells - 1, -1, -1, dtype=np.int64)
        self._n_free = cells
        self._held: list[Held] = []
        self._dead: deque[weakref.ref[Path]] = deque()
        self._clock = 0

    @property
    def n_used(self) -> int:
        """Cells that at least one sequence sees."""
        return self.capacity - self._n_free

    @property
    def n_held(self) -> int:
        """Sequences kept for paths that may go on."""
        return len(self._held)

    def closest(self, tokens: Sequence[int] | Ints) -> tuple[Held | None, int]:
        """The held sequence that shares the longest beginning with `tokens`, and how long it is.

        Tokens about to be computed count, so that whoever wants them too can wait for them.
        """
        wanted = np.asarray(tokens, dtype=np.int64)
        best, longest = None, 0
        for held in self._held:
            size = min(len(held.tokens), len(wanted))
            if size <= longest:
                continue
            differs = held.tokens[:size] != wanted[:size]
            shared = int(differs.argmax()) if differs.any() else size
            if shared > longest:
                best, longest = held, shared
        return best, longest

    def has_room(self, but: Held | None = None) -> bool:
        """Whether `fork(but, ...)` will find a slot."""
        return bool(self._free_slots) or any(h.users == 0 and h is not but for h in self._held)

    def fork(self, source: Held | None, n: int) -> Held | None:
        """A new sequence, not held, with the first `n` tokens of `source`; None if no slot is left."""
        if not self._free_slots:
            self.collect()
        if not self._free_slots and not self._give_up_one(but=source):
            return None
        new = Held(self._free_slots.pop())
        if source is not None and n:
            new.tokens, new.cells = source.tokens[:n], source.cells[:n]
            self._readers[new.cells] += 1
            self._forked(source.slot, new.slot, n)
            self.touch(source)
        return new

    def append(self, sequence: Held, tokens: Sequence[int] | Ints, *, planned: bool = False) -> None:
        """Give `tokens` behind those of a sequence a cell each. The caller has asked `fits`."""
        fresh = np.asarray(tokens, dtype=np.int64)
        self._n_free -= len(fresh)
        assert self._n_free >= 0, "append() was asked for more than fits"
        cells = self._free_cells[self._n_free : self._n_free + len(fresh)].copy()
        self._readers[cells] = 1
        sequence.tokens = np.concatenate([sequence.tokens, fresh])
        sequence.cells = np.concatenate([sequence.cells, cells])
        sequence.planned += len(fresh) if planned else 0
        sequence.output = None

    def hold(self, sequence: Held, path: Path) -> None:
        """Keep a sequence for as long as `path` lives and no other needs its place."""
        dead = self._dead
        sequence.reference = weakref.ref(path, dead.append)
        if sequence not in self._held:
            self._held.append(sequence)
        self.touch(sequence)

    def release(self, sequence: Held) -> None:
        """Give a sequence up: its slot at once, a cell when no other sequence sees it."""
        if sequence in self._held:
            self._held.remove(sequence)
        self._readers[sequence.cells] -= 1
        unseen = sequence.cells[self._readers[sequence.cells] == 0]
        self._free_cells[self._n_free : self._n_free + len(unseen)] = unseen
        self._n_free += len(unseen)
        self._free_slots.append(sequence.slot)
        self._dropped(sequence.slot)
        sequence.tokens = sequence.cells = _NONE

    def touch(self, sequence: Held) -> None:
        """It was used just now."""
        self._clock += 1
        sequence.touched = self._clock

    def collect(self) -> None:
        """Give up the sequences of paths that are garbage."""
        while self._dead:
            gone = self._dead.popleft()
            for held in [h for h in self._held if h.reference is gone and h.users == 0]:
                self.release(held)

    def clear(self) -> None:
        """Give up everything that is held, and every promise."""
        for held in list(self._held):
            self.release(held)
        self.reserved = 0

    def fits(self, n: int) -> bool:
        """Whether `n` more cells can be promised now, after giving up what nobody needs."""
        self.collect()
        while self._n_free < n + self.reserved:
            if not self._give_up_one():
                return False
        return True

    def _give_up_one(self, but: Held | None = None) -> bool:
        idle = [held for held in self._held if held.users == 0 and held is not but]
        if not idle:
            return False
        self.release(min(idle, key=lambda held: held.touched))
        return True
