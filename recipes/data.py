"""Training batches for the reasoner: fresh exercises of the training side, bucketed by length."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedTokenizerFast

from itscale.tasks.base import Exercise, GeneratedTask, split_of
from itscale.tasks.chain import Chain
from itscale.tasks.countdown import Countdown

IGNORED = -100
Mixture = list[tuple[GeneratedTask, int, float]]
"""(task, level, share of exercises)."""
MIXTURES: dict[str, Mixture] = {
    # What the reasoner learns: the default level of Countdown carries most of the weight.
    "reasoner": [
        (Countdown(), 3, 0.08),
        (Countdown(), 4, 0.37),
        (Countdown(), 5, 0.20),
        (Chain(), 3, 0.06),
        (Chain(), 4, 0.08),
        (Chain(), 5, 0.09),
        (Chain(), 6, 0.07),
        (Chain(), 8, 0.05),
    ],
    # What a judge of the reasoner must know better than it: which definition belongs to which name.
    "scorer": [
        (Countdown(), 3, 0.03),
        (Countdown(), 4, 0.20),
        (Countdown(), 5, 0.10),
        (Chain(), 3, 0.31),
        (Chain(), 4, 0.15),
        (Chain(), 5, 0.11),
        (Chain(), 6, 0.06),
        (Chain(), 8, 0.04),
    ],
}


def draw_training(rng: random.Random, mixture: Mixture) -> Exercise:
    """One exercise from the mixture, always of the training side."""
    task, level, _ = rng.choices(mixture, weights=[share for *_, share in mixture])[0]
    while True:
        exercise = task.draw(rng, level)
        if split_of(exercise.key) == "train":
            return exercise


def batches(
    tokenizer: PreTrainedTokenizerFast, tokens_per_batch: int, seed: int, mixture: Mixture
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless `(input_ids, labels)`, shapes (B, T); labels are the solution and `<eos>` only.

    A pool of exercises is sorted by length and cut into batches of about `tokens_per_batch`
    tokens, so little is spent on padding; the batches of a pool come in random order.
    """
    rng = random.Random(seed)
    pad = tokenizer.pad_token_id
    while True:
        pool = [draw_training(rng, mixture) for _ in range(4096)]
        prompts = tokenizer([f"<user>{e.prompt}<assistant>" for e in pool]).input_ids
        solutions = tokenizer([f"{e.solution}<eos>" for e in pool]).input_ids
        rows = sorted(zip(prompts, solutions, strict=True), key=lambda r: len(r[0]) + len(r[1]))
        ready, start = [], 0
        while start < len(rows):
            end, longest = start, 0
            while end < len(rows):
                longest = max(longest, len(rows[end][0]) + len(rows[end][1]))
                if longest * (end - start + 1) > tokens_per_batch:
                    break
                end += 1
            ready.append(rows[start:end])
            start = end
        rng.shuffle(ready)
        for batch in ready:
            labels = [[IGNORED] * len(prompt) + solution for prompt, solution in batch]
            yield padded([prompt + solution for prompt, solution in batch], pad), padded(labels, IGNORED)


def padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """Rows as one tensor (B, T), filled up on the right."""
    whole = torch.full((len(rows), max(map(len, rows))), fill)
    for i, row in enumerate(rows):
        whole[i, : len(row)] = torch.tensor(row)
    return whole
