"""A process reward model in this process: `embedded` and `hf:PATH`.

A token-classification checkpoint with two labels, "wrong" and "right", read at the last token of
every step: the probability that an answer which begins like this ends right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

from itscale.budget import Ledger
from itscale.errors import ModelError
from itscale.models.local import (
    DEFAULT_MEMORY_BYTES,
    Checkpoint,
    PromptReader,
    fingerprint,
    load_pretrained,
)
from itscale.scorers.base import ProcessScorer
from itscale.types import Path

__all__ = ["LocalProcessScorer"]

DEFAULT_ROWS = 256


class LocalProcessScorer(ProcessScorer):
    """A process reward model in this process; a prefix already scored is not computed again."""

    def __init__(self, model: Any, tokenizer: Any, facts: Checkpoint, name: str, memory: int) -> None:
        from itscale.models.engine.forward import CachedForward
        from itscale.models.engine.judge import Judge

        self.name = name
        self._folder: FilePath | None = None
        self.prompts = PromptReader(tokenizer, facts)
        self.engine = Judge(
            CachedForward(model, limit_bytes=memory),
            prompt_tokens=self.prompts.of_path,
            max_context=int(model.config.get_text_config().max_position_embeddings),
            max_rows=DEFAULT_ROWS,
        )

    @classmethod
    def load(
        cls, folder: FilePath, *, name: str | None = None, kv_memory_bytes: int = DEFAULT_MEMORY_BYTES
    ) -> LocalProcessScorer:
        """The scorer in a checkpoint folder; it reads the reasoner's own token ids.

        Raises:
            OptionError: torch or transformers are not installed.
            ModelError: the folder holds no whole token-classification checkpoint of two labels.
        """
        facts = Checkpoint.read(folder)
        model, tokenizer = load_pretrained(folder, "AutoModelForTokenClassification")
        if model.config.num_labels != 2:
            raise ModelError(
                f"{folder} has {model.config.num_labels} labels; a process reward model has two, "
                "wrong and right"
            )
        loaded = cls(model, tokenizer, facts, name or f"hf:{folder}", kv_memory_bytes)
        loaded._folder = folder
        return loaded

    @property
    def identity(self) -> str:
        return fingerprint(self._folder) if self._folder else self.name

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        self.prompts.of_path(path)
        request = await self.engine.score(path)
        ledger.charge_scorer(tokens=request.computed_tokens)
        if request.cancelled:
            raise asyncio.CancelledError
        if request.error is not None:
            raise request.error
        return request.scores

    async def close(self) -> None:
        self.engine.close()
