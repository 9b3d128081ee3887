"""Train the embedded reasoner from nothing: `python -m recipes.train_reasoner --out DIR`.

A 3.0 M-parameter Llama-architecture model on generated exercises of both tasks. Writes an
ordinary Hugging Face checkpoint (bfloat16) and `training.jsonl`, the logged curve. About an hour
on 2 CPU cores; `--device cuda` uses a GPU.
"""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.data import MIXTURES, batches
from recipes.optimise import Optimiser
from recipes.training import Curve, next_token, options_of, save
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
    parser = options_of(__doc__, steps=9000, tokens_per_step=5120, muon_lr=0.01, adamw_lr=0.003, seed=0)
    parser.add_argument("--save-every", type=int, default=500)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    model.to(options.device).train()
    optimiser = Optimiser(
        model, total_steps=options.steps, muon_lr=options.muon_lr, adamw_lr=options.adamw_lr
    )
    options.out.mkdir(parents=True, exist_ok=True)
    tokens = 0
    with (options.out / "training.jsonl").open("w") as file:
        curve = Curve(file, every=50)
        stream = batches(tokenizer, options.tokens_per_step, options.seed, MIXTURES["reasoner"])
        for step in range(1, options.steps + 1):
            inputs, labels = (t.to(options.device) for t in next(stream))
            loss, count, right = next_token(model, inputs, labels)
            optimiser.step(loss)
            tokens += inputs.numel()
            sums = {"loss_nats": float(loss.detach()) * count, "token_accuracy": right}
            curve.add(step, count, sums, tokens=tokens)
            if step % options.save_every == 0 or step == options.steps:
                save(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
