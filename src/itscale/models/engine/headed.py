"""A trunk of any transformers decoder with a head of its own: logits of (wrong, right) at every token.

Published process reward models put small heads on ordinary trunks, some through code in the
checkpoint, which is never run here. Each head is one of the few below, and all end in two logits.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path as FilePath
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from itscale.errors import ModelError

__all__ = ["Headed", "head_of_tokens", "head_of_two_layers", "head_of_value", "stored_tensors"]


class Headed(torch.nn.Module):
    """What the engine needs of a model: `trunk` up to its last hidden state, then `head`."""

    def __init__(self, trunk: Any, head: torch.nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head.to(trunk.device, trunk.dtype)
        self.config = trunk.config
        self.device = trunk.device
        self.dtype = trunk.dtype

    def set_attn_implementation(self, name: str) -> None:
        """Have the trunk attend by a registered function."""
        self.trunk.set_attn_implementation(name)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> SimpleNamespace:
        """Logits (rows, tokens, 2); of the last tokens alone where `logits_to_keep` says how many."""
        hidden = self.trunk(
            input_ids=input_ids, position_ids=position_ids, use_cache=use_cache
        ).last_hidden_state
        return SimpleNamespace(logits=self.head(hidden[:, -logits_to_keep:]))


class _Value(torch.nn.Linear):
    """One number, the log odds, as the logits (0, number)."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(super().forward(hidden), (1, 0))


def head_of_two_layers(tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Linear, ReLU, linear to (wrong, right): `score.0` and `score.2`."""
    width = tensors["score.0.weight"].shape[0]
    head = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))
    head.load_state_dict({name.removeprefix("score."): tensor for name, tensor in tensors.items()})
    return head


def head_of_value(tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    """One linear unit, the log odds of right: `v_head.summary`."""
    head = _Value(tensors["v_head.summary.weight"].shape[1], 1)
    head.load_state_dict({name.removeprefix("v_head.summary."): t for name, t in tensors.items()})
    return head


def head_of_tokens(model: Any, labels: tuple[int, int]) -> torch.nn.Module:
    """The language model's logits of the tokens that say (wrong, right), and of no other."""
    unembedding = model.get_output_embeddings()
    width = unembedding.weight.shape[1]
    head = torch.nn.Linear(width, 2, bias=unembedding.bias is not None)
    rows = list(labels)
    with torch.no_grad():
        head.weight.copy_(unembedding.weight[rows])
        if unembedding.bias is not None:
            head.bias.copy_(unembedding.bias[rows])
    return head


def stored_tensors(folder: FilePath, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint by name, whichever of its files they are in.

    Raises:
        ModelError: one is missing, or a file is broken.
    """
    wanted = list(names)
    found: dict[str, torch.Tensor] = {}
    try:
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as stored:
                present = set(stored.keys())
                found |= {name: stored.get_tensor(name) for name in wanted if name in present}
        for file in sorted(folder.glob("pytorch_model*.bin")) if len(found) < len(wanted) else ():
            held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            found |= {name: held[name].clone() for name in wanted if name in held and name not in found}
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise ModelError(f"cannot read the weights in {folder} ({error}); copy them again") from error
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ModelError(
            f"the weights in {folder} lack {missing[0]} and {len(missing) - 1} more, so they are no process "
            "reward model of this kind; name the right one with #kind=KIND, or copy them again"
        )
    return found
