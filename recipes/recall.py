"""Teach a trunk to look definitions up: `python -m recipes.recall --init DIR --out DIR`.

A prompt of four to ten shuffled definitions, as Chain writes them, and then every definition once more in
another order; loss on what stands behind each `name =`. Nothing else can be done with such a sequence
than find the name in the prompt: accuracy is 97 % after 200 steps. In the reasoner's own training the same
token also takes planning and arithmetic.

Writes a checkpoint and `training.jsonl`. The process reward model starts from this trunk. It is no
reasoner any more, and is not shipped.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from itscale.tasks.chain import NAMES
from recipes.data import IGNORED, padded
from recipes.optimise import Optimiser
from recipes.training import Curve, next_token, options_of
from recipes.vocabulary import build_tokenizer


def sequence(rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """A prompt, and its definitions `(name, right side)` in the order they are to be recalled."""
    names = rng.sample(NAMES, rng.randint(4, 10))
    right_sides: dict[str, str] = {}
    for i, name in enumerate(names):
        left = rng.choice(names[:i]) if i and rng.random() < 0.7 else str(rng.randint(2, 20))
        right = rng.choice(names[:i]) if i and rng.random() < 0.3 else str(rng.randint(1, 30))
        if rng.random() < 0.4:
            left, right = right, left
        right_sides[name] = f"{left} {rng.choice('+-*')} {right}"
    order = names[:]
    rng.shuffle(order)
    stated = ", ".join(f"{name} = {right_sides[name]}" for name in order)
    rng.shuffle(order)
    prompt = f"<user>Given {stated}, find {names[-1]}.<assistant>"
    return prompt, [(name, right_sides[name]) for name in order]


def batch(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, tokens_per_batch: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(input_ids, labels)`, shapes (B, T), of about `tokens_per_batch` tokens before padding."""
    rows: list[list[int]] = []
    marks: list[list[int]] = []
    total = 0
    while total < tokens_per_batch:
        prompt, definitions = sequence(rng)
        ids = list(tokenizer(prompt).input_ids)
        labels = [IGNORED] * len(ids)
        for name, right_side in definitions:
            line = tokenizer(f"{name} = {right_side}\n").input_ids
            ids += line
            labels += [IGNORED, IGNORED, *line[2:-1], IGNORED]
        rows.append(ids)
        marks.append(labels)
        total += len(ids)
    return padded(rows, tokenizer.pad_token_id), padded(marks, IGNORED)


def main() -> None:
    """Train, log, save."""
    parser = options_of(__doc__, steps=500, tokens_per_step=5120, muon_lr=0.01, adamw_lr=0.002, seed=5)
    parser.add_argument("--init", type=Path, required=True, help="a causal checkpoint to start from")
    options = parser.parse_args()

    tokenizer, rng = build_tokenizer(), random.Random(options.seed)
    model = LlamaForCausalLM.from_pretrained(options.init, dtype=torch.float32, attn_implementation="eager")
    model.to(options.device).train()
    optimiser = Optimiser(
        model, total_steps=options.steps, muon_lr=options.muon_lr, adamw_lr=options.adamw_lr
    )
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "training.jsonl").open("w") as file:
        curve = Curve(file, every=25)
        for step in range(1, options.steps + 1):
            inputs, labels = (t.to(options.device) for t in batch(tokenizer, rng, options.tokens_per_step))
            loss, count, right = next_token(model, inputs, labels)
            optimiser.step(loss)
            curve.add(
                step, count, {"recall_loss_nats": float(loss.detach()) * count, "recall_accuracy": right}
            )
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
