"""Whole runs and sweeps with a recording: repeated, resumed and offline; the embedded reasoner too."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path as FilePath
from typing import Any

import pytest

from itscale.budget import Budget, Ledger
from itscale.embedded import REASONER
from itscale.errors import NotRecordedError
from itscale.methods import Beam, Majority, ParticleFilter
from itscale.methods.base import Method, Result
from itscale.models.fake import FakeModel
from itscale.models.local import LocalModel, fingerprint
from itscale.models.recorded import RecordedModel
from itscale.randomness import Seeded
from itscale.recording import Recording
from itscale.types import Path, Prompt, Sampling, StopReason, Until
from tests.bench.worlds import EVERY_METHOD, CoinScorer, coin_model, coin_sweep, rows_of
from tests.models.recorded_runs import ask, in_session, timeless

PROMPT = Prompt.user("Call coin 7.")


@pytest.fixture
def file(tmp_path: FilePath) -> FilePath:
    return tmp_path / "calls.db"


METHODS: list[Method] = [Majority(), ParticleFilter(), Beam(width=2)]


@pytest.mark.parametrize(
    ("method", "budget"),
    [(method, Budget(generations=6)) for method in METHODS]
    # Beam is left out: which of its calls gets the last tokens depends on which ends first.
    + [(method, Budget(generations=6, tokens=13)) for method in METHODS[:2]],
    ids=str,
)
def test_a_run_repeated_is_the_same_run(method: Method, budget: Budget, file: FilePath):
    """Result and usage are equal, a limit binds at the same place, and nothing is asked of the model."""

    async def run(recording: Recording | None, model: FakeModel) -> Result:
        played = model if recording is None else RecordedModel(model, recording)
        return await method.run(PROMPT, played, CoinScorer(), budget, seed=3)

    plain = asyncio.run(run(None, coin_model()))
    live = in_session(file, lambda recording: run(recording, coin_model()))
    unused = coin_model()
    again = in_session(file, lambda recording: run(recording, unused), offline=True)
    assert timeless(plain) == timeless(live) == timeless(again)
    assert unused.calls == 0
    assert (plain.stop_reason is StopReason.TOKENS) == (budget.tokens is not None)
    assert (again.usage.replayed_tokens, again.usage.replayed_calls) == (
        plain.usage.generated_tokens,
        plain.usage.model_calls,
    )
    assert plain.usage.replayed_tokens == 0


def test_offline_a_miss_ends_the_run_and_says_what_to_do(file: FilePath):
    """It is nobody's failed candidate: neither a run nor a sweep goes on without it."""

    async def scenario(recording: Recording) -> None:
        inner = coin_model()
        model = RecordedModel(inner, recording)
        for method in METHODS:
            with pytest.raises(NotRecordedError, match=r"no call of model 'fake', .*without --offline"):
                await method.run(PROMPT, model, CoinScorer(), Budget(generations=6), seed=3)
        with pytest.raises(NotRecordedError):
            await rows_of(coin_sweep(), model)  # type: ignore[arg-type]
        assert inner.calls == 0

    async def another(recording: Recording) -> None:
        with pytest.raises(
            NotRecordedError, match=r"'Call coin 7.'; run once without --offline .* or ask as"
        ):
            await ask(RecordedModel(coin_model(), recording), seed=6)

    Recording(file).close()
    in_session(file, scenario, offline=True)
    in_session(file, lambda recording: ask(RecordedModel(coin_model(), recording)))
    in_session(file, another, offline=True)


def test_a_sweep_repeated_makes_nothing(file: FilePath):
    """Rows are those of a sweep without a recording, but for seconds, in whatever state the recording is."""

    async def sweep(recording: Recording | None, model: FakeModel, methods: Any) -> list[dict[str, Any]]:
        played: Any = model if recording is None else RecordedModel(model, recording)
        rows = await rows_of(coin_sweep(methods), played)
        if not model.calls:
            assert all(row.usage.replayed_tokens == row.usage.generated_tokens > 0 for row in rows)
        values = [row.to_json() for row in rows]
        return [{k: v for k, v in row.items() if k[:8] not in ("seconds", "replayed")} for row in values]

    plain = asyncio.run(sweep(None, coin_model(), EVERY_METHOD))
    in_session(file, lambda recording: sweep(recording, coin_model(), ("particle-filter", "beam:width=4")))
    assert in_session(file, lambda recording: sweep(recording, coin_model(), EVERY_METHOD)) == plain
    unused = coin_model()
    assert in_session(file, lambda recording: sweep(recording, unused, EVERY_METHOD), offline=True) == plain
    assert unused.calls == 0


def test_the_file_tells_no_secrets(file: FilePath):
    """Neither a key in an address nor a question is in the file, only what was answered."""

    class Server(FakeModel):
        @property
        def identity(self) -> str:
            return "https://me:sk-very-secret@host/v1"

    async def scenario(recording: Recording) -> None:
        await ask(RecordedModel(coin_model(Server), recording))

    in_session(file, scenario)
    content = file.read_bytes()
    assert b"think" in content
    assert not any(word in content for word in (b"sk-very", b"host", b"Call coin"))


def test_a_replayed_path_goes_on_as_if_it_were_live(reasoner: LocalModel, file: FilePath):
    """From a step out of the recording the engine continues token for token, and makes nothing else again."""
    prompt = Prompt.user("Make 45 from 3, 7, 12, 23.")

    def exact(path: Path) -> list[tuple[object, ...]]:
        """Steps but for log-probabilities, whose last bits depend on what else is computed."""
        return [(step.token_ids, step.text, step.end) for step in path.steps]

    async def walk(model: Any, most: int) -> tuple[Path, Ledger]:
        path, ledger = Path.root(prompt), Ledger(Budget())
        while not path.ended and path.depth < most:
            rng = Seeded(4).child(path.depth)
            [path] = await model.extend(path, 1, Until("step", 64), Sampling(), rng, ledger)
        return path, ledger

    async def scenario() -> None:
        plain, _ = await walk(reasoner, 99)
        assert plain.depth > 2
        with Recording(file) as recording:
            await walk(RecordedModel(reasoner, recording), 2)
            whole, spent = await walk(RecordedModel(reasoner, recording), 99)
        assert exact(whole) == exact(plain)
        assert spent.generated_tokens == plain.n_tokens
        assert spent.replayed_tokens == sum(len(step.token_ids) for step in plain.steps[:2])
        with Recording(file, offline=True) as recording:
            again, replayed = await walk(RecordedModel(reasoner, recording), 99)
        assert again.steps == whole.steps
        assert replayed.replayed_tokens == plain.n_tokens

    asyncio.run(scenario())


def test_weights_are_known_by_what_is_in_them(reasoner: LocalModel, tmp_path: FilePath):
    """A checkpoint is the same wherever it lies, and another with one byte changed or a file added."""
    copy = tmp_path / "elsewhere"
    shutil.copytree(REASONER, copy)
    assert reasoner.identity == fingerprint(copy) == fingerprint(REASONER)
    (copy / "README.md").write_text("says nothing")
    assert fingerprint(copy) == reasoner.identity
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    changed = fingerprint(copy)
    (copy / "added.json").write_text("{}")
    assert len({reasoner.identity, changed, fingerprint(copy)}) == 3
