"""What the engine works on: requests whose prefix has a sequence, and children in the making."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from itscale.models.engine.request import Ending, Given, Request
from itscale.models.engine.sampler import Draws, Settings
from itscale.models.gguf.sequences import Held
from itscale.types import End, Path, Step

__all__ = ["Admitted", "Row", "settings_of"]


@dataclass(slots=True, eq=False)
class Admitted:
    """A request whose prefix has a sequence, and which still has rows to start or an answer to get."""

    request: Request | Given
    prefix: Held
    limit: int
    """Cells each of its rows may take."""


@dataclass(slots=True, eq=False)
class Row:
    """One child in the making."""

    request: Request
    child: int
    """Which of the request's children this is."""
    sequence: Held
    path: Path
    """The path so far: grows at every boundary it passes."""
    limit: int
    """Tokens it may draw."""
    drawn: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    certainties: list[float] = field(default_factory=list)
    step_start: int = 0
    """How many of `drawn` are in `path` already."""
    fed: int = 0
    """How many of `drawn` have a cell."""

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """The whole sequence, from the prompt to the newest token."""
        return np.array([*self.sequence.tokens.tolist(), *self.drawn[self.fed :]], np.int64)

    def add(self, draws: Draws, k: int) -> None:
        """The newest token is draw `k` of some."""
        self.drawn.append(int(draws.tokens[k]))
        self.logprobs.append(float(draws.logprobs[k]))
        self.entropies.append(float(draws.entropies[k]))
        self.certainties.append(float(draws.certainties[k]))

    def end(self, ending: Ending) -> End | None:
        """What the newest token ends, if anything."""
        token, full = self.drawn[-1], len(self.drawn) >= self.limit
        if ending.path[token]:
            return End.EOS
        if ending.step[token] and not (full and self.request.until.what == "end"):
            return End.BOUNDARY
        return End.LENGTH if full else None

    def close_step(self, text: str, end: End) -> None:
        """The step it is in is over, and says `text`."""
        own = slice(self.step_start, len(self.drawn))
        logprobs = tuple(self.logprobs[own])
        step = Step(
            tuple(self.drawn[own]),
            text,
            end,
            math.fsum(logprobs),
            token_logprobs=logprobs,
            token_entropies=tuple(self.entropies[own]),
            token_certainties=tuple(self.certainties[own]),
        )
        self.path, self.step_start = self.path.child(step), len(self.drawn)


def settings_of(rows: Sequence[Row], tolerance: float) -> Settings:
    """How the rows' next tokens are drawn."""
    sampling = [row.request.sampling for row in rows]
    return Settings(
        np.array([s.temperature for s in sampling], np.float64),
        np.array([s.top_p for s in sampling], np.float64),
        np.array([s.top_k for s in sampling], np.int64),
        np.array([row.request.seeds[row.child] for row in rows], np.uint64),
        np.array([len(row.drawn) for row in rows], np.int64),
        tolerance,
    )
