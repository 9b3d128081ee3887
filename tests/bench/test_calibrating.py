"""`itscale calibrate`: from runs on training problems to files that methods use."""

from __future__ import annotations

import asyncio
import json

import pytest
from typer.testing import CliRunner

from itscale import cli
from itscale.allocation import OnlinePlan, PetsOnline
from itscale.bench.calibrating import training_problems
from itscale.budget import Budget
from itscale.commands import calibrate as command
from itscale.commands import sources
from itscale.methods import EarlyExit, PrunedMajority, SelfEvaluation
from itscale.models.base import Capability
from itscale.models.fake import FakeModel
from itscale.tasks.base import split_of
from itscale.tasks.chain import Chain
from tests.bench.worlds import Coins


def law(prefix):
    """Thinking makes the answer right and shows in the law of what comes next; guessing does neither."""
    if not prefix:
        return {"think\n": 0.5, "guess\n": 0.5}
    if prefix[-1] in ("1", "0"):
        return {"$": 1.0}
    if prefix[-1] == "$":  # never drawn from: what the model holds when all is said
        return {"1": 0.9, "0": 0.1} if prefix[0] == "think\n" else {"1": 0.2, "0": 0.8}
    thinks = prefix[0] == "think\n"
    if prefix[-1] == "Answer: ":
        return {"1": 0.95, "0": 0.05} if thinks else {"1": 0.1, "0": 0.9}
    if len(prefix) > 3:
        return {"Answer: ": 1.0}
    return {"so\n": 0.9, "Answer: ": 0.1} if thinks else {"so\n": 0.4, "Answer: ": 0.6}


def model(**options) -> FakeModel:
    tokens = ["think\n", "guess\n", "so\n", "Answer: ", "1", "0", "$"]
    return FakeModel(law, vocabulary=tokens, boundary="\n", **options)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[FakeModel]:
    """Every model loaded from now on."""
    loaded: list[FakeModel] = []

    def load(spec: str) -> FakeModel:
        loaded.append(model())
        return loaded[-1]

    monkeypatch.setattr(command, "load_task", lambda name: Coins())
    monkeypatch.setattr(sources, "load_model", load)
    return loaded


def run(*words: object):
    return CliRunner().invoke(cli.app, ["calibrate", *map(str, words)])


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("features", ["hidden", "logprobs", "statistics"])
def test_early_exit_is_calibrated_and_keeps_its_promise(features, tmp_path):
    """The file says model, level and evidence; the method that reads it errs no more than promised.

    400 new questions; the bound is delta plus three standard errors, so a false alarm comes once in
    700 at the worst.
    """
    file = tmp_path / "exit.json"
    done = run(
        "early-exit", "coins", "--problems", 300, "--delta", 0.2, "--out", file, "--features", features
    )
    assert done.exit_code == 0, done.output
    assert "promise: at most 20.0% of questions are left at a wrong answer" in done.stdout
    content = json.loads(file.read_text())
    assert content["model"] == "fake"
    assert content["evidence"]["questions_unseen"] == 60
    assert content["evidence"]["left_early"] > 0.3
    exits = wrong = 0
    method = EarlyExit(calibration=str(file))
    for seed in range(400):
        result = asyncio.run(method.run("Call it.", model(), None, Budget(), seed))
        left = any(step.forced for step in result.candidates[0].path.steps)
        exits += left
        wrong += left and result.answer != "1"
    assert exits > 100
    assert wrong / 400 <= 0.2 + 3 * (0.2 * 0.8 / 400) ** 0.5


def test_success_is_calibrated_and_used(models, tmp_path):
    """Prefixes tell thinking from guessing, so pruning keeps what is right more often than not."""
    file = tmp_path / "success.json"
    done = run("success", "coins", "--problems", 100, "--samples", 4, "--after-tokens", 2, "--out", file)
    assert done.exit_code == 0, done.output
    evidence = json.loads(file.read_text())["evidence"]
    assert evidence["auc_of_prefix_on_unseen"] > 0.8
    for method in (PrunedMajority(calibration=str(file)), SelfEvaluation(calibration=str(file), threshold=2)):
        answers = [
            asyncio.run(method.run("Call it.", model(), None, Budget(generations=4), seed)).answer
            for seed in range(40)
        ]
        assert answers.count("1") > 28  # thinking in half of the samples: 0.525 with one


def test_a_plan_is_calibrated_and_used(models, tmp_path):
    """The shares of its buckets sum to one, and an allocation takes it."""
    file = tmp_path / "plan.json"
    done = run("pets-online", "coins", "--problems", 20, "--samples", 10, "--out", file)
    assert done.exit_code == 0, done.output
    assert "first four answers of 20 questions agree: 4 " in done.stdout
    plan = OnlinePlan.load(file)
    assert sum(bucket.share for bucket in plan.buckets) == pytest.approx(1)
    rule = PetsOnline(plan=plan)
    result = asyncio.run(rule.run(["Call it."] * 5, model(), Budget(generations=40)))
    assert sum(answered.started for answered in result.answers) <= 40


def test_recorded_runs_are_not_made_again(models, tmp_path):
    """The second calibration, at another level, asks the model nothing."""
    words = ("early-exit", "coins", "--problems", 40, "--record", tmp_path / "calls.db", "--out")
    assert run(*words, tmp_path / "one.json", "--delta", 0.3).exit_code == 0
    assert run(*words, tmp_path / "two.json", "--delta", 0.1, "--offline").exit_code == 0
    assert models[0].calls > 0 == models[1].calls
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one["values"]["probe"] == two["values"]["probe"]


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("early-exits", "coins"), "did you mean 'early-exit'"),
        (("early-exit", "coins", "--delta", 1), "between 0 and 1"),
        (("early-exit", "coins", "--features", "hiden"), "did you mean 'hidden'"),
        (("early-exit", "coins", "--problems", 0), "at least 1"),
        (("early-exit", "coins", "--cue", "hmm", "--problems", 20), "no chain has a cue"),
        (("success", "coins", "--after-tokens", 99, "--problems", 20), "lower --after-tokens"),
        (("pets-online", "coins", "--samples", 3, "--problems", 5), "at least 4 samples"),
    ],
)
def test_what_cannot_be_fitted_is_one_sentence(words, why, tmp_path):
    """With the fix, and no file."""
    done = run(*words, "--out", tmp_path / "x.json")
    assert done.exit_code == 2, done.output
    assert why in done.stderr
    assert not (tmp_path / "x.json").exists()


def test_features_a_model_does_not_show_are_refused(monkeypatch, tmp_path):
    """Before any token; without a wish the features are those the model has."""
    blind = model(capabilities=frozenset(Capability) - {Capability.HIDDEN})
    monkeypatch.setattr(command, "load_task", lambda name: Coins())
    monkeypatch.setattr(sources, "load_model", lambda spec: blind)
    words = ("success", "coins", "--problems", 30, "--samples", 2, "--after-tokens", 2, "--out")
    done = run(*words, tmp_path / "x.json", "--features", "hidden")
    assert done.exit_code == 2
    assert "needs hidden" in done.stderr
    assert blind.calls == 0
    assert run(*words, tmp_path / "x.json").exit_code == 0
    assert json.loads((tmp_path / "x.json").read_text())["values"]["prefix"]["features"] == "logprobs"


def test_problems_are_from_the_training_side():
    """The same for the same seed, others for another, none of them held out."""
    task = Chain()
    problems = training_problems(task, 20, seed=1)
    assert problems == training_problems(task, 20, seed=1)
    assert problems != training_problems(task, 20, seed=2)
    assert not {p.prompt for p in problems} & {p.prompt for p in task.problems(200)}
    assert split_of("chain v0 = 1 + 2") in ("train", "test")
