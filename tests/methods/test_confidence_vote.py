"""Confidence-weighted votes: windows of tokens and self-certainty, against brute force on exact laws."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from itscale.budget import Budget
from itscale.errors import ModelError, OptionError
from itscale.methods import ConfidenceVote, Majority
from itscale.models.base import Capability
from itscale.models.fake import FakeModel
from itscale.testing import enumerate_law
from itscale.types import Prompt

PROMPT = Prompt.user("count")
TREE = {
    (): {"a": 0.7, "b": 0.3},
    ("a",): {"c": 0.5, "d": 0.5},
    ("b",): {"c": 0.9, "d": 0.1},
    **{
        (x, y): {"Answer: 1": 0.6, "Answer: 2": 0.4} if y == "c" else {"Answer: 2": 1.0}
        for x in "ab"
        for y in "cd"
    },
}
VOCABULARY = ("$", "\n", "a", "b", "c", "d", "Answer: 1", "Answer: 2")


def law(prefix):
    """Two letters on a line, then an answer, then the end."""
    if prefix and prefix[-1].startswith("Answer"):
        return {"$": 1.0}
    letters = tuple(token for token in prefix if token != "\n")
    return TREE[letters] if len(prefix) != 2 else {"\n": 1.0}


def model(**options):
    return FakeModel(law, vocabulary=VOCABULARY, boundary="\n", **options)


def answers():
    """Every whole answer with its probability, and of each token its probability and KL(U, law)."""

    def grow(prefix, p, told, sure):
        if prefix and prefix[-1] == "$":
            yield prefix, p, told, sure
            return
        row = law(prefix)
        probabilities = np.array([max(row.get(token, 0.0), 1e-30) for token in VOCABULARY])
        divergence = float(np.mean(np.log(1 / len(VOCABULARY)) - np.log(probabilities)))
        for token, q in row.items():
            yield from grow((*prefix, token), p * q, [*told, q], [*sure, divergence])

    return list(grow((), 1.0, [], []))


def geometric(values):
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def weight(confidence, told, sure):
    """The definition, on lists, with windows of two tokens."""
    if confidence == "tail":
        return geometric(told[-2:])
    if confidence == "window":
        return min(geometric(told[i : i + 2]) for i in range(len(told) - 1))
    return sum(sure) / len(sure)


@pytest.mark.parametrize("confidence", ["tail", "window", "certainty"])
def test_votes_weigh_what_the_definition_says(confidence):
    """The exact law of the answer of two samples, against all pairs; ties to the earliest."""
    expected: Counter = Counter()
    for first, second in itertools.product(answers(), repeat=2):
        votes = {sample[0][-2]: 0.0 for sample in (first, second)}
        for text, _, told, sure in (first, second):
            votes[text[-2]] += weight(confidence, told, sure)
        expected[max(votes, key=lambda a: round(votes[a], 9))[-1]] += first[1] * second[1]

    async def run(rng):
        method = ConfidenceVote(confidence=confidence, window=2)
        return (await method.run(PROMPT, model(), None, Budget(generations=2), rng)).answer

    assert enumerate_law(run) == pytest.approx(dict(expected), abs=1e-9)


def test_scores_are_the_confidences():
    """Of each candidate; a window longer than the answer is the mean of all its tokens."""
    by_text = {"".join(tokens[:-1]): (told, sure) for tokens, _, told, sure in answers()}

    def scores(**options):
        method = ConfidenceVote(**options)
        result = asyncio.run(method.run(PROMPT, model(), None, Budget(generations=20), 4))
        return {c.path.text: c.score for c in result.candidates}

    for confidence in ("tail", "window", "certainty"):
        for text, score in scores(confidence=confidence, window=2).items():
            assert score == pytest.approx(weight(confidence, *by_text[text]))
    assert scores(confidence="tail") == pytest.approx(scores(confidence="mean"))
    assert scores(confidence="window") == pytest.approx(scores(confidence="mean"))


class Silent(FakeModel):
    """Tells the log-probability of steps and nothing of their tokens."""

    async def extend(self, path, n, until, sampling, rng, ledger):
        children = await super().extend(path, n, until, sampling, rng, ledger)
        return [
            child.parent.child(replace(child.step, token_logprobs=None, token_certainties=None))
            for child in children
        ]


def test_what_a_model_does_not_tell_is_refused():
    """Before any token where it says so, at the first step where it had promised."""
    untold = model(capabilities=frozenset({Capability.LOGPROBS}))
    with pytest.raises(OptionError, match="self_certainty"):
        asyncio.run(ConfidenceVote(confidence="certainty").run(PROMPT, untold, None, Budget(generations=2)))
    assert untold.calls == 0
    silent = Silent(law, vocabulary=VOCABULARY, boundary="\n")
    for confidence in ("tail", "certainty"):
        with pytest.raises(ModelError, match="use confidence=mean"):
            asyncio.run(
                ConfidenceVote(confidence=confidence).run(PROMPT, silent, None, Budget(generations=2))
            )
    with pytest.raises(OptionError, match="window is 0"):
        ConfidenceVote(window=0)


def test_certainty_runs_on_the_embedded_model(reasoner):
    """Weights differ from one another and are above 0; the samples are those of majority."""
    prompt = Prompt.user("Make 45 from 3, 7, 12, 23.")
    run = ConfidenceVote(confidence="certainty").run(prompt, reasoner, None, Budget(generations=4), 0)
    result = asyncio.run(run)
    scores = [candidate.score for candidate in result.candidates]
    assert min(scores) > 0
    assert len(set(scores)) > 1
    plain = asyncio.run(Majority().run(prompt, reasoner, None, Budget(generations=4), 0))
    assert [c.answer for c in plain.candidates] == [c.answer for c in result.candidates]
