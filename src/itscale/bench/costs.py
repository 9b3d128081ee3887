"""What a run would cost on a named machine: arithmetic, memory traffic, seconds, energy, dollars.

For N samples of G tokens each on a prompt of C, P parameters in use, H query and K key-value heads, D
head size times layers, b bytes a stored number:

    arithmetic   2 P C + 2 C^2 H D  +  N (2 P G + 2 (2 C + G) G H D)        prompt once, then decoding
    keys, values 2 b/2 (2 C + G N) G K D bytes                              the prompt's are shared

The second line of each is that of Sadhukhan et al. 2025, "Kinetics: Rethinking Test-Time Scaling Laws",
arXiv 2506.05333, whose point is that attention, not parameters, soon is most of it; they leave the
prompt's own pass out. Seconds are the idealised runtime of Narayanan et al. 2023 (arXiv 2305.02440) from
a roofline: every decoding step takes as long as its arithmetic or its traffic, weights read once for all
samples, whichever is longer; nothing else costs anything. So it is a floor, and says what is possible.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from itscale.bench.rows import Row
from itscale.budget import Price, Usage
from itscale.errors import OptionError, did_you_mean
from itscale.scorers.judge import judging_model

__all__ = [
    "ACCELERATORS",
    "Accelerator",
    "ModelShape",
    "Modelled",
    "Prices",
    "modelled_cost",
    "priced",
    "read_prices",
    "reading_cost",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What a decoder's cost depends on."""

    parameters: int
    """Used for one token, embeddings read by a lookup left out."""
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    weight_bytes: float = 2.0
    """Bytes a parameter."""
    kv_bytes: float = 2.0
    """Bytes a stored key or value number."""

    @classmethod
    def read(cls, config: Path) -> ModelShape:
        """The shape of a Hugging Face checkpoint with gated feed-forward layers (Llama, Qwen, Mistral ...).

        Raises:
            OptionError: the file cannot be read or is of another kind.
        """
        try:
            told = json.loads(config.read_text(encoding="utf-8"))
            width, layers, heads = (
                told[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")
            )
            kv_heads = told.get("num_key_value_heads") or heads
            size = told.get("head_dim") or width // heads
            attention = width * size * (2 * heads + 2 * kv_heads)
            layer = attention + 3 * width * told["intermediate_size"] + 2 * width
            parameters = layers * layer + width + _outputs(told) * width
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OptionError(
                f"{config} does not tell the shape of a Llama-like model ({error!r}); give its config.json"
            ) from error
        bytes_of = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
        stored = bytes_of.get(str(told.get("dtype") or told.get("torch_dtype")), 2.0)
        return cls(
            parameters=parameters, layers=layers, heads=heads, kv_heads=kv_heads, head_size=size,
            weight_bytes=stored, kv_bytes=stored,
        )  # fmt: skip


def _outputs(config: Mapping[str, Any]) -> int:
    """Numbers that come out for a token: the vocabulary, or the labels of a classifier."""
    if any("Classification" in str(name) for name in config.get("architectures") or ()):
        return len(config.get("id2label") or (0, 1))
    return int(config["vocab_size"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """A machine as its data sheet has it."""

    flops: float
    """Dense 16-bit operations a second."""
    bandwidth: float
    """Bytes a second of its memory."""
    power_w: float = 0.0
    """Watts under load; the energy of a run is this times its seconds."""
    usd_per_hour: float = 0.0

    @property
    def intensity(self) -> float:
        """Operations a byte at which arithmetic and traffic take equally long."""
        return self.flops / self.bandwidth


ACCELERATORS: Mapping[str, Accelerator] = {
    "a100-40g": Accelerator(flops=312e12, bandwidth=1.555e12, power_w=400),
    "a100-80g": Accelerator(flops=312e12, bandwidth=2.039e12, power_w=400),
    "h100": Accelerator(flops=989.5e12, bandwidth=3.35e12, power_w=700),
    "h200": Accelerator(flops=989.5e12, bandwidth=4.8e12, power_w=700),
    "l4": Accelerator(flops=121e12, bandwidth=0.3e12, power_w=72),
    "v100": Accelerator(flops=125e12, bandwidth=0.9e12, power_w=300),
}
"""SXM versions where there are several, from NVIDIA's data sheets; prices are yours to state."""


@dataclass(frozen=True, slots=True)
class Modelled:
    """The cost of one run: N samples side by side."""

    flops: float
    attention_flops: float
    kv_traffic_bytes: float
    seconds: float
    """Idealised, alone on the machine."""
    joules: float
    dollars: float
    """Of the machine's time, where it has a price an hour."""

    def __add__(self, other: Modelled) -> Modelled:
        return Modelled(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def scaled(self, by: float) -> Modelled:
        """Every amount times `by`."""
        return Modelled(*(getattr(self, f.name) * by for f in fields(self)))

    @property
    def attention(self) -> float:
        """Share of the operations that is attention, 0 to 1."""
        return self.attention_flops / self.flops if self.flops else 0.0

    def equivalent_flops(self, machine: Accelerator) -> float:
        """Kinetics' eFLOPs: operations plus those that the key-value traffic would have had time for."""
        return self.flops + machine.intensity * self.kv_traffic_bytes


def modelled_cost(
    shape: ModelShape, machine: Accelerator, *, prompt: float, generated: float, samples: float
) -> Modelled:
    """The cost of `samples` answers of `generated` tokens each to one prompt of `prompt` tokens.

    Raises:
        ValueError: a count is negative.
    """
    if min(prompt, generated, samples) < 0:
        raise ValueError(
            f"{prompt} prompt and {generated} generated tokens, {samples} samples; none is below 0"
        )
    size = shape.head_size * shape.layers
    dense = 2.0 * shape.parameters
    prompt_attention = 2.0 * prompt**2 * shape.heads * size
    step = np.arange(1, round(generated) + 1, dtype=float)
    attention = samples * 4.0 * (prompt + step) * shape.heads * size
    arithmetic = samples * dense + attention
    kv = 2.0 * shape.kv_bytes * (prompt + step * samples) * shape.kv_heads * size
    weights = shape.parameters * shape.weight_bytes
    decoding = np.maximum(arithmetic / machine.flops, (kv + weights) / machine.bandwidth)
    first = max((dense * prompt + prompt_attention) / machine.flops, weights / machine.bandwidth)
    seconds = first + float(decoding.sum())
    total = dense * prompt + prompt_attention + float(arithmetic.sum())
    return Modelled(
        flops=total,
        attention_flops=prompt_attention + float(attention.sum()),
        kv_traffic_bytes=float(kv.sum()),
        seconds=seconds,
        joules=seconds * machine.power_w,
        dollars=seconds / 3600 * machine.usd_per_hour,
    )


def reading_cost(shape: ModelShape, machine: Accelerator, *, tokens: float, context: float) -> Modelled:
    """The cost of reading `tokens` tokens in one pass, as a scorer does, each after `context` / 2 others.

    Raises:
        ValueError: a count is negative.
    """
    if min(tokens, context) < 0:
        raise ValueError(f"{tokens} tokens read in a context of {context}; neither is below 0")
    size = shape.head_size * shape.layers
    attention = 4.0 * tokens * (context / 2) * shape.heads * size
    flops = 2.0 * shape.parameters * tokens + attention
    kv = 2.0 * shape.kv_bytes * tokens * shape.kv_heads * size
    weights = shape.parameters * shape.weight_bytes
    seconds = max(flops / machine.flops, (kv + weights) / machine.bandwidth)
    return Modelled(
        flops, attention, kv, seconds, seconds * machine.power_w, seconds / 3600 * machine.usd_per_hour
    )


@dataclass(frozen=True, slots=True)
class Prices:
    """A price file: dollars per million tokens by model spec, machines of one's own, shapes of models."""

    models: Mapping[str, Price]
    accelerators: Mapping[str, Accelerator]
    shapes: Mapping[str, ModelShape]
    """By spec: of models whose config.json the bench cannot find itself."""

    def accelerator(self, name: str) -> Accelerator:
        """A machine of the file, else one of ours.

        Raises:
            OptionError: there is none of that name.
        """
        known = {**ACCELERATORS, **self.accelerators}
        if name not in known:
            raise OptionError(did_you_mean("hardware", name, known))
        return known[name]


def priced(rows: Sequence[Row], prices: Prices) -> list[Row]:
    """The rows with the dollars that their models' prices make of their tokens; others as they are.

    A judge's tokens cost what the file says of its model; nothing where it says nothing.
    """
    return [
        replace(row, usage=_priced(row.usage, prices.models[row.model], _judge_price(row, prices)))
        if row.model in prices.models
        else row
        for row in rows
    ]


def _judge_price(row: Row, prices: Prices) -> Price:
    return prices.models.get(judging_model(row.scorer) or "", Price())


def _priced(usage: Usage, price: Price, judge: Price) -> Usage:
    paid = price.dollars(
        prompt=usage.prompt_tokens, cached=usage.cached_tokens, generated=usage.generated_tokens
    ) + judge.dollars(
        prompt=usage.judge_prompt_tokens,
        cached=usage.judge_cached_tokens,
        generated=usage.judge_generated_tokens,
    )
    return replace(usage, dollars=paid)


def read_prices(file: Path | None) -> Prices:
    """Read a price file; without one, our machines and no prices.

        [models."openai:small@http://127.0.0.1:8000/v1"]
        prompt_usd = 0.15          # per million tokens
        generated_usd = 0.60
        [accelerators.mine]
        flops = 50e12
        bandwidth = 0.9e12
        power_w = 285
        usd_per_hour = 0.4
        [shapes]
        "openai:small@http://127.0.0.1:8000/v1" = "small/config.json"     # beside this file

    Raises:
        OptionError: the file does not parse (the line is named) or says what is not known.
    """
    if file is None:
        return Prices({}, {}, {})
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read prices from {file}: {error}; mend it, or give another") from error
    for key in told:
        if key not in _KEYS:
            raise OptionError(f"{file}: {did_you_mean('table', key, _KEYS)}")
        if not isinstance(told[key], dict):
            raise OptionError(f"{file}: {key} is {told[key]!r}; make it a table, [{key}]")
    models = {name: _made(file, Price, name, values) for name, values in told.get("models", {}).items()}
    machines = {
        name: _made(file, Accelerator, name, values) for name, values in told.get("accelerators", {}).items()
    }
    shapes = {
        name: ModelShape.read(file.parent / str(where)) for name, where in told.get("shapes", {}).items()
    }
    return Prices(models, machines, shapes)


_KEYS = ("models", "accelerators", "shapes")


def _made(file: Path, kind: Any, name: str, values: Mapping[str, Any]) -> Any:
    known = [field.name for field in fields(kind)]
    if not isinstance(values, dict):
        raise OptionError(f"{file}: {name} is {values!r}; make it a table with {', '.join(known)}")
    for key, value in values.items():
        if key not in known:
            raise OptionError(f"{file}: {name}: {did_you_mean('key', key, known)}")
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise OptionError(f"{file}: {name}: {key} is {value!r}; give a number, 0 or more")
    try:
        return kind(**values)
    except TypeError as error:
        raise OptionError(f"{file}: {name}: {error}; give flops and bandwidth") from error
