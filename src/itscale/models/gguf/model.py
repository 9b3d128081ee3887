"""A causal language model in a GGUF file, run by llama.cpp in this process: `gguf:PATH`.

Same contract as `models/local.py`: token ids in and out, steps that end on tokens, draws by the
shared sampler. The difference is who computes the logits, and that a fork is llama.cpp's: paths
that share a prefix see the same cells.

Not covered: models that keep one state a sequence (Mamba and the like) cannot be forked at a token
and are refused.
"""

from __future__ import annotations

import hashlib
from pathlib import Path as FilePath

from itscale.models.base import Capability
from itscale.models.gguf.library import MOST_SEQUENCES, Context, Weights
from itscale.models.gguf.tokens import GGUFTokenizer
from itscale.models.in_process import DEFAULT_MEMORY_BYTES, Checkpoint, EngineModel, boundary_ids

__all__ = ["GGUFModel"]

DEFAULT_ROWS = 128
DEFAULT_EXACT_ROWS = 32
"""Where flash attention is off every row looks at every cell, so that fewer at once are faster."""
PREFILL_TOKENS = 512
CLOSE_ROUNDED = 4e-3
"""As `sampler.CLOSE`, where weights, keys or values are rounded: what a batch changes is larger."""


class GGUFModel(EngineModel):
    """A causal language model that llama.cpp runs."""

    capabilities = frozenset(Capability) - {Capability.HIDDEN}

    def __init__(
        self,
        weights: Weights,
        facts: Checkpoint,
        name: str,
        memory: int,
        rows: int | None,
    ) -> None:
        from itscale.models.engine.request import Ending
        from itscale.models.engine.sampler import CLOSE
        from itscale.models.gguf.engine import LlamaEngine
        from itscale.models.gguf.forward import Forward
        from itscale.models.gguf.sequences import Sequences

        tokenizer = GGUFTokenizer(weights)
        super().__init__(name, tokenizer, facts, tokenizer.text_of)
        self._file: FilePath | None = None
        self._weights = weights
        size = weights.trained_context
        cells = min(memory // weights.bytes_per_cell, MOST_SEQUENCES * size)
        shared = Context(weights, cells=cells, sequences=MOST_SEQUENCES, batch=PREFILL_TOKENS)
        everything = range(weights.n_vocabulary)
        self.engine = LlamaEngine(
            Forward(shared, lambda: Context(weights, cells=size, sequences=1, batch=PREFILL_TOKENS)),
            Sequences(MOST_SEQUENCES, cells, shared.fork, shared.drop),
            prompt_tokens=self.prompts.of_path,
            text_of=tokenizer.text_of,
            ending=Ending.of(
                weights.n_vocabulary,
                boundary_ids(tokenizer.text_of, everything, facts),
                [i for i in everything if weights.ends(i)],
            ),
            max_context=min(size, cells),
            max_rows=rows or (DEFAULT_EXACT_ROWS if weights.whole_floats else DEFAULT_ROWS),
            tolerance=CLOSE if weights.whole_floats else CLOSE_ROUNDED,
        )

    @classmethod
    def load(
        cls,
        file: FilePath,
        *,
        name: str | None = None,
        kv_memory_bytes: int = DEFAULT_MEMORY_BYTES,
        max_rows: int | None = None,
    ) -> GGUFModel:
        """The model in a GGUF file.

        `kv_memory_bytes` limits keys and values, and `max_rows` is the largest batch, as in
        `LocalModel.load`; llama.cpp takes all of that memory at once. A file of whole floats is
        computed in whole floats, any other with half-float keys and values and flash attention.

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

    async def close(self) -> None:
        await super().close()
        self._weights.close()
