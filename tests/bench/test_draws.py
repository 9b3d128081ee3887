"""Samples that come in one request, in a sweep: each drawn once, every row what its run alone would be."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from pathlib import Path as FilePath
from typing import Any

import pytest

from itscale.bench.rows import Row
from itscale.bench.sharing import SharedSamples
from itscale.bench.sweep import Sweep, run_sweep
from itscale.budget import Budget, Ledger
from itscale.errors import ModelError
from itscale.methods import Majority, Method
from itscale.models.base import Model
from itscale.models.fake import FakeModel
from itscale.models.recorded import RecordedModel
from itscale.randomness import Neighbours, Seeded, derive
from itscale.recording import Recording
from itscale.registry import parse_method
from itscale.scorers.fake import FakeOutcomeScorer
from itscale.testing import enumerate_law
from itscale.types import Path, Prompt, Sampling, Until
from tests.bench.worlds import Coins
from tests.models.openai.canned import fault
from tests.models.openai.servers import Server, connected

ROOT = Path.root(Prompt.user("a b c"))
END = Until("end", 20)
METHODS = ("majority:max_tokens=20", "best-of-n:max_tokens=20", "adaptive-consistency:max_tokens=20")
BY_LENGTH = FakeOutcomeScorer(len)


def sweep_of(methods: tuple[str, ...] = METHODS, budgets: tuple[int, ...] = (1, 2, 4, 20)) -> Sweep:
    named: list[Method] = [parse_method(name) for name in methods]
    return Sweep(Coins(), tuple(named), budgets, 3, level=1, seed=0)


async def swept(
    model: Model, sweep: Sweep, share: bool = True, **options: Any
) -> tuple[list[dict[str, Any]], int]:
    """The rows in the order of their keys, without seconds and replays; and how many tokens were shared."""
    rows: list[Row] = []
    shared = await run_sweep(sweep, model, BY_LENGTH, on_row=rows.append, share=share, **options)
    rows.sort(key=lambda row: sweep.keys.index(row.key))
    free = {"seconds", "replayed_tokens", "replayed_calls", "replayed_scorer_calls"}
    return [{k: v for k, v in row.to_json().items() if k not in free} for row in rows], shared


def texts_asked(server: Server) -> list[int]:
    return [body.get("n", 1) for where, body, _ in server.requests if where.endswith("completions")]


def seeds_used(server: Server) -> list[int]:
    """The seed of every text that was drawn."""
    bodies = [body for where, body, _ in server.requests if where.endswith("completions")]
    return [body["seed"] + i for body in bodies for i in range(body.get("n", 1))]


@pytest.mark.parametrize("tokens", [True, False])
def test_every_row_is_that_of_its_run_alone(tokens: bool):
    """Answer and account, to the token; and each sample of a problem is drawn once, in few requests."""

    async def run() -> None:
        server, alone = Server(tokens=tokens), Server(tokens=tokens)
        rows, shared = await swept(await connected(server), sweep_of())
        expected, _ = await swept(await connected(alone), sweep_of(), share=False, concurrency=1)
        assert rows == expected
        drawn = seeds_used(server)
        assert len(drawn) == len(set(drawn)) == 3 * 20
        assert len(texts_asked(server)) < 3 * 20 < len(texts_asked(alone))
        assert server.generated == sum(row["generated_tokens"] for row in rows) - shared

    asyncio.run(run())


@pytest.mark.parametrize("server", [{"stride": 2}, {"n": "ignores"}, {"streams": None}], ids=str)
def test_where_others_would_be_drawn_together_samples_are_drawn_one_by_one(server: dict[str, Any]):
    """Shared or not, a row is the same; a sample is drawn once."""

    async def run() -> None:
        sharing, alone = Server(**server), Server(**server)
        rows, _ = await swept(await connected(sharing), sweep_of())
        expected, _ = await swept(await connected(alone), sweep_of(), share=False)
        assert rows == expected
        assert texts_asked(sharing) == [1] * 3 * 20

    asyncio.run(run())


def test_the_texts_are_those_of_solve():
    """With the seed of its problem, a run outside of the sweep answers with the same candidates."""
    sweep = sweep_of(("majority:max_tokens=20",), (1, 5, 18))
    candidates: dict[tuple[str, int], list[str]] = {}

    class Telling(Majority):
        async def run(self, prompt: Prompt, *run: Any, **options: Any) -> Any:
            result = await super().run(prompt, *run, **options)
            n = run[2].generations if len(run) > 2 else options["budget"].generations
            key = (prompt.question, n)
            candidates.setdefault(key, []).extend(c.path.text for c in result.candidates)
            return result

    async def run() -> None:
        telling = Sweep(Coins(), (Telling(max_tokens=20),), (1, 5, 18), 3, level=1, seed=0)
        await swept(await connected(Server()), telling)
        inside = {key: list(texts) for key, texts in candidates.items()}
        candidates.clear()
        for problem, n in itertools.product(sweep.problems, (1, 5, 18)):
            method, seed = Telling(max_tokens=20), derive(sweep.seed, problem.id)
            await method.run(problem.prompt, await connected(Server()), None, Budget(generations=n), seed)
        assert candidates == inside
        assert all(inside[question, 18][: len(texts)] == texts for (question, _), texts in inside.items())

    asyncio.run(run())


def test_a_sweep_that_was_stopped_ends_with_the_same_rows():
    """Whatever was done by then: what is left is drawn with the same seeds."""

    async def run() -> None:
        sweep = sweep_of()
        whole, _ = await swept(await connected(Server()), sweep)
        for done in (sweep.keys[::2], sweep.keys[:7], [key for key in sweep.keys if key.budget < 20]):
            rest, _ = await swept(await connected(Server()), sweep, done=done)
            assert rest == [row for row, key in zip(whole, sweep.keys, strict=True) if key not in done]

    asyncio.run(run())


def test_a_recorded_sweep_is_the_sweep_and_replays(tmp_path: FilePath):
    """The same rows and requests, recorded; again, from the recording alone, and after a run of less."""

    async def run() -> None:
        sweep, plain = sweep_of(), Server()
        expected, _ = await swept(await connected(plain), sweep)
        with Recording(tmp_path / "calls.sqlite") as recording:
            first = Server()
            rows, _ = await swept(RecordedModel(await connected(first), recording), sweep)
            assert rows == expected
            assert sorted(texts_asked(first)) == sorted(texts_asked(plain))
            silent = Server()
            again, shared = await swept(RecordedModel(await connected(silent), recording), sweep)
            assert (again, shared, texts_asked(silent)) == (expected, 0, [])
        with Recording(tmp_path / "grown.sqlite") as recording:
            less, more = Server(), Server()
            await swept(RecordedModel(await connected(less), recording), sweep_of(budgets=(1, 4)))
            grown, _ = await swept(RecordedModel(await connected(more), recording), sweep)
            assert grown == expected
            assert sorted(seeds_used(less) + seeds_used(more)) == sorted(set(seeds_used(plain)))

    asyncio.run(run())


def test_a_sweep_recorded_before_replays_with_its_own_account(tmp_path: FilePath):
    """Its samples were a call each then, and every cell is charged so; nothing is asked."""

    async def run() -> None:
        sweep = sweep_of(METHODS[:2], budgets=(1, 4, 20))
        spent: dict[tuple[str, int], dict[str, int]] = {}
        with Recording(tmp_path / "calls.sqlite") as recording:
            model = RecordedModel(await connected(Server()), recording)
            for problem in sweep.problems:
                ledger, rng = Ledger(Budget()), Seeded(derive(sweep.seed, problem.id))
                for i in range(20):
                    stream = rng.child("sample", i)
                    await model.extend(Path.root(problem.prompt), 1, END, Sampling(), stream, ledger)
                    spent[problem.id, i + 1] = dict(ledger.charges())
            silent = Server()
            rows, _ = await swept(RecordedModel(await connected(silent), recording), sweep)
        for row in rows:
            charged = spent[row["problem"], row["budget"]]
            assert {name: row[name] for name in charged} == charged
        assert texts_asked(silent) == []

    asyncio.run(run())


TEXTS = {"Answer: 1": 0.5, "Answer: 2": 0.3, "no": 0.2}


class Together(FakeModel):
    samples_together = True


def test_the_law_of_cells_that_share_is_exact():
    """Every draw enumerated: two samples of N = 2 are the first of N = 3, and all are independent."""
    expected: Counter[tuple[tuple[str, ...], ...]] = Counter()
    for drawn in itertools.product(TEXTS, repeat=3):
        expected[drawn[:2], drawn] += math.prod(TEXTS[text] for text in drawn)

    async def run(rng: Any) -> Any:
        inner = Together({(): TEXTS, **{(text,): {"$": 1.0} for text in TEXTS}})
        model = SharedSamples(inner)

        async def cell(n: int) -> tuple[str, ...]:
            result = await Majority(answers="auto").run(ROOT.prompt, model, None, Budget(generations=n), rng)
            assert result.usage.model_calls == 1
            return tuple(c.path.text for c in result.candidates)

        texts = tuple(await asyncio.gather(cell(2), cell(3)))
        assert inner.calls == 2
        return texts

    assert enumerate_law(run) == pytest.approx(dict(expected), abs=1e-12)


def neighbours(n: int, first: int = 0) -> Neighbours:
    rng = Seeded(5)
    return Neighbours([rng.child("sample", i) for i in range(16)], rng.child("samples", 0)).some(first, n)


async def ask(model: Model, n: int, ledger: Ledger, first: int = 0) -> dict[int, Path]:
    came: dict[int, Path] = {}
    call = (ROOT, n, END, Sampling(), neighbours(n, first), ledger)
    children = await model.extend_each(*call, came.__setitem__)
    assert children == [came[i] for i in sorted(came)]
    return came


def test_who_asks_for_less_is_told_while_the_rest_is_written():
    """An answer of a request in flight is told to everybody who wants it as soon as it is whole."""

    async def run() -> None:
        server = Server(turns=3)
        model = SharedSamples(await connected(server))
        ledgers = [Ledger(Budget()), Ledger(Budget())]
        many = asyncio.ensure_future(ask(model, 8, ledgers[0]))
        await asyncio.sleep(0)
        few = await ask(model, 2, ledgers[1], first=3)
        all_of_them = await many
        assert [few[0], few[1]] == [all_of_them[3], all_of_them[4]]
        assert texts_asked(server) == [8]
        own = few[0].n_tokens + few[1].n_tokens
        assert ledgers[1].charges() == {"prompt_tokens": 3, "generated_tokens": own, "model_calls": 1}
        assert ledgers[0].generated_tokens == server.generated
        assert model.shared_tokens == own

    asyncio.run(run())


def test_a_request_is_given_up_with_the_last_who_waits():
    """Nothing goes on upstream, what was sent is charged once, and who asks later draws anew."""

    async def run() -> None:
        server = Server(turns=50)
        model, ledgers = SharedSamples(await connected(server)), [Ledger(Budget()) for _ in range(3)]
        tasks = [asyncio.ensure_future(ask(model, n, ledgers[n - 4])) for n in (4, 5)]
        while server.generated < 3:
            await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        assert server.running == 2
        tasks[1].cancel()
        await asyncio.wait(tasks[1:])
        assert (server.running, server.aborted) == (0, 2)
        assert sum(ledger.generated_tokens for ledger in ledgers) == server.generated + model.shared_tokens
        server.turns = 1
        assert len(await ask(model, 5, ledgers[2])) == 5

    asyncio.run(run())


def test_a_task_that_is_cancelled_at_once_leaves_no_request():
    """Not even one that had just been begun for it."""

    async def run() -> None:
        server = Server(turns=50)
        model = SharedSamples(await connected(server))
        task = asyncio.ensure_future(ask(model, 4, Ledger(Budget())))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        for _ in range(3):
            await asyncio.sleep(0)
        assert server.running == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_a_failure_is_forgotten_and_what_came_is_not():
    """A sample whose request failed for good is drawn anew for the next to ask, with its own seed."""

    async def run() -> None:
        server, plain = Server(), Server()
        model = SharedSamples(await connected(server))
        server.faults = [*[fault(500, "oops")] * 5, fault(401, "no")]
        first = await ask(model, 4, failed := Ledger(Budget()))
        assert len(first) == 3
        assert failed.failed_calls == 1
        second = await ask(model, 4, ledger := Ledger(Budget()))
        assert texts_asked(server) == [4] * 5 + [1] * 4 + [1]
        expected = await ask(await connected(plain), 4, Ledger(Budget()))
        assert {i: path.text for i, path in second.items()} == {i: p.text for i, p in expected.items()}
        assert ledger.failed_calls == 0
        server.faults = [fault(401, "no")]
        with pytest.raises(ModelError):
            await ask(model, 1, Ledger(Budget()), first=9)
        assert len(await ask(model, 1, Ledger(Budget()), first=9)) == 1

    asyncio.run(run())
