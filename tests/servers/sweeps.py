"""`itscale bench` on the embedded models as a process of its own, and what its folders must agree in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from itscale.bench.rows import Row

ROOT = Path(__file__).parents[2]
by_test_servers = pytest.mark.skipif(
    "ITSCALE_SERVERS" not in os.environ, reason="takes minutes; part of scripts/test-servers"
)
ARGUMENTS = [
    "bench", "countdown", "--methods", "majority,best-of-n,beam,particle-filter",
    "--budgets", "1,4,16", "--problems", "16",
]  # fmt: skip
RUNS = 16 * 4 * 3
OF_CACHES = {"seconds", "cached_tokens", "scorer_tokens"}
"""What depends on what an engine had in its cache."""
OF_REPLAY = {"replayed_tokens", "replayed_calls", "replayed_scorer_calls"}


def bench(folder: Path, *more: str, **environment: str) -> subprocess.Popen[bytes]:
    """The command, started."""
    return subprocess.Popen(
        [sys.executable, "-m", "itscale.cli", *ARGUMENTS, "--out", str(folder), *more],
        cwd=ROOT, env={**os.environ, **environment}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def rows_of(folder: Path) -> list[Row]:
    """Every row of a folder."""
    return [Row.from_json(json.loads(line)) for line in (folder / "results.jsonl").read_text().splitlines()]


def alike(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows in the order of their keys, without what may differ."""
    plain = [{k: v for k, v in row.to_json().items() if k not in OF_CACHES | OF_REPLAY} for row in rows]
    return [plain[i] for i in sorted(range(len(rows)), key=lambda i: rows[i].key)]


def problems_of(folder: Path) -> list[str]:
    """Every line of problems.jsonl."""
    return sorted((folder / "problems.jsonl").read_text().splitlines())


def traced(folder: Path) -> dict[str, list[str]]:
    """Of every run the candidates, whatever the order in which its events happened."""
    traces = map(json.loads, (folder / "traces.jsonl").read_text().splitlines())
    names = ("answer", "score", "weight", "correct")
    return {
        json.dumps(trace["run"]): sorted(json.dumps([c[name] for name in names]) for c in trace["candidates"])
        for trace in traces
    }
