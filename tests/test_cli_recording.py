"""The options --record and --offline of solve and bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from itscale import cli
from itscale.commands import sources
from itscale.models.fake import FakeModel
from tests.bench.worlds import CoinScorer, coin_model


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, list(map(str, words)))


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[FakeModel]:
    """Every model the command line loads from now on, in a world of coins."""
    from tests.bench.worlds import play_coins

    loaded: list[FakeModel] = []

    def load(spec: str) -> FakeModel:
        loaded.append(coin_model())
        return loaded[-1]

    play_coins(monkeypatch.setattr)
    monkeypatch.setattr(sources, "load_model", load)
    return loaded


def answered(*words: object) -> dict[str, Any]:
    done = run("solve", "Call it.", "--json", *words)
    assert done.exit_code == 0, done.output
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_solve_again_is_free_and_says_so(tmp_path: Path, models: list[FakeModel]):
    """The second run has the same answer and account, asks nothing, and tells what was replayed."""
    file = tmp_path / "calls.db"
    first = answered("--record", file)
    again = answered("--record", file, "--offline")
    assert [model.calls > 0 for model in models] == [True, False]
    assert again["candidates"] == first["candidates"]
    usage = again["usage"]
    assert usage["replayed_tokens"] == usage["generated_tokens"] == first["usage"]["generated_tokens"]
    assert usage["replayed_calls"] == usage["model_calls"]
    assert usage["replayed_scorer_calls"] == usage["scorer_calls"] > 0
    told = run("solve", "Call it.", "--record", file).stdout
    assert f"({usage['replayed_tokens']} replayed from 32 recorded calls)" in told
    assert "replayed" not in run("solve", "Call it.").stdout


@pytest.mark.parametrize("command", [("solve", "Call it."), ("bench", "coins", "--problems", 2)], ids=str)
def test_offline_refuses_what_is_not_recorded(
    command: tuple[object, ...], tmp_path: Path, models: list[FakeModel]
):
    """Without a file, with one that does not exist, with one that lacks the call: one sentence each."""
    out = ("--out", tmp_path / "run") if command[0] == "bench" else ()
    for more, says in (
        (("--offline",), "--offline answers from a recording; add --record FILE"),
        (("--offline", "--record", tmp_path / "none"), "there is no recording at"),
        (("--offline", "--record", tmp_path / "other"), "lacks a call of model 'fake' on 'Call"),
    ):
        if says.startswith("lacks"):
            assert run("solve", "Another.", "--record", tmp_path / "other").exit_code == 0
        resume = ("--resume",) if out else ()
        done = run(*command, *out, *resume, *more)
        assert done.exit_code == 2, done.output
        assert says in done.stderr
    assert not (tmp_path / "none").exists()
    assert sum(model.calls > 0 for model in models) == 1  # the one that recorded


def test_a_new_bench_on_an_old_recording_generates_nothing(
    tmp_path: Path, models: list[FakeModel], monkeypatch: pytest.MonkeyPatch
):
    """Its rows are the old ones, and the line on what was done tells charged, shared and replayed apart."""
    scorer = CoinScorer()
    monkeypatch.setattr(sources, "load_scorer", lambda spec: scorer)
    words = ("bench", "coins", "--budgets", "1,4", "--problems", 4, "--record", tmp_path / "calls.db")
    rows, lines = [], []
    for folder in ("one", "two"):
        done = run(*words, "--out", tmp_path / folder)
        assert done.exit_code == 0, done.output
        lines += [line for line in done.stdout.splitlines() if "tokens charged" in line]
        parsed = [json.loads(row) for row in (tmp_path / folder / "results.jsonl").read_text().splitlines()]
        kept = [{k: v for k, v in row.items() if k != "seconds" and "replayed" not in k} for row in parsed]
        rows.append(sorted(kept, key=lambda row: (row["problem"], row["method"], row["budget"])))
    assert rows[0] == rows[1]
    assert models[0].calls > 0 == models[1].calls
    charged = sum(row["generated_tokens"] for row in rows[1])
    assert f"{charged} tokens charged, 0 of them shared, {charged} replayed, 0 generated" in lines[1]
    assert f" {models[0].tokens_generated} generated" in lines[0]
