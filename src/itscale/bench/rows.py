"""The row of one run, and the schema in which rows are kept (docs/bench.md lists it).

Law: names and meanings of columns are stable. A column may be added, with a default, in a new
version of the schema; none is renamed, none changes its unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, NamedTuple

from itscale.budget import Usage

__all__ = ["SCHEMA", "SCHEMA_VERSION", "CellKey", "Context", "Row", "RowKey"]

SCHEMA_VERSION = 2
"""1: rows without task, model, scorer and counts of candidates. 2: what stands here."""


class Context(NamedTuple):
    """What cells must share to be compared: what was asked of whom, and who judged on the way."""

    task: str
    level: int | None
    model: str
    scorer: str


class CellKey(NamedTuple):
    """A method at a budget N in a context."""

    task: str
    level: int | None
    model: str
    scorer: str
    method: str
    budget: int

    @property
    def context(self) -> Context:
        """What it shares with the cells it can be compared with."""
        return Context(*self[:4])


class RowKey(NamedTuple):
    """What makes two rows the same run."""

    task: str
    problem: str
    model: str
    scorer: str
    method: str
    budget: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How one run of one method on one problem went."""

    task: str = ""
    model: str = ""
    """Spec of the model, as given."""
    scorer: str = ""
    """Spec of the scorer, as given; `none` without one."""
    problem: str
    level: int | None
    """Of the problem."""
    all_levels: bool = False
    """Whether the sweep took problems of every level together, so that its cells are of no one level."""
    method: str
    """The method's label: its name and every option that is not the default."""
    budget: int
    """N: generations the run could start."""
    seed: int
    """The sweep's; the run's own is derived from it and the problem's id."""
    correct: bool
    any_correct: bool
    """Whether any candidate is right, chosen or not."""
    candidates: int = 0
    """Candidates the run ended with."""
    correct_candidates: int = 0
    """How many of them are right, duplicates counted."""
    distinct_answers: int = 0
    """Different answers among them, as text."""
    answer: str | None
    stop_reason: str | None
    """None where the run ended in an error."""
    error: str | None
    ess: float | None = None
    """Effective sample size of the final weights, 1 to N, where the method has weights."""
    log_evidence: float | None = None
    """Nats; where the method estimates it."""
    usage: Usage

    @property
    def key(self) -> RowKey:
        """What makes two rows the same run."""
        return RowKey(self.task, self.problem, self.model, self.scorer, self.method, self.budget, self.seed)

    @property
    def context(self) -> Context:
        """What cells must share to be compared."""
        return Context(self.task, None if self.all_levels else self.level, self.model, self.scorer)

    @property
    def cell(self) -> CellKey:
        """The cell this run belongs to."""
        return CellKey(*self.context, self.method, self.budget)

    def to_json(self) -> dict[str, Any]:
        """Plain values; usage fields stand beside the others."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "usage"}
        return own | self.usage.to_json()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Row:
        """The row `to_json` was made of. Columns that came with a later schema take their defaults.

        Raises:
            KeyError: a field is missing that every schema has.
        """
        usage = Usage(**{f.name: values[f.name] for f in fields(Usage) if f.name in values})
        own = {
            f.name: values[f.name]
            for f in fields(cls)
            if f.name != "usage" and (f.default is MISSING or f.name in values)
        }
        return cls(**own, usage=usage)


SCHEMA: Mapping[str, str] = {
    "task": "string", "model": "string", "scorer": "string", "problem": "string", "level": "int64",
    "all_levels": "bool",
    "method": "string", "budget": "int64", "seed": "int64", "correct": "bool", "any_correct": "bool",
    "candidates": "int64", "correct_candidates": "int64", "distinct_answers": "int64",
    "answer": "string", "stop_reason": "string", "error": "string", "ess": "float64",
    "log_evidence": "float64",
    **{f.name: "float64" if f.name in ("seconds", "dollars") else "int64" for f in fields(Usage)},
}  # fmt: skip
"""Columns of the Parquet file in their order, with their types."""
