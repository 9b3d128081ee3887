"""Train the embedded process reward model on rollouts.

`python -m recipes.train_process_scorer --reasoner DIR --rollouts FILE... --out DIR`

The reasoner's trunk with a two-label token-classification head ("wrong", "right"), trained by
cross-entropy at the last token of every step. Writes an ordinary Hugging Face checkpoint (bfloat16)
and `training.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForTokenClassification, PreTrainedTokenizerBase

from recipes.data import IGNORED
from recipes.describe import describe
from recipes.optimise import Optimiser

Row = tuple[list[int], list[int]]


def load_rows(files: list[Path], tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """`(input_ids, labels)` of every rollout; labels at step ends are 0 or 1."""
    ends = {tokenizer.convert_tokens_to_ids("\n"), tokenizer.eos_token_id}
    rollouts = [json.loads(line) for file in files for line in file.open()]
    prompts = tokenizer([f"<user>{r['prompt']}<assistant>" for r in rollouts]).input_ids
    rows = []
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        ids, right = rollout["token_ids"], int(rollout["right"])
        labels = [right if token in ends else IGNORED for token in ids]
        rows.append((prompt + ids, [IGNORED] * len(prompt) + labels))
    return rows


def epochs(
    rows: list[Row], tokens_per_batch: int, pad: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches `(input_ids, labels)`, shapes (B, T), bucketed by length, order reshuffled."""
    rng = random.Random(seed)
    by_length = sorted(rows, key=lambda row: len(row[0]))
    groups: list[list[Row]] = [[]]
    for row in by_length:
        if (len(groups[-1]) + 1) * len(row[0]) > tokens_per_batch:
            groups.append([])
        groups[-1].append(row)
    while True:
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            inputs = torch.full((len(group), width), pad)
            labels = torch.full((len(group), width), IGNORED)
            for i, (ids, marks) in enumerate(group):
                inputs[i, : len(ids)] = torch.tensor(ids)
                labels[i, : len(marks)] = torch.tensor(marks)
            yield inputs, labels


def main() -> None:
    """Train, log, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reasoner", type=Path, required=True)
    parser.add_argument("--rollouts", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--tokens-per-step", type=int, default=6144)
    parser.add_argument("--muon-lr", type=float, default=0.003)
    parser.add_argument("--adamw-lr", type=float, default=0.001)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.reasoner)
    model = LlamaForTokenClassification.from_pretrained(
        options.reasoner,
        num_labels=2,
        id2label={0: "wrong", 1: "right"},
        label2id={"wrong": 0, "right": 1},
        dtype=torch.float32,
        attn_implementation="eager",
    )
    model.config.classifier_dropout = 0.0
    model.dropout.p = 0.0
    model.to(options.device).train()
    optimiser = Optimiser(
        model, total_steps=options.steps, muon_lr=options.muon_lr, adamw_lr=options.adamw_lr
    )
    rows = load_rows(options.rollouts, tokenizer)
    print(f"{len(rows)} rollouts, {sum(len(ids) for ids, _ in rows)} tokens", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    started, tokens, loss_sum, counted = time.monotonic(), 0, 0.0, 0
    stream = epochs(rows, options.tokens_per_step, tokenizer.pad_token_id, options.seed)
    with (options.out / "training.jsonl").open("w") as curve:
        for step in range(1, options.steps + 1):
            inputs, labels = (t.to(options.device) for t in next(stream))
            with torch.autocast(options.device, torch.bfloat16):
                logits = model(input_ids=inputs, use_cache=False).logits
            learnt = labels != IGNORED
            loss = torch.nn.functional.cross_entropy(logits[learnt].float(), labels[learnt])
            optimiser.step(loss)
            tokens += inputs.numel()
            loss_sum += float(loss.detach())
            counted += 1
            if step % 50 == 0:
                row = {
                    "step": step,
                    "tokens": tokens,
                    "loss_nats": round(loss_sum / counted, 4),
                    "seconds": round(time.monotonic() - started, 1),
                }
                print(row, flush=True)
                curve.write(json.dumps(row) + "\n")
                curve.flush()
                loss_sum, counted = 0.0, 0
            if step % 500 == 0 or step == options.steps:
                state = {n: t.detach().to("cpu", torch.bfloat16) for n, t in model.state_dict().items()}
                model.config.dtype = "bfloat16"
                model.save_pretrained(options.out, state_dict=state)
                tokenizer.save_pretrained(options.out)
                describe(options.out)


if __name__ == "__main__":
    main()
