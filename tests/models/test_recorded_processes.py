"""Recordings among processes: kills at random moments, and two processes on one file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path as FilePath

import pytest

from tests.bench.worlds import CoinScorer, coin_model
from tests.models.recorded_runs import results

ROOT = FilePath(__file__).parents[2]


@pytest.fixture
def file(tmp_path: FilePath) -> FilePath:
    return tmp_path / "calls.db"


def runs(*arguments: object) -> subprocess.Popen[str]:
    """`recorded_runs` in a process."""
    command = [sys.executable, "-m", "tests.models.recorded_runs", *map(str, arguments)]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def integrity(file: FilePath) -> str:
    database = sqlite3.connect(file)
    [[verdict]] = database.execute("PRAGMA integrity_check").fetchall()
    database.close()
    return str(verdict)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")
def test_killed_at_ten_random_moments_nothing_kept_is_asked_again(file: FilePath, tmp_path: FilePath):
    """The runs end with the results of runs left alone; no model or scorer call was made again once kept."""
    process = runs(file, tmp_path / "log", tmp_path / "out", 10)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert json.loads(output) == [-signal.SIGKILL] * 10
    kept: set[str] = set()
    asked: list[str] = []
    for line in (tmp_path / "log").read_text().splitlines():
        word, _, call = line.partition(" ")
        if word == "kept":
            kept.add(call)
        else:
            assert call not in kept
            asked.append(call)
    assert kept == set(asked)
    assert len(asked) > len(kept), "no kill met a call in flight, so nothing was tried"
    plain = asyncio.run(results(coin_model(), CoinScorer()))
    assert json.loads((tmp_path / "out").read_text()) == plain
    assert integrity(file) == "ok"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")
def test_two_processes_share_a_file(file: FilePath, tmp_path: FilePath):
    """Both begin the file, write to it and read from it at once, and both end with the right results."""
    both = [runs(file, tmp_path / f"log{i}", tmp_path / f"out{i}", 0) for i in (1, 2)]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    plain = asyncio.run(results(coin_model(), CoinScorer()))
    assert [json.loads((tmp_path / f"out{i}").read_text()) for i in (1, 2)] == [plain, plain]
    assert integrity(file) == "ok"
