"""Logits of any tokens of any sequences, in as few passes as llama.cpp allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from itscale.models.engine.given import gathered
from itscale.models.engine.request import Given
from itscale.models.gguf.library import Context
from itscale.models.gguf.rows import Admitted
from itscale.models.gguf.sequences import Held, Sequences

__all__ = ["Forward"]

Floats = npt.NDArray[np.float32]
BATCH_LOGITS = 2**25
"""Logits of given tokens at once, at most (128 MiB)."""


class Forward:
    """llama.cpp's pass over the shared cache, and one over a cache of its own.

    `alone` makes that second context when it is first needed.
    """

    def __init__(self, context: Context, alone: Callable[[], Context]) -> None:
        self._context = context
        self._make_alone = alone
        self._alone: Context | None = None

    def run(self, parts: Sequence[tuple[Held, int]], wanted: Sequence[bool]) -> Floats:
        """Compute tokens, each named by sequence and position: the wanted logits (wanted, vocabulary)."""
        size = self._context.batch
        logits = [
            self._context.decode(
                np.array([held.tokens[i] for held, i in parts[start : start + size]]),
                np.array([i for _, i in parts[start : start + size]]),
                np.array([held.slot for held, _ in parts[start : start + size]]),
                np.array(wanted[start : start + size]),
            )
            for start in range(0, len(parts), size)
        ]
        return np.concatenate(logits)

    def alone(self, tokens: npt.NDArray[np.int64]) -> Floats:
        """Logits (1, vocabulary) after a sequence computed by itself: a function of its tokens."""
        if self._alone is None:
            self._alone = self._make_alone()
        self._alone.drop(0)
        logits = np.empty((0, 0), np.float32)
        for start in range(0, len(tokens), self._alone.batch):
            part = tokens[start : start + self._alone.batch]
            at = start + np.arange(len(part))
            logits = self._alone.decode(part, at, np.zeros_like(part), at == len(tokens) - 1)
        return logits

    def answer(self, admitted: Sequence[Admitted], sequences: Sequences) -> list[Admitted]:
        """Read the given tokens of questions, whose paths are computed: those that got their answer."""
        batch: list[tuple[Admitted, Given, Held]] = []
        size = 0
        for entry in admitted:
            question = entry.request
            if not isinstance(question, Given) or not sequences.has_room(but=entry.prefix):
                continue
            size += len(question.token_ids) * len(entry.prefix.output)
            if batch and size > BATCH_LOGITS:
                break
            sequence = sequences.fork(entry.prefix, len(entry.prefix.tokens))
            assert sequence is not None, "there was room"
            sequences.append(sequence, question.token_ids[:-1])
            sequences.reserved -= entry.limit
            question.computed_tokens += entry.limit
            batch.append((entry, question, sequence))
        parts = [
            (sequence, i)
            for entry, _, sequence in batch
            for i in range(len(entry.prefix.tokens), len(sequence.tokens))
        ]
        logits = self.run(parts, [True] * len(parts)) if parts else np.empty((0, 0), np.float32)
        for entry, question, sequence in batch:
            own, logits = logits[: entry.limit], logits[entry.limit :]
            after = [entry.prefix.output[None], *([own] if entry.limit else [])]
            question.logprobs = gathered(torch.from_numpy(np.concatenate(after)), question)
            sequences.release(sequence)
        return [entry for entry, _, _ in batch]

    def close(self) -> None:
        """Free llama.cpp's memory."""
        self._context.close()
        if self._alone is not None:
            self._alone.close()
