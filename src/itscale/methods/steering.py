"""The verbs of a session that go beyond drawing: put text into a path, ask what the model makes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from itscale.budget import Ledger, OutOfBudget
from itscale.errors import ModelError
from itscale.events import Event, Exchanged, Failed
from itscale.methods.arrivals import together, within
from itscale.methods.cutting import cut_path
from itscale.methods.lineage import How, Lineage
from itscale.models.base import Model
from itscale.randomness import Randomness
from itscale.types import Path, Sampling, Step, StopReason

__all__ = ["Steering"]


class Steering(ABC):
    """A part of `Session`, which has the state and the call that draws."""

    ledger: Ledger
    exhausted: StopReason | None
    _model: Model
    _sampling: Sampling
    _lineage: Lineage
    _last_failure: Exception | None

    def force(self, path: Path, text: str) -> Path:
        """The path with one more step that says `text`, not drawn. Needs `Capability.FORCING`."""
        child = self._model.forced(path, text)
        self._lineage.proposed(path, child, self._lineage.next(path, "forced"))
        return child

    def graft(self, path: Path, steps: Sequence[Step]) -> Path:
        """The path with steps of another after it, not drawn here. Needs `Capability.FORCING`."""
        end = path
        for step in steps:
            untold = replace(step, logprob=None, token_logprobs=None, token_entropies=None)
            end = end.child(replace(untold, forced=True))
        self._lineage.proposed(path, end, self._lineage.next(path, "forced"))
        return end

    def cut(self, path: Path, n_tokens: int) -> Path:
        """The first tokens of a path, as a path that can go on (`methods/cutting.py`)."""
        part = cut_path(self._model, path, n_tokens)
        if part.parent is not None and part not in path.nodes():
            self._lineage.proposed(part.parent, part, self._lineage.next(part.parent, "cut"), again=True)
        return part

    async def continued(
        self, paths: Sequence[Path], *, at_most: int, whole: bool = False, greedy: bool = False
    ) -> list[Path | None]:
        """Each path's one continuation by `at_most` tokens: a step, or with `whole` as far as it goes.

        Unlike `extend` it may go on past the method's `max_tokens`, and nothing is `required`: None
        where the call failed, the path itself where it may not move.
        """
        how = How(0.0 if greedy else None, "end" if whole else "step", at_most, beyond=True)
        streams = [self._lineage.next(path, how.kind) for path in paths]
        grown = await together(
            self._propose(path, 1, how, stream) for path, stream in zip(paths, streams, strict=True)
        )
        return [children[0] if children else None for children in grown]

    async def logprobs(self, path: Path, token_ids: Sequence[int]) -> tuple[float, ...] | None:
        """Log-probabilities (nats) of given tokens after a path, under the method's sampling
        distribution; None if the call failed or a limit bound. Needs `Capability.GIVEN`."""
        return await self._told(path, self._model.logprobs_of(path, token_ids, self._sampling, self.ledger))

    async def hidden(self, path: Path) -> tuple[float, ...] | None:
        """What the model holds at the path's last token; None if the call failed or a limit bound.
        Needs `Capability.HIDDEN`."""
        return await self._told(path, self._model.hidden_states(path, self.ledger))

    def exchanged(
        self, one: Path, other: Path, powers: tuple[float, float], probability: float, accepted: bool
    ) -> None:
        """Record that two chains, at these powers of the weight, offered each other their paths."""
        ids = self._lineage.path_id(one), self._lineage.path_id(other)
        self._emit(Exchanged(ids, powers, probability, accepted))

    async def _told(
        self, path: Path, call: Coroutine[Any, Any, tuple[float, ...]]
    ) -> tuple[float, ...] | None:
        try:
            self.ledger.check()
            return await within(self.ledger, call)
        except OutOfBudget as limit:
            self.exhausted = self.exhausted or limit.reason
        except ModelError as error:
            self.ledger.failed_calls += 1
            self._last_failure = error
            self._emit(Failed(self._lineage.path_id(path), str(error)))
        finally:
            call.close()
        return None

    @abstractmethod
    def _emit(self, event: Event) -> None:
        """Put an event into the trace."""

    @abstractmethod
    async def _propose(self, path: Path, n: int, how: How, rng: Randomness) -> list[Path]:
        """Children of a path; itself alone where it may not move, none where the call failed."""
