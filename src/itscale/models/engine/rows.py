"""The batch in flight as arrays, so that a token step costs a few NumPy calls, not a loop over rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from itscale.models.engine.cache import Segment
from itscale.models.engine.sampler import Draws, Settings
from itscale.types import Path

if TYPE_CHECKING:
    from itscale.models.engine.request import Request

__all__ = ["Row", "Rows"]


@dataclass(slots=True)
class Row:
    """What a row in flight is for."""

    request: Request
    child: int
    """Which of the request's children this is."""
    parent: Segment
    """The segment it continues."""
    path: Path
    """The path so far: grows at every boundary it passes."""
    step_start: int = 0
    """How many of its tokens are in `path` already."""


class Rows:
    """Up to `capacity` rows, kept dense: the last row moves into the place of one that leaves."""

    def __init__(self, capacity: int, context: int) -> None:
        self.capacity = capacity
        self.n = 0
        self.info: list[Row] = []
        self.last_token = np.zeros(capacity, np.int64)
        self.length = np.zeros(capacity, np.int64)
        """Context tokens with a slot."""
        self.start = np.zeros(capacity, np.int64)
        """Context tokens that came before the row began."""
        self.n_tokens = np.zeros(capacity, np.int64)
        self.limit = np.zeros(capacity, np.int64)
        self.temperature = np.zeros(capacity, np.float64)
        self.top_p = np.zeros(capacity, np.float64)
        self.top_k = np.zeros(capacity, np.int64)
        self.seed = np.zeros(capacity, np.uint64)
        self.slots = np.zeros((capacity, 64), np.int64)
        self.tokens = np.zeros((capacity, 64), np.int64)
        self.logprobs = np.zeros((capacity, 64), np.float64)
        self.entropies = np.zeros((capacity, 64), np.float64)
        self.certainties = np.zeros((capacity, 64), np.float64)
        self._context = context

    def add(self, row: Row, context: np.ndarray, seed: int, limit: int) -> int:
        """Put a row in; it has drawn no token yet. Returns its index."""
        i, self.n = self.n, self.n + 1
        self.info.append(row)
        sampling = row.request.sampling
        self.slots = _wide_enough(self.slots, len(context) + 1)
        self.slots[i, : len(context)] = context
        self.length[i] = self.start[i] = len(context)
        self.n_tokens[i] = 0
        self.limit[i] = limit
        self.temperature[i] = sampling.temperature
        self.top_p[i] = sampling.top_p
        self.top_k[i] = sampling.top_k
        self.seed[i] = seed
        return i

    def settings(self, which: np.ndarray) -> Settings:
        """Sampling of some rows."""
        return Settings(
            self.temperature[which],
            self.top_p[which],
            self.top_k[which],
            self.seed[which],
            self.n_tokens[which],
        )

    def append(self, which: np.ndarray, draws: Draws) -> None:
        """Record one drawn token for each of some rows."""
        columns, at = int(self.n_tokens[which].max()) + 1, self.n_tokens[which]
        for name, drawn in (
            ("tokens", draws.tokens),
            ("logprobs", draws.logprobs),
            ("entropies", draws.entropies),
            ("certainties", draws.certainties),
        ):
            matrix = _wide_enough(getattr(self, name), columns)
            matrix[which, at] = drawn
            setattr(self, name, matrix)
        self.n_tokens[which] += 1
        self.last_token[which] = draws.tokens

    def feed(self, slots: np.ndarray) -> None:
        """Give every row's last token a slot."""
        self.slots = _wide_enough(self.slots, int(self.length[: self.n].max()) + 1)
        self.slots[np.arange(self.n), self.length[: self.n]] = slots
        self.length[: self.n] += 1

    def own_slots(self, i: int) -> np.ndarray:
        """Slots of the tokens row `i` itself has computed."""
        return self.slots[i, self.start[i] : self.length[i]].copy()

    def remove(self, indices: Sequence[int]) -> None:
        """Take rows out."""
        for i in sorted(indices, reverse=True):
            last = self.n - 1
            if i != last:
                for array in (
                    self.last_token,
                    self.length,
                    self.start,
                    self.n_tokens,
                    self.limit,
                    self.temperature,
                    self.top_p,
                    self.top_k,
                    self.seed,
                ):
                    array[i] = array[last]
                self.slots[i, : self.length[last]] = self.slots[last, : self.length[last]]
                drawn = slice(0, int(self.n_tokens[last]))
                for matrix in (self.tokens, self.logprobs, self.entropies, self.certainties):
                    matrix[i, drawn] = matrix[last, drawn]
                self.info[i] = self.info[last]
            self.info.pop()
            self.n = last


def _wide_enough(matrix: np.ndarray, columns: int) -> np.ndarray:
    if columns <= matrix.shape[1]:
        return matrix
    wider = np.zeros((matrix.shape[0], max(columns, 2 * matrix.shape[1])), matrix.dtype)
    wider[:, : matrix.shape[1]] = matrix
    return wider
