"""A causal language model in a GGUF file, run by llama.cpp in this process: `gguf:PATH`.

Same contract as `models/local.py`: token ids in and out, steps that end on tokens, draws by the
shared sampler. The difference is who computes the logits, and that a fork is llama.cpp's: paths
that share a prefix see the same cells.

Not covered: models that keep one state a sequence (Mamba and the like) cannot be forked at a token
and are refused.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path as FilePath

from itscale.budget import Ledger
from itscale.models.base import Capability, Model
from itscale.models.gguf.engine import Engine
from itscale.models.gguf.library import MOST_SEQUENCES, Context, Weights
from itscale.models.gguf.tokens import GGUFTokenizer
from itscale.models.local import DEFAULT_MEMORY_BYTES, Checkpoint, PromptReader
from itscale.randomness import Randomness
from itscale.types import Path, Sampling, Until

__all__ = ["GGUFModel"]

DEFAULT_ROWS = 128
PREFILL_TOKENS = 512
CLOSE_ROUNDED = 4e-3
"""As `sampler.CLOSE`, where weights, keys or values are rounded: what a batch changes is larger."""


class GGUFModel(Model):
    """A causal language model that llama.cpp runs."""

    capabilities = frozenset({Capability.STEPS, Capability.LOGPROBS, Capability.SEEDS})

    def __init__(
        self, weights: Weights, facts: Checkpoint, name: str, memory: int, rows: int, *, original: bool = True
    ) -> None:
        from itscale.models.engine.sampler import CLOSE

        self.name = name
        self._file: FilePath | None = None
        self._weights = weights
        tokenizer = GGUFTokenizer(weights, original=original)
        self.prompts = PromptReader(tokenizer, facts)
        context = weights.trained_context
        cells = min(memory // weights.bytes_per_cell, MOST_SEQUENCES * context)
        everything = range(weights.n_vocabulary)
        self.engine = Engine(
            Context(weights, cells=cells, sequences=MOST_SEQUENCES, batch=PREFILL_TOKENS),
            lambda: Context(weights, cells=context, sequences=1, batch=PREFILL_TOKENS),
            cells=cells,
            sequences=MOST_SEQUENCES,
            prompt_tokens=self.prompts.of_path,
            text_of=tokenizer.text_of,
            vocabulary=weights.n_vocabulary,
            boundary_ids=[i for i in everything if tokenizer.text_of((), (i,)).endswith(facts.boundary)],
            eos_ids=[i for i in everything if weights.ends(i)],
            max_context=min(context, cells),
            max_rows=rows,
            close=CLOSE if weights.whole_floats else CLOSE_ROUNDED,
        )

    @classmethod
    def load(
        cls,
        file: FilePath,
        *,
        name: str | None = None,
        kv_memory_bytes: int = DEFAULT_MEMORY_BYTES,
        max_rows: int = DEFAULT_ROWS,
    ) -> GGUFModel:
        """The model in a GGUF file.

        `kv_memory_bytes` limits keys and values, and `max_rows` is the largest batch, as in
        `LocalModel.load`; llama.cpp takes all of that memory at once.

        Raises:
            OptionError: llama-cpp-python (or what else the extra brings) is not installed.
            ModelError: the file holds no model that can be used.
        """
        weights = Weights(file)
        text = weights.text_under("itscale.json")
        facts = Checkpoint() if text is None else Checkpoint.parse(text, f"itscale.json in {file}")
        loaded = cls(weights, facts, name or f"gguf:{file}", kv_memory_bytes, max_rows)
        loaded._file = file
        return loaded

    @property
    def identity(self) -> str:
        if self._file is None:
            return self.name
        with self._file.open("rb") as stream:
            return f"gguf:{hashlib.file_digest(stream, 'blake2b').hexdigest()[:32]}"

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        self.prompts.of_path(path)  # refuse a prompt before the engine sees it
        seeds = [rng.child(i).seed for i in range(n)]
        request = await self.engine.extend(path, until, sampling, seeds)
        ledger.charge_model(
            prompt=request.prompt_tokens,
            cached=request.prompt_tokens - request.computed_tokens,
            generated=request.generated_tokens,
        )
        if request.cancelled:
            raise asyncio.CancelledError
        if request.error is not None:
            raise request.error
        return [request.children[i] for i in range(n)]

    async def close(self) -> None:
        self.engine.close()
        self._weights.close()
