"""What happened in a run, as typed events: the log, the live page, the report and the tests all
read the same stream. Paths are numbered in the order a run first saw them; the root is 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

__all__ = [
    "Chosen",
    "Compared",
    "Event",
    "Exchanged",
    "Failed",
    "Proposed",
    "Pruned",
    "Resampled",
    "Scored",
    "Stopped",
    "Trace",
    "Weighed",
]


@dataclass(frozen=True, slots=True)
class Proposed:
    """A path has one step more: a model's, or one that the method put there."""

    path: int
    parent: int
    text: str
    tokens: int
    """That were generated for it; 0 for a step that the method put there, or cut from another."""
    end: str


@dataclass(frozen=True, slots=True)
class Scored:
    """A scorer judged a path: one score a step (process) or one in all (outcome)."""

    path: int
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """A scorer saw paths side by side, in this order; `ranks` are theirs, 0 best, equal ones ties."""

    paths: tuple[int, ...]
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Weighed:
    """A population took a step: slot i has path `paths[i]` and this weight of the whole (linear)."""

    paths: tuple[int, ...]
    weights: tuple[float, ...]
    ess: float


@dataclass(frozen=True, slots=True)
class Resampled:
    """A population was resampled: slot i now continues path `paths[i]`. Weights are before."""

    paths: tuple[int, ...]
    weights: tuple[float, ...]
    ess: float
    log_evidence: float


@dataclass(frozen=True, slots=True)
class Exchanged:
    """Two chains of different powers of the weight offered each other their paths."""

    paths: tuple[int, int]
    powers: tuple[float, float]
    probability: float
    """That the offer is taken."""
    accepted: bool


@dataclass(frozen=True, slots=True)
class Pruned:
    """Paths were dropped for good."""

    paths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """A call failed for good; it cost what was asked of this path: its next step, its score, or its
    comparison with others."""

    path: int
    error: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """A limit bound; the best so far is the answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """The run's answer is this path."""

    path: int


Event = Proposed | Scored | Compared | Weighed | Resampled | Exchanged | Pruned | Failed | Stopped | Chosen


class Trace:
    """The events of one run, in order; observers are called with each as it happens."""

    def __init__(self, *observers: Callable[[Event], None]) -> None:
        self.events: list[Event] = []
        self._observers = observers

    def emit(self, event: Event) -> None:
        """Append and tell the observers."""
        self.events.append(event)
        for observer in self._observers:
            observer(event)

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values, each with its event name under `event`."""
        return [{"event": type(e).__name__.lower(), **asdict(e)} for e in self.events]
