"""What models in this process share: how a prompt becomes token ids, and how an engine is asked.

A checkpoint (a folder or a GGUF file) may say how steps end and what prompts the model was made for,
in an `itscale.json`. An `EngineModel` turns the calls of the seam into requests to an engine and its
answers into paths and charges; which engine, and where the weights come from, is the subclass's.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from itscale.budget import Ledger
from itscale.errors import ModelError, PromptError
from itscale.models.base import Model, check_plain
from itscale.randomness import Randomness
from itscale.types import End, Path, Prompt, Sampling, Step, Until

if TYPE_CHECKING:
    from itscale.models.engine.request import Engine, Given, Request

__all__ = [
    "DEFAULT_MEMORY_BYTES",
    "Checkpoint",
    "EngineModel",
    "PromptReader",
    "SpelledBy",
    "boundary_ids",
    "first_line",
    "forced_by",
    "settle",
    "speller",
]

DEFAULT_MEMORY_BYTES = 2 * 1024**3
SpelledBy = Callable[[Sequence[int], Sequence[int]], str]
"""`text_of(before, ids)`: what the newest token ids say, given some before them."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint folder says of itself beyond its weights (`itscale.json`, all optional)."""

    boundary: str = "\n\n"
    """Text on which a reasoning step ends."""
    prompts: tuple[str, ...] = ()
    """Regular expressions; a question that matches none is refused. None given: any is answered."""
    knows: str = ""
    """A sentence for the refusal: what can be asked."""

    @classmethod
    def read(cls, folder: FilePath) -> Checkpoint:
        """Raises ModelError if `folder` holds no checkpoint or a broken `itscale.json`."""
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"{folder} is not a checkpoint folder (no config.json); "
                "point to a folder written by save_pretrained"
            )
        file = folder / "itscale.json"
        if not file.is_file():
            return cls()
        return cls.parse(file.read_text(), str(file))

    @classmethod
    def parse(cls, text: str, where: str) -> Checkpoint:
        """The facts in an `itscale.json`. Raises ModelError if it is broken; `where` says whose it is."""
        try:
            facts = json.loads(text)
            return cls(facts["boundary"], tuple(facts["prompts"]), facts["knows"])
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{where} is broken ({error!r}); restore it from the release, or delete it"
            ) from error


class PromptReader:
    """Token ids of prompts, as a checkpoint's chat template writes them."""

    def __init__(self, tokenizer: Any, facts: Checkpoint) -> None:
        self._tokenizer = tokenizer
        self._facts = facts
        self._patterns = [re.compile(p) for p in facts.prompts]
        self.ids = lru_cache(maxsize=4096)(self._ids)

    def of_path(self, path: Path) -> Sequence[int]:
        """Token ids of a path's prompt."""
        return self.ids(path.prompt)

    def _ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Raises PromptError if the model was not made for this prompt."""
        check_plain(prompt, "a model in this process")
        question = prompt.question.strip()
        if self._patterns and not any(p.fullmatch(question) for p in self._patterns):
            raise PromptError(f"the model cannot read this prompt; {self._facts.knows}")
        if prompt.raw is not None:
            ids = tuple(self._tokenizer(prompt.raw).input_ids)
            if not ids:
                raise PromptError(
                    "the prompt is empty and the model needs a token to begin from; say something"
                )
            return ids
        messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
        try:
            text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception as error:
            raise PromptError(
                f"the model's chat template refused the messages: {first_line(error)}"
            ) from error
        return tuple(self._tokenizer(text, add_special_tokens=False).input_ids)


class EngineModel(Model):
    """A model whose tokens an engine draws, on a thread of this process."""

    engine: Engine
    """Set by the subclass."""

    def __init__(self, name: str, tokenizer: Any, facts: Checkpoint, text_of: SpelledBy) -> None:
        self.name = name
        self.prompts = PromptReader(tokenizer, facts)
        self._tokenizer = tokenizer
        self._text_of = text_of

    @property
    def computing_s(self) -> float:
        return self.engine.computing_s

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        self.prompts.of_path(path)  # refuse a prompt before the engine sees it
        seeds = [rng.child(i).seed for i in range(n)]
        request = await self.engine.extend(path, until, sampling, seeds)
        settle(request, request.generated_tokens, ledger)
        return [request.children[i] for i in range(n)]

    async def logprobs_of(
        self, path: Path, token_ids: Sequence[int], sampling: Sampling, ledger: Ledger
    ) -> tuple[float, ...]:
        self.prompts.of_path(path)
        if not token_ids:
            return ()
        question = await self.engine.given(path, token_ids, sampling)
        settle(question, 0, ledger)
        return question.logprobs

    def forced(self, path: Path, text: str | Sequence[int]) -> Path:
        return forced_by(self._tokenizer, self._text_of, path, text)

    async def close(self) -> None:
        self.engine.close()


def forced_by(tokenizer: Any, text_of: SpelledBy, path: Path, text: str | Sequence[int]) -> Path:
    """The path with `text` (or token ids) put behind it.

    Its text is what the tokens say: a tokenizer that puts the spaces itself drops ours.
    """
    if isinstance(text, str):
        ids = tuple(tokenizer(text, add_special_tokens=False).input_ids)
        said = text_of(path.token_ids, ids) or text
    else:
        ids, said = tuple(text), text_of(path.token_ids, text)
    return path.child(Step(ids, said, End.BOUNDARY, forced=True))


def settle(asked: Request | Given, generated: int, ledger: Ledger) -> None:
    """Charge what an answer cost; raises what it ended in."""
    cached = max(0, asked.prompt_tokens - asked.computed_tokens)
    ledger.charge_model(prompt=asked.prompt_tokens, cached=cached, generated=generated)
    if asked.cancelled:
        raise asyncio.CancelledError
    if asked.error is not None:
        raise asked.error


def speller(decode: Callable[[Sequence[int]], Any]) -> SpelledBy:
    """From a tokenizer's `decode`. Spaces and characters of several tokens come out right."""

    def text_of(before: Sequence[int], ids: Sequence[int]) -> str:
        return str(decode([*before, *ids]))[len(decode(before)) :]

    return text_of


def boundary_ids(text_of: SpelledBy, vocabulary: Iterable[int], facts: Checkpoint) -> list[int]:
    """Tokens that end a step: those whose own text ends on the boundary."""
    return [i for i in vocabulary if text_of((), (i,)).endswith(facts.boundary)]


def first_line(error: Exception) -> str:
    """Of what an error says, at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
