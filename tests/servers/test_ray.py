"""A sweep on a real two-node Ray cluster of this machine, a node of which is killed midway.

`scripts/test-servers` installs Ray and runs this; without it there is nothing to ask.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from itscale.bench.cluster import on_cluster, run_on_ray
from itscale.bench.rows import Row
from itscale.bench.sweep import run_sweeps
from itscale.budget import Ledger
from itscale.errors import ClusterError, OptionError
from itscale.models.base import Model, WrappedModel
from itscale.models.recorded import RecordedModel
from itscale.randomness import Randomness
from itscale.recording import Calls
from itscale.scorers.base import Scorer
from itscale.scorers.recorded import record_scores
from itscale.types import Path as Route
from itscale.types import Sampling, Until
from tests.bench.worlds import CoinScorer, coin_model, coin_sweep
from tests.servers.sweeps import RUNS, alike, bench, by_test_servers, problems_of, rows_of, traced

ray: Any = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.server, pytest.mark.slow, by_test_servers, pytest.mark.filterwarnings("ignore"),
]  # fmt: skip
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def settings() -> Iterator[dict[str, Any]]:
    """Small nodes, whose deaths are noticed within seconds and which find our tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
        patch.delenv("RAY_ADDRESS", raising=False)
        yield {
            "num_cpus": 1,
            "include_dashboard": False,
            "object_store_memory": 80_000_000,
            "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 4},
        }


@pytest.fixture
def nodes(settings: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """A cluster of two nodes with a CPU each, and the second of them, which may be killed."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=settings)
    try:
        second = cluster.add_node(
            **{name: value for name, value in settings.items() if name != "_system_config"}
        )
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster, second
    finally:
        ray.shutdown()
        cluster.shutdown()


class Counted(WrappedModel):
    """Writes down every call that is paid for, by the address it will be recorded under."""

    def __init__(self, model: Model, calls: Calls, log: Path) -> None:
        super().__init__(model)
        self._addresses = RecordedModel(model, calls)
        self._log = log

    async def extend(
        self, path: Route, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Route]:
        children = await super().extend(path, n, until, sampling, rng, ledger)
        address = self._addresses._address(path, until, sampling)
        for i in range(n):
            line = {"key": address.draw(rng.child(i).seed).key.hex(), "pid": os.getpid()}
            with self._log.open("a") as log:
                log.write(json.dumps(line | {"question": path.prompt.question}) + "\n")
        return children


@asynccontextmanager
async def coins(calls: Calls, *, log: Path, latency_s: float) -> AsyncIterator[tuple[Model, Scorer | None]]:
    """Model and scorer of the coin world on a worker, counted and recorded."""
    model = Counted(coin_model(latency_s=latency_s), calls, log)
    yield RecordedModel(model, calls), record_scores(CoinScorer(), calls)


@asynccontextmanager
async def dying(calls: Calls) -> AsyncIterator[tuple[Model, Scorer | None]]:
    """A worker whose process ends at its first call."""

    class Fatal(WrappedModel):
        async def extend(self, *asked: Any) -> list[Route]:
            os._exit(3)

    yield Fatal(coin_model()), CoinScorer()


def kept_keys(recording: Path) -> set[str]:
    with sqlite3.connect(f"{recording.as_uri()}?mode=ro", uri=True) as database:
        return {key.hex() for (key,) in database.execute("SELECT key FROM calls")}


def test_a_node_that_dies_changes_nothing_and_no_recorded_call_is_paid_twice(
    nodes: tuple[Any, Any], tmp_path: Path
):
    """The rows are those of a run in this process, and what the dead worker had recorded is not asked
    again: whatever was paid for twice was not yet in the recording when the node died."""
    cluster, second = nodes
    sweep, recording, log = (
        coin_sweep(budgets=(1, 4, 8), count=12),
        tmp_path / "calls.sqlite",
        tmp_path / "paid",
    )
    rows: list[Row] = []
    at_kill: set[str] = set()

    def keep(row: Row, _: Any) -> None:
        rows.append(row)
        if len(rows) == 40:
            cluster.remove_node(second, allow_graceful=False)
            at_kill.update(kept_keys(recording))
            unfinished.update({key.problem for key in sweep.keys} - {key.problem for key in whole()})

    def whole() -> list[Any]:
        found = Counter(row.key.problem for row in rows)
        return [row.key for row in rows if found[row.key.problem] == len(sweep.cells)]

    unfinished: set[str] = set()
    with on_cluster():
        asyncio.run(
            run_on_ray(
                ray, [sweep], partial(coins, log=log, latency_s=0.05), recording=recording,
                on_row=keep, concurrency=8, workers=2,
            )
        )  # fmt: skip
    local: list[Row] = []
    asyncio.run(run_sweeps([sweep], coin_model(), CoinScorer(), on_row=lambda row, _: local.append(row)))
    assert alike(rows) == alike(local)
    paid = [json.loads(line) for line in log.read_text().splitlines()]
    times = Counter(call["key"] for call in paid)
    assert {key: n for key, n in times.items() if n > 1 and key in at_kill} == {}
    assert times.keys() <= kept_keys(recording)
    # The test is of something: both nodes worked, and of the dead one's unfinished problems calls were kept.
    questions = {problem.prompt.question for problem in sweep.problems if problem.id in unfinished}
    by_worker: dict[int, list[dict[str, Any]]] = {}
    for call in paid:
        by_worker.setdefault(call["pid"], []).append(call)
    assert len(by_worker) >= 2
    redone = [
        call for calls in by_worker.values() for call in calls
        if call["question"] in questions and call["key"] in at_kill
    ]  # fmt: skip
    assert redone


def test_a_worker_that_dies_at_every_start_is_given_up(nodes: tuple[Any, Any], tmp_path: Path):
    """Not for ever: the error says what died and how to go on."""
    with on_cluster(), pytest.raises(ClusterError, match=r"3 workers in a row died .* --resume"):
        asyncio.run(
            run_on_ray(
                ray, [coin_sweep(count=2)], dying, recording=tmp_path / "calls.sqlite",
                on_row=lambda row, trace: None, concurrency=4, workers=1,
            )
        )  # fmt: skip


def test_an_impossible_request_ends_the_sweep_as_it_does_locally(nodes: tuple[Any, Any], tmp_path: Path):
    """The worker's own error arrives, not Ray's account of it."""
    with on_cluster(), pytest.raises(OptionError, match="needs a process scorer") as raised:
        asyncio.run(
            run_on_ray(
                ray, [coin_sweep(["beam:width=2"], count=2)], without_scorer,
                recording=tmp_path / "calls.sqlite", on_row=lambda row, trace: None, concurrency=4,
            )
        )  # fmt: skip
    assert type(raised.value) is OptionError


@asynccontextmanager
async def without_scorer(calls: Calls) -> AsyncIterator[tuple[Model, Scorer | None]]:
    """A worker that lacks what the method needs."""
    yield coin_model(), None


def test_the_command_on_a_cluster_gives_the_rows_of_the_command_here(nodes: tuple[Any, Any], tmp_path: Path):
    """The embedded models, with a node killed midway: same rows, problems and candidates."""
    cluster, second = nodes
    spread = bench(tmp_path / "ray", "--runner", "ray", "--workers", "2", RAY_ADDRESS=cluster.address)
    results, deadline = tmp_path / "ray" / "results.jsonl", time.monotonic() + 300
    while not (results.exists() and results.read_bytes().count(b"\n") >= 48):
        assert spread.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    cluster.remove_node(second, allow_graceful=False)
    assert spread.wait(timeout=300) == 0
    assert bench(tmp_path / "local", "--keep-calls").wait(timeout=300) == 0
    ours, theirs = rows_of(tmp_path / "ray"), rows_of(tmp_path / "local")
    assert alike(ours) == alike(theirs)
    assert len(ours) == RUNS
    assert problems_of(tmp_path / "ray") == problems_of(tmp_path / "local")
    assert traced(tmp_path / "ray") == traced(tmp_path / "local")
    assert json.loads((tmp_path / "ray" / "manifest.json").read_text())["starts"][0]["runner"] == "ray"
