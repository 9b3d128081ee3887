"""`itscale allocate`, in a world of coins."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from itscale import cli
from itscale.allocation import OnlinePlan
from itscale.commands import allocate as command
from tests.bench.worlds import Coins, coin_model, play_coins
from tests.disk import no_file_beyond


@pytest.fixture(autouse=True)
def coins(monkeypatch: pytest.MonkeyPatch) -> None:
    play_coins(monkeypatch.setattr)
    monkeypatch.setattr(command, "TASKS", {"coins": Coins})
    monkeypatch.setattr(command, "load_task", lambda name: Coins())


def run(*words: object, stdin: str | None = None):
    return CliRunner().invoke(cli.app, ["allocate", *map(str, words)], input=stdin)


@pytest.mark.parametrize("rule", ["uniform", "pets", "pets-online"])
def test_a_task_is_answered_and_checked(rule, tmp_path):
    """Every rule: all samples accounted for, a line a prompt, the share that is right."""
    plan = tmp_path / "plan.json"
    OnlinePlan.fit([[6, 2], [4, 4]], coin_model().identity).to_calibration({}).save(plan)
    words = ("--plan", plan) if rule == "pets-online" else ()
    file = tmp_path / "answers.jsonl"
    done = run("coins", "--problems", 10, "--samples", 80, "--rule", rule, "--json", file, *words)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 10
    assert sum(row["samples"] for row in rows) <= 80
    assert f"{rule}: {sum(row['samples'] for row in rows)} samples for 10 prompts" in done.stdout
    assert "right: " in done.stdout


def test_prompts_come_from_a_file_or_standard_input(tmp_path):
    """A line each; blank lines are none; answers are printed with their share."""
    file = tmp_path / "prompts.txt"
    file.write_text("Call it.\n\nCall it again.\n")
    for done in (run(file, "--samples", 6), run("-", "--samples", 6, stdin=file.read_text())):
        assert done.exit_code == 0, done.output
        assert "Call it again." in done.stdout
        assert "6 samples for 2 prompts; 3 to 3 each" in done.stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("coinz", "--samples", 5), "did you mean 'coins'"),
        (("coins", "--samples", 5, "--rule", "pet"), "did you mean 'pets'"),
        (("coins", "--samples", 50, "--rule", "pets-online"), "go together"),
        (("coins", "--samples", 50, "--plan", "x.json"), "go together"),
        (("coins", "--samples", 50, "--rule", "pets-online", "--plan", "x.json"), "no calibration at"),
        (("coins", "--samples", 50, "--vote", "beam"), "no majority"),
        (("coins", "--samples", 0), "above 0"),
    ],
)
def test_what_cannot_be_met_is_one_sentence(words, why):
    """With the fix; nothing on stdout."""
    done = run(*words)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert why in done.stderr


def test_a_file_that_finds_no_room_hides_no_answer(tmp_path):
    """The answers are printed instead, an earlier file is as it was, and the sentence says what to do."""
    file = tmp_path / "answers.jsonl"
    file.write_text("old")
    with no_file_beyond(50):
        done = run("-", "--samples", 6, "--json", file, stdin="Call it.\nCall it again.\n")
    assert done.exit_code == 2
    assert "Call it again." in done.stdout
    assert done.stderr.strip().endswith("; make room, or give another file")
    assert [(kept.name, kept.read_text()) for kept in tmp_path.iterdir()] == [("answers.jsonl", "old")]
