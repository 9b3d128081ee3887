"""Where keys and values live: one slot a token, any order, shared by every path through it.

A path's context is a list of slot numbers. Forking a path copies that list and nothing else;
memory grows with distinct tokens, never with paths times length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["TRASH", "SlotPool", "Slots"]

Slots = npt.NDArray[np.int64]
TRASH = 0
"""The slot padding writes to and masked positions read from. Never handed out."""


class SlotPool:
    """Key-value storage of shape (layers, capacity, 2 * kv_heads * head_dim), grown by doubling."""

    def __init__(
        self, *, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: str, limit_bytes: int
    ) -> None:
        width = 2 * kv_heads * head_dim
        self.bytes_per_slot = layers * width * dtype.itemsize
        self.limit = max(2, limit_bytes // self.bytes_per_slot)
        """Slots that fit into the memory limit, the trash slot included."""
        self.kv_heads = kv_heads
        self.head_dim = head_dim
        self.storage = torch.zeros(layers, min(2048, self.limit), width, dtype=dtype, device=device)
        self._free: Slots = np.arange(self.capacity - 1, TRASH, -1, dtype=np.int64)
        self._n_free = len(self._free)

    @property
    def capacity(self) -> int:
        """Slots allocated so far."""
        return self.storage.shape[1]

    @property
    def n_used(self) -> int:
        """Slots holding a token."""
        return self.capacity - 1 - self._n_free

    @property
    def n_available(self) -> int:
        """Slots that can still be handed out within the limit."""
        return self.limit - 1 - self.n_used

    def take(self, n: int) -> Slots:
        """`n` slots. The caller has made sure that `n <= n_available`."""
        while n > self._n_free:
            self._grow()
        self._n_free -= n
        return self._free[self._n_free : self._n_free + n].copy()

    def give_back(self, slots: Slots) -> None:
        """Slots nobody reads any more."""
        self._free[self._n_free : self._n_free + len(slots)] = slots
        self._n_free += len(slots)

    @contextmanager
    def lent(self, sizes: Iterable[int]) -> Iterator[list[Slots]]:
        """That many slots each, given back if the work with them fails. The caller has made sure of room."""
        taken = [self.take(size) for size in sizes]
        try:
            yield taken
        except BaseException:
            for slots in taken:
                self.give_back(slots)
            raise

    def _grow(self) -> None:
        old, new = self.capacity, min(2 * self.capacity, self.limit)
        assert new > old, "take() was asked for more than n_available"
        grown = torch.zeros(
            self.storage.shape[0],
            new,
            self.storage.shape[2],
            dtype=self.storage.dtype,
            device=self.storage.device,
        )
        grown[:, :old] = self.storage
        self.storage = grown
        free = np.empty(new - 1, dtype=np.int64)
        free[: self._n_free] = self._free[: self._n_free]
        free[self._n_free : self._n_free + new - old] = np.arange(new - 1, old - 1, -1)
        self._free, self._n_free = free, self._n_free + new - old
