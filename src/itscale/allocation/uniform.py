"""The same number of samples for every prompt: what any allocation is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from itscale.allocation.base import Allocation, Standing

__all__ = ["Uniform"]


@dataclass(frozen=True, kw_only=True)
class Uniform(Allocation):
    """Equal shares; the first prompts get one sample more where the budget does not divide."""

    name: ClassVar[str] = "uniform"
    summary: ClassVar[str] = "every prompt gets the same number of samples"

    def choose(self, standings: Sequence[Standing], left: int) -> int | None:
        open_ = [i for i, standing in enumerate(standings) if standing.refused is None]
        return min(open_, key=lambda i: (standings[i].started, i), default=None)
