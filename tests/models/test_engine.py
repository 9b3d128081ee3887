"""The in-process engine on the embedded reasoner: laws 4, 5, 6 and 7, memory, cancellation."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from itscale.budget import Budget, Ledger
from itscale.embedded import REASONER
from itscale.errors import MemoryLimitError, ModelError
from itscale.methods import Majority, ParticleFilter
from itscale.models.engine.pool import Slots
from itscale.models.in_process import Checkpoint
from itscale.models.local import LocalModel, load_pretrained
from itscale.randomness import Seeded
from itscale.scorers.prm import LocalProcessScorer
from itscale.tasks import Chain, Countdown
from itscale.types import End, Path, Problem, Sampling, Until

GREEDY = Sampling(temperature=0.0)
HOT = Sampling(temperature=1.0)


def problems(count: int) -> list[Problem]:
    """Of both tasks in turn."""
    pairs = zip(Countdown().problems(count), Chain().problems(count), strict=True)
    return [problem for pair in pairs for problem in pair][:count]


async def whole(model: LocalModel, problem: Problem, sampling: Sampling, seed: int = 0) -> Path:
    root = Path.root(problem.prompt)
    [path] = await model.extend(root, 1, Until("end"), sampling, Seeded(seed), Ledger(Budget()))
    return path


async def stepwise(model: LocalModel, problem: Problem) -> Path:
    path = Path.root(problem.prompt)
    while not path.ended:
        [path] = await model.extend(path, 1, Until("step"), GREEDY, Seeded(0), Ledger(Budget()))
    return path


def small_model(slots: int, rows: int = 256) -> LocalModel:
    """The embedded reasoner with room for `slots` tokens of keys and values."""
    model, tokenizer = load_pretrained(REASONER, "AutoModelForCausalLM")
    config = model.config
    per_slot = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * 4
    return LocalModel(model, tokenizer, Checkpoint.read(REASONER), "small", slots * per_slot, rows)


def used_slots(model: LocalModel) -> int:
    """Slots in use once garbage is collected (the engine's thread is idle)."""
    gc.collect()
    model.engine.cache.collect()
    return model.engine.cache.pool.n_used


@pytest.mark.parametrize("count", [1, 64])
def test_stepwise_greedy_equals_single_pass(reasoner: LocalModel, count: int) -> None:
    """Law 4, token for token, alone and in a batch of 64; and both equal plain transformers."""

    async def both() -> list[tuple[Path, Path]]:
        pairs = [asyncio.gather(whole(reasoner, p, GREEDY), stepwise(reasoner, p)) for p in problems(count)]
        return [(a, b) for a, b in await asyncio.gather(*pairs)]

    pairs = asyncio.run(both())
    for single, stepped in pairs:
        assert single.token_ids == stepped.token_ids
        assert single.text == stepped.text
        assert single.depth == stepped.depth
    model, tokenizer = load_pretrained(REASONER, "AutoModelForCausalLM")
    for (single, _), problem in list(zip(pairs, problems(count), strict=True))[:8]:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.prompt.question}],
            add_generation_prompt=True,
            return_tensors="pt",
        )["input_ids"]
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=200)
        assert tuple(out[0, ids.shape[1] :].tolist()) == single.token_ids


def test_same_seed_same_samples_in_any_company(reasoner: LocalModel) -> None:
    """Law 5: what a seed draws does not depend on what else is in the batch, nor on the order."""

    async def together(order: Sequence[int]) -> dict[int, tuple[int, ...]]:
        some = problems(48)
        paths = await asyncio.gather(*(whole(reasoner, some[i], HOT, seed=i) for i in order))
        return {i: path.token_ids for i, path in zip(order, paths, strict=True)}

    alone = {i: asyncio.run(together([i]))[i] for i in range(0, 48, 4)}
    forwards = asyncio.run(together(range(48)))
    backwards = asyncio.run(together(range(47, -1, -1)))
    assert forwards == backwards
    assert alone == {i: forwards[i] for i in alone}


def test_samples_of_one_seed_differ(reasoner: LocalModel) -> None:
    """Law 5: n samples under one seed are n draws, each with its own stream."""
    [problem] = Countdown().problems(1)
    result = asyncio.run(Majority().run(problem.prompt, reasoner, None, Budget(generations=16), seed=3))
    assert len({c.path.token_ids for c in result.candidates}) > 4


def test_logprob_is_the_models_own(reasoner: LocalModel) -> None:
    """A step's log-probability is the sum over its tokens under plain transformers logits."""
    [problem] = Chain().problems(1)
    path = asyncio.run(whole(reasoner, problem, HOT, seed=5))
    model, _ = load_pretrained(REASONER, "AutoModelForCausalLM")
    prompt = list(reasoner.prompts.ids(problem.prompt))
    ids = torch.tensor([prompt + list(path.token_ids)])
    with torch.no_grad():
        log_p = torch.log_softmax(model(ids).logits[0].double(), -1)
    position = len(prompt) - 1
    for step in path.steps:
        expected = sum(float(log_p[position + i, t]) for i, t in enumerate(step.token_ids))
        position += len(step.token_ids)
        assert step.logprob == pytest.approx(expected, abs=1e-3)


def test_length_is_not_eos(reasoner: LocalModel) -> None:
    """Law 4: a path cut by its token limit is truncated, never finished."""
    [problem] = Countdown().problems(1)
    root = Path.root(problem.prompt)
    call = reasoner.extend(root, 1, Until("end", 3), HOT, Seeded(0), Ledger(Budget()))
    [path] = asyncio.run(call)
    assert path.n_tokens == 3
    assert path.truncated
    assert not path.finished
    assert path.step is not None
    assert path.step.end is End.LENGTH


class Spy:
    """Counts on the other side of the seam: tokens that entered the model's forward pass."""

    def __init__(self, model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prefilled = self.decoded = 0
        forward = model.engine.forward
        prefill, decode = forward.prefill, forward.decode

        def count_prefill(
            rows: Sequence[Sequence[int]], contexts: Sequence[Slots], new: Sequence[Slots], *, last_only: bool
        ) -> list[torch.Tensor]:
            self.prefilled += sum(map(len, rows))
            return prefill(rows, contexts, new, last_only=last_only)

        def count_decode(tokens: Slots, lengths: Slots, index: Slots) -> torch.Tensor:
            self.decoded += len(tokens)
            return decode(tokens, lengths, index)

        monkeypatch.setattr(forward, "prefill", count_prefill)
        monkeypatch.setattr(forward, "decode", count_decode)
        monkeypatch.setattr(model.engine, "_canonical", lambda tokens: None)


def test_prompt_is_computed_once(reasoner: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four samples of one prompt prefill it once; usage says what was cached, to the token."""
    spy = Spy(reasoner, monkeypatch)
    [problem] = Countdown().problems(1)
    result = asyncio.run(Majority().run(problem.prompt, reasoner, None, Budget(generations=64)))
    length = len(reasoner.prompts.ids(problem.prompt))
    assert spy.prefilled == length
    assert result.usage.prompt_tokens == 64 * length
    assert result.usage.cached_tokens == 63 * length
    assert result.usage.generated_tokens == sum(c.path.n_tokens for c in result.candidates)
    # The first token of each comes from the prompt's logits; the last is never fed.
    assert spy.decoded == result.usage.generated_tokens - 64


def test_forks_recompute_nothing(
    reasoner: LocalModel, process_scorer: LocalProcessScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A particle filter computes every distinct token once, however often paths are forked."""
    spy = Spy(reasoner, monkeypatch)
    [problem] = Countdown().problems(1, level=5)
    method = ParticleFilter(target="odds", ess_threshold=1.0)
    result = asyncio.run(method.run(problem.prompt, reasoner, process_scorer, Budget(generations=32), seed=1))
    length = len(reasoner.prompts.ids(problem.prompt))
    assert spy.prefilled + spy.decoded <= length + result.usage.generated_tokens
    computed = result.usage.prompt_tokens - result.usage.cached_tokens
    assert computed == spy.prefilled


def test_memory_grows_with_distinct_tokens(reasoner: LocalModel) -> None:
    """Ten thousand forks of one step take no slot more than the step itself."""
    [problem] = Countdown().problems(1)
    ledger = Ledger(Budget())
    before = used_slots(reasoner)

    async def grow() -> list[Path]:
        root = Path.root(problem.prompt)
        [step] = await reasoner.extend(root, 1, Until("step"), HOT, Seeded(0), ledger)
        forks = [step] * 2
        return [root, step, *(await reasoner.extend(forks[0], 1, Until("step"), HOT, Seeded(1), ledger))]

    paths = asyncio.run(grow())
    distinct = len(reasoner.prompts.ids(problem.prompt)) + paths[-1].n_tokens
    assert used_slots(reasoner) - before <= distinct
    population = [paths[-1]] * 10_000
    assert used_slots(reasoner) - before <= distinct
    assert len(population) == 10_000
    del paths, population
    assert used_slots(reasoner) == before


def test_small_memory_gives_the_same_answers(reasoner: LocalModel) -> None:
    """At the memory limit rows wait and prefixes are evicted and recomputed; results do not change."""
    tight = small_model(700)
    some = problems(12)

    async def run(model: LocalModel) -> list[tuple[int, ...]]:
        paths = await asyncio.gather(*(stepwise(model, p) for p in some))
        return [path.token_ids for path in paths]

    assert asyncio.run(run(tight)) == asyncio.run(run(reasoner))
    assert tight.engine.cache.pool.capacity <= 700
    asyncio.run(tight.close())


def test_a_path_that_cannot_fit_says_so() -> None:
    """A path that exceeds the memory limit on its own is a typed error that ends with the fix."""
    tiny = small_model(40)
    [problem] = Countdown().problems(1)
    with pytest.raises(MemoryLimitError, match="raise kv_memory_bytes"):
        asyncio.run(whole(tiny, problem, HOT))
    asyncio.run(tiny.close())


def test_cancelling_frees_rows_and_pays(reasoner: LocalModel) -> None:
    """Law 7 and 6: a cancelled call lets go of its rows at once, and what it drew is charged."""
    [problem] = Chain().problems(1, level=8)
    before = used_slots(reasoner)
    ledger = Ledger(Budget())

    async def cancel_midway() -> None:
        root = Path.root(problem.prompt)
        call = asyncio.create_task(reasoner.extend(root, 8, Until("end"), HOT, Seeded(0), ledger))
        while not reasoner.engine._rows.n:
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(cancel_midway())
    assert ledger.generated_tokens > 0
    assert reasoner.engine._rows.n == 0
    assert reasoner.engine.cache.reserved == 0
    assert used_slots(reasoner) == before


def test_an_error_on_the_thread_is_typed_and_survived(
    reasoner: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken forward pass fails the calls in flight; the next call works."""
    [problem] = Countdown().problems(1)

    def broken(*args: object, **options: object) -> torch.Tensor:
        raise ValueError("device lost")

    with monkeypatch.context() as patch:
        patch.setattr(reasoner.engine.forward, "decode", broken)
        with pytest.raises(ModelError, match="device lost"):
            asyncio.run(whole(reasoner, problem, HOT))
    assert asyncio.run(whole(reasoner, problem, HOT)).ended


def test_noise_stays_below_the_redraw_margin(reasoner: LocalModel) -> None:
    """Logits of one sequence computed in batches of 1 to 64 differ far less than the margin within
    which a draw is repeated on canonical logits; so batch shape cannot show in what is drawn."""
    from itscale.models.engine.sampler import CLOSE

    forward = reasoner.engine.forward
    ids = list(reasoner.prompts.ids(Chain().problems(1, level=8)[0].prompt))
    results = []
    for batch in (1, 2, 7, 16, 64):
        slots = [forward.pool.take(len(ids)) for _ in range(batch)]
        outputs = forward.prefill([ids] * batch, [s[:0] for s in slots], slots, last_only=True)
        results.append(torch.softmax(outputs[0][-1].double(), -1))
        for taken in slots:
            forward.pool.give_back(taken)
    worst = max(float((p - results[0]).abs().max()) for p in results)
    assert worst < CLOSE / 4
    assert np.isfinite(worst)


def test_an_engine_knows_how_long_it_has_computed():
    """Its seconds grow while it answers, never beyond the clock's, and stand still while it waits."""

    async def run() -> tuple[list[float], float]:
        model = LocalModel.load(REASONER)
        began = asyncio.get_running_loop().time()
        measured = [model.computing_s]
        await asyncio.gather(*(whole(model, problem, HOT) for problem in problems(4)))
        measured.append(model.computing_s)
        elapsed = asyncio.get_running_loop().time() - began
        await asyncio.sleep(0.1)
        measured.append(model.computing_s)
        await model.close()
        return measured, elapsed

    (before, worked, idle), elapsed = asyncio.run(run())
    assert before == 0.0
    assert 0.2 * elapsed < worked <= elapsed
    assert idle - worked < 0.05


def test_a_closed_model_leaves_memory():
    """Weights and key-value memory go with the last reference; nothing else keeps a closed model."""

    async def used() -> weakref.ref[torch.nn.Module]:
        model = small_model(512)
        await whole(model, problems(1)[0], GREEDY)
        await model.close()
        return weakref.ref(model.engine.forward.model)

    weights = asyncio.run(used())
    gc.collect()
    assert weights() is None
