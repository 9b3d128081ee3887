"""Reward models on a server: right where the server is, typed errors wherever it is not."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path as FilePath
from typing import Any

import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import ModelError, OptionError, PromptError, ScorerError
from itscale.methods import BestOfN, ParticleFilter
from itscale.models.openai.client import Endpoint
from itscale.recording import Recording
from itscale.registry import SCORERS, load_scorer
from itscale.scorers.recorded import record_scores
from itscale.scorers.served import ClassifyScorer, RewardScorer, ScoreScorer, label_index
from itscale.scorers.served_prm import PoolingScorer, served_kind
from itscale.types import End, Message, Path, Prompt, Step
from tests.bench.worlds import coin_model
from tests.models.openai.canned import cut, fault
from tests.models.openai.servers import endpoint_at
from tests.models.recorded_runs import in_session
from tests.scorers.pooling_servers import MARK, PoolingServer

PROMPT = Prompt.user("What is 6 * 7 ?")
TEXTS = ["6 * 7 is\n", "42 .\n", "So 42"]


def path_of(*texts: str, ids: Sequence[Sequence[int]] = (), prompt: Prompt = PROMPT) -> Path:
    path = Path.root(prompt)
    for i, text in enumerate(texts):
        end = End.EOS if i == len(texts) - 1 else End.BOUNDARY
        path = path.child(Step(tuple(ids[i]) if ids else (), text, end, counted=None if ids else 1))
    return path


def at(server: PoolingServer) -> Endpoint:
    return endpoint_at(server, url="http://127.0.0.1:9/v1")


def scored(scorer: Any, *paths: Path) -> tuple[list[Any], Ledger]:
    ledger = Ledger(Budget())

    async def run() -> list[Any]:
        results = []
        for path in paths:
            result = await scorer.score(path, ledger)
            results.append(result if isinstance(result, float) else list(result))
        return results

    return asyncio.run(run()), ledger


@pytest.mark.parametrize("step_pooling", [False, True])
def test_qwen_is_read_at_the_marks(step_pooling: bool):
    """Template, stripped steps, a mark after each: rows of all tokens or of the marks alone."""
    server = PoolingServer(step_pooling=step_pooling)
    [scores], _ = scored(PoolingScorer(at(server), "prm", "qwen2.5-math-prm"), path_of(*TEXTS))
    system = "Please reason step by step, and put your final answer within \\boxed{}."
    ids = server.prompt_ids(
        [{"role": "system", "content": system}, {"role": "user", "content": "What is 6 * 7 ?"}]
    )
    expected = []
    for text in TEXTS:
        ids += server.ids_of(text.strip() + MARK)
        expected.append(server.right(ids))
    assert scores == pytest.approx(expected)
    assert server.asked("/pooling") == [{"model": "prm", "input": ids}]


@pytest.mark.parametrize("step_pooling", [False, True])
def test_a_mark_in_the_text_is_no_step(step_pooling: bool):
    """Marks are told by their place: what a model writes itself changes no count."""
    server = PoolingServer(step_pooling=step_pooling)
    scorer = PoolingScorer(at(server), "prm", "qwen2.5-math-prm")
    [scores], _ = scored(scorer, path_of(f"a {MARK} b\n", f"{MARK} c"))
    [body] = server.asked("/pooling")
    places = [i for i, t in enumerate(body["input"]) if t == server.ids_of(MARK)[0]]
    assert len(places) == 4
    assert scores == pytest.approx([server.right(body["input"][: places[i] + 1]) for i in (1, 3)])


def test_own_token_ids_are_sent_as_they_are():
    """The reasoner's ids, read at each step's last; a step without tokens is like the one before it."""
    server = PoolingServer()
    scorer = PoolingScorer(at(server), "prm")
    path = path_of("a", "b", "", ids=[(1, 2), (3,), ()])
    [scores], ledger = scored(scorer, path)
    prompt = server.prompt_ids([{"role": "user", "content": "What is 6 * 7 ?"}])
    first, second = server.right([*prompt, 1, 2]), server.right([*prompt, 1, 2, 3])
    assert scores == pytest.approx([first, second, second])
    assert ledger.scorer_tokens == len(prompt) + 3
    assert (ledger.model_calls, ledger.retries) == (0, 0)


def test_texts_without_ids_are_spelled_by_the_server():
    """A model behind a chat server gives no ids: each step's text is spelled once."""
    server = PoolingServer()
    scorer = PoolingScorer(at(server), "prm")
    path = path_of(*TEXTS)
    [whole, again], _ = scored(scorer, path, path)
    assert whole == again
    assert len(server.asked("/tokenize")) == 1 + 3
    assert len(server.asked("/pooling")) == 1


@pytest.mark.parametrize("kind", ["token-classification", "qwen2.5-math-prm"])
def test_a_scored_path_is_not_asked_about_again(kind: str):
    """Not it, not its prefixes; a longer one keeps their scores, and is asked about once at a time."""
    server = PoolingServer()
    scorer = PoolingScorer(at(server), "prm", kind)
    path = path_of(*TEXTS)
    parent = path.parent
    assert parent is not None
    other = parent.child(Step((), "So 43", End.EOS, counted=1))

    async def run() -> list[list[float]]:
        ledger = Ledger(Budget())
        first = await scorer.score(parent, ledger)
        both = await asyncio.gather(*(scorer.score(p, ledger) for p in (path, other, path)))
        return [list(first), *map(list, both), list(await scorer.score(parent, ledger))]

    first, whole, branch, same, again = asyncio.run(run())
    assert len(server.asked("/pooling")) == 3
    assert whole == same
    assert whole[:2] == branch[:2] == first == again


def broken(what: Callable[[Any], Any]) -> Callable[[list[Any]], Any]:
    """The data of an answer, its one item's rows changed."""
    return lambda items: [{**items[0], "data": what(items[0]["data"])}]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (broken(lambda rows: rows[:-1]), r"\d+ rows for \d+ tokens"),
        (broken(lambda rows: [*rows, rows[0]]), r"\d+ rows for \d+ tokens"),
        (broken(lambda rows: []), "0 rows"),
        (broken(lambda rows: rows[0]), "2 rows"),
        (broken(lambda rows: [[float("nan"), 0.5] for _ in rows]), "two numbers"),
        (broken(lambda rows: [[float("inf"), 0.5] for _ in rows]), "two numbers"),
        (broken(lambda rows: [[0.5] for _ in rows]), "two numbers"),
        (broken(lambda rows: [[0.2, 0.3, 0.5] for _ in rows]), "two numbers"),
        (broken(lambda rows: [["0.5", "0.5"] for _ in rows]), "two numbers"),
        (broken(lambda rows: [[True, False] for _ in rows]), "two numbers"),
        (broken(lambda rows: [[-1.5, 2.5] for _ in rows]), "no probabilities"),
        (broken(lambda rows: [[0.5, 0.9] for _ in rows]), "no probabilities"),
        (broken(lambda rows: "AAAA"), "no token-wise pooling"),
        (lambda items: [], "no token-wise pooling"),
        (lambda items: items * 2, "no token-wise pooling"),
        (lambda items: {"x": 1}, "no token-wise pooling"),
        (lambda items: None, "no token-wise pooling"),
    ],
)
def test_garbage_is_a_typed_error(rows: Callable[[list[Any]], Any], said: str):
    """Wrong counts, NaN, logits, words: nothing is made into a score, and the next answer counts."""
    server = PoolingServer(rows=rows)
    scorer, path = PoolingScorer(at(server), "prm"), path_of(*TEXTS)
    with pytest.raises(ScorerError, match=said):
        scored(scorer, path)
    server.rows = lambda items: items
    assert len(scored(scorer, path)[0][0]) == 3


def test_certainty_is_rounding():
    """A probability of 1.0 in the server's precision stays within the open interval."""
    server = PoolingServer(
        rows=broken(lambda rows: [[0.0, 1.0] if i % 2 else [1.0, 0.0] for i in range(len(rows))])
    )
    [scores], _ = scored(PoolingScorer(at(server), "prm"), path_of(*TEXTS))
    assert all(0 < score < 1 for score in scores)


def test_faults_are_retried_and_paid_for():
    """429, 500 and a cut connection, as for models; an overflow of the context is one sentence."""
    server = PoolingServer()
    server.faults += [fault(429, "busy", retry_after="1"), fault(500, "oh"), cut]
    scorer = PoolingScorer(at(server), "prm")
    [scores], ledger = scored(scorer, path_of(*TEXTS))
    assert len(scores) == 3
    assert ledger.retries == 3
    server.context = 5
    with pytest.raises(ModelError, match="context of 'prm' overflows"):
        scored(scorer, path_of("other"))
    server.faults += [fault(200, b"{")] * 5
    with pytest.raises(ModelError, match="no JSON object"):
        scored(scorer, path_of("another"))


@pytest.mark.parametrize(
    ("usage", "charged"),
    [
        ({"prompt_tokens": 9}, 9),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}, 5),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 40}}, 0),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": "9"}, None),
        ("garbage", None),
        ({}, None),
    ],
)
def test_what_the_server_read_is_charged(usage: Any, charged: int | None):
    """As it counts, cached tokens left out; the tokens that were sent where it does not."""
    server = PoolingServer(usage=usage)
    _, ledger = scored(PoolingScorer(at(server), "prm"), path_of(*TEXTS))
    assert ledger.scorer_tokens == (len(server.asked("/pooling")[0]["input"]) if charged is None else charged)


def test_outcome_endpoints():
    """Each gets the conversation in its own form and gives its one number."""
    server = PoolingServer(rows=broken(lambda rows: [[p] for _, p in rows]))
    path = path_of(*TEXTS)
    messages = [
        {"role": "user", "content": "What is 6 * 7 ?"},
        {"role": "assistant", "content": "".join(TEXTS)},
    ]
    [reward], ledger = scored(RewardScorer(at(server), "prm"), path)
    ids = server.prompt_ids(messages)
    assert reward == pytest.approx(server.right(ids))
    assert ledger.scorer_tokens == len(ids)
    server.rows = broken(lambda rows: [-3.5])
    assert scored(RewardScorer(at(server), "prm"), path)[0] == [-3.5]
    server.rows = lambda items: items
    assert scored(ClassifyScorer(at(server), "prm"), path)[0] == [0.75]
    assert scored(ClassifyScorer(at(server), "prm", 0), path)[0] == [0.25]
    assert scored(ScoreScorer(at(server), "prm"), path)[0] == [0.25]
    assert server.asked("/pooling")[0]["messages"] == server.asked("/classify")[0]["messages"] == messages
    [asked] = server.asked("/score")
    assert (asked["text_1"], asked["text_2"]) == ("What is 6 * 7 ?", "".join(TEXTS))
    raw = path_of("42", prompt=Prompt(raw="6 * 7 ="))
    server.rows = broken(lambda rows: [1.0])
    scored(RewardScorer(at(server), "prm"), raw)
    assert server.asked("/pooling")[-1]["input"] == "6 * 7 =42"


@pytest.mark.parametrize("value", [float("nan"), "0.5", None, [[0.5]], True])
@pytest.mark.parametrize("kind", [RewardScorer, ClassifyScorer, ScoreScorer])
def test_outcome_garbage_is_a_typed_error(kind: Any, value: Any):
    """NaN, words, nothing: no number is made of it."""
    server = PoolingServer(scores=value, probs=[0.5, value], rows=lambda items: items)
    if kind is RewardScorer:
        server.rows = broken(lambda rows: [value])
    with pytest.raises(ScorerError, match=r"docs/models\.md"):
        scored(kind(at(server), "prm"), path_of("42"))


def test_labels_must_be_told_apart():
    """Of three labels nobody knows which is good; an index beyond them is none."""
    server = PoolingServer(probs=[0.1, 0.2, 0.7])
    with pytest.raises(ScorerError, match=r"3 labels; say which one is good with #label=INDEX"):
        scored(ClassifyScorer(at(server), "prm"), path_of("42"))
    assert scored(ClassifyScorer(at(server), "prm", 2), path_of("42"))[0] == [0.7]
    with pytest.raises(ScorerError, match="3 labels"):
        scored(ClassifyScorer(at(server), "prm", 3), path_of("42"))


def test_a_conversation_is_refused_where_one_question_is_read():
    """Qwen's model judges answers to a question; others take the conversation."""
    talk = Prompt((Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "6 * 7 ?")))
    with pytest.raises(PromptError, match="one question"):
        scored(PoolingScorer(at(PoolingServer()), "prm", "qwen2.5-math-prm"), path_of("42", prompt=talk))
    assert scored(ClassifyScorer(at(PoolingServer()), "prm"), path_of("42", prompt=talk))[0] == [0.75]


def test_specs_reach_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: FilePath):
    """Its one model is found, options are read, and a key goes along and never shows."""
    monkeypatch.delenv("ITSCALE_API_KEY", raising=False)
    (tmp_path / "key").write_text("s3cret\n")
    server = PoolingServer()
    made: list[Endpoint] = []

    def make(address: Any, key: Any) -> Endpoint:
        import httpx

        made.append(Endpoint(address, key, transport=httpx.ASGITransport(server)))  # type: ignore[arg-type]
        return made[-1]

    spec = f"@http://127.0.0.1:9/v1#kind=qwen2.5-math-prm,timeout=7,key_file={tmp_path / 'key'}"
    scorer = PoolingScorer.load(spec, endpoint=make, kind=served_kind)
    assert (scorer.name, scorer.kind) == ("pooling:prm@http://127.0.0.1:9/v1", "qwen2.5-math-prm")
    assert made[0].address.timeout_s == 7
    assert server.requests[-1][2]["authorization"] == "Bearer s3cret"
    assert "s3cret" not in f"{scorer.identity} {scorer.name} {made[0]!r}"
    assert (
        scorer.identity
        != PoolingScorer.load("prm@http://127.0.0.1:9/v1", endpoint=make, kind=served_kind).identity
    )
    labelled = ClassifyScorer.load("prm@http://127.0.0.1:9/v1#label=1", endpoint=make, label=label_index)
    assert labelled.label == 1
    server.names = ("a", "b")
    with pytest.raises(OptionError, match="choose one of: a, b"):
        RewardScorer.load("@http://127.0.0.1:9/v1", endpoint=make)
    with pytest.raises(OptionError, match="'prm' is not what"):
        RewardScorer.load("prm@http://127.0.0.1:9/v1", endpoint=make)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("pooling:m@http://h/v1#kind=rlhflow-prm", r"hf:PATH#kind=rlhflow-prm"),
        ("pooling:m@http://h/v1#kind=qwen2.5-prm", "did you mean 'qwen2.5-math-prm'"),
        ("pooling:m@http://h/v1#boundary=x", "unknown option of a pooling scorer"),
        ("pooling:m", "names no server"),
        ("classify:m@http://h/v1#label=good", "index of the label"),
        ("classify:m@http://h/v1#lable=1", "did you mean 'label'"),
        ("reward:m@http://h/v1#kind=x", "unknown option of a reward scorer"),
        ("score:m@http://h/v1#timeout=0", "above 0"),
    ],
)
def test_impossible_specs_are_refused_before_the_network(spec: str, hint: str):
    """With the fix."""
    with pytest.raises(OptionError, match=hint):
        load_scorer(spec)


def test_an_unreachable_server_is_one_sentence_at_once():
    """Not a run in which every candidate has no score."""
    for form in ("pooling", "reward", "classify", "score"):
        assert form in SCORERS
        with pytest.raises(ModelError, match=r"cannot be reached .* is the server running"):
            load_scorer(f"{form}:m@http://127.0.0.1:9/v1#timeout=2")


def test_methods_run_on_a_served_scorer_and_record_it(tmp_path: FilePath):
    """A particle filter and best-of-n; the second time offline, with the same account."""
    server = PoolingServer()

    async def run(recording: Recording) -> list[Any]:
        process = record_scores(PoolingScorer(at(server), "prm"), recording)
        outcome = record_scores(ScoreScorer(at(server), "prm"), recording)
        runs = [(ParticleFilter(), process), (BestOfN(), process), (BestOfN(), outcome)]
        return [await m.run("Call coin 5.", coin_model(), s, Budget(generations=4), seed=3) for m, s in runs]

    first = in_session(tmp_path / "calls.db", run)
    asked = len(server.requests)
    again = in_session(tmp_path / "calls.db", run, offline=True)
    assert len(server.requests) == asked
    for a, b in zip(first, again, strict=True):
        assert a.text == b.text
        assert a.usage.scorer_tokens == b.usage.scorer_tokens > 0
        assert b.usage.replayed_scorer_calls == b.usage.scorer_calls > 0
        assert math.isclose(a.candidates[0].score or 0, b.candidates[0].score or 0)
