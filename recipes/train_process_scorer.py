"""Train the embedded process reward model on rollouts.

`python -m recipes.train_process_scorer --trunk DIR --rollouts FILE... --out DIR`

A causal model's trunk with a two-label token-classification head ("wrong", "right"), trained by
cross-entropy at the last token of every step on whether the rollout ended right: the head learns
P(ends right | prefix). A second head, thrown away at the end, learns where a rollout leaves the legal
lines (`recipes/legal.py`), which is known without noise. One outcome for three lines tells little
about which line went wrong; the second head makes the trunk look.

Writes an ordinary Hugging Face checkpoint (bfloat16) and `training.jsonl`, which goes on from the
trunk's.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForTokenClassification, PreTrainedTokenizerBase

from recipes.data import IGNORED, padded
from recipes.legal import legal_so_far
from recipes.optimise import Optimiser
from recipes.training import Curve, options_of, save

Row = tuple[list[int], list[int], list[int]]


def load_rows(files: list[Path], shares: list[float], tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """`(input_ids, right, legal)` of rollouts: 0 or 1, right at step ends alone, IGNORED elsewhere.

    Of each file its first lines, `shares` of them.
    """
    ends = {tokenizer.convert_tokens_to_ids("\n"), tokenizer.eos_token_id}
    lines = [file.read_text().splitlines() for file in files]
    taken = [own[: round(share * len(own))] for own, share in zip(lines, shares, strict=True)]
    rollouts = [json.loads(line) for own in taken for line in own]
    prompts = tokenizer([f"<user>{r['prompt']}<assistant>" for r in rollouts]).input_ids
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    rows = []
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        ids, right = rollout["token_ids"], int(rollout["right"])
        labels = [right if token in ends else IGNORED for token in ids]
        judged = legal_so_far(rollout["task"], rollout["prompt"], [words[i] for i in ids])
        legal = [IGNORED if good is None else good for good in judged]
        before = [IGNORED] * len(prompt)
        rows.append((prompt + ids, before + labels, before + legal))
    return rows


def epochs(
    rows: list[Row], tokens_per_batch: int, pad: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Endless batches `(input_ids, right, legal)`, shapes (B, T), bucketed by length, reshuffled."""
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
            inputs, right, legal = zip(*group, strict=True)
            yield padded(inputs, pad), padded(right, IGNORED), padded(legal, IGNORED)


class Judges(torch.nn.Module):
    """The model that ships, and the head beside it that does not."""

    def __init__(self, model: LlamaForTokenClassification) -> None:
        super().__init__()
        self.shipped = model
        self.legal_head = torch.nn.Linear(model.config.hidden_size, 2)

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of right and of legal, both (B, T, 2)."""
        hidden = self.shipped.model(input_ids=input_ids, use_cache=False).last_hidden_state
        return self.shipped.score(hidden), self.legal_head(hidden)


def main() -> None:
    """Train, log, save."""
    parser = options_of(__doc__, steps=1500, tokens_per_step=6144, muon_lr=0.005, adamw_lr=0.001, seed=0)
    parser.add_argument("--trunk", type=Path, required=True, help="the checkpoint to start from")
    parser.add_argument("--rollouts", type=Path, nargs="+", required=True)
    parser.add_argument("--take", type=float, nargs="+", help="the share of each file to use; all of it")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.trunk)
    model = LlamaForTokenClassification.from_pretrained(
        options.trunk,
        num_labels=2,
        id2label={0: "wrong", 1: "right"},
        label2id={"wrong": 0, "right": 1},
        dtype=torch.float32,
        attn_implementation="eager",
    )
    model.config.classifier_dropout = 0.0
    model.dropout.p = 0.0
    both = Judges(model).to(options.device).train()
    optimiser = Optimiser(both, total_steps=options.steps, muon_lr=options.muon_lr, adamw_lr=options.adamw_lr)
    rows = load_rows(options.rollouts, options.take or [1.0] * len(options.rollouts), tokenizer)
    print(f"{len(rows)} rollouts, {sum(len(row[0]) for row in rows)} tokens", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    tokens = 0
    stream = epochs(rows, options.tokens_per_step, tokenizer.pad_token_id, options.seed)
    before = options.trunk / "training.jsonl"
    with (options.out / "training.jsonl").open("w") as file:
        file.write(before.read_text() if before.is_file() else "")
        curve = Curve(file, every=50)
        for step in range(1, options.steps + 1):
            inputs, right, legal = (t.to(options.device) for t in next(stream))
            with torch.autocast(options.device, torch.bfloat16):
                of_right, of_legal = both(inputs)
            loss, beside = (
                torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
                for logits, labels in ((of_right, right), (of_legal, legal))
            )
            optimiser.step(loss + beside)
            tokens += inputs.numel()
            sums = {"loss_nats": float(loss.detach()), "legal_loss_nats": float(beside.detach())}
            curve.add(step, 1, sums, tokens=tokens)
            if step % 500 == 0 or step == options.steps:
                save(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
