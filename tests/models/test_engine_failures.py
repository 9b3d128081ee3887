"""The in-process engine when something goes wrong: nothing leaks, nothing hangs, everything is paid for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from itscale.budget import Budget, Ledger
from itscale.embedded import PROCESS_SCORER
from itscale.errors import ModelError, PromptError, ScorerError
from itscale.models.engine.cache import PrefixCache
from itscale.models.engine.forward import CachedForward
from itscale.models.engine.generator import KEPT_LOGITS, Generator
from itscale.models.engine.judge import Judge
from itscale.models.engine.pool import SlotPool
from itscale.models.engine.request import Ending, Worker
from itscale.models.local import LocalModel
from itscale.randomness import Seeded
from itscale.scorers.prm import LocalProcessScorer
from itscale.tasks import Chain, Countdown
from itscale.types import End, Path, Prompt, Sampling, Step, Until

HOT = Sampling()
PROMPT = Prompt.user("?")


def generator_of(vocabulary: int) -> Generator:
    """The engine on a random little Llama; token 1 ends the answer, token 2 a step."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=4096,
    )  # fmt: skip
    return Generator(
        CachedForward(LlamaForCausalLM(config), limit_bytes=2**22),
        prompt_tokens=lambda _: (3, 4, 5),
        text_of=lambda _, ids: " ".join(map(str, ids)),
        ending=Ending.of(vocabulary, boundary_ids=[2], eos_ids=[1]),
        max_context=4096,
        max_rows=8,
    )


@pytest.fixture
def little() -> Iterator[Generator]:
    """A generator over ten tokens."""
    engine = generator_of(10)
    yield engine
    engine.close()


def breaking(monkeypatch: pytest.MonkeyPatch, forward: CachedForward, name: str) -> None:
    """Have a pass of the model fail."""

    def broken(*args: object, **options: object) -> torch.Tensor:
        raise ValueError("device lost")

    monkeypatch.setattr(forward, name, broken)


def test_two_calls_on_one_path_with_a_large_vocabulary() -> None:
    """Logits that are too large to be kept stay until the last who waits for them has begun."""
    engine = generator_of(KEPT_LOGITS + 10)
    root = Path.root(PROMPT)

    async def two() -> list[Any]:
        calls = [engine.extend(root, Until("end", 4), HOT, [seed, seed + 1]) for seed in (0, 10)]
        return list(await asyncio.gather(*calls))

    requests = asyncio.run(two())
    engine.close()
    assert [request.error for request in requests] == [None, None]
    assert [len(request.children) for request in requests] == [2, 2]


def test_logits_too_large_to_be_kept_are_not_kept() -> None:
    """Neither those of a path that was asked about, nor those where two paths part."""
    engine = generator_of(KEPT_LOGITS + 10)
    root = Path.root(PROMPT)
    paths = [root.child(Step((token,), "", End.BOUNDARY)) for token in (6, 7)]

    async def ask() -> list[Any]:
        return list(await asyncio.gather(*(engine.given(path, (4, 5), HOT) for path in paths)))

    assert [question.error for question in asyncio.run(ask())] == [None, None]
    held = [engine.cache.segment(path).output is not None for path in (root, *paths)]
    engine.close()
    assert held == [False] * 3


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_a_failed_pass_gives_its_slots_back(
    little: Generator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The engine fails a thousand calls and has as much room as before; nothing stays reserved or in use."""
    root = Path.root(PROMPT)
    with monkeypatch.context() as patch:
        breaking(patch, little.forward, name)
        for _ in range(20):
            request = asyncio.run(little.extend(root, Until("end", 8), HOT, [0, 1]))
            assert isinstance(request.error, ModelError)
    assert (little.cache.pool.n_used, little.cache.reserved) == (0 if name == "prefill" else 3, 0)
    assert little.cache.segment(root).users == 0
    assert asyncio.run(little.extend(root, Until("end", 8), HOT, [0])).error is None


def test_a_failed_question_gives_its_slots_back(little: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions answered before the failure keep their answer, and their path is let go of once."""
    root = Path.root(PROMPT)
    long, short = (4,) * 3000, (4, 5)
    assert asyncio.run(little.given(root, short, HOT)).error is None
    inner, sizes = little.forward.prefill, []

    def second_fails(rows: Any, *args: Any, **options: Any) -> Any:
        sizes.append(len(rows[0]))
        if len(rows[0]) > 2000:
            raise ValueError("device lost")
        return inner(rows, *args, **options)

    async def both() -> list[Any]:
        return list(await asyncio.gather(*(little.given(root, ids, HOT) for ids in (long, short))))

    with monkeypatch.context() as patch:
        patch.setattr(little.forward, "prefill", second_fails)
        failed, answered = asyncio.run(both())
    assert sizes == [1, 2999]
    assert isinstance(failed.error, ModelError)
    assert (answered.error, len(answered.logprobs)) == (None, 2)
    assert (little.cache.pool.n_used, little.cache.segment(root).users) == (3, 0)


def test_what_a_failed_engine_had_drawn_is_charged(
    reasoner: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 6: a call that fails after some tokens costs these tokens."""
    inner, passes = reasoner.engine.forward.decode, []

    def third_fails(*args: Any) -> torch.Tensor:
        passes.append(args)
        if len(passes) == 3:
            raise ValueError("device lost")
        return inner(*args)

    ledger = Ledger(Budget())
    [problem] = Chain().problems(1)
    with monkeypatch.context() as patch:
        patch.setattr(reasoner.engine.forward, "decode", third_fails)
        with pytest.raises(ModelError, match="device lost"):
            asyncio.run(reasoner.extend(Path.root(problem.prompt), 2, Until("end"), HOT, Seeded(0), ledger))
    assert ledger.generated_tokens == 2 * 3


def test_an_id_used_again_before_its_path_was_collected_leaks_nothing() -> None:
    """A new path may lie in memory where a dead one lay; the dead one's slots are free all the same."""
    pool = SlotPool(layers=1, kv_heads=1, head_dim=1, dtype=torch.float32, device="cpu", limit_bytes=4096)
    cache = PrefixCache(pool, lambda _: (1, 2))
    root = Path.root(PROMPT)
    parent = cache.segment(root)
    step = Step((3, 4), "", End.BOUNDARY)
    reused = 0
    for _ in range(50):
        path = root.child(step)
        reused += id(path) in cache._segments
        cache.adopt(path, parent, step.token_ids, pool.take(2))
        del path
    assert reused, "the interpreter never used an id again, so nothing was shown"
    cache.collect()
    assert (pool.n_used, parent.cached_children) == (0, 0)


def test_a_path_of_thousands_of_steps(little: Generator) -> None:
    """Depth is no recursion: a path deeper than Python's stack goes on like any other."""
    path = Path.root(PROMPT)
    for _ in range(3000):
        path = path.child(Step((4,), "4", End.BOUNDARY))
    request = asyncio.run(little.extend(path, Until("end", 3), HOT, [0]))
    assert request.error is None
    assert request.prompt_tokens == 3003


def test_a_step_without_tokens_is_no_obstacle(reasoner: LocalModel) -> None:
    """What is forced may be nothing: the path goes on exactly as without it, from a cold cache too."""
    [problem] = Countdown().problems(1, seed=77)

    async def both() -> list[tuple[int, ...]]:
        root = Path.root(problem.prompt)
        ids = []
        for start in (reasoner.forced(root, ""), root):
            [path] = await reasoner.extend(start, 1, Until("end"), HOT, Seeded(0), Ledger(Budget()))
            ids.append(path.token_ids)
        return ids

    forced, plain = asyncio.run(both())
    assert forced == plain


def test_an_empty_prompt_is_refused(reasoner: LocalModel) -> None:
    """There is nothing to begin from, and that is said before the engine sees it."""
    open_to_all = SimpleNamespace(prompts=(), knows="")
    reader = type(reasoner.prompts)(reasoner._tokenizer, open_to_all)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="empty"):
        reader.ids(Prompt(raw=""))


# --- the thread --------------------------------------------------------------------------------


class Slow:
    """A worker that answers only when told to, and requests for it."""

    def __init__(self) -> None:
        self.held: list[Any] = []
        self.let_go = threading.Event()
        self.worker = Worker("itscale-slow", self._turn, lambda _: None, lambda: None)

    def _turn(self, new: list[Any]) -> bool:
        self.held += new
        if self.let_go.is_set():
            for request in self.held:
                self.worker.answer(request)
            self.held = []
        return bool(self.held)

    @staticmethod
    def request() -> Any:
        loop = asyncio.get_running_loop()
        return SlowRequest(loop, loop.create_future())


class SlowRequest:
    """What the worker needs of a request."""

    def __init__(self, loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
        self.loop, self.done, self.cancelled = loop, done, False


def test_a_call_cancelled_twice_is_still_seen_to_its_end() -> None:
    """A timeout and then Ctrl-C: what the call cost until the engine let go of it is known all the same."""
    slow = Slow()

    async def scenario() -> bool:
        request = slow.request()
        task = asyncio.ensure_future(slow.worker.ask(request))
        for _ in range(3):
            await asyncio.sleep(0.01)
            task.cancel()
        await asyncio.sleep(0.01)
        early = task.done()
        slow.let_go.set()
        await task
        return early or not request.cancelled

    assert not asyncio.run(scenario())
    slow.worker.close()


def test_a_closed_engine_answers_everybody() -> None:
    """Whoever waits gets a typed error, and so does who asks afterwards: nobody waits for ever."""
    slow = Slow()

    async def scenario() -> None:
        waiting = asyncio.ensure_future(slow.worker.ask(slow.request()))
        await asyncio.sleep(0.01)
        slow.worker.close()
        with pytest.raises(ModelError, match="closed before it had answered"):
            await asyncio.wait_for(waiting, 5)
        with pytest.raises(ModelError, match="is closed; load"):
            await asyncio.wait_for(slow.worker.ask(slow.request()), 5)

    asyncio.run(scenario())


# --- the scorer's engine -----------------------------------------------------------------------


@pytest.fixture
def scorer() -> Iterator[LocalProcessScorer]:
    """A process scorer that nobody has used."""
    loaded = LocalProcessScorer.load(PROCESS_SCORER)
    yield loaded
    asyncio.run(loaded.close())


@pytest.mark.parametrize("name", ["prefill", "alone"])
def test_a_failed_judgement_gives_its_slots_back(
    scorer: LocalProcessScorer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Twenty failures take no room, and the paths they were about are judged as if nothing had been."""
    [problem] = Countdown().problems(1, seed=78)
    judge: Judge = scorer.engine
    ids = tuple(range(10, 30))
    path = Path.root(problem.prompt).child(Step(ids, "", End.BOUNDARY))
    with monkeypatch.context() as patch:
        breaking(patch, judge.forward, name)
        patch.setattr("itscale.models.engine.judge.CLOSE", 1.0)  # every score is taken again
        for _ in range(20):
            with pytest.raises(ScorerError, match="device lost"):
                asyncio.run(scorer.score(path, Ledger(Budget())))
    assert judge.cache.pool.n_used == 0
    [score] = asyncio.run(scorer.score(path, Ledger(Budget())))
    assert 0 < score < 1
    assert judge.cache.pool.n_used > 20


def test_a_first_step_without_a_token_is_refused(process_scorer: LocalProcessScorer) -> None:
    """There is no score to repeat; the call says so, and no other call suffers."""
    [problem] = Countdown().problems(1)
    path = Path.root(problem.prompt).child(Step((), "", End.LENGTH))
    with pytest.raises(ScorerError, match="first step without a token"):
        asyncio.run(process_scorer.score(path, Ledger(Budget())))


def test_forced_text_is_spelled_for_the_scorer(process_scorer: LocalProcessScorer) -> None:
    """A step that a method put there, on a server that tells no ids, is judged by its text."""
    [problem] = Countdown().problems(1)
    root = Path.root(problem.prompt)
    forced = Step((), "Answer", End.BOUNDARY, counted=0, forced=True)
    assert process_scorer.tokens_of(root.child(forced))
