"""What the recipes that train share: options, the loss of the next token, the curve, the checkpoint."""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import IO, Any

import torch

from recipes.data import IGNORED
from recipes.describe import describe


def options_of(
    description: str | None, *, steps: int, tokens_per_step: int, muon_lr: float, adamw_lr: float, seed: int
) -> argparse.ArgumentParser:
    """The options of a recipe that trains, with its defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--tokens-per-step", type=int, default=tokens_per_step)
    parser.add_argument("--muon-lr", type=float, default=muon_lr)
    parser.add_argument("--adamw-lr", type=float, default=adamw_lr)
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def next_token(model: Any, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """Mean cross-entropy (nats) of the tokens that are to be learnt; how many there are, and are right.

    `inputs` and `labels` (B, T), labels IGNORED where nothing is to be learnt.
    """
    with torch.autocast(inputs.device.type, torch.bfloat16):
        logits = model(input_ids=inputs, use_cache=False).logits
    learnt = labels[:, 1:] != IGNORED
    predicted, wanted = logits[:, :-1][learnt].float(), labels[:, 1:][learnt]
    loss = torch.nn.functional.cross_entropy(predicted, wanted)
    return loss, len(wanted), int((predicted.detach().argmax(-1) == wanted).sum())


class Curve:
    """`training.jsonl`: every so many steps the means since the line before, printed too."""

    def __init__(self, file: IO[str], every: int) -> None:
        self._file = file
        self._every = every
        self._started = time.monotonic()
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counted = 0

    def add(self, step: int, count: int, sums: dict[str, float], **also: int) -> None:
        """The sums of a step over `count` things; `also` stands in the line as it is."""
        self._counted += count
        for name, value in sums.items():
            self._sums[name] += value
        if step % self._every:
            return
        means = {name: round(self._sums[name] / self._counted, 4) for name in sums}
        row = {"step": step, **also, **means, "seconds": round(time.monotonic() - self._started, 1)}
        line = json.dumps(row)
        print(line, flush=True)
        self._file.write(line + "\n")
        self._file.flush()
        self._sums.clear()
        self._counted = 0


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """Write a bfloat16 copy; training goes on in float32."""
    state = {n: t.detach().to("cpu", torch.bfloat16) for n, t in model.state_dict().items()}
    state.pop("lm_head.weight", None)  # tied to the embedding
    model.config.dtype = "bfloat16"
    model.save_pretrained(out, state_dict=state)
    tokenizer.save_pretrained(out)
    describe(out)
