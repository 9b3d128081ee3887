"""How a study is run: its groups of sweeps one after the other, in this process or on a cluster, measured."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from itscale.bench.cluster import run_on_ray
from itscale.bench.rows import RowKey
from itscale.bench.study import Study
from itscale.bench.sweep import OnRow, run_sweeps
from itscale.commands.sources import Sources, loaded, remembering

__all__ = ["Cluster", "Effort", "run_study"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where to spread a study."""

    ray: Any
    """The connected module."""
    workers: int | None


@dataclass(frozen=True, slots=True)
class Effort:
    """What running took, beside what was charged."""

    shared_tokens: int = 0
    seconds: float = 0.0
    """Of the sweeps alone: models are loaded before."""
    model_s: float | None = 0.0
    """Seconds of them in which the model's engine computed; None where nobody measures that."""
    scorer_s: float | None = 0.0

    def __add__(self, other: Effort) -> Effort:
        return Effort(
            self.shared_tokens + other.shared_tokens,
            self.seconds + other.seconds,
            _sum(self.model_s, other.model_s),
            _sum(self.scorer_s, other.scorer_s),
        )

    @property
    def model_busy(self) -> float | None:
        """Share of the seconds in which the model's engine computed, 0 to 1."""
        return self.model_s / self.seconds if self.model_s is not None and self.seconds else None

    def to_json(self) -> dict[str, float | None]:
        """What the manifest says of it."""
        scorer = self.scorer_s / self.seconds if self.scorer_s is not None and self.seconds else None
        shares = {"model_busy": self.model_busy, "scorer_busy": scorer}
        return {"seconds": round(self.seconds, 3)} | {
            name: None if share is None else round(share, 4) for name, share in shares.items()
        }


async def run_study(
    study: Study, sources: Sources, *, on_row: OnRow, done: Collection[RowKey], cluster: Cluster | None
) -> Effort:
    """Run what is not `done`, telling `on_row` of each row."""
    effort = Effort()
    for model, scorer, sweeps in study.groups:
        if all(key in done for sweep in sweeps for key in sweep.keys):
            continue
        group = replace(sources, model=model, scorer=scorer if study.scorers else None)
        methods = sweeps[0].methods
        traces, concurrency = study.trace_mb > 0, study.concurrency
        if cluster is not None:
            assert sources.record is not None
            began = time.perf_counter()
            shared = await run_on_ray(
                cluster.ray, sweeps, partial(remembering, group, methods), recording=sources.record,
                offline=sources.offline, on_row=on_row, done=done, concurrency=concurrency, traces=traces,
                workers=cluster.workers,
            )  # fmt: skip
            effort += Effort(shared, time.perf_counter() - began, None, None)
            continue
        async with loaded(group, methods) as (asked, judge):
            began = time.perf_counter()
            before = asked.computing_s, judge.computing_s if judge else None
            shared = await run_sweeps(
                sweeps, asked, judge, on_row=on_row, done=done, concurrency=concurrency, traces=traces
            )
            after = asked.computing_s, judge.computing_s if judge else None
            spent = [None if a is None or b is None else b - a for a, b in zip(before, after, strict=True)]
            effort += Effort(shared, time.perf_counter() - began, *spent)
    return effort


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
