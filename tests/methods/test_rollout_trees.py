"""Rollout trees: what they share, what they export, what they owe."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from itscale.errors import AllFailedError, OptionError
from itscale.methods import EntropyTree, LookaheadTree, Majority, SegmentTree, SemanticTree
from itscale.methods.segment_tree import fork_counts
from itscale.models.base import Capability
from itscale.models.fake import FakeModel
from itscale.registry import METHODS
from itscale.types import StopReason
from tests.methods.trees import END, TREE, wordy
from tests.methods.trees import run_alone as run

NAMES = ["segment-tree", "entropy-tree", "lookahead-tree", "semantic-tree"]


FORKING = pytest.mark.parametrize(
    "method",
    [
        SegmentTree(segment=3),
        EntropyTree(spacing=2),
        SemanticTree(metric="entropy", fresh=0.2),
        SemanticTree(probe_tokens=2, fresh=0.2),
        LookaheadTree(ahead=3, similar=0.2),
    ],
    ids=str,
)


@FORKING
def test_answers_share_their_beginnings_and_the_tree_says_so(method):
    """N answers, whole in the tree, made of fewer tokens than the answers have; usage is the model's."""
    result, model = run(method, wordy(), 8, 3)
    assert len(result.candidates) == 8
    assert all(c.path.finished for c in result.candidates)
    nodes = result.tree.to_json()["nodes"]
    texts = {}
    for node in nodes:
        texts[node["id"]] = texts.get(node["parent"], "") + node["text"]
    ends = [texts[node["id"]] for node in nodes if node["end"] == "eos" for _ in range(node["draws"])]
    assert sorted(ends) == sorted(c.path.text for c in result.candidates)
    edges = sum(len(node["token_ids"]) for node in nodes)
    assert edges < sum(c.path.n_tokens for c in result.candidates)
    assert edges <= result.usage.generated_tokens == model.tokens_generated
    assert nodes[0]["visits"] == 8


def test_values_are_the_share_of_leaves_that_agree():
    """The value of the root is the winner's share of the votes; with rewards of one's own, their mean."""
    result, _ = run(SegmentTree(segment=4), wordy(), 8, 1)
    agree = sum(c.answer == result.answer for c in result.candidates) / 8
    assert result.tree.root.value == pytest.approx(agree)
    ones = sum(c.answer == "1" for c in result.candidates) / 8
    told = result.tree.to_json(lambda path: float(path.text.endswith("answer: 1")))
    assert told["nodes"][0]["value"] == pytest.approx(ones)


@FORKING
def test_a_tree_whose_leaves_disagree_abstains(method):
    """Below its share of all leaves the answer is none; text, candidates and the tree are what they were."""
    kept = []
    for seed, share in itertools.product(range(4), (0.0, 0.5, 0.75, 1.0)):
        plain, _ = run(method, wordy(), 8, seed)
        careful, _ = run(replace(method, abstain_below=share), wordy(), 8, seed)
        agree = sum(c.answer == plain.answer for c in plain.candidates) / len(plain.candidates)
        assert not plain.abstained
        assert careful.abstained is (agree < share)
        assert careful.answer == (None if careful.abstained else plain.answer)
        assert (careful.text, careful.chosen) == (plain.text, plain.chosen)
        assert careful.tree.to_json() == plain.tree.to_json()
        kept.append(careful.abstained)
    assert 0 < sum(kept) < len(kept)


def test_fewer_tokens_than_as_many_samples():
    """At N = 14 the entropy tree and the segment tree need less than independent samples."""
    plain, _ = run(Majority(), wordy(), 14)
    for method in (EntropyTree(spacing=2), SegmentTree(segment=3)):
        assert run(method, wordy(), 14)[0].usage.generated_tokens < 0.8 * plain.usage.generated_tokens


@pytest.mark.parametrize("name", NAMES)
def test_a_certain_model_has_one_answer(name):
    """All leaves are equal, and none is lost."""
    answer = "\nanswer: 1"
    table = {(): {"a|": 1.0}, ("a|",): {answer: 1.0}, ("a|", answer): END}
    result, _ = run(METHODS[name](), table, 4)
    assert [c.path.text for c in result.candidates] == 4 * [f"a|{answer}"]
    assert result.answer == "1"


def test_branches_that_say_the_same_are_pruned():
    """Two spellings of a token, the same ten words after: no row of its own; all other rows differ."""

    def same(prefix):
        if not prefix:
            return {"go ": 1.0}
        if len(prefix) == 1:
            return {"1 ": 0.55, "2 ": 0.45}
        return {"w ": 1.0} if len(prefix) < 12 else {"$": 1.0}

    model = FakeModel(same, vocabulary=["go ", "1 ", "2 ", "w ", "$"])
    strict, _ = run(LookaheadTree(ahead=5, similar=0.5, tries=8), model, 3)
    loose, _ = run(LookaheadTree(ahead=5, similar=0.1, tries=8), model, 3)
    assert strict.usage.discarded_tokens > loose.usage.discarded_tokens
    assert {"go 1 " + 10 * "w ", "go 2 " + 10 * "w "} <= {c.path.text for c in loose.candidates}


def test_probes_prefer_forks_that_lead_apart():
    """Of two tokens alike in entropy the one whose rests differ is forked: D counts, not H alone.

    Sixteen probes that all agree would hide it: once in 2^15.
    """

    def rests(prefix):
        if not prefix:
            return {"go ": 1.0}
        if len(prefix) in (1, 6):
            return {"1 ": 0.5, "2 ": 0.5}
        if len(prefix) < 6 or (len(prefix) < 12 and prefix[6] == "1 "):
            return {"w ": 1.0}
        return {"v ": 1.0} if len(prefix) < 12 else {"$": 1.0}

    model = FakeModel(rests, vocabulary=["go ", "1 ", "2 ", "w ", "v ", "$"])
    method = SemanticTree(fresh=0.0, probes=16, probe_tokens=5)
    for seed in range(4):
        result, _ = run(method, model, 2, seed)
        first, second = (c.path.text.split() for c in result.candidates)
        assert first[:6] == second[:6], "the fork was not at the later token"


@pytest.mark.parametrize(
    ("args", "counts"),
    [((2, 0, 2, 8), [2, 2]), ((2, 1, 2, 5), [2, 3]), ((3, 0, 2, 4), [1, 1, 2]), ((0, 2, 2, 4), [])],
)
def test_forks_never_exceed_what_is_wanted(args, counts):
    """Shared equally, the rest to the last."""
    assert fork_counts(*args) == counts


def test_a_path_that_repeats_itself_is_stopped():
    """Thirty-two characters eight times over: done, without an answer, without its other tokens."""
    table = FakeModel(
        lambda prefix: {"and again, from the beginning: |": 1.0},
        vocabulary=["and again, from the beginning: |", "$"],
    )
    result, model = run(SegmentTree(branching=1), table, 1)
    assert model.tokens_generated == 8
    assert result.answer is None
    endless, _ = run(SegmentTree(branching=1, stop_repeats=False), table, 1)
    assert endless.usage.generated_tokens > 8


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", [1, 7, 30])
def test_a_token_limit_binds_and_is_never_overstepped(name, tokens):
    """Anytime: the limit is named, the account true, and there is something to return."""
    result, model = run(METHODS[name](), wordy(), 8, 0, tokens=tokens)
    assert model.tokens_generated == result.usage.generated_tokens <= tokens
    assert result.candidates
    assert result.stop_reason is StopReason.TOKENS


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", [3, 8])
def test_the_length_of_a_path_is_kept(name, tokens):
    """max_tokens is of a path, however often it was cut and continued."""
    method = METHODS[name](max_tokens=tokens)
    result, _ = run(method, wordy(), 4)
    assert {c.path.n_tokens for c in result.candidates} == {tokens}
    assert result.answer is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_failed_call_costs_one_candidate(name, failing):
    """The run goes on and ends with a finished answer, whichever call fails."""
    for seed in range(4):
        model = wordy(fail=lambda call: call == failing)
        result, _ = run(METHODS[name](), model, 8, seed)
        assert result.usage.failed_calls == (model.calls > failing)
        assert result.candidates[result.chosen].path.finished


@pytest.mark.parametrize("name", NAMES)
def test_all_failed_is_a_clear_error(name):
    """With no path at all the error names the last cause."""
    with pytest.raises(AllFailedError, match="failed as told"):
        run(METHODS[name](), FakeModel(TREE, fail=lambda call: True))


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_is_one_result(name):
    """Same seed, same events; some other seed differs."""
    first, again, other = (run(METHODS[name](), wordy(), 6, seed)[0].trace.to_json() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("name", NAMES)
def test_what_it_needs_is_checked_before_any_token(name):
    """A model that cannot be cut, or tells nothing of its tokens, is refused."""
    model = FakeModel(TREE, capabilities=frozenset({Capability.SEEDS}))
    with pytest.raises(OptionError, match=r"steps|forcing"):
        run(METHODS[name](), model)
    assert model.calls == 0


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        (SegmentTree, {"branching": 0}, "at least 1"),
        (SegmentTree, {"trees": 0}, "1 tree or more"),
        (EntropyTree, {"spacing": 0}, "at least 1"),
        (LookaheadTree, {"tau_rel": 2.0}, "give 0 to 1"),
        (LookaheadTree, {"tries": 0}, "at least 1"),
        (SemanticTree, {"fresh": -1.0}, "a probability"),
        (SemanticTree, {"metric": "entropie"}, "did you mean 'entropy'"),
        (SemanticTree, {"probes": 1}, "at least 2"),
    ],
)
def test_impossible_options_are_refused(method, options, says):
    """At construction, with what to do instead."""
    with pytest.raises(OptionError, match=says):
        method(**options)
