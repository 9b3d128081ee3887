"""Process reward models of the published architectures with a few thousand random weights.

Each is written to a folder as its authors publish it, and read back by the plainest code that follows
their published inference: the whole text at once, transformers' own forward pass, no cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SHAPE = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.7,
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How the tokenizers of Llama 3 and (but for the digits) Qwen 2.5 cut text before they merge bytes."""
Reference = Callable[[str, Sequence[str]], list[float]]
"""From a question and the texts of the steps to the score of each."""


@dataclass(frozen=True)
class TinyPrm:
    """A checkpoint folder and its straightforward reading."""

    folder: FilePath
    reference: Reference


def byte_tokenizer(specials: Sequence[str], **options: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE of few merges: as in the real ones, `.` and a newline are one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), (".", "Ċ"), ("Ċ", "Ċ")]
    words = [*alphabet, *("".join(pair) for pair in merges)]
    core = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(specials))
    return PreTrainedTokenizerFast(tokenizer_object=core, **options)


def sentence_tokenizer() -> PreTrainedTokenizerFast:
    """Like Mistral's first: a space in front, spaces kept in the tokens, the rest in bytes."""
    letters = [*"▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,+-=*:()ки"]
    merges = [("▁", "к"), ("▁к", "и"), ("▁", "+"), ("▁", "-"), ("▁", "t"), ("▁t", "h"), ("▁th", "e")]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *letters]
    words += ["".join(pair) for pair in merges]
    core = Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, merges, unk_token="<unk>", byte_fallback=True)
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    from tokenizers.processors import TemplateProcessing

    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def saved(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, folder: FilePath) -> None:
    model.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)


def with_head(folder: FilePath, head: dict[str, torch.Tensor], architecture: str) -> None:
    """Add a head's tensors, and say the architecture, with code of its own, as published folders do."""
    tensors = load_file(folder / "model.safetensors")
    tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
    save_file({**tensors, **head}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = [architecture]
    config["auto_map"] = {
        "AutoModel": f"modeling.{architecture}",
        "AutoConfig": "configuration.Qwen2RMConfig",
    }
    (folder / "config.json").write_text(json.dumps(config))


def hidden_states(trunk: torch.nn.Module, ids: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        hidden: torch.Tensor = trunk(torch.tensor([list(ids)])).last_hidden_state[0]
    return hidden


def qwen(folder: FilePath) -> TinyPrm:
    """Qwen2.5-Math-PRM: the model card's code."""
    tokenizer = byte_tokenizer(
        ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<extra_0>"],
        chat_template=CHATML,
        eos_token="<|im_end|>",
    )
    trunk = transformers.Qwen2Model(
        transformers.Qwen2Config(vocab_size=len(tokenizer), sliding_window=64, **SHAPE)
    ).eval()
    saved(trunk, tokenizer, folder)
    head = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    tensors = {f"score.{name}": tensor * 3 for name, tensor in head.state_dict().items()}
    head.load_state_dict({name.removeprefix("score."): tensor for name, tensor in tensors.items()})
    with_head(folder, tensors, "Qwen2ForProcessRewardModel")

    def reference(question: str, steps: Sequence[str]) -> list[float]:
        said = "<extra_0>".join(steps) + "<extra_0>"
        messages = [
            {
                "role": "system",
                "content": "Please reason step by step, and put your final answer within \\boxed{}.",
            },
            {"role": "user", "content": question},
            {"role": "assistant", "content": said},
        ]
        ids = tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False))
        with torch.no_grad():
            probabilities = head(hidden_states(trunk, ids)).softmax(-1)[:, 1]
        mark = tokenizer.encode("<extra_0>")[0]
        return [float(p) for p, i in zip(probabilities, ids, strict=True) if i == mark]

    return TinyPrm(folder, reference)


def skywork(folder: FilePath) -> TinyPrm:
    """Skywork-o1-Open-PRM: prepare_input, the value head, the sigmoid; the score of a step's last line."""
    tokenizer = byte_tokenizer(["<|endoftext|>"], bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    trunk = transformers.Qwen2Model(transformers.Qwen2Config(vocab_size=len(tokenizer), **SHAPE)).eval()
    saved(trunk, tokenizer, folder)
    head = torch.nn.Linear(8, 1)
    tensors = {f"v_head.summary.{name}": tensor * 4 for name, tensor in head.state_dict().items()}
    head.load_state_dict({name.removeprefix("v_head.summary."): tensor for name, tensor in tensors.items()})
    with_head(folder, tensors, "Qwen2ForPrmModel")

    def reference(question: str, steps: Sequence[str]) -> list[float]:
        newline = tokenizer.encode("\n")[-1]
        ids, ends = tokenizer.encode(tokenizer.bos_token + question + "\n"), []
        for step in steps:
            for line in step.split("\n"):
                ids += [*tokenizer.encode(line), newline]
            ends.append(len(ids) - 1)
        with torch.no_grad():
            values = head(hidden_states(trunk, ids))[:, 0].sigmoid()
        return [float(values[end]) for end in ends]

    return TinyPrm(folder, reference)


def rlhflow(folder: FilePath) -> TinyPrm:
    """RLHFlow's prm_evaluate: a conversation for each step, the logits three before its end."""
    tokenizer = byte_tokenizer(
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        chat_template=LLAMA3,
        eos_token="<|eot_id|>",
    )
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=False, **SHAPE)
    ).eval()
    saved(model, tokenizer, folder)
    candidates = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]

    def reference(question: str, steps: Sequence[str]) -> list[float]:
        conversation, scores = [], []
        for k, step in enumerate(steps):
            conversation.append({"role": "user", "content": f"{question} {step}" if k == 0 else step})
            conversation.append({"role": "assistant", "content": "+"})
            ids = tokenizer.encode(tokenizer.apply_chat_template(conversation, tokenize=False))
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -3, candidates]
            scores.append(float(logits.softmax(-1)[0]))
        return scores

    return TinyPrm(folder, reference)


def math_shepherd(folder: FilePath) -> TinyPrm:
    """Math-Shepherd: the model card's code."""
    tokenizer = sentence_tokenizer()
    model = transformers.MistralForCausalLM(
        transformers.MistralConfig(
            vocab_size=len(tokenizer), sliding_window=400, tie_word_embeddings=False, **SHAPE
        )
    ).eval()
    saved(model, tokenizer, folder)
    candidates = tokenizer.encode("+ -")[1:]
    mark = tokenizer.encode("ки")[-1]

    def reference(question: str, steps: Sequence[str]) -> list[float]:
        ids = tokenizer.encode(f"{question} " + "\n".join(f"{step} ки" for step in steps))
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0][:, candidates].softmax(-1)[:, 0]
        return [float(p) for p, i in zip(scores, ids, strict=True) if i == mark]

    return TinyPrm(folder, reference)


TINY_PRMS: dict[str, Callable[[FilePath], TinyPrm]] = {
    "qwen2.5-math-prm": qwen,
    "skywork-o1-prm": skywork,
    "rlhflow-prm": rlhflow,
    "math-shepherd": math_shepherd,
}
