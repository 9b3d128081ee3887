from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from itscale import cli
from itscale.commands import sources
from itscale.errors import PromptError
from itscale.models.fake import FakeModel
from itscale.version import __version__
from tests.bench.worlds import coin_model, play_coins

CONTRACT = [
    "task",
    "method",
    "budget",
    "problems",
    "accuracy",
    "ci_low",
    "ci_high",
    "generated_tokens",
    "prompt_tokens",
    "cached_tokens",
    "model_calls",
    "scorer_calls",
    "seconds",
    "seed",
]


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli.app, list(words), input=stdin)


@pytest.fixture
def coins(monkeypatch: pytest.MonkeyPatch) -> None:
    play_coins(monkeypatch.setattr)


def played(monkeypatch: pytest.MonkeyPatch, model: FakeModel) -> FakeModel:
    """Coins played by this very model."""
    play_coins(monkeypatch.setattr)
    monkeypatch.setattr(sources, "load_model", lambda spec: model)
    return model


def refused(result: Result) -> str:
    """The one sentence of a refusal."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    return result.stderr.removeprefix("error: ").strip()


def test_help_shows_how_to_begin():
    """Every command has an example that can be copied."""
    assert 'itscale solve "Make 45' in run("--help").stdout
    for command in ("solve", "bench", "list"):
        assert "Example: itscale" in run(command, "--help").stdout


def test_version_is_the_package_s():
    """One line."""
    assert run("--version").stdout == f"itscale {__version__}\n"


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("methods", ["majority", "best-of-n", "particle-filter", "width=4", "temperature=1.0"]),
        ("models", ["embedded", "hf:PATH"]),
        ("scorers", ["embedded", "hf:PATH", "none"]),
        ("tasks", ["countdown", "chain", "4*"]),
    ],
)
def test_list_names_everything_there_is(what: str, names: list[str]):
    """Methods come with their options and defaults, tasks with their levels."""
    output = run("list", what).stdout
    assert [name for name in names if name not in output] == []


def test_list_alone_lists_everything():
    """Who does not know yet what there is need not know the words for it."""
    everything = run("list").stdout
    parts = [run("list", what).stdout for what in ("methods", "models", "scorers", "tasks")]
    assert everything == "".join(parts)


@pytest.mark.usefixtures("coins")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["list", "method"], "did you mean 'methods'"),
        (["solve", "hi", "--method", "beem"], "did you mean 'beam'"),
        (["solve", "hi", "--method", "beam:widht=2"], "did you mean 'width'"),
        (["solve", "hi", "--budget", "0"], "budget generations is 0"),
        (["solve", "hi", "--budget", "-3"], "budget generations is -3"),
        (["solve", "hi", "--max-tokens", "0"], "budget tokens is 0"),
        (["solve", "hi", "--seconds", "0"], "budget seconds is 0"),
        (["solve", "  "], "the prompt is empty"),
        (["solve", "hi", "--scorer", "none"], "weighted-best-of-n needs a scorer"),
        (["bench", "coins", "--budgets", "1,0"], "budget 0"),
        (["bench", "coins", "--budgets", "1,x"], "write it like 4 or 1,4,16"),
        (["bench", "coins", "--methods", "majority,,beam"], "empty part"),
        (["bench", "coins", "--problems", "0"], "0 problems"),
        (["bench", "coins", "--level", "9"], "no level 9"),
        (["bench", "coins", "--resume"], "add --out DIR"),
    ],
)
def test_a_request_that_cannot_be_met_gets_one_sentence(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """On stderr, exit code 2, no traceback, nothing on stdout and nothing on disk."""
    monkeypatch.chdir(tmp_path)
    assert says in refused(run(*words))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("serve FILE --port 9000", "--port beside FILE; say it in the file"),
        ("serve FILE --check --method majority", "--method beside FILE; say it in the file"),
        ("allocate FILE --samples 4 --level 3", "--level is of a task, and FILE holds prompts; leave it out"),
        ("calibrate success chain --out x.json --delta 0.1", "--delta is of early-exit, not of success"),
        ("calibrate pets-online chain --out x.json --features hidden", "of early-exit and success, not of"),
        ("calibrate early-exit chain --out x.json --samples 8", "--samples is of success and pets-online"),
    ],
)
def test_an_option_that_would_not_be_honoured_is_refused(words: str, says: str, tmp_path: Path):
    """What only some uses of a command know is not passed over in the others."""
    file = str(tmp_path / "file")
    Path(file).write_text("")
    assert says.replace("FILE", file) in refused(run(*words.replace("FILE", file).split()))


def test_unknown_specs_are_refused_by_the_real_registry():
    """Not only the fakes of the other tests."""
    assert "did you mean 'embedded'" in refused(run("solve", "hi", "--model", "embeded"))
    assert "did you mean 'countdown'" in refused(run("bench", "countdwn"))


def test_errors_of_the_file_system_are_sentences_too(tmp_path: Path):
    """An --out that is a file."""
    (tmp_path / "taken").write_text("")
    assert "taken" in refused(run("bench", "chain", "--problems", "1", "--out", str(tmp_path / "taken")))


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch):
    """By flag or by environment; for whoever has to find out where it came from."""
    assert type(run("--debug", "solve", " ").exception) is PromptError
    monkeypatch.setenv("ITSCALE_DEBUG", "1")
    assert type(run("solve", " ").exception) is PromptError


@pytest.mark.usefixtures("coins")
def test_solve_prints_the_answer_the_work_and_the_account():
    """Answer first, the worked text, one line of cost."""
    done = run("solve", "Call it.", "--budget", "8")
    assert done.exit_code == 0, done.output
    answer, _, *work, _, account = done.stdout.splitlines()
    assert answer == "1"
    assert work == ["think", "Answer: 1"]
    assert account.startswith("24 tokens generated, 8 model calls, 8 scorer calls, ")
    assert done.stderr == ""


@pytest.mark.usefixtures("coins")
def test_solve_json_is_the_whole_result():
    """Parses, and has usage and every candidate."""
    result = json.loads(run("solve", "Call it.", "--budget", "3", "--json", "--method", "majority").stdout)
    assert result["method"] == "majority"
    assert len(result["candidates"]) == 3
    assert result["usage"]["generated_tokens"] == 9
    assert result["text"] == result["candidates"][result["chosen"]]["text"]


@pytest.mark.usefixtures("coins")
def test_solve_reads_the_prompt_from_stdin():
    """`-` is standard input; the same prompt and seed give the same result."""
    words = ("--budget", "3", "--json", "--seed", "4")
    piped, given = run("solve", "-", *words, stdin="Call it.\n"), run("solve", "Call it.", *words)
    first, second = (json.loads(done.stdout) for done in (piped, given))
    assert first | {"usage": None} == second | {"usage": None}
    assert "the prompt is empty" in refused(run("solve", "-", stdin="\n"))


@pytest.mark.usefixtures("coins")
def test_limits_bind_and_are_named():
    """--max-tokens is a limit on all tokens of the run."""
    done = run("solve", "Call it.", "--budget", "8", "--max-tokens", "7")
    assert "(stopped by the limit on tokens)" in done.stdout
    assert int(done.stdout.splitlines()[-1].split()[0]) <= 7


@pytest.mark.parametrize(
    "method", ["greedy", "sample", "majority", "best-of-n", "weighted-best-of-n", "beam"]
)
def test_a_limit_that_binds_at_once_is_no_crash(method: str, monkeypatch: pytest.MonkeyPatch):
    """Every method is anytime: with no time at all the best so far is nothing."""
    played(monkeypatch, coin_model(latency_s=0.05))
    done = run("solve", "Call it.", "--method", method, "--seconds", "0.001")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("no answer was reached")
    assert "(stopped by the limit on seconds)" in done.stdout


@pytest.mark.usefixtures("coins")
def test_explain_collapses_equal_candidates_and_counts_votes():
    """16 candidates of 4 texts: four lines whose counts add up, votes by share, and the choice."""
    output = run("solve", "Call it.", "--explain").stdout
    assert "16 candidates, 4 different" in output
    rows = [line.split() for line in output.splitlines() if "Answer: " in line and "|" in line]
    assert sum(int(next(word for word in row if word.isdigit())) for row in rows) == 16
    assert [row[0] == ">" for row in rows].count(True) == 1
    [votes] = [line.split() for line in output.splitlines() if line.split()[:2] == [">", "1"]]
    assert "%" in votes
    assert "Chosen by weighted-best-of-n: candidate" in output
    assert "its answer 1 has the largest share" in output


@pytest.mark.usefixtures("coins")
def test_explain_tells_of_resampling_pruning_and_failures(monkeypatch: pytest.MonkeyPatch):
    """Each from the trace, for the method that does it."""
    filtered = run("solve", "Call it.", "--method", "particle-filter:ess_threshold=1", "--explain").stdout
    assert "resampling 1: 16 paths continue " in filtered
    assert "weight" in filtered
    assert "pruned " in run("solve", "Call it.", "--method", "beam:width=2", "--explain").stdout
    played(monkeypatch, coin_model(fail=lambda call: call == 1))
    failed = run("solve", "Call it.", "--method", "majority", "--budget", "3", "--explain").stdout
    assert "1 call failed, the last with: call 1 failed as told" in failed


@pytest.mark.usefixtures("coins")
def test_explain_marks_the_chosen_wherever_it_stands():
    """Majority takes the winner's earliest, which is rarely the first line of the table."""
    for seed in range(8):
        output = run("solve", "Call it.", "--method", "majority", "--explain", "--seed", str(seed)).stdout
        marked = [line for line in output.splitlines() if line.strip().startswith(">") and "|" in line]
        text = output.split("Chosen by")[1].split("\n\n")[2].strip()
        assert [line.split("   ")[-1].strip() for line in marked] == [text.replace("\n", " | ")]


def test_ctrl_c_in_solve_ends_at_once(monkeypatch: pytest.MonkeyPatch):
    """Exit code 130 and a sentence."""

    class Interrupted(FakeModel):
        async def extend(self, *call: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(60)

    played(monkeypatch, Interrupted({(): {"$": 1.0}}))
    done = run("solve", "Call it.")
    assert done.exit_code == 130
    assert done.stderr == "stopped before there was an answer\n"


def bench(folder: Path, *more: str) -> Result:
    return run("bench", "coins", "--problems", "10", "--budgets", "1,4", "--out", str(folder), *more)


@pytest.mark.usefixtures("coins")
def test_bench_json_keeps_the_contract(tmp_path: Path):
    """One object a cell, the agreed fields first and in order, sums over the problems."""
    file = tmp_path / "new" / "cells.jsonl"
    done = bench(
        tmp_path / "run", "--json", str(file), "--methods", "greedy,majority,beam:width=2,scope=parent"
    )
    assert done.exit_code == 0, done.output
    cells = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(cell["method"], cell["budget"]) for cell in cells] == [
        ("greedy", 1),
        ("majority", 1),
        ("majority", 4),
        ("beam:width=2,scope=parent", 1),
        ("beam:width=2,scope=parent", 4),
    ]
    assert all(list(cell)[: len(CONTRACT)] == CONTRACT for cell in cells)
    rows = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    for cell in cells:
        own = [row for row in rows if (row["method"], row["budget"]) == (cell["method"], cell["budget"])]
        assert len(own) == cell["problems"] == 10
        assert cell["accuracy"] == sum(row["correct"] for row in own) / 10
        assert 0 <= cell["ci_low"] <= cell["accuracy"] <= cell["ci_high"] <= 1
        assert cell["ci_high"] - cell["ci_low"] > 0.2  # ten problems do not say more
        for cost in ("generated_tokens", "prompt_tokens", "model_calls", "scorer_calls"):
            assert cell[cost] == sum(row[cost] for row in own)


@pytest.mark.usefixtures("coins")
def test_bench_ends_with_table_plot_and_paths(tmp_path: Path):
    """Results on stdout, progress on stderr; the files it names are there."""
    pytest.importorskip("matplotlib")
    done = bench(tmp_path / "run", "--json", str(tmp_path / "cells.jsonl"))
    assert "coins, level 1, 10 problems, seed 0" in done.stdout
    named = dict(
        line.split(": ", 1)
        for line in done.stdout.splitlines()
        if line.startswith(("plot: ", "rows: ", "json: ", "report: "))
    )
    assert named.keys() == {"plot", "rows", "json", "report"}
    assert all(Path(path).stat().st_size > 0 for path in named.values())
    assert "exact McNemar" in done.stdout
    assert "runs to do" in done.stderr
    assert "runs to do" not in done.stdout
    assert {file.name for file in (tmp_path / "run").iterdir()} == {
        ".lock", "manifest.json", "results.jsonl", "results.parquet", "problems.jsonl", "traces.jsonl",
        "table.md", "accuracy.png", "accuracy.svg", "report.html",
    }  # fmt: skip


@pytest.mark.usefixtures("coins")
def test_bench_without_matplotlib_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The figures do not depend on the picture."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = bench(tmp_path / "run")
    assert done.exit_code == 0
    assert done.stdout.count('pip install "itscale[bench]"') == 1


def test_bench_of_a_finished_run_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """--resume with nothing missing prints the same table again, without a model."""
    play_coins(monkeypatch.setattr)
    first = bench(tmp_path / "run")
    monkeypatch.setattr(sources, "load_model", lambda spec: pytest.fail("a model was loaded"))
    again = bench(tmp_path / "run", "--resume")
    assert again.exit_code == 0, again.output
    table = [line for line in first.stdout.splitlines() if "%" in line]
    assert table == [line for line in again.stdout.splitlines() if "%" in line]


@pytest.mark.usefixtures("coins")
def test_a_run_may_grow(tmp_path: Path):
    """--resume with more problems, methods or budgets adds what is missing and keeps the rest."""
    assert bench(tmp_path / "run", "--methods", "majority").exit_code == 0
    results = tmp_path / "run" / "results.jsonl"
    before = results.read_bytes()
    words = ("--methods", "majority,best-of-n", "--problems", "12", "--resume")
    assert run("bench", "coins", "--budgets", "1,4,8", "--out", str(tmp_path / "run"), *words).exit_code == 0
    after = results.read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == 2 * 3 * 12


@pytest.mark.usefixtures("coins")
def test_a_run_is_not_written_over(tmp_path: Path):
    """The second bench into one folder says what to add."""
    bench(tmp_path / "run")
    assert "add --resume" in refused(bench(tmp_path / "run"))
    assert "with seed 0, not 1" in refused(bench(tmp_path / "run", "--resume", "--seed", "1"))


def test_failures_are_counted_and_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They are wrong, in the table and in a sentence with the last error."""
    played(monkeypatch, coin_model(fail=lambda call: True))
    done = bench(tmp_path / "run", "--methods", "majority")
    assert done.exit_code == 0
    assert "20 failed runs count as wrong; the last: AllFailedError: every candidate failed" in done.stdout


def test_no_scorer_is_loaded_that_nobody_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Voting alone needs none; naming one loads it."""
    play_coins(monkeypatch.setattr)
    asked: list[str] = []
    monkeypatch.setattr(sources, "load_scorer", asked.append)
    bench(tmp_path / "one", "--methods", "majority")
    assert asked == []
    bench(tmp_path / "two", "--methods", "majority", "--scorer", "hf:x")
    assert asked == ["hf:x"]


def test_a_foreign_model_does_not_get_the_embedded_scorer(monkeypatch: pytest.MonkeyPatch):
    """It only knows what the embedded model writes."""
    played(monkeypatch, coin_model())
    assert "needs a scorer" in refused(run("solve", "Call it.", "--model", "hf:x"))
    assert run("solve", "Call it.", "--model", "hf:x", "--method", "majority").exit_code == 0
