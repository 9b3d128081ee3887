"""Scorers with a recording: asked once for what they are asked, and the same in everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

import pytest

from itscale.budget import Budget, Ledger
from itscale.embedded import PROCESS_SCORER
from itscale.errors import NotRecordedError, ScorerError
from itscale.methods import BestOfN, Knockout, Listwise, Method, ParticleFilter, RoundRobin
from itscale.methods.base import Result
from itscale.models.local import fingerprint
from itscale.recording import Recording
from itscale.scorers.base import ComparisonScorer
from itscale.scorers.fake import FakeComparisonScorer, FakeOutcomeScorer, FakeProcessScorer
from itscale.scorers.prm import LocalProcessScorer
from itscale.scorers.recorded import record_scores
from itscale.types import End, Path, Prompt, Step
from tests.bench.worlds import coin_model
from tests.models.recorded_runs import in_session, timeless

PROMPT = Prompt.user("Call coin 7.")
STEPS = [Step((0,), "think\n", End.BOUNDARY, -0.5), Step((2, 4), "Answer: 1", End.EOS, -0.1)]


@pytest.fixture
def file(tmp_path: FilePath) -> FilePath:
    return tmp_path / "calls.db"


def path_of(*steps: Step, prompt: Prompt = PROMPT) -> Path:
    path = Path.root(prompt)
    for step in steps:
        path = path.child(step)
    return path


def process(**options: Any) -> FakeProcessScorer:
    return FakeProcessScorer(lambda texts: 0.3 + 0.1 * len(texts), **options)


def outcome(**options: Any) -> FakeOutcomeScorer:
    return FakeOutcomeScorer(lambda text: len(text) / 3, **options)


@pytest.mark.parametrize("make", [process, outcome])
def test_a_repeated_judgement_is_had_for_nothing(make: Callable[[], Any], file: FilePath):
    """The same scores and charges, to the last bit, nothing asked, and the account says so."""
    path, unused = path_of(*STEPS), make()

    async def judge(recording: Recording | None, scorer: Any) -> tuple[Any, Ledger]:
        ledger = Ledger(Budget())
        judging = scorer if recording is None else record_scores(scorer, recording)
        return await judging.score(path, ledger), ledger

    plain, spent = asyncio.run(judge(None, make()))
    first, live = in_session(file, lambda recording: judge(recording, make()))
    again, replayed = in_session(file, lambda recording: judge(recording, unused), offline=True)
    assert first == again == plain
    assert unused.calls == 0
    assert live.charges() == spent.charges() == {"scorer_tokens": 3}
    assert replayed.charges() == {"scorer_tokens": 3, "replayed_scorer_calls": 1}


@pytest.mark.parametrize(
    "other",
    [
        path_of(*STEPS, prompt=Prompt.user("Call coin 8.")),
        path_of(STEPS[0]),
        path_of(Step((0, 2, 4), "think\nAnswer: 1", End.EOS, -0.6)),
        path_of(STEPS[0], Step((2, 5), "Answer: 1", End.EOS, -0.1)),
        path_of(STEPS[0], Step((2, 4), "Answer: 0", End.EOS, -0.1)),
        path_of(STEPS[0], Step((2, 4), "Answer: 1", End.LENGTH, -0.1)),
    ],
    ids=str,
)
def test_what_differs_in_anything_is_judged_apart(other: Path, file: FilePath):
    """Prompt, tokens, text, where steps end and how: each is part of what is judged."""

    async def scenario(recording: Recording) -> None:
        inner = process()
        scorer = record_scores(inner, recording)
        for asked in (path_of(*STEPS), other, path_of(*STEPS), other):
            assert len(await scorer.score(asked, Ledger(Budget()))) == asked.depth  # type: ignore[arg-type]
        assert inner.calls == 2

    in_session(file, scenario)


def test_another_scorer_has_other_judgements(file: FilePath):
    """Names tell scorers apart, and so does their kind."""

    async def scenario(recording: Recording) -> None:
        inner = [process(), process(name="another"), outcome()]
        for _ in range(2):
            for scorer in inner:
                await record_scores(scorer, recording).score(path_of(*STEPS), Ledger(Budget()))
        assert [scorer.calls for scorer in inner] == [1, 1, 1]

    in_session(file, scenario)


def test_a_failed_judgement_is_made_again(file: FilePath):
    """It is charged if it was, and nothing of it is recorded."""

    async def scenario(recording: Recording) -> None:
        inner = process(fail=lambda call: call == 0)
        scorer = record_scores(inner, recording)
        with pytest.raises(ScorerError):
            await scorer.score(path_of(*STEPS), Ledger(Budget()))
        assert await scorer.score(path_of(*STEPS), Ledger(Budget())) == [0.4, 0.5]
        assert inner.calls == 2

    in_session(file, scenario)


@pytest.mark.parametrize("scores", [[0.5], [0.5, float("nan")], [0.5, 1.0]], ids=str)
def test_what_breaks_the_contract_is_not_recorded(scores: list[float], file: FilePath):
    """It is passed on, for the run to refuse; a mended scorer is asked anew."""

    class Broken(FakeProcessScorer):
        async def score(self, path: Path, ledger: Ledger) -> list[float]:
            return scores

    async def scenario(recording: Recording) -> None:
        broken = record_scores(Broken(lambda texts: 0.5), recording)
        assert await broken.score(path_of(*STEPS), Ledger(Budget())) is scores
        mended = record_scores(process(), recording)
        assert await mended.score(path_of(*STEPS), Ledger(Budget())) == [0.4, 0.5]

    in_session(file, scenario)


def test_who_asks_while_it_is_being_judged_waits(file: FilePath):
    """The same judgement wanted twice at once is made once."""

    async def scenario(recording: Recording) -> None:
        inner = process(latency_s=0.005)
        scorer = record_scores(inner, recording)
        both = [scorer.score(path_of(*STEPS), Ledger(Budget())) for _ in range(2)]
        first, second = await asyncio.gather(*both)
        assert first == second
        assert inner.calls == 1

    in_session(file, scenario)


def test_offline_a_missing_judgement_ends_the_run(file: FilePath):
    """It costs no candidate: the run cannot be what it was."""

    async def scenario(recording: Recording) -> None:
        scorer = record_scores(process(name="judge"), recording)
        with pytest.raises(NotRecordedError, match=r"no call of scorer 'judge', .* without --offline"):
            await BestOfN().run(PROMPT, coin_model(), scorer, Budget(generations=2), seed=0)

    Recording(file).close()
    in_session(file, scenario, offline=True)


def test_a_run_repeated_has_the_same_usage(file: FilePath):
    """Scorer calls and tokens are charged as if they were live, and all of them said to be free."""

    async def run(recording: Recording | None) -> Result:
        scorer = process() if recording is None else record_scores(process(), recording)
        return await ParticleFilter().run(PROMPT, coin_model(), scorer, Budget(generations=4), seed=1)

    plain = asyncio.run(run(None))
    in_session(file, run)
    again = in_session(file, run, offline=True)
    assert timeless(again) == timeless(plain)
    assert again.usage.replayed_scorer_calls == again.usage.scorer_calls > 0
    assert (again.usage.replayed_calls, again.usage.replayed_tokens) == (0, 0)


def test_the_embedded_scorer_is_known_by_its_weights(process_scorer: LocalProcessScorer):
    """Not by the name it was loaded under."""
    assert process_scorer.identity == fingerprint(PROCESS_SCORER) != process_scorer.name


def test_a_repeated_comparison_is_had_for_nothing(file: FilePath):
    """In the order it was shown: the swapped order is another question."""
    first, second = path_of(*STEPS), path_of(STEPS[0])

    async def scenario(recording: Recording) -> None:
        inner = FakeComparisonScorer(lambda texts: [int(len(t) < max(map(len, texts))) for t in texts])
        scorer, ledger = record_scores(inner, recording), Ledger(Budget())
        assert isinstance(scorer, ComparisonScorer)
        for _ in range(2):
            assert list(await scorer.compare([first, second], ledger)) == [0, 1]
            assert list(await scorer.compare([second, first], ledger)) == [1, 0]
        assert inner.calls == 2
        assert ledger.charges() == {"scorer_tokens": 16, "replayed_scorer_calls": 2}

    in_session(file, scenario)


def test_a_comparison_without_verdict_or_contract_is_made_again(file: FilePath):
    """Prose is not recorded, and neither is a wrong count of ranks."""
    pair = [path_of(*STEPS), path_of(STEPS[0])]
    said: list[list[int] | None] = [None, [0], [0, 1]]

    async def scenario(recording: Recording) -> None:
        inner = FakeComparisonScorer(lambda texts: said[inner.calls - 1])
        scorer = record_scores(inner, recording)
        assert isinstance(scorer, ComparisonScorer)
        with pytest.raises(ScorerError, match="no verdict"):
            await scorer.compare(pair, Ledger(Budget()))
        assert [list(await scorer.compare(pair, Ledger(Budget()))) for _ in range(3)] == [[0], [0, 1], [0, 1]]
        assert inner.calls == 3

    in_session(file, scenario)


@pytest.mark.parametrize("method", [Knockout(), RoundRobin(), Listwise()], ids=lambda method: method.name)
def test_a_run_of_comparisons_repeated_has_the_same_usage(method: Method, file: FilePath):
    """Candidates, choice and account are those of the first run, and the judge is asked nothing."""

    async def run(recording: Recording | None) -> Result:
        judge = FakeComparisonScorer(lambda texts: [int("1" not in t) for t in texts])
        scorer = judge if recording is None else record_scores(judge, recording)
        return await method.run(PROMPT, coin_model(), scorer, Budget(generations=6), seed=1)

    plain = asyncio.run(run(None))
    in_session(file, run)
    again = in_session(file, run, offline=True)
    assert timeless(again) == timeless(plain)
    assert again.usage.replayed_scorer_calls == again.usage.scorer_calls > 0
