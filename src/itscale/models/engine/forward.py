"""One forward pass of any transformers decoder over slots instead of a cache of its own.

transformers lets a model's attention be replaced by a registered function. Ours writes the new
keys and values into the pool, gathers each row's context by slot number, and attends. Nothing else
of the model is touched, so whatever transformers loads with that interface runs here.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, PreTrainedModel

from itscale.errors import ModelError
from itscale.models.engine.pool import TRASH, SlotPool, Slots

__all__ = ["CachedForward", "share_the_cores"]

_names = itertools.count()
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 512 * 1024**2


def keep_freed_memory() -> None:
    """Have the C library keep up to KEPT_BYTES of freed memory instead of returning it at once.

    Every token step frees and allocates the same few buffers. By default glibc gives blocks this
    large back to the system and every step pays for fresh pages again: attention over a batch of 64
    took 2.6 times as long. Does nothing where the C library has no mallopt.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
            mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def share_the_cores() -> None:
    """Let torch use half of the cores for work started on this thread (at least one).

    The model's engine and the scorer's run at the same time, each on a thread of its own. With all
    cores given to both they wait for each other at every product: on two cores a particle filter
    was 1.3 times as fast with one each.
    """
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))


def _weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls `method` without keeping its owner: transformers registers functions for ever,
    and a closed model would stay in memory with them."""
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any, **named: Any) -> Any:
        alive = reference()
        assert alive is not None, "only the owner's own model calls it"
        return alive(*arguments, **named)

    return call


class CachedForward:
    """Runs `model` on rows of new tokens, each row over its own list of context slots."""

    def __init__(self, model: PreTrainedModel, *, limit_bytes: int) -> None:
        keep_freed_memory()
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.model = model.eval()
        self.device = str(model.device)
        self.pool = SlotPool(
            layers=config.num_hidden_layers,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=head_dim,
            dtype=model.dtype,
            device=self.device,
            limit_bytes=limit_bytes,
        )
        self._inside: Callable[[torch.Tensor], None] | None = None
        """Given the hidden states of the next pass, where they are wanted."""
        self._write: torch.Tensor = torch.empty(0)
        self._read: torch.Tensor = torch.empty(0)
        self._bias: torch.Tensor = torch.empty(0)
        name = f"itscale-{next(_names)}"
        AttentionInterface.register(name, _weakly(self._attend))
        model.set_attn_implementation(name)

    @torch.inference_mode()
    def decode(self, tokens: Slots, lengths: Slots, index: Slots) -> torch.Tensor:
        """Logits (B, vocabulary) after one new token a row.

        `tokens` (B,); `lengths` (B,) counts the context with the new token; `index` (B, C) holds the
        context's slots in order, the new token's slot last, anything after that ignored.
        """
        columns = np.arange(index.shape[1])
        visible = columns < lengths[:, None]
        self._read = torch.from_numpy(np.where(visible, index, TRASH)).to(self.device).view(-1)
        self._write = torch.from_numpy(index[np.arange(len(tokens)), lengths - 1]).to(self.device)
        bias = np.where(visible, np.float32(0), np.float32(-np.inf))
        self._bias = torch.from_numpy(bias).to(self.device, self.pool.storage.dtype)[:, None, None, :]
        return self._run(torch.from_numpy(tokens)[:, None], torch.from_numpy(lengths - 1)[:, None])[:, -1]

    @torch.inference_mode()
    def prefill(
        self,
        rows: Sequence[Sequence[int]],
        contexts: Sequence[Slots],
        new: Sequence[Slots],
        *,
        last_only: bool,
    ) -> list[torch.Tensor]:
        """For each row the outputs (tokens, width) of its new tokens, or of the last one alone.

        `rows` are the new tokens, `contexts` the slots of what precedes them, `new` the slots they
        are written to. Rows are padded on the left.
        """
        n, longest = len(rows), max(map(len, rows))
        total = max(len(c) + len(t) for c, t in zip(contexts, rows, strict=True))
        ids = np.zeros((n, longest), np.int64)
        positions = np.zeros((n, longest), np.int64)
        write = np.full((n, longest), TRASH, np.int64)
        read = np.full((n, total), TRASH, np.int64)
        bias = np.full((n, longest, total), -np.inf, np.float32)
        bias[:, :, 0] = 0  # a padded query must see something; what it computes is thrown away
        for i, (row, context, slots) in enumerate(zip(rows, contexts, new, strict=True)):
            size, before = len(row), len(context)
            ids[i, longest - size :] = row
            positions[i, longest - size :] = np.arange(before, before + size)
            write[i, longest - size :] = slots
            read[i, :before] = context
            read[i, before : before + size] = slots
            seen = np.arange(total) <= np.arange(before, before + size)[:, None]
            bias[i, longest - size :] = np.where(seen, 0, -np.inf)
        self._write = torch.from_numpy(write.reshape(-1)).to(self.device)
        self._read = torch.from_numpy(read.reshape(-1)).to(self.device)
        self._bias = torch.from_numpy(bias).to(self.device, self.pool.storage.dtype)[:, None]
        keep = {"logits_to_keep": 1} if last_only else {}
        out = self._run(torch.from_numpy(ids), torch.from_numpy(positions), **keep)
        return [out[i] if last_only else out[i, longest - len(row) :] for i, row in enumerate(rows)]

    def alone(self, tokens: Sequence[int]) -> torch.Tensor:
        """The output (1, width) after a sequence computed by itself, in one shape, and not kept.

        A function of the tokens, whatever else is in flight. The caller has made sure of room for it.
        """
        with self.pool.lent([len(tokens)]) as [slots]:
            [output] = self.prefill([tokens], [slots[:0]], [slots], last_only=True)
        self.pool.give_back(slots)
        return output.clone()

    def hidden(
        self, rows: Sequence[Sequence[int]], contexts: Sequence[Slots], new: Sequence[Slots]
    ) -> torch.Tensor:
        """Hidden states (rows, 3 width) at the last token of each row; arguments are those of `prefill`.

        Outputs of the layers at half and three quarters of the depth and of the last one.
        """
        kept: list[torch.Tensor] = []
        self._inside = kept.append
        try:
            self.prefill(rows, contexts, new, last_only=True)
        finally:
            self._inside = None
        return kept[0]

    def _run(self, ids: torch.Tensor, positions: torch.Tensor, **options: int) -> torch.Tensor:
        wanted = {} if self._inside is None else {"output_hidden_states": True}
        output = self.model(
            input_ids=ids.to(self.device),
            position_ids=positions.to(self.device),
            use_cache=False,
            **wanted,
            **options,
        )
        if self._inside is not None:
            layers = output.hidden_states
            depth = len(layers) - 1
            chosen = [layers[layer][:, -1] for layer in (depth // 2, 3 * depth // 4, depth)]
            self._inside(torch.cat(chosen, dim=-1))
        logits: torch.Tensor = output.logits
        return logits

    def _attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        """Attention over slots; shapes (rows, heads, new tokens, head_dim) in, transposed out."""
        for refused in ("sliding_window", "softcap", "s_aux"):
            if options.get(refused) is not None:
                raise ModelError(
                    f"this model's attention uses {refused}, which the in-process engine does not "
                    "honour; serve the model with vLLM and use openai:MODEL@URL"
                )
        rows, _, length, head_dim = query.shape
        kv_heads = self.pool.kv_heads
        layer: Any = module.layer_idx
        stored = self.pool.storage[layer]
        both = torch.stack((key, value), dim=2)  # (rows, kv_heads, 2, length, head_dim)
        fresh = both.permute(0, 3, 2, 1, 4).reshape(rows * length, -1)
        stored.index_copy_(0, self._write, fresh)
        context = stored.index_select(0, self._read).view(rows, -1, 2, kv_heads, head_dim)
        keys, values = context.transpose(1, 3).unbind(2)  # (rows, kv_heads, context, head_dim)
        out = torch.nn.functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=self._bias, scale=scaling, enable_gqa=True
        )
        return out.transpose(1, 2), None
