"""Train the embedded reasoner from nothing: `python -m recipes.train_reasoner --out DIR`.

A 3.0 M-parameter Llama-architecture model on generated exercises of both tasks. Writes an
ordinary Hugging Face checkpoint (bfloat16) and `training.jsonl`, the logged curve. About an hour
on 2 CPU cores; `--device cuda` uses a GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.data import IGNORED, MIXTURES, batches
from recipes.describe import describe
from recipes.optimise import Optimiser
from recipes.vocabulary import build_tokenizer


def build_model(vocabulary_size: int, eos_token_id: int, pad_token_id: int) -> LlamaForCausalLM:
    """The architecture. Two key-value heads keep the cache small: 128 numbers a token and layer."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary_size,
            hidden_size=192,
            intermediate_size=576,
            num_hidden_layers=7,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
        )
    )
    model.set_attn_implementation("eager")  # measured: 2x the fused kernel's backward at these lengths
    return model


def main() -> None:
    """Train, log, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--tokens-per-step", type=int, default=5120)
    parser.add_argument("--muon-lr", type=float, default=0.01)
    parser.add_argument("--adamw-lr", type=float, default=0.003)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    model.to(options.device).train()
    optimiser = Optimiser(
        model, total_steps=options.steps, muon_lr=options.muon_lr, adamw_lr=options.adamw_lr
    )
    options.out.mkdir(parents=True, exist_ok=True)
    started, tokens, loss_sum, right_sum, counted = time.monotonic(), 0, 0.0, 0, 0
    with (options.out / "training.jsonl").open("w") as curve:
        stream = batches(tokenizer, options.tokens_per_step, options.seed, MIXTURES["reasoner"])
        for step in range(1, options.steps + 1):
            inputs, labels = (t.to(options.device) for t in next(stream))
            with torch.autocast(options.device, torch.bfloat16):
                logits = model(input_ids=inputs, use_cache=False).logits
            learnt = labels[:, 1:] != IGNORED
            predicted, wanted = logits[:, :-1][learnt].float(), labels[:, 1:][learnt]
            loss = torch.nn.functional.cross_entropy(predicted, wanted)
            optimiser.step(loss)
            tokens += inputs.numel()
            loss_sum += float(loss.detach()) * len(wanted)
            right_sum += int((predicted.detach().argmax(-1) == wanted).sum())
            counted += len(wanted)
            if step % 50 == 0:
                row = {
                    "step": step,
                    "tokens": tokens,
                    "loss_nats": round(loss_sum / counted, 4),
                    "token_accuracy": round(right_sum / counted, 4),
                    "seconds": round(time.monotonic() - started, 1),
                }
                print(row, flush=True)
                curve.write(json.dumps(row) + "\n")
                curve.flush()
                loss_sum, right_sum, counted = 0.0, 0, 0
            if step % options.save_every == 0 or step == options.steps:
                save(model, tokenizer, options.out)


def save(model: LlamaForCausalLM, tokenizer: object, out: Path) -> None:
    """Write a bfloat16 copy; training goes on in float32."""
    state = {n: t.detach().to("cpu", torch.bfloat16) for n, t in model.state_dict().items()}
    state.pop("lm_head.weight", None)  # tied to the embedding
    model.config.dtype = "bfloat16"
    model.save_pretrained(out, state_dict=state)
    tokenizer.save_pretrained(out)  # type: ignore[attr-defined]
    describe(out)


if __name__ == "__main__":
    main()
