from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from itscale import cli
from itscale.bench import study
from itscale.bench.rows import SCHEMA, Row, RowKey
from itscale.bench.store import RunFolder, read_run
from itscale.bench.study import Study, read_study
from itscale.budget import Usage
from itscale.errors import OptionError
from itscale.models.fake import FakeModel
from tests.bench.worlds import Coins, play_coins

FILE = """
title = "Is thinking worth it?"
tasks = ["coins"]
levels = [1, 2]
methods = ["majority", "beam:width=2,scope=parent"]
budgets = [1, 4]
problems = 3
seeds = [0, 1]
"""


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, list(map(str, words)))


@pytest.fixture
def coins(monkeypatch: pytest.MonkeyPatch) -> None:
    play_coins(monkeypatch.setattr)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A study of two levels and two seeds."""
    path = tmp_path / "study.toml"
    path.write_text(FILE)
    return path


def rows_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("coins")
def test_a_file_is_a_whole_study(tmp_path: Path, file: Path):
    """Every task, level, method, budget, problem and seed has its row, once; seeds share the problems."""
    done = run("bench", file, "--out", tmp_path / "run", "--json", tmp_path / "cells.jsonl")
    assert done.exit_code == 0, done.output
    rows = rows_of(tmp_path / "run")
    assert len(rows) == len({tuple(row[k] for k in RowKey._fields) for row in rows}) == 2 * 2 * 2 * 3 * 2
    problems = {seed: {row["problem"] for row in rows if row["seed"] == seed} for seed in (0, 1)}
    assert problems[0] == problems[1]
    assert len(problems[0]) == 2 * 3
    cells = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert len(cells) == 2 * 2 * 2
    assert {(cell["problems"], cell["runs"]) for cell in cells} == {(3, 6)}
    assert {row["model"] for row in rows} == {"embedded"}
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["starts"][0]["title"] == "Is thinking worth it?"


@pytest.mark.usefixtures("coins")
def test_flags_say_the_same_as_a_file(tmp_path: Path, file: Path):
    """Equal studies, equal rows but for their seconds."""
    flags = ("--level", "1,2", "--methods", "majority,beam:width=2,scope=parent", "--budgets", "1,4")
    assert run("bench", file, "--out", tmp_path / "file").exit_code == 0
    more = ("--problems", 3, "--seed", "0,1", "--out", tmp_path / "flags")
    assert run("bench", "coins", *flags, *more).exit_code == 0
    first, second = (
        sorted(json.dumps(row | {"seconds": 0}) for row in rows_of(tmp_path / name))
        for name in ("file", "flags")
    )
    assert first == second


@pytest.mark.usefixtures("coins")
def test_a_study_of_several_scorers_loads_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every model and scorer has its rows under its own name."""
    done = run(
        "bench", "coins", "--methods", "best-of-n", "--budgets", 2, "--problems", 2,
        "--model", "hf:a", "--model", "hf:b", "--scorer", "hf:x", "--scorer", "hf:y",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = {(row["model"], row["scorer"]) for row in rows_of(tmp_path / "run")}
    assert found == {("hf:a", "hf:x"), ("hf:a", "hf:y"), ("hf:b", "hf:x"), ("hf:b", "hf:y")}
    assert "model" in done.stdout
    assert "scorer" in done.stdout


class Clocked(FakeModel):
    """A model that says it has computed for as long as it exists."""

    began = 0.0

    @property
    def computing_s(self) -> float:
        return time.perf_counter() - self.began


@pytest.mark.parametrize(("kind", "busy"), [(FakeModel, False), (Clocked, True)])
def test_the_manifest_says_how_long_a_start_took_and_how_busy_it_kept_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[FakeModel], busy: bool
):
    """Where the model knows; a start that had nothing to do says nothing, and takes nothing back."""
    play_coins(monkeypatch.setattr, kind=kind)
    words = ("bench", "coins", "--methods", "best-of-n", "--budgets", 4, "--problems", 3, "--out", tmp_path)
    done = run(*words)
    assert done.exit_code == 0, done.output
    [start] = json.loads((tmp_path / "manifest.json").read_text())["starts"]
    assert start["ended_at"] >= start["started_at"]
    assert start["seconds"] > 0
    assert (start["model_busy"], start["scorer_busy"]) == (pytest.approx(1, abs=0.05) if busy else None, None)
    assert ("the model computed 100% of the time" in done.stdout) == busy
    assert run(*words, "--resume").exit_code == 0
    first, second = json.loads((tmp_path / "manifest.json").read_text())["starts"]
    assert first == start
    assert "seconds" not in second


@pytest.mark.parametrize(
    ("option", "says"), [("--model", "unknown model 'embeded'"), ("--scorer", "unknown scorer 'embeded'")]
)
def test_a_misspelt_model_is_refused_before_a_folder_is_made(tmp_path: Path, option: str, says: str):
    """With the closest known kind; nothing is left behind."""
    done = run("bench", "countdown", option, "embeded", "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert says in done.stderr
    assert "did you mean 'embedded'" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tasks = [\n'coins'\nmethods = 3", "line 3"),
        ('tasks = ["coins"]\nmetods = ["beam"]', "unknown key 'metods'; did you mean 'methods'"),
        ('methods = ["beam"]', "names no tasks"),
        ('tasks = "coins"', "give a list of texts"),
        ('tasks = ["coins"]\nbudgets = [1, "4"]', "give a whole number"),
        ('tasks = ["coins"]\nproblems = 2.5', "give a whole number"),
        ('tasks = ["coins"]\nseeds = []', "seeds is empty"),
        ('tasks = ["coins"]\nmethods = ["beem"]', "did you mean 'beam'"),
        ('tasks = ["countdwn"]', "did you mean 'countdown'"),
        ('tasks = ["coins"]\nlevels = [9]', "no level 9"),
        ("tasks = ['\\x", "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_honoured_is_refused(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each mistake has its sentence, with the line or the closest known word; nothing is run."""
    load = study.load_task
    monkeypatch.setattr(study, "load_task", lambda name: Coins() if name == "coins" else load(name))
    (tmp_path / "bad.toml").write_text(text)
    done = run("bench", tmp_path / "bad.toml", "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert says in done.stderr
    assert not (tmp_path / "run").exists()


def test_two_tasks_of_one_name_are_refused(tmp_path: Path):
    """Files of one name in two folders: their problems would share ids, and their rows a cell."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.jsonl").write_text(json.dumps({"question": folder, "answer": "1"}))
    specs = tuple(f"jsonl:{tmp_path / folder / 'test.jsonl'}" for folder in ("a", "b"))
    with pytest.raises(OptionError, match="two tasks are called 'test'"):
        Study(tasks=specs, problems=1)
    assert len(Study(tasks=(specs[0], specs[0]), problems=1).sweeps) == 1


@pytest.mark.usefixtures("coins")
def test_a_file_and_flags_are_not_mixed(tmp_path: Path, file: Path):
    """What is measured stands in one place; how it is run may be said beside the file."""
    done = run("bench", file, "--budgets", "2", "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert "--budgets beside" in done.stderr
    with pytest.raises(OptionError, match="there is no file"):
        read_study(tmp_path / "none.toml")


@pytest.mark.usefixtures("coins")
def test_calls_can_be_kept_in_the_folder(tmp_path: Path):
    """A second run on the recording of the first asks the model nothing."""
    words = ("bench", "coins", "--methods", "majority", "--budgets", 2, "--problems", 2)
    assert run(*words, "--keep-calls", "--out", tmp_path / "run").exit_code == 0
    done = run(
        *words, "--record", tmp_path / "run" / "calls.sqlite", "--offline", "--out", tmp_path / "again"
    )
    assert done.exit_code == 0, done.output
    assert ", 0 generated" in done.stdout


@pytest.mark.usefixtures("coins")
def test_every_run_has_its_trace_and_every_problem_its_question(tmp_path: Path):
    """Events, candidates with verdicts, and the chosen one, by the run's key."""
    assert run("bench", "coins", "--budgets", "4", "--problems", 3, "--out", tmp_path / "run").exit_code == 0
    kept = read_run(tmp_path / "run")
    traces = kept.traces([row.key for row in kept.rows])
    assert traces.keys() == {row.key for row in kept.rows}
    for row in kept.rows:
        trace = traces[row.key]
        assert trace["candidates"][trace["chosen"]]["correct"] == row.correct
        assert len(trace["candidates"]) == row.candidates
        assert sum(c["correct"] for c in trace["candidates"]) == row.correct_candidates
        chosen = next(event["path"] for event in trace["events"] if event["event"] == "chosen")
        assert trace["candidates"][trace["chosen"]]["path"] == chosen
        assert kept.problems[row.problem]["question"].startswith("Call coin")


@pytest.mark.usefixtures("coins")
def test_traces_stop_at_their_limit_and_can_be_left_out(tmp_path: Path):
    """Rows are kept all the same."""
    words = ("bench", "coins", "--budgets", "4", "--problems", 9)
    assert run(*words, "--trace-mb", 0.005, "--out", tmp_path / "few").exit_code == 0
    assert run(*words, "--trace-mb", 0, "--out", tmp_path / "none").exit_code == 0
    size = (tmp_path / "few" / "traces.jsonl").stat().st_size
    assert 5_000 <= size < 15_000
    assert not (tmp_path / "none" / "traces.jsonl").exists()
    assert len(rows_of(tmp_path / "few")) == len(rows_of(tmp_path / "none"))


@pytest.mark.usefixtures("coins")
def test_duckdb_reads_the_columns(tmp_path: Path):
    """Names and types are those of the documented schema, values those of the log."""
    duckdb = pytest.importorskip("duckdb")
    assert (
        run("bench", "coins", "--budgets", "1,4", "--problems", 5, "--out", tmp_path / "run").exit_code == 0
    )
    table = f"'{tmp_path / 'run' / 'results.parquet'}'"
    described = duckdb.sql(f"describe select * from {table}").fetchall()
    words = {"string": "VARCHAR", "int64": "BIGINT", "bool": "BOOLEAN", "float64": "DOUBLE"}
    assert [(name, kind) for name, kind, *_ in described] == [(n, words[k]) for n, k in SCHEMA.items()]
    totals = duckdb.sql(
        f"select method, budget, count(*), sum(correct::int), sum(generated_tokens) from {table} group by all"
    ).fetchall()
    for method, budget, count, correct, tokens in totals:
        own = [r for r in rows_of(tmp_path / "run") if (r["method"], r["budget"]) == (method, budget)]
        assert (count, correct) == (len(own), sum(bool(r["correct"]) for r in own))
        assert tokens == sum(int(str(r["generated_tokens"])) for r in own)


def test_a_run_of_the_first_schema_is_read(tmp_path: Path):
    """Rows without task, model and scorer take them from the manifest."""
    swept = {"task": "coins", "level": 1, "seed": 0, "model": "embedded", "scorer": "embedded"}
    row = Row(
        problem="a", level=1, method="majority", budget=4, seed=0, correct=True, any_correct=True,
        answer="1", stop_reason="done", error=None, usage=Usage(),
    )  # fmt: skip
    later = (
        "task",
        "model",
        "scorer",
        "candidates",
        "correct_candidates",
        "distinct_answers",
        "ess",
        "log_evidence",
    )
    old = {name: value for name, value in row.to_json().items() if name not in later}
    manifest = {"format": 1, "created_at": "2026-01-01", "swept": swept, "starts": []}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "results.jsonl").write_text(json.dumps(old) + "\n")
    [read] = read_run(tmp_path).rows
    assert (read.task, read.model, read.scorer, read.correct) == ("coins", "embedded", "embedded", True)


def test_a_newer_run_is_refused_and_left_alone(tmp_path: Path):
    """The sentence says to upgrade."""
    (tmp_path / "manifest.json").write_text('{"format": 99, "swept": {}, "starts": []}')
    for opened in (lambda: read_run(tmp_path), lambda: RunFolder(tmp_path, {}, {}, resume=True)):
        with pytest.raises(OptionError, match="upgrade itscale"):
            opened()


def test_a_study_names_what_it_sweeps():
    """Single values stand alone, several as a list."""
    small = Study(tasks=("countdown",), levels=(3, 4), problems=2, seeds=(0, 5))
    assert small.swept == {
        "task": "countdown", "level": [3, 4], "seed": [0, 5], "model": "embedded", "scorer": "embedded"
    }  # fmt: skip
    assert small.what == "countdown, level 3, 4, 2 problems, seed 0, 5"
    assert len(small.sweeps) == 4
