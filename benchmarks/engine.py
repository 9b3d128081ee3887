"""The in-process engine against plain transformers, the machine, and itself.

    python benchmarks/engine.py [--threads N] [--repeats R]

All figures of one run are ratios on one machine at one time:

1. decode rate at batch 1, 16, 64 and 256 beside `transformers` generate on the same checkpoint, and
   the share of what this machine could do: its measured matrix-product rate on the model's own
   shapes plus the key-value bytes at its measured copy bandwidth;
2. the particle filter at N = 64 as a share of raw batched decode at the same batch, and the share
   of the engine's time spent outside the model's forward pass and the draw;
3. key-value memory of 64, 512 and 4,096 particles, beside particles times length.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable

import torch

from itscale.budget import Budget, Ledger
from itscale.embedded import PROCESS_SCORER, REASONER
from itscale.methods import ParticleFilter
from itscale.models.engine import generator
from itscale.models.engine.pool import SlotPool, Slots
from itscale.models.local import LocalModel, load_pretrained
from itscale.randomness import Seeded
from itscale.scorers.prm import LocalProcessScorer
from itscale.tasks import Countdown
from itscale.types import Path, Sampling, Until

NEW_TOKENS = 48
BATCHES = (1, 16, 64, 256)


def endless(model: LocalModel) -> None:
    """No token ends a row any more: every row draws exactly its limit."""
    model.engine._ends_path[:] = False
    model.engine._ends_step[:] = False


async def decode(model: LocalModel, batch: int) -> float:
    """Tokens a second of `batch` rows drawing NEW_TOKENS each, prompt included."""
    problem = Countdown().problems(1)[0]
    started = time.perf_counter()
    calls = (
        model.extend(
            Path.root(problem.prompt), 1, Until("end", NEW_TOKENS), Sampling(), Seeded(i), Ledger(Budget())
        )
        for i in range(batch)
    )
    await asyncio.gather(*calls)
    return batch * NEW_TOKENS / (time.perf_counter() - started)


def plain(batch: int) -> Callable[[], float]:
    """The same by transformers' generate with its own cache."""
    model, tokenizer = load_pretrained(REASONER, "AutoModelForCausalLM")
    problem = Countdown().problems(1)[0]
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": problem.prompt.question}],
        add_generation_prompt=True,
        return_tensors="pt",
    )["input_ids"].repeat(batch, 1)
    mask = torch.ones_like(ids)

    def run() -> float:
        started = time.perf_counter()
        model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
        )
        return batch * NEW_TOKENS / (time.perf_counter() - started)

    return run


def limit(model: LocalModel, batch: int) -> float:
    """Tokens a second if a step were nothing but its matrix products and one pass over its memory."""
    config = load_pretrained(REASONER, "AutoModelForCausalLM")[0].config
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    kv = config.num_key_value_heads * config.head_dim
    shapes = [(hidden, hidden + 2 * kv), (hidden, hidden), (hidden, 2 * inner), (inner, hidden)]
    weights = [torch.randn(o, i) for i, o in shapes]
    inputs = [torch.randn(batch, i) for i, _ in shapes]

    def products() -> None:
        for w, x in zip(weights, inputs, strict=True):
            torch.nn.functional.linear(x, w)

    gemm_s = _best(products) * layers
    context_bytes = batch * (16 + NEW_TOKENS // 2) * model.engine.cache.pool.bytes_per_slot
    block = torch.empty(context_bytes // 4)
    copy_s = _best(lambda: block.clone())
    return batch / (gemm_s + copy_s)


def _best(work: Callable[[], object], repeats: int = 30) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(repeats):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
    return min(times)


def decode_table(model: LocalModel, repeats: int) -> None:
    """Part 1."""
    print("| batch | engine tokens/s | transformers tokens/s | ratio | machine's limit | share of it |")
    print("|---:|---:|---:|---:|---:|---:|")
    for batch in BATCHES:
        run = plain(batch)
        run()
        asyncio.run(decode(model, batch))
        pairs = [(asyncio.run(decode(model, batch)), run()) for _ in range(repeats)]
        ours = statistics.median(a for a, _ in pairs)
        theirs = statistics.median(b for _, b in pairs)
        ratio = statistics.median(a / b for a, b in pairs)
        top = limit(model, batch)
        print(
            f"| {batch} | {ours:,.0f} | {theirs:,.0f} | {ratio:.2f} | {top:,.0f} | {ours / top:.0%} |",
            flush=True,
        )


class Clock:
    """Adds up the time spent inside functions it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, owner: object, name: str) -> None:
        """Replace `owner.name` by a timed one."""
        inner = getattr(owner, name)

        def timed(*args: object, **options: object) -> object:
            started = time.perf_counter()
            try:
                return inner(*args, **options)
            finally:
                self.seconds += time.perf_counter() - started

        setattr(owner, name, timed)


async def filter_rate(
    model: LocalModel, scorer: LocalProcessScorer | None, problems: int
) -> tuple[float, float]:
    """Tokens a second of particle filters with N = 64 on several problems, and their mean batch."""
    some = Countdown().problems(problems, level=5)
    steps, tokens = model.engine.decode_steps, model.engine.decoded_tokens
    started = time.perf_counter()
    method = ParticleFilter()
    runs = (method.run(p.prompt, model, scorer, Budget(generations=64), i) for i, p in enumerate(some))
    results = await asyncio.gather(*runs)
    seconds = time.perf_counter() - started
    generated = sum(r.usage.generated_tokens for r in results)
    mean_batch = (model.engine.decoded_tokens - tokens) / (model.engine.decode_steps - steps)
    return generated / seconds, mean_batch


def filter_table(repeats: int) -> None:
    """Part 2: several problems at once, at most 64 rows in flight, so the batch stays about full."""
    raw = LocalModel.load(REASONER, max_rows=64)
    endless(raw)
    model = LocalModel.load(REASONER, max_rows=64)
    scorer = LocalProcessScorer.load(PROCESS_SCORER)
    asyncio.run(decode(raw, 64))
    asyncio.run(filter_rate(model, scorer, 2))
    inside, everything = Clock(), Clock()
    inside.wrap(model.engine.forward, "_run")
    inside.wrap(generator, "draw")
    everything.wrap(model.engine._worker, "_turn")
    pairs = []
    for _ in range(repeats):
        rate, batch = asyncio.run(filter_rate(model, scorer, 8))
        pairs.append((rate, asyncio.run(decode(raw, 64)), batch))
    print("\n| particle filter N=64, 8 problems | |\n|---|---:|")
    print(f"| tokens/s with the scorer running beside it | {statistics.median(p[0] for p in pairs):,.0f} |")
    print(f"| raw decode tokens/s at batch 64 | {statistics.median(p[1] for p in pairs):,.0f} |")
    print(f"| share of raw decode | {statistics.median(p[0] / p[1] for p in pairs):.0%} |")
    print(f"| mean rows in flight | {statistics.median(p[2] for p in pairs):.0f} |")
    outside = 1 - inside.seconds / everything.seconds
    print(f"| engine time outside forward pass and draw | {outside:.0%} |", flush=True)
    for closing in (raw, model, scorer):
        asyncio.run(closing.close())


def peak_of(pool: SlotPool) -> Callable[[], int]:
    """From now on the most slots in use at any time."""
    peak, inner = 0, pool.take

    def take(count: int) -> Slots:
        nonlocal peak
        slots = inner(count)
        peak = max(peak, pool.n_used)
        return slots

    pool.take = take  # type: ignore[method-assign]
    return lambda: peak


def memory_table() -> None:
    """Part 3."""
    print("\n| particles | distinct tokens held | key-value MB | particles x length would be MB |")
    print("|---:|---:|---:|---:|")
    for n in (64, 512, 4096):
        model = LocalModel.load(REASONER)
        scorer = LocalProcessScorer.load(PROCESS_SCORER)
        pool = model.engine.cache.pool
        peak = peak_of(pool)
        problem = Countdown().problems(1, level=5)[0]
        result = asyncio.run(
            ParticleFilter(target="odds").run(problem.prompt, model, scorer, Budget(generations=n), 0)
        )
        prompt = len(model.prompts.ids(problem.prompt))
        dense = sum(prompt + c.path.n_tokens for c in result.candidates) * pool.bytes_per_slot / 1e6
        print(f"| {n} | {peak():,} | {peak() * pool.bytes_per_slot / 1e6:.1f} | {dense:.1f} |", flush=True)
        asyncio.run(model.close())
        asyncio.run(scorer.close())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=None, help="intra-operation threads of torch")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    model = LocalModel.load(REASONER)
    endless(model)
    decode_table(model, options.repeats)
    asyncio.run(model.close())
    filter_table(options.repeats)
    memory_table()


if __name__ == "__main__":
    main()
