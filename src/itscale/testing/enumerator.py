"""The exact enumerator: a random method run once for every combination of outcomes of its draws.

`enumerate_law` runs the unchanged method and adds up exact probabilities; compare the result with
brute force. No seeds, no tolerances to tune, no flakiness. Use N >= 2: with one particle all
weights are equal, and a wrong weight is invisible.

Not covered: draws that do not go through `Randomness.choose`. A model that draws from
`Randomness.seed` is the same in every replay, so enumerate methods over `FakeModel`.

Idea: genlm-control and monad-bayes, which test samplers by enumerating them.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from itscale.errors import ItscaleError
from itscale.models.fake import FakeModel, sampling_law
from itscale.randomness import Randomness, derive
from itscale.types import End, Path, Prompt, Sampling, Step

__all__ = [
    "EnumerationError",
    "Enumerator",
    "all_paths",
    "enumerate_expectation",
    "enumerate_law",
]

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)
Floats = npt.NDArray[np.float64]
Stream = tuple[tuple[str | int, ...], ...]
"""The labels of every child() on the way to a stream."""


class EnumerationError(ItscaleError, RuntimeError):
    """What was run cannot be enumerated: it has too many outcomes, or replays differ."""


@dataclass
class _Decision:
    """One draw, and which of its outcomes are still to be explored (the last is the current)."""

    name: tuple[Stream, int]
    law: Floats
    outcomes: list[int]


@dataclass
class _Tape:
    """The decisions of the current replay, in the order they were first asked for."""

    decisions: list[_Decision] = field(default_factory=list)
    position: int = 0
    made: dict[tuple[Stream, int], tuple[Floats, int]] = field(default_factory=dict)

    def rewind(self) -> None:
        self.position = 0
        self.made.clear()

    def advance(self) -> bool:
        """On to the next combination of outcomes; False when all have been."""
        while self.decisions:
            self.decisions[-1].outcomes.pop()
            if self.decisions[-1].outcomes:
                return True
            self.decisions.pop()
        return False

    def probability(self) -> float:
        """Of the current replay: the product over its decisions."""
        probability = 1.0
        for decision in self.decisions:
            probability *= float(decision.law[decision.outcomes[-1]])
        return probability

    def decide(self, name: tuple[Stream, int], law: Floats) -> int:
        if name in self.made:
            before, outcome = self.made[name]
            if not np.array_equal(before, law):
                raise EnumerationError(
                    f"draw {name[1]} of stream {name[0]} was asked for twice with different "
                    "probabilities; two draws share a stream, so give each its own child()"
                )
            return outcome
        if self.position == len(self.decisions):
            possible = [int(i) for i in np.flatnonzero(law)]
            self.decisions.append(_Decision(name, law, possible[::-1]))
        decision = self.decisions[self.position]
        if decision.name != name or not np.array_equal(decision.law, law):
            raise EnumerationError(
                f"replays differ: draw {self.position} was {decision.name} with {decision.law.tolist()}, now "
                f"it is {name} with {law.tolist()}; the run depends on something besides its Randomness"
            )
        self.position += 1
        outcome = decision.outcomes[-1]
        self.made[name] = (law, outcome)
        return outcome


class Enumerator(Randomness):
    """Randomness that makes every choice, one replay after the other.

    Like `Seeded`, the same name is the same stream of draws, however often it is asked for. Get
    one from `enumerate_law` or `enumerate_expectation`; they drive the replays.
    """

    def __init__(self, tape: _Tape, stream: Stream = ()) -> None:
        self._tape = tape
        self._stream = stream
        self._drawn = 0

    @property
    def seed(self) -> int:
        """A constant of the stream's name: draws made from it are not enumerated."""
        return derive(0, repr(self._stream))

    def choose(self, probabilities: Sequence[float] | Floats) -> int:
        law = np.array(probabilities, dtype=np.float64)
        total = float(law.sum())
        if law.ndim != 1 or not np.all(law >= 0) or not abs(total - 1) < 1e-9:
            raise EnumerationError(f"choose() was given {law.tolist()}; pass probabilities that sum to 1")
        name, self._drawn = (self._stream, self._drawn), self._drawn + 1
        return self._tape.decide(name, law / total)

    def child(self, *labels: str | int) -> Enumerator:
        return Enumerator(self._tape, (*self._stream, labels))


def enumerate_law(
    run: Callable[[Randomness], Awaitable[H] | H], *, max_replays: int = 200_000
) -> dict[H, float]:
    """The exact law of what `run` returns: each value with its probability (linear).

    >>> enumerate_law(lambda rng: rng.choose([0.5, 0.5]) + rng.choose([0.5, 0.5]))
    {0: 0.25, 1: 0.5, 2: 0.25}

    Args:
        run: called once a replay; may be async, and must depend on its argument alone.
        max_replays: how many combinations of outcomes to go through at most.

    Raises:
        EnumerationError: more combinations than that, or replays that differ.
    """
    law: dict[H, float] = {}
    for probability, value in _replays(run, max_replays):
        law[value] = law.get(value, 0.0) + probability
    return law


def enumerate_expectation(
    run: Callable[[Randomness], Awaitable[T] | T], *, max_replays: int = 200_000
) -> Floats:
    """The exact expectation of the number or array that `run` returns (any fixed shape).

    >>> float(enumerate_expectation(lambda rng: [1.0, 5.0][rng.choose([0.75, 0.25])]))
    2.0

    Arguments and errors are those of `enumerate_law`.
    """
    return np.asarray(
        sum(probability * np.asarray(value, np.float64) for probability, value in _replays(run, max_replays))
    )


def _replays(run: Callable[[Randomness], Awaitable[T] | T], limit: int) -> Iterator[tuple[float, T]]:
    """Every replay's probability and value, depth first."""

    async def awaited(value: Awaitable[T]) -> T:
        return await value

    tape = _Tape()
    with asyncio.Runner() as runner:  # one event loop for all replays: starting one costs more than a replay
        for _ in range(limit):
            tape.rewind()
            value = run(Enumerator(tape))
            if inspect.isawaitable(value):
                value = runner.run(awaited(value))
            if tape.position != len(tape.decisions):
                raise EnumerationError(
                    f"replays differ: this one ended after {tape.position} of {len(tape.decisions)} "
                    "draws; the run depends on something besides its Randomness"
                )
            yield tape.probability(), value
            if not tape.advance():
                return
    raise EnumerationError(f"more than {limit} combinations of outcomes; make the example smaller")


def all_paths(
    model: FakeModel, prompt: Prompt, *, sampling: Sampling | None = None, max_tokens: int = 64
) -> list[tuple[Path, float]]:
    """Every finished path of a fake model, step by step, with its probability (linear).

    Goes by the table alone and shares no code with `extend`, so as to be compared with it.

    Raises:
        EnumerationError: a path of positive probability is not finished after `max_tokens` tokens.
    """
    sampling = sampling or Sampling()
    found: list[tuple[Path, float]] = []

    def visit(path: Path, step: tuple[int, ...], logprob: float, probability: float) -> None:
        if path.n_tokens + len(step) >= max_tokens:
            raise EnumerationError(f"a path is longer than {max_tokens} tokens; raise max_tokens")
        law = sampling_law(model.probabilities([*path.token_ids, *step]), sampling)
        for token in map(int, np.flatnonzero(law)):
            ids, likely = (*step, token), logprob + float(np.log(law[token]))
            reached = probability * float(law[token])
            end = model.end_of(token)
            if end is None:
                visit(path, ids, likely, reached)
                continue
            child = path.child(Step(ids, model.text_of(ids), end, likely))
            if end is End.EOS:
                found.append((child, reached))
            else:
                visit(child, (), 0.0, reached)

    visit(Path.root(prompt), (), 0.0, 1.0)
    return found
