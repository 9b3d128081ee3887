"""Servers that count up: text i of a request with the seed s is that of a request with the seed s + i."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from itscale.budget import Budget, Ledger
from itscale.methods import Majority
from itscale.models.fake import FakeModel
from itscale.randomness import Neighbours, Randomness, Seeded
from itscale.testing import LawBroken, check_samples_alike
from itscale.types import Path, Prompt, Sampling, Until
from tests.models.openai.canned import fault
from tests.models.openai.servers import ANSWERS, Server, connected

ROOT = Path.root(Prompt.user("a b c"))
CALL = Until("end", 20), Sampling()
ALWAYS = FakeModel({(): {"so|": 1.0}, ("so|",): {"$": 1.0}})


def streams(n: int, place: int = 0, own: Randomness | None = None) -> Neighbours:
    return Neighbours([Seeded(i) for i in range(16)], own or Seeded(9)).some(place, n)


class Otherwise(Server):
    """Counts up, and draws a text that is asked for alone from somewhere else."""

    def _generate(self, body: dict[str, Any], *how: Any) -> Any:
        far = 0 if body.get("n", 1) > 1 else 1000
        return super()._generate({**body, "seed": body.get("seed", 0) + far}, *how)


@pytest.mark.parametrize(
    ("server", "counts"),
    [
        ({}, True),
        ({"tokens": False}, True),
        ({"tokens": False, "logprobs": False}, True),
        ({"stride": 2}, False),
        ({"stride": 0}, False),
        ({"stride": -1, "tokens": False}, False),
        ({"tokens": False, "logprobs": False, "stride": 2}, False),
        ({"seeds": False}, False),
        ({"n": "ignores"}, False),
        ({"n": "rejects"}, False),
        ({"n": "copies"}, False),
        ({"rejects": ("seed",), "tokens": False}, False),
        ({"model": ALWAYS}, False),
        (Otherwise(), False),
        (Otherwise(tokens=False), False),
    ],
    ids=str,
)
def test_the_probe_finds_out_who_counts_up(server: Server | dict[str, Any], counts: bool):
    """Believed only where texts agree that chance would not have made agree."""

    async def run() -> None:
        model = await connected(Server(**server) if isinstance(server, dict) else server)
        assert model.facts.counts_up is model.samples_alike is counts

    asyncio.run(run())


@pytest.mark.parametrize("tokens", [True, False])
def test_a_sample_is_the_same_together_and_alone(tokens: bool):
    """All at once, the rest of them, or one by one: number 5 is number 5."""

    async def run() -> None:
        model = await connected(Server(tokens=tokens))

        async def texts(n: int, place: int, together: bool) -> list[str]:
            ledger, stream = Ledger(Budget()), streams(n, place)
            if together:
                return [
                    p.text for p in await model.extend_each(ROOT, n, *CALL, stream, ledger, lambda *_: None)
                ]
            one_by_one = [await model.extend(ROOT, 1, *CALL, stream.some(i, 1), ledger) for i in range(n)]
            return [path.text for [path] in one_by_one]

        whole = await texts(12, 0, True)
        assert len(set(whole)) > 3
        assert await texts(12, 0, False) == whole
        assert await texts(7, 5, True) == whole[5:]

    asyncio.run(run())


def test_elsewhere_a_sample_has_the_seed_of_its_own_stream():
    """As it always had: what was recorded of such servers and what is drawn anew go together."""

    async def run() -> None:
        server = Server(stride=2)
        model = await connected(server)
        await model.extend(ROOT, 1, *CALL, streams(1, 5), Ledger(Budget()))
        [body] = server.asked("/v1/completions")
        assert body["seed"] == Seeded(5).child(0).seed % 2**31

    asyncio.run(run())


def test_a_request_that_broke_off_is_gone_on_with_by_the_same_seeds():
    """What was asked for together and failed comes alone, and is what it would have been."""

    async def run() -> None:
        server = Server()
        model = await connected(server)
        call = (ROOT, 6, *CALL, streams(6))
        expected = await model.extend_each(*call, Ledger(Budget()), lambda *_: None)
        server.faults = [fault(500, "oops")] * 5
        server.requests.clear()
        again = await model.extend_each(*call, Ledger(Budget()), lambda *_: None)
        assert [p.text for p in again] == [p.text for p in expected]
        assert len(server.asked("/v1/completions")) == 5 + 6

    asyncio.run(run())


def test_seeds_that_would_turn_over_are_asked_for_one_by_one():
    """A server counts beyond 2**31 where a seed of our own starts anew."""

    class Last(Seeded):
        seed = 2**31 - 2

    async def run() -> None:
        server = Server()
        model = await connected(server)
        await model.extend_each(ROOT, 4, *CALL, streams(4, own=Last(0)), Ledger(Budget()), lambda *_: None)
        bodies = server.asked("/v1/completions")
        assert sorted((body["seed"], body.get("n", 1)) for body in bodies) == [
            (0, 1), (1, 1), (2**31 - 2, 1), (2**31 - 1, 1)
        ]  # fmt: skip

    asyncio.run(run())


def test_a_limit_on_tokens_draws_the_same_samples():
    """One by one, because tokens are limited, or together: the candidates are the same."""

    async def texts(budget: Budget) -> tuple[list[str], int]:
        server = Server()
        result = await Majority(max_tokens=20).run(ROOT.prompt, await connected(server), None, budget, 3)
        return [c.path.text for c in result.candidates], len(server.requests)

    (together, few), (apart, many) = [
        asyncio.run(texts(Budget(generations=18, tokens=tokens))) for tokens in (None, 10_000)
    ]
    assert together == apart
    assert few < many


class OneSeed(FakeModel):
    """Draws all samples of a call from one seed."""

    samples_together = True

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        return await super().extend(path, n, until, sampling, Seeded(rng.seed), ledger)


class Alike(OneSeed):
    """And says they are what they would be alone."""


class Unlike(OneSeed):
    samples_alike = False


class ChildByChild(FakeModel):
    samples_together = True


def test_the_law_of_likeness_catches_who_breaks_it():
    """And holds nobody to it who does not promise it."""
    world = ANSWERS.vocabulary, ANSWERS.probabilities

    def law(prefix: tuple[str, ...]) -> dict[str, float]:
        ids = [world[0].index(word) for word in prefix]
        return {word: p for word, p in zip(world[0], world[1](ids), strict=True) if p}

    async def held(kind: type[FakeModel]) -> None:
        await check_samples_alike(kind(law, vocabulary=[*world[0]]), [ROOT.prompt])

    with pytest.raises(LawBroken, match="do not say samples_alike"):
        asyncio.run(held(Alike))
    asyncio.run(held(Unlike))
    asyncio.run(held(ChildByChild))
