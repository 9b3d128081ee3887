from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from itscale import cli, recording
from itscale.bench.store import Row, RunFolder, read_run
from itscale.budget import Usage
from itscale.errors import OptionError
from itscale.tasks import Countdown
from tests.bench.worlds import play_coins

SWEPT = {"task": "coins", "seed": 0}
ROOT = Path(__file__).parents[2]


def a_row(problem: str = "coins-1-0-0", error: str | None = None) -> Row:
    return Row(
        task="coins",
        problem=problem,
        level=1,
        method="beam:width=2,scope=parent",
        budget=4,
        seed=0,
        correct=True,
        any_correct=True,
        answer="½ \n",
        stop_reason="done",
        error=error,
        usage=Usage(generated_tokens=12, model_calls=4, seconds=0.25),
    )


def opened(path: Path, *, resume: bool = False, **swept: object) -> RunFolder:
    return RunFolder(path, SWEPT | swept, {"methods": ["beam"]}, resume=resume)


def test_rows_come_back_as_they_were(tmp_path: Path):
    """Every field survives the file, text with line ends and foreign letters included."""
    rows = [a_row("a"), a_row("b", error="ModelError: gone")]
    with opened(tmp_path) as store:
        for row in rows:
            store.append(row)
    with opened(tmp_path, resume=True) as store:
        assert store.rows == rows


def test_a_row_is_on_disk_when_append_returns(tmp_path: Path):
    """Another reader sees it while the folder is still open."""
    with opened(tmp_path) as store:
        store.append(a_row())
        assert json.loads((tmp_path / "results.jsonl").read_text())["answer"] == "½ \n"


def test_the_manifest_says_what_when_and_where(tmp_path: Path):
    """Version, what is swept, and each start with its command and machine."""
    with opened(tmp_path):
        pass
    with opened(tmp_path, resume=True):
        pass
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["swept"].items() >= SWEPT.items()
    assert "version" in manifest["swept"]
    assert len(manifest["starts"]) == 2
    for start in manifest["starts"]:
        assert start["methods"] == ["beam"]
        assert start["machine"]["cpus"] == os.cpu_count()
        assert {"started_at", "command"} <= start.keys()


def test_a_torn_last_line_is_dropped(tmp_path: Path):
    """What a kill left half-written is cut off, and the next row starts on a line of its own."""
    with opened(tmp_path) as store:
        store.append(a_row("a"))
    results = tmp_path / "results.jsonl"
    with results.open("a") as file:
        file.write('{"problem": "b", "lev')
    with opened(tmp_path, resume=True) as store:
        assert store.rows == [a_row("a")]
        store.append(a_row("c"))
    assert [json.loads(line)["problem"] for line in results.read_text().splitlines()] == ["a", "c"]


@pytest.mark.parametrize("line", ["not json", "[]", '{"problem": "b"}', "null"])
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, line: str):
    """It was not torn by a kill: somebody should look, so nothing is skipped or lost."""
    with opened(tmp_path) as store:
        store.append(a_row("a"))
    before = (tmp_path / "results.jsonl").read_text()
    (tmp_path / "results.jsonl").write_text(before + line + "\n" + before)
    with pytest.raises(OptionError, match="line 2 is not a result row"):
        opened(tmp_path, resume=True)
    assert (tmp_path / "results.jsonl").read_text() == before + line + "\n" + before


@pytest.mark.parametrize("line", ["not json", '{"question": "q"}'])
def test_a_broken_problem_is_named(tmp_path: Path, line: str):
    """By its line, when the run is read and when it is resumed."""
    with opened(tmp_path):
        pass
    (tmp_path / "problems.jsonl").write_text(f'{{"id": "a"}}\n{line}\n')
    with pytest.raises(OptionError, match=r"problems\.jsonl line 2 is not a problem"):
        read_run(tmp_path)
    with opened(tmp_path, resume=True) as store, pytest.raises(OptionError, match="line 2"):
        store.keep_problems("coins", [])


def test_a_folder_is_for_one_process_at_a_time(tmp_path: Path):
    """The second to come is refused; when the first has left, it may."""
    with opened(tmp_path), pytest.raises(OptionError, match="another process"):
        opened(tmp_path, resume=True)
    opened(tmp_path, resume=True).close()


def test_a_refused_folder_is_not_left_locked(tmp_path: Path):
    """An error on opening releases what was taken."""
    with opened(tmp_path) as store:
        store.append(a_row())
    with pytest.raises(OptionError, match="add --resume"):
        opened(tmp_path)
    opened(tmp_path, resume=True).close()


def test_a_run_is_not_written_over(tmp_path: Path):
    """Without --resume a folder that holds a run is refused, and left as it was."""
    with opened(tmp_path) as store:
        store.append(a_row())
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(OptionError, match="already holds a run"):
        opened(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_run_that_was_refused_before_its_first_row_is_not_in_the_way(tmp_path: Path):
    """The corrected command may name the same folder, with another seed too, and begins it anew."""
    with opened(tmp_path) as refused:
        refused.keep_problems("countdown", Countdown().problems(1))
    with opened(tmp_path, seed=1) as store:
        store.append(a_row())
    run = read_run(tmp_path)
    assert (run.manifest["swept"]["seed"], len(run.manifest["starts"]), run.problems) == (1, 1, {})


def test_results_of_different_sweeps_do_not_mix(tmp_path: Path):
    """--resume with another seed names what differs, and how."""
    opened(tmp_path).close()
    with pytest.raises(OptionError, match="a run with seed 0, not 1"):
        opened(tmp_path, resume=True, seed=1)


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    """A run is never spread into somebody's documents."""
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(OptionError, match=r"thesis\.tex"):
        opened(tmp_path, resume=True)


def test_an_absent_folder_can_be_resumed(tmp_path: Path):
    """So that a script may always say --resume."""
    with opened(tmp_path / "deep" / "new", resume=True) as store:
        assert store.rows == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"format": 99}', "newer itscale"),
        ("{}", "not the manifest"),
        ("[[]]", "not the manifest"),
        ("{", "does not parse"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path, text: str, says: str):
    """One of a later itscale, or a broken one."""
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(OptionError, match=says):
        opened(tmp_path, resume=True)


ARGUMENTS = ["bench", "coins", "--budgets", "1,4", "--problems", "40", "--concurrency", "4"]


def started_and_stopped(folder: Path, *how: signal.Signals) -> subprocess.CompletedProcess[str]:
    """A bench in a process of its own, sent signals, a moment apart, once it has kept some rows."""
    command = [sys.executable, "-m", "tests.bench.slow_coins", "0.05", *ARGUMENTS, "--out", str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    results, deadline = folder / "results.jsonl", time.monotonic() + 60
    while not (results.exists() and results.read_bytes().count(b"\n") >= 20):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for one in how:
        process.send_signal(one)
        time.sleep(0.02)
    output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def finished(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> list[dict[str, object]]:
    """Rows of a bench run to its end here, ordered, without their seconds."""
    play_coins(monkeypatch.setattr)
    done = CliRunner().invoke(cli.app, [*ARGUMENTS, "--out", str(folder), *more])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return sorted(
        (row | {"seconds": 0} for row in rows), key=lambda r: (r["problem"], r["method"], r["budget"])
    )


def test_a_killed_run_is_resumed_to_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After SIGKILL nothing finished is lost or run twice, and the end is as if it had not happened."""
    stopped = started_and_stopped(tmp_path / "killed", signal.SIGKILL)
    assert stopped.returncode == -signal.SIGKILL
    kept = (tmp_path / "killed" / "results.jsonl").read_bytes()
    whole = kept[: kept.rfind(b"\n") + 1]
    resumed = finished(tmp_path / "killed", monkeypatch, "--resume")
    assert (tmp_path / "killed" / "results.jsonl").read_bytes().startswith(whole)
    assert 20 <= whole.count(b"\n") < len(resumed)
    assert resumed == finished(tmp_path / "whole", monkeypatch)


def test_ctrl_c_keeps_rows_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The table so far on stdout, how to resume on stderr, exit code 130, and no traceback."""
    stopped = started_and_stopped(tmp_path / "run", signal.SIGINT)
    assert stopped.returncode == 130, stopped.stderr
    assert "so far" in stopped.stdout
    assert "weighted-best-of-n" in stopped.stdout
    assert "--resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert finished(tmp_path / "run", monkeypatch, "--resume") == finished(tmp_path / "whole", monkeypatch)


def test_a_second_ctrl_c_ends_a_bench_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a traceback, without the report, and with every finished run kept."""
    stopped = started_and_stopped(tmp_path / "run", signal.SIGINT, signal.SIGINT)
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert stopped.stderr.splitlines()[1:] == ["stopped at once"]
    assert finished(tmp_path / "run", monkeypatch, "--resume") == finished(tmp_path / "whole", monkeypatch)


def test_a_run_whose_recording_finds_no_room_is_resumed_to_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It stops with a sentence, not with failed runs; what was recorded and finished until then is kept."""
    play_coins(monkeypatch.setattr)
    opened = recording._opened

    def small(file: Path, offline: bool) -> sqlite3.Connection:
        database = opened(file, offline)
        database.execute("PRAGMA max_page_count = 40")
        return database

    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(recording, "_opened", small)
        stopped = CliRunner().invoke(cli.app, [*ARGUMENTS, "--keep-calls", "--out", str(folder)])
    assert stopped.exit_code == 2
    assert "calls.sqlite failed (database or disk is full); make room on its disk, then" in stopped.stderr
    kept = (folder / "results.jsonl").read_bytes()
    assert kept
    resumed = finished(folder, monkeypatch, "--resume", "--keep-calls")
    assert (folder / "results.jsonl").read_bytes().startswith(kept)
    whole = finished(tmp_path / "whole", monkeypatch)
    assert [plain(row) for row in resumed] == [plain(row) for row in whole]


def plain(row: dict[str, object]) -> dict[str, object]:
    """A row without what a recording gave for nothing."""
    return {name: value for name, value in row.items() if not name.startswith("replayed_")}
