"""A sweep on the embedded models, killed at random moments and resumed."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.servers.sweeps import RUNS, alike, bench, by_test_servers, problems_of, rows_of, traced

pytestmark = [pytest.mark.server, pytest.mark.slow, by_test_servers]
KILLS = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert bench(folder).wait(timeout=600) == 0
    return folder


@pytest.mark.parametrize("recorded", [[], ["--keep-calls"]], ids=["rows alone", "every call kept"])
def test_a_sweep_killed_again_and_again_ends_as_one_that_was_not(
    whole: Path, tmp_path: Path, recorded: list[str]
):
    """SIGKILL after a random number of rows and a random part of the next, three times: no finished row is
    lost or run again, and rows, problems and candidates are those of an undisturbed sweep."""
    rng, folder = random.Random(0), tmp_path / "killed"
    results = folder / "results.jsonl"
    kept = b""
    for _ in range(KILLS):
        wanted = kept.count(b"\n") + rng.randint(1, RUNS // (KILLS + 2))
        process, deadline = bench(folder, "--resume", *recorded), time.monotonic() + 300
        while not (results.exists() and results.read_bytes().count(b"\n") >= wanted):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        now = results.read_bytes()
        assert now.startswith(kept)
        kept = now[: now.rfind(b"\n") + 1]
    assert 0 < kept.count(b"\n") < RUNS
    assert bench(folder, "--resume", *recorded).wait(timeout=600) == 0
    ours, theirs = rows_of(folder), rows_of(whole)
    assert len(ours) == len({row.key for row in ours}) == RUNS
    assert alike(ours) == alike(theirs)
    assert problems_of(folder) == problems_of(whole)
    assert traced(folder) == traced(whole)
    if recorded:
        assert sum(row.usage.replayed_tokens for row in ours) > 0, "no kill met a call that was kept"
