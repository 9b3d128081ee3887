"""What a run knows of its paths: their numbers in the trace, and the streams they draw from.

Law: a stream is named after how its path came about and never after when; the k-th call of one kind
on a path has the same stream whatever else is asked in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from itscale.errors import ModelError
from itscale.events import Proposed, Trace
from itscale.randomness import Randomness
from itscale.types import Path, Sampling

__all__ = ["Ending", "How", "Lineage", "check_moved"]


Ending = Literal["step", "end"]


@dataclass(frozen=True, slots=True)
class How:
    """One way to extend paths."""

    temperature: float | None = None
    """None is the method's own."""
    until: Ending = "step"
    at_most: int | None = None
    """Tokens of this extension; none is as many as the path may have."""
    beyond: bool = False
    """Whether these may go past what the path may have."""

    @property
    def kind(self) -> str:
        """What tells calls of this kind on a path from others, in the names of streams."""
        kind = "step" if self.temperature is None else f"step at {self.temperature}"
        return kind if self.until == "step" else f"{kind}, whole"

    def sampling(self, own: Sampling) -> Sampling:
        """The method's own sampling, at this temperature."""
        return own if self.temperature is None else replace(own, temperature=self.temperature)


class Lineage:
    """Every path of one run, from its root on."""

    def __init__(self, root: Path, rng: Randomness, trace: Trace) -> None:
        self._streams = {root: rng}
        self._ids = {root: 0}
        self._rng = rng
        self._trace = trace
        self._turns: Counter[tuple[Path, str]] = Counter()

    def path_id(self, path: Path) -> int:
        """The number of a path in the trace."""
        return self._ids.setdefault(path, len(self._ids))

    def coming(self, path: Path, kind: str) -> Randomness:
        """The stream of the next call of that kind on a path, which may ask for it later."""
        own = self._streams.get(path)
        if own is None:  # made outside of this run: numbered in the order it is first seen
            own = self._streams[path] = self._rng.child("outside", len(self._streams))
        return own.child(kind, self._turns[path, kind])

    def next(self, path: Path, kind: str) -> Randomness:
        """The stream of a call on a path; the next has another one."""
        stream = self.coming(path, kind)
        self._turns[path, kind] += 1
        return stream

    def proposed(self, path: Path, descendant: Path, stream: Randomness, *, again: bool = False) -> None:
        """Name and record every step between a path and what was proposed for it.

        `again` where it was generated as part of another path already.
        """
        for node in reversed([node for node in descendant.nodes() if node.depth > path.depth]):
            assert node.step is not None
            assert node.parent is not None
            # A sample shared between runs hangs under another run's root: here it continues `path`.
            parent = path if node.depth == path.depth + 1 else node.parent
            self._streams[node] = stream.child(node.depth - path.depth)
            ids = self.path_id(parent), self.path_id(node)
            generated = 0 if again or node.step.forced else node.step.n_tokens
            self._trace.emit(Proposed(ids[1], ids[0], node.step.text, generated, node.step.end))


def check_moved(model: str, path: Path, children: Sequence[Path]) -> None:
    """Make sure that every child is longer than its path, or at its end: loops over steps rely on it.

    Raises:
        ModelError: one is neither.
    """
    if not all(
        child.ended or child.n_tokens > path.n_tokens or child.text != path.text for child in children
    ):
        raise ModelError(
            f"model {model!r} gave a step without a token that ends nothing, so that the path would grow for "
            "ever; hold it against the laws with: itscale doctor"
        )
