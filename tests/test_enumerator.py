"""The enumerator finds exact laws, catches wrong ones, and says when it cannot; the fake model's law."""

from __future__ import annotations

import asyncio
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import OptionError
from itscale.models.base import Capability
from itscale.models.fake import FakeModel, sampling_law
from itscale.randomness import Seeded
from itscale.testing import (
    MODEL_LAWS,
    EnumerationError,
    LawBroken,
    all_paths,
    check_forced,
    check_given,
    check_length_is_not_eos,
    check_one_seed,
    check_samples_differ,
    check_stepwise_equals_single_pass,
    check_token_statistics,
    check_usage,
    enumerate_expectation,
    enumerate_law,
)
from itscale.types import End, Path, Prompt, Sampling, Until
from itscale.weights import Population

PROMPT = Prompt.user("two words")
WORDS = {
    (): {"a": 0.5, "b|": 0.3, "$": 0.2},
    ("a",): {"b|": 0.25, "$": 0.75},
    ("b|",): {"a": 0.9, "$": 0.1},
    ("a", "b|"): {"$": 1.0},
    ("b|", "a"): {"$": 1.0},
}
# Its greedy answer has two steps and three tokens.
LIKES_STEPS = {**WORDS, (): {"b|": 0.8, "$": 0.2}}


def test_the_law_of_two_dice():
    """Every outcome once, with the product of its probabilities."""
    law = enumerate_law(lambda rng: rng.choose([1 / 6] * 6) + rng.choose([1 / 6] * 6))
    assert law == pytest.approx({s: (6 - abs(5 - s)) / 36 for s in range(11)}, abs=1e-15)
    assert math.fsum(law.values()) == pytest.approx(1.0, abs=1e-15)


def test_later_draws_may_depend_on_earlier_ones():
    """A geometric variable cut at three: branches of different length."""

    def heads(rng):
        for n in range(3):
            if rng.choose([0.25, 0.75]) == 0:
                return n
        return 3

    assert enumerate_law(heads) == pytest.approx({0: 1 / 4, 1: 3 / 16, 2: 9 / 64, 3: 27 / 64})


def test_impossible_outcomes_are_not_visited():
    """A probability of zero costs no replay, and a certain outcome only one."""
    replays = []
    law = enumerate_law(
        lambda rng: replays.append(0) or rng.choose([0.0, 0.5, 0.0, 0.5]) + rng.choose([0.0, 1.0])
    )
    assert law == {2: 0.5, 4: 0.5}
    assert len(replays) == 2


def test_expectation_of_arrays():
    """Any shape; here the second moment of a random unit vector."""
    expectation = enumerate_expectation(lambda rng: np.outer(e := np.eye(2)[rng.choose([0.3, 0.7])], e))
    assert expectation.tolist() == [[0.3, 0.0], [0.0, 0.7]]


def test_one_name_is_one_stream_of_draws():
    """Like a seeded run: asking twice for a child gives the same draws, another name independent ones."""

    def pair(rng):
        return tuple(rng.child(*name).choose([0.5, 0.5]) for name in [("a", 1), ("a", 1), ("a", 2)])

    assert enumerate_law(pair) == {(i, i, j): 0.25 for i, j in itertools.product(range(2), repeat=2)}
    law = enumerate_law(
        lambda rng: (rng.child("a").child("b").choose([0.5, 0.5]), rng.child("a", "b").choose([0.5, 0.5]))
    )
    assert len(law) == 4


def test_two_uses_of_one_stream_are_caught():
    """Different choices from one stream would be silently correlated in a seeded run."""
    with pytest.raises(EnumerationError, match="share a stream"):
        enumerate_law(lambda rng: rng.child("x").choose([0.5, 0.5]) + rng.child("x").choose([0.1, 0.9]))


def test_concurrent_runs_are_enumerated():
    """Draws of tasks that take turns, each on its own stream, in one event loop for all replays."""
    loops = set()

    async def walk(rng):
        total = 0
        for _ in range(2):
            await asyncio.sleep(0)
            total += rng.choose([0.5, 0.5])
        return total

    async def both(rng):
        loops.add(id(asyncio.get_running_loop()))
        return tuple(await asyncio.gather(walk(rng.child(0)), walk(rng.child(1))))

    binomial = {0: 0.25, 1: 0.5, 2: 0.25}
    assert enumerate_law(both) == {(i, j): binomial[i] * binomial[j] for i in binomial for j in binomial}
    assert len(loops) == 1


@pytest.mark.parametrize(
    "run",
    [
        lambda rng, calls: rng.choose([0.5, 0.5] if next(calls) < 1 else [0.4, 0.6]),
        lambda rng, calls: rng.child(next(calls)).choose([0.5, 0.5]),
        lambda rng, calls: rng.choose([0.5, 0.5]) if next(calls) < 1 else 0,
    ],
    ids=["probabilities", "stream", "fewer"],
)
def test_a_run_that_depends_on_something_else_is_caught(run):
    """Replays that differ in what they draw say so, instead of giving a wrong law."""
    calls = itertools.count()
    with pytest.raises(EnumerationError, match="replays differ"):
        enumerate_law(lambda rng: run(rng, calls))


def test_too_many_outcomes_are_an_error():
    """Not an endless test: 2^10 combinations against a limit of 1000; 1024 are enough."""

    def coins(rng):
        return sum(rng.choose([0.5, 0.5]) for _ in range(10))

    with pytest.raises(EnumerationError, match="more than 1000"):
        enumerate_law(coins, max_replays=1000)
    assert enumerate_law(coins, max_replays=1024)[5] == pytest.approx(252 / 1024)


@pytest.mark.parametrize("bad", [[0.5, 0.6], [1.5, -0.5], [float("nan"), 1.0], []], ids=str)
def test_what_is_no_distribution_is_caught(bad):
    """A method that forgot to normalise is found before its law is wrong."""
    with pytest.raises(EnumerationError, match="sum to 1"):
        enumerate_law(lambda rng: rng.choose(bad))


@pytest.mark.parametrize(("n", "error"), [(1, 0.0), (2, 0.03)])
def test_a_wrong_weight_shows_at_two_particles_and_hides_at_one(n, error):
    """Importance resampling on squared weights: exact-looking with N = 1, wrong with N = 2."""
    p, g = np.array([0.5, 0.3, 0.2]), np.array([0.9, 0.5, 0.1])

    def estimate(rng):
        drawn = [rng.choose(p) for _ in range(n)]
        population = Population.start(drawn).reweight(np.log(g[drawn]))
        squared = population.weights**2 / np.sum(population.weights**2)
        picked = population.items[rng.choose(squared)]
        return math.exp(population.log_evidence) * np.eye(3)[picked]

    deviation = abs(enumerate_expectation(estimate) - p * g).max()
    assert deviation == pytest.approx(error, abs=1e-12) if n == 1 else deviation > error


# --- the fake model -----------------------------------------------------------------------------


async def tokens(model, rng, what, temperature=1.0, max_tokens=8):
    """The tokens of one whole answer, in one call or step by step."""
    path, ledger, sampling = Path.root(PROMPT), Ledger(Budget()), Sampling(temperature=temperature)
    turn = 0
    while not path.ended and path.n_tokens < max_tokens:
        until = Until(what, max_tokens - path.n_tokens)
        [path] = await model.extend(path, 1, until, sampling, rng.child(turn), ledger)
        turn += 1
    return path.token_ids


@pytest.mark.parametrize("what", ["step", "end"])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_the_fake_model_has_the_law_of_its_table(what, temperature):
    """In one call and step by step, at any temperature, `extend` agrees with brute force."""
    model = FakeModel(WORDS)
    truth = {
        path.token_ids: p for path, p in all_paths(model, PROMPT, sampling=Sampling(temperature=temperature))
    }
    assert enumerate_law(lambda rng: tokens(model, rng, what, temperature)) == pytest.approx(truth, abs=1e-14)
    if temperature == 1.0:
        assert truth[tuple(map(model.vocabulary.index, ["b|", "a", "$"]))] == pytest.approx(0.3 * 0.9)
        assert len(truth) == 5


def test_all_paths_are_cut_into_steps_with_their_logprobs():
    """Steps end on boundaries, the path on eos, which has no text; log-probabilities add up."""
    for path, p in all_paths(FakeModel(WORDS), PROMPT):
        assert path.finished
        assert all(step.end is End.BOUNDARY and step.text.endswith("|") for step in path.steps[:-1])
        assert "$" not in path.text
        assert math.fsum(step.logprob for step in path.steps) == pytest.approx(math.log(p))


def test_extend_tells_the_logprob_of_what_it_drew():
    """Under the sampling distribution, temperature included."""
    truth = {
        path.token_ids: path.step.logprob
        for path, _ in all_paths(FakeModel(WORDS), PROMPT, sampling=Sampling(temperature=2.0))
    }

    async def one(rng):
        sampling, ledger = Sampling(temperature=2.0), Ledger(Budget())
        [path] = await FakeModel(WORDS).extend(Path.root(PROMPT), 1, Until("end", 8), sampling, rng, ledger)
        assert path.step.logprob == pytest.approx(truth[path.token_ids])
        return path.token_ids

    assert len(enumerate_law(one)) == 5


def test_sampling_law_cuts_the_tail():
    """Top-k keeps k tokens, top-p the fewest that hold p; ties and zero temperature go to the lowest id."""
    law = np.array([0.1, 0.4, 0.4, 0.1])
    assert sampling_law(law, Sampling(top_k=2)).tolist() == [0, 0.5, 0.5, 0]
    assert sampling_law(law, Sampling(top_p=0.5)).tolist() == [0, 0.5, 0.5, 0]
    assert sampling_law(law, Sampling(top_p=0.4)).tolist() == [0, 1, 0, 0]
    assert sampling_law(law, Sampling(temperature=0)).tolist() == [0, 1, 0, 0]
    assert sampling_law(law, Sampling()) == pytest.approx(law)


def test_a_table_that_is_no_model_is_refused():
    """No eos, a function without vocabulary, a row that does not sum to 1, an endless path."""
    with pytest.raises(OptionError, match="eos"):
        FakeModel({(): {"a": 1.0}})
    with pytest.raises(OptionError, match="vocabulary"):
        FakeModel(lambda prefix: {"$": 1.0})
    with pytest.raises(ValueError, match="no distribution"):
        FakeModel({(): {"$": 0.5}}).probabilities(())
    with pytest.raises(EnumerationError, match="longer than"):
        all_paths(FakeModel(lambda prefix: {"a": 0.5, "$": 0.5}, vocabulary=["a", "$"]), PROMPT)


# --- the laws of the model seam ------------------------------------------------------------------


@pytest.mark.parametrize("law", MODEL_LAWS, ids=lambda law: law.__name__)
def test_the_fake_model_keeps_the_laws_of_its_seam(law):
    """All of them, on a model whose answers have several steps."""
    asyncio.run(law(FakeModel(LIKES_STEPS), [PROMPT, Prompt(raw="raw text")]))


class SingleStepGreedyDiffers(FakeModel):
    """Rereads only the last step when continuing: the classic loss of context."""

    async def extend(self, path, n, until, sampling, rng, ledger):
        if until.what == "step" and path.depth:
            children = await super().extend(Path.root(path.prompt), n, until, sampling, rng, ledger)
            return [path.child(child.step) for child in children]
        return await super().extend(path, n, until, sampling, rng, ledger)


class OneSeedForAll(FakeModel):
    """All samples of a call are one sample."""

    async def extend(self, path, n, until, sampling, rng, ledger):
        return (await super().extend(path, 1, until, sampling, rng, ledger)) * n


class GlobalGenerator(FakeModel):
    """Ignores the seed it is given."""

    turn = 0

    async def extend(self, path, n, until, sampling, rng, ledger):
        GlobalGenerator.turn += 1
        return await super().extend(path, n, until, sampling, Seeded(self.turn), ledger)


class ChargesNothing(FakeModel):
    """Runs for free."""

    async def extend(self, path, n, until, sampling, rng, ledger):
        return await super().extend(path, n, until, sampling, rng, Ledger(Budget()))


class ChargesOneChild(FakeModel):
    """Counts the tokens of the first child only."""

    async def extend(self, path, n, until, sampling, rng, ledger):
        children = await super().extend(path, n, until, sampling, rng, Ledger(Budget()))
        ledger.charge_model(prompt=2, cached=0, generated=children[0].n_tokens)
        return children


class CallsLengthEos(FakeModel):
    """Whatever ends is finished."""

    async def extend(self, path, n, until, sampling, rng, ledger):
        children = await super().extend(path, n, until, sampling, rng, ledger)
        fake = [type(c.step)(c.step.token_ids, c.step.text, End.EOS, c.step.logprob) for c in children]
        return [c.parent.child(step) for c, step in zip(children, fake, strict=True)]


class IgnoresTheLimit(FakeModel):
    """Generates to the end whatever was allowed."""

    async def extend(self, path, n, until, sampling, rng, ledger):
        return await super().extend(path, n, Until(until.what, 99), sampling, rng, ledger)


class TellsNothingOfTokens(FakeModel):
    """Promises statistics and gives none."""

    async def extend(self, path, n, until, sampling, rng, ledger):
        children = await super().extend(path, n, until, sampling, rng, ledger)
        return [c.parent.child(replace(c.step, token_entropies=None)) for c in children]


class TellsTheStepThrice(FakeModel):
    """The log-probability of a step is not that of its tokens."""

    async def extend(self, path, n, until, sampling, rng, ledger):
        children = await super().extend(path, n, until, sampling, rng, ledger)
        return [c.parent.child(replace(c.step, logprob=3 * c.step.logprob - 1)) for c in children]


class ForgetsThePath(FakeModel):
    """Reads given tokens as if they stood behind the prompt."""

    async def logprobs_of(self, path, token_ids, sampling, ledger):
        behind = 1.0 if path.token_ids else 0.0
        return tuple(p - behind for p in await super().logprobs_of(path, token_ids, sampling, ledger))


class AnotherTemperature(FakeModel):
    """Tells of given tokens what they would have under another law."""

    async def logprobs_of(self, path, token_ids, sampling, ledger):
        return await super().logprobs_of(path, token_ids, Sampling(temperature=0.2), ledger)


class ForcesWithoutSaying(FakeModel):
    """A forced step that looks drawn."""

    def forced(self, path, text):
        return path.child(replace(super().forced(path, text).step, forced=False))


class LosesWhatIsForced(FakeModel):
    """Goes on as if nothing had been forced."""

    async def extend(self, path, n, until, sampling, rng, ledger):
        if path.step is None or not path.step.forced:
            return await super().extend(path, n, until, sampling, rng, ledger)
        children = await super().extend(path.parent, n, until, sampling, rng, ledger)
        return [path.child(child.steps[0]) for child in children]


@pytest.mark.parametrize(
    ("law", "broken", "says"),
    [
        (check_stepwise_equals_single_pass, SingleStepGreedyDiffers, "single-pass"),
        (check_samples_differ, OneSeedForAll, "child i must draw from"),
        (check_one_seed, GlobalGenerator, "global generator"),
        (check_usage, ChargesNothing, "not charged"),
        (check_usage, ChargesOneChild, "were charged"),
        (check_length_is_not_eos, CallsLengthEos, "cut the answer and called it"),
        (check_length_is_not_eos, IgnoresTheLimit, "instead of the beginning"),
        (check_token_statistics, TellsNothingOfTokens, "0 entropies"),
        (check_token_statistics, TellsTheStepThrice, "its tokens have"),
        (check_given, ForgetsThePath, "at once"),
        (check_given, AnotherTemperature, "when given"),
        (check_forced, ForcesWithoutSaying, "forcing"),
        (check_forced, LosesWhatIsForced, "goes on from its own first step"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_each_law_catches_who_breaks_it(law, broken, says):
    """And names what came instead."""
    with pytest.raises(LawBroken, match=says):
        asyncio.run(law(broken(LIKES_STEPS), [PROMPT]))


def test_a_model_that_offers_no_seeds_is_not_held_to_one():
    """Laws ask only for what a model says it can do."""
    asyncio.run(check_one_seed(GlobalGenerator(WORDS, capabilities=frozenset({Capability.STEPS})), [PROMPT]))


def test_a_check_that_checks_nothing_says_so():
    """One-token answers cannot be cut, so the law about cutting was not tested."""
    with pytest.raises(ValueError, match="longer answers"):
        asyncio.run(check_length_is_not_eos(FakeModel({(): {"$": 1.0}}), [PROMPT]))
