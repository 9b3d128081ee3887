"""Teach a trunk to look definitions up: `python -m recipes.recall --init DIR --out DIR`.

A prompt of four to ten shuffled definitions, as Chain writes them, and then every definition once more in
another order; loss on what stands behind each `name =`. Nothing else can be done with such a sequence
than find the name in the prompt: accuracy is 97 % after 200 steps. In the reasoner's own training the same
token also takes planning and arithmetic.

Writes a checkpoint and `training.jsonl`. The process reward model starts from this trunk. It is no
reasoner any more, and is not shipped.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from itscale.tasks.chain import NAMES
from recipes.data import IGNORED
from recipes.optimise import Optimiser
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
    width = max(map(len, rows))
    inputs = torch.full((len(rows), width), tokenizer.pad_token_id)
    wanted = torch.full((len(rows), width), IGNORED)
    for i, (ids, labels) in enumerate(zip(rows, marks, strict=True)):
        inputs[i, : len(ids)] = torch.tensor(ids)
        wanted[i, : len(labels)] = torch.tensor(labels)
    return inputs, wanted


def main() -> None:
    """Train, log, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--init", type=Path, required=True, help="a causal checkpoint to start from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--tokens-per-step", type=int, default=5120)
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--adamw-lr", type=float, default=0.002)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    tokenizer, rng = build_tokenizer(), random.Random(options.seed)
    model = LlamaForCausalLM.from_pretrained(options.init, dtype=torch.float32, attn_implementation="eager")
    model.to(options.device).train()
    optimiser = Optimiser(
        model, total_steps=options.steps, muon_lr=options.muon_lr, adamw_lr=options.adamw_lr
    )
    started, loss_sum, right, counted = time.monotonic(), 0.0, 0, 0
    curve = []
    for step in range(1, options.steps + 1):
        inputs, labels = (t.to(options.device) for t in batch(tokenizer, rng, options.tokens_per_step))
        with torch.autocast(options.device, torch.bfloat16):
            logits = model(input_ids=inputs, use_cache=False).logits
        learnt = labels[:, 1:] != IGNORED
        predicted, wanted = logits[:, :-1][learnt].float(), labels[:, 1:][learnt]
        loss = torch.nn.functional.cross_entropy(predicted, wanted)
        optimiser.step(loss)
        loss_sum += float(loss.detach()) * len(wanted)
        right += int((predicted.argmax(-1) == wanted).sum())
        counted += len(wanted)
        if step % 25 == 0:
            row = {
                "step": step,
                "recall_loss_nats": round(loss_sum / counted, 4),
                "recall_accuracy": round(right / counted, 4),
                "seconds": round(time.monotonic() - started, 1),
            }
            print(json.dumps(row), flush=True)
            curve.append(json.dumps(row) + "\n")
            loss_sum, right, counted = 0.0, 0, 0
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    (options.out / "training.jsonl").write_text("".join(curve))


if __name__ == "__main__":
    main()
