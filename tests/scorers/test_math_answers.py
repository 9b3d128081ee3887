"""Mathematical answers: what math-verify makes of them, in a process that may hang or die."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from itscale.budget import Budget
from itscale.errors import OptionError
from itscale.methods import Majority
from itscale.models.fake import FakeModel
from itscale.scorers.answers import ANSWER_KINDS, tally
from itscale.scorers.answers.mathematics import MathWorker

MATH = ANSWER_KINDS["math"]
END = {"$": 1.0}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\\frac12", "0.5"),
        ("1/2", "\\dfrac{1}{2}"),
        ("x=5", "5"),
        ("\\{1,2\\}", "\\{2,1\\}"),
        ("(1,2)", "\\left( 1, 2 \\right)"),
        ("1,234", "1234"),
        ("10^3", "1000"),
        ("90^\\circ", "90"),
        ("3\\sqrt{2}", "\\sqrt{18}"),
        ("5 \\text{ cm}", "5"),
        ("\\text{Evelyn}", "evelyn"),
    ],
)
def test_equal_mathematics(one, other):
    """However it is written, and in both orders."""
    assert MATH.equal(answer=one, other=other)
    assert MATH.equal(answer=other, other=one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(1,2)", "(2,1)"),
        ("[0,1)", "[0,1]"),
        ("\\pi", "3.14159"),
        ("0.333", "1/3"),
        ("\\infty", "-\\infty"),
        ("11_2", "11_3"),
        ("1,2,3", "123"),
        ("5", "-5"),
        ("", "5"),
        ("{", "}"),
        ("\\frac{" * 300, "1"),
        ("9" * 4000, "9" * 3999 + "8"),
        ("__import__('os').system('true')", "0"),
    ],
)
def test_different_mathematics(one, other):
    """Order matters in a pair, bases matter, broken LaTeX equals nothing but itself."""
    assert not MATH.equal(answer=one, other=other)
    assert not MATH.equal(answer=other, other=one)
    assert MATH.equal(answer=one, other=one)


def test_votes_are_over_equal_mathematics():
    """Three ways to write one half outvote two samples of a third."""
    clusters = tally(["\\frac{1}{2}", "1/3", "0.5", "\\frac13", "1/2"], kind=MATH)
    assert [c.members for c in clusters] == [(0, 2, 4), (1, 3)]


def test_majority_votes_by_mathematics():
    """The option reaches the vote: as texts the three halves would lose to the two thirds."""
    texts = iter(["1/2", "1/3", "0.5", "1/3", "\\frac12"])
    tokens = ["Answer: 1/2", "Answer: 1/3", "Answer: 0.5", "Answer: \\frac12"]

    class InTurn(FakeModel):
        async def extend(self, path, n, until, sampling, rng, ledger):
            law = {(): {f"Answer: {next(texts)}": 1.0}, **{(t,): END for t in tokens}}
            model = FakeModel(law, vocabulary=[*tokens, "$"])
            return await model.extend(path, n, until, sampling, rng, ledger)

    model = InTurn({(): END}, vocabulary=[*tokens, "$"])
    result = asyncio.run(Majority(answers="math").run("?", model, None, Budget(generations=5)))
    assert result.answer == "1/2"


STAND_IN = """
import json, sys, time
print("ready", flush=True)
for line in sys.stdin:
    pair = json.loads(line)
    time.sleep(60 * ("hang" in pair))
    if "die" in pair:
        sys.exit(1)
    print(json.dumps(pair[0].lower() == pair[1].lower()), flush=True)
"""


@pytest.fixture
def worker():
    """A worker whose comparisons hang or die on demand."""
    worker = MathWorker(timeout_s=0.5, command=[sys.executable, "-S", "-c", STAND_IN])
    yield worker
    worker.close()


@pytest.mark.parametrize("fault", ["hang", "die"])
def test_a_comparison_that_fails_is_given_up_and_the_next_one_works(worker, fault):
    """It counts as "different" and its process is ended; no signal handler, so in any thread."""
    verdicts = []

    def compare():
        for pair in (("A", "a"), (fault, "a"), ("b", "B")):
            worker.timeout_s = 0.5 if "hang" in pair else 30
            verdicts.append(worker.equal(*pair))

    thread = threading.Thread(target=compare)
    thread.start()
    thread.join(timeout=60)
    assert verdicts == [True, False, True]
    assert worker.starts == 2


def test_an_answer_that_always_fails_is_not_tried_for_ever(worker):
    """After two comparisons broken off it is compared as text only; its partner is not blamed."""
    worker.timeout_s = 30
    assert worker.equal("a", "A")
    assert [worker.equal("die", "a") for _ in range(5)] == [False] * 5
    assert worker.starts == 2  # two were ended; the third is started when it is needed
    assert worker.equal("a", "A")


@pytest.mark.slow
def test_what_takes_for_ever_is_ended_by_its_processor_time():
    """A tower of powers comes back as different, and the next comparison works."""
    assert not MATH.equal(answer="10^{10^{10^{10}}}", other="5")
    assert MATH.equal(answer="\\frac{2}{4}", other="1/2")


def test_without_math_verify_the_error_says_what_to_install(monkeypatch):
    """Before any token, by name."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r'pip install "itscale\[math\]"'):
        Majority(answers="math")
