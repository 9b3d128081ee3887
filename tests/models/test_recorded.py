"""A model with a recording: asked once for what it is asked, and the same in everything else."""

from __future__ import annotations

import asyncio
from pathlib import Path as FilePath
from typing import Any

import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import ModelError, OptionError
from itscale.models.fake import FakeModel
from itscale.models.recorded import RecordedModel
from itscale.randomness import Randomness, Seeded
from itscale.recording import Recording
from itscale.testing import MODEL_LAWS, check_samples_alike, enumerate_law
from itscale.types import End, Path, Prompt, Sampling, Step, Until
from tests.bench.worlds import coin_model
from tests.models.recorded_runs import ask, in_session

PROMPT = Prompt.user("Call coin 7.")
STEP, END = Until("step", 9), Until("end", 9)


@pytest.fixture
def file(tmp_path: FilePath) -> FilePath:
    return tmp_path / "calls.db"


def paid(ledger: Ledger) -> dict[str, int]:
    """What was charged, without what was replayed."""
    return {k: n for k, n in ledger.charges().items() if not k.startswith("replayed")}


@pytest.mark.parametrize("law", MODEL_LAWS)
def test_the_laws_of_models_hold_live_and_replayed(law: Any, file: FilePath):
    """Usage, lengths, seeds: a recorded model keeps them the first time and every time after."""
    inner = coin_model()
    for turn in range(2):
        before = inner.calls
        in_session(file, lambda recording: law(RecordedModel(inner, recording), [PROMPT]))
        # A model that draws nothing together is asked nothing of that.
        assert (inner.calls > before) == (turn == 0 and law is not check_samples_alike)


@pytest.mark.parametrize("until", [STEP, END])
@pytest.mark.parametrize("n", [1, 4])
def test_a_repeated_call_is_answered_alike_for_nothing(n: int, until: Until, file: FilePath):
    """The same steps and charges, nothing asked of the model, and the account says what was replayed."""
    plain, spent = asyncio.run(ask(coin_model(), n, until))
    first, live = in_session(file, lambda r: ask(RecordedModel(coin_model(), r), n, until))
    unused = coin_model()
    again, replayed = in_session(file, lambda r: ask(RecordedModel(unused, r), n, until), offline=True)
    assert first == again == plain
    assert live.charges() == spent.charges() == paid(replayed)
    assert unused.calls == 0
    assert replayed.replayed_tokens == replayed.generated_tokens > 0
    assert (replayed.replayed_calls, replayed.replayed_scorer_calls) == (1, 0)


THOUGHT = Path.root(PROMPT).child(Step((0,), "think\n", End.BOUNDARY, -0.5))


@pytest.mark.parametrize(
    "other",
    [
        {"until": STEP},
        {"until": Until("end", 8)},
        {"sampling": Sampling(temperature=0.5)},
        {"sampling": Sampling(top_k=1)},
        {"seed": 6},
        {"prompt": Prompt.user("Call coin 8.")},
        {"prompt": Prompt(raw="Call coin 7.")},
        {"path": THOUGHT},
    ],
    ids=str,
)
def test_calls_that_differ_in_anything_are_made_apart(other: dict[str, Any], file: FilePath):
    """Until, sampling, seed, prompt and path are each part of what was asked."""

    async def scenario(recording: Recording) -> None:
        inner = coin_model()
        model = RecordedModel(inner, recording)
        await ask(model)
        await ask(model, **other)
        assert inner.calls == 2
        await ask(model)
        await ask(model, **other)
        assert inner.calls == 2

    in_session(file, scenario)


def test_equal_texts_of_other_tokens_are_other_prefixes(file: FilePath):
    """A prefix is its tokens where there are any, and its text where there are none."""

    async def scenario(recording: Recording) -> None:
        inner = coin_model()
        model = RecordedModel(inner, recording)
        for _ in range(2):
            for tokens, text in (((0,), "think\n"), ((1,), "think\n"), ((), "think\n"), ((), "guess\n")):
                step = Step(tokens, text, End.BOUNDARY)
                await ask(model, until=STEP, path=Path.root(PROMPT).child(step))
        assert inner.calls == 4

    in_session(file, scenario)


def test_another_model_has_other_answers(file: FilePath):
    """Identity, not name, is what answers are kept by; equal numbers of another type are equal."""

    class Versioned(FakeModel):
        version = "1"

        @property
        def identity(self) -> str:
            return f"weights {self.version}"

    async def scenario(recording: Recording) -> None:
        inner = coin_model(Versioned)
        await ask(RecordedModel(inner, recording))
        renamed = coin_model(Versioned, name="renamed")
        await ask(RecordedModel(renamed, recording), sampling=Sampling(temperature=1, top_p=1))
        assert (inner.calls, renamed.calls) == (1, 0)
        inner.version = "2"
        await ask(RecordedModel(inner, recording))
        assert inner.calls == 2

    in_session(file, scenario)


def test_only_missing_children_are_asked_for(file: FilePath):
    """Five after two: the model makes three, each from its own stream, and the five are the five."""

    async def scenario(recording: Recording) -> None:
        inner = coin_model()
        model = RecordedModel(inner, recording)
        two, first = await ask(model, 2)
        made = inner.tokens_generated
        five, second = await ask(model, 5)
        plain, whole = await ask(coin_model(), 5)
        assert (two, five) == (plain[:2], plain)
        assert inner.calls == 2
        assert paid(second) == whole.charges()
        assert second.generated_tokens == inner.tokens_generated
        assert second.replayed_tokens == first.generated_tokens == made
        _, repeated = await ask(model, 5)
        assert paid(repeated) == whole.charges()
        three, third = await ask(model, 3)
        assert three == plain[:3]
        assert paid(third) == (await ask(coin_model(), 3))[1].charges()
        assert inner.calls == 2

    in_session(file, scenario)


class OneRequest(FakeModel):
    """Makes all children of a call from one seed, as a server that honours `n` does."""

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        return await super().extend(path, n, until, sampling, Seeded(rng.seed), ledger)


def test_the_rest_of_a_call_is_not_its_beginning_again(file: FilePath):
    """A backend that makes n samples from one seed is given another for the missing ones.

    Two of 256 equally likely samples are equal by chance once in 256 times, and the seed is fixed.
    """
    letters = {f"{i}|": 1 / 256 for i in range(256)}

    async def scenario(recording: Recording) -> None:
        def law(prefix: tuple[str, ...]) -> dict[str, float]:
            return {"$": 1.0} if prefix else letters

        inner = OneRequest(law, vocabulary=[*letters, "$"])
        model = RecordedModel(inner, recording)
        first, _ = await ask(model, 1)
        both, _ = await ask(model, 2)
        assert both[0] == first[0] != both[1]
        assert (await ask(model, 2))[0] == both
        assert inner.calls == 2

    in_session(file, scenario)


def test_a_failed_call_is_charged_and_not_recorded(file: FilePath):
    """It costs what it cost, and the next run asks again."""

    async def scenario(recording: Recording) -> None:
        inner = coin_model(fail=lambda call: call == 0)
        model, ledger = RecordedModel(inner, recording), Ledger(Budget())
        with pytest.raises(ModelError):
            await model.extend(Path.root(PROMPT), 4, END, Sampling(), Seeded(5), ledger)
        assert (ledger.model_calls, ledger.generated_tokens) == (1, 4)
        assert (await ask(model))[0] == (await ask(coin_model()))[0]
        assert inner.calls == 2

    in_session(file, scenario)


def test_a_cancelled_call_is_charged_and_not_recorded(file: FilePath):
    """What was generated by then is paid; the next to ask does not wait for the dead."""

    async def scenario(recording: Recording) -> None:
        inner = coin_model(latency_s=0.01)
        model, ledger = RecordedModel(inner, recording), Ledger(Budget())
        task = asyncio.create_task(model.extend(Path.root(PROMPT), 2, END, Sampling(), Seeded(5), ledger))
        while not inner.running:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ledger.generated_tokens == inner.tokens_generated > 0
        assert (await ask(model))[0] == (await ask(coin_model()))[0]

    in_session(file, scenario)


def test_fewer_children_than_asked_for_are_passed_on_unrecorded(file: FilePath):
    """Nobody can tell which seed they belong to."""

    class Short(FakeModel):
        async def extend(self, path: Path, n: int, *call: Any) -> list[Path]:  # type: ignore[override]
            return await super().extend(path, n - 1, *call)

    async def scenario(recording: Recording) -> None:
        inner = coin_model(Short)
        for turn in (1, 2):
            steps, _ = await ask(RecordedModel(inner, recording), 4)
            assert len(steps) == 3
            assert inner.calls == turn

    in_session(file, scenario)


def test_who_asks_while_it_is_being_asked_waits(file: FilePath):
    """The same call by two runs at once is made once; both have the same answer."""

    async def scenario(recording: Recording) -> None:
        inner = coin_model(latency_s=0.005)
        model = RecordedModel(inner, recording)
        (first, _), (second, _), (three, _) = await asyncio.gather(ask(model), ask(model), ask(model, 3))
        assert first == second == [*three, first[3]]
        assert inner.calls == 1

    in_session(file, scenario)


def test_two_processes_that_disagree_end_up_agreeing(file: FilePath):
    """Where a model gives another answer each time, the one kept first is what both go on with."""

    class Moody(FakeModel):
        """Ignores the seed, as some servers do; answers when both have been asked."""

        asked = 0

        async def extend(
            self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
        ) -> list[Path]:
            Moody.asked += 1
            mood = Seeded(Moody.asked)
            while Moody.asked < 2:
                await asyncio.sleep(0)
            return await super().extend(path, n, until, sampling, mood, ledger)

    async def scenario(first: Recording) -> None:
        with Recording(file) as second:
            models = [RecordedModel(coin_model(Moody), recording) for recording in (first, second)]
            (one, _), (two, _) = await asyncio.gather(*(ask(model, 8) for model in models))
            moods = [[c.steps for c in await coin_children(seed)] for seed in (1, 2)]
            assert moods[0] != moods[1]
            assert one == two
            assert one in moods

    async def coin_children(seed: int) -> list[Path]:
        call = (Path.root(PROMPT), 8, END, Sampling(), Seeded(seed), Ledger(Budget()))
        return await coin_model().extend(*call)

    in_session(file, scenario)


def test_draws_without_a_seed_are_refused(file: FilePath):
    """An enumerator's draws differ under one name: recorded, the law would be that of one replay."""
    with Recording(file) as recording:
        model = RecordedModel(coin_model(), recording)

        async def run(rng: Randomness) -> int:
            ledger = Ledger(Budget())
            return len(await model.extend(Path.root(PROMPT), 1, END, Sampling(), rng, ledger))

        with pytest.raises(OptionError, match="Enumerator cannot be recorded"):
            enumerate_law(run)


def test_tokens_of_no_child_are_charged_again_too(file: FilePath):
    """A backend may bill more than its children hold; a replay, of any number of them, bills all of it."""

    class Billing(FakeModel):
        async def extend(
            self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
        ) -> list[Path]:
            ledger.charge_model(prompt=0, cached=0, generated=10)
            ledger.retries += 1
            return await super().extend(path, n, until, sampling, rng, ledger)

    async def scenario(recording: Recording) -> None:
        model = RecordedModel(coin_model(Billing), recording)
        _, live = await ask(model, 4)
        _, again = await ask(model, 4)
        _, fewer = await ask(model, 2)
        assert paid(again) == paid(live) == live.charges()
        assert live.charges() == {
            "prompt_tokens": 3, "generated_tokens": 22, "model_calls": 2, "retries": 1
        }  # fmt: skip
        assert paid(fewer) == {**live.charges(), "generated_tokens": 16}

    in_session(file, scenario)
