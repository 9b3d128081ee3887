"""A causal language model in this process: `embedded` and `hf:PATH`.

Whatever `transformers` loads from a folder, driven by the batching engine. A folder may carry an
`itscale.json` that says how steps end and what prompts the model was made for.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from itscale.budget import Ledger
from itscale.errors import ModelError, OptionError, PromptError
from itscale.models.base import Capability, Model, check_plain
from itscale.randomness import Randomness
from itscale.types import End, Path, Prompt, Sampling, Step, Until

if TYPE_CHECKING:
    from itscale.models.engine.given import Given

__all__ = [
    "DEFAULT_MEMORY_BYTES",
    "Checkpoint",
    "LocalModel",
    "PromptReader",
    "fingerprint",
    "load_pretrained",
]

DEFAULT_MEMORY_BYTES = 2 * 1024**3
DEFAULT_ROWS = 256


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


def load_pretrained(folder: FilePath, kind: str) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, float32 on the CPU and the stored type on a GPU.

    `kind` is the transformers auto class, `AutoModelForCausalLM` say.

    Raises:
        OptionError: torch or transformers are not installed.
        ModelError: the folder is incomplete or broken.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise OptionError(f'in-process models need torch: pip install "itscale[local]" ({error})') from error
    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise ModelError(
            f"no usable tokenizer in {folder} ({_first_line(error)}); copy tokenizer.json and "
            "tokenizer_config.json beside the weights"
        ) from error
    try:
        model, report = getattr(transformers, kind).from_pretrained(
            str(folder),
            local_files_only=True,
            dtype=torch.float32 if device == "cpu" else "auto",
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelError(
            f"cannot load the weights in {folder} ({_first_line(error)}); "
            "the files are incomplete or broken, so copy them again"
        ) from error
    missing = report["missing_keys"] or report["mismatched_keys"]
    if missing:
        raise ModelError(
            f"the weights in {folder} lack {min(map(str, missing))} and {len(missing) - 1} more; "
            f"they are not a whole {kind.removeprefix('AutoModelFor')} checkpoint, so copy them again"
        )
    return model.to(device), tokenizer


def fingerprint(folder: FilePath) -> str:
    """A hash of every file of a checkpoint folder that has a say in what it answers, `local:` before.

    Weights, configuration, tokenizer, chat template and `itscale.json`; the same wherever the folder
    lies and whatever it is called. Reads all weights once (about a second a gigabyte).
    """
    deciding = {".json", ".jinja", ".safetensors", ".bin", ".model", ".txt"}
    total = hashlib.blake2b(digest_size=16)
    for file in sorted(folder.iterdir()):
        if file.suffix in deciding and file.is_file():
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "blake2b").hexdigest()
            total.update(f"{file.name} {digest}\n".encode())
    return f"local:{total.hexdigest()}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
                f"the model's chat template refused the messages: {_first_line(error)}"
            ) from error
        return tuple(self._tokenizer(text, add_special_tokens=False).input_ids)


class LocalModel(Model):
    """A causal language model in this process."""

    capabilities = frozenset(Capability)

    def __init__(
        self, model: Any, tokenizer: Any, facts: Checkpoint, name: str, memory: int, rows: int
    ) -> None:
        from itscale.models.engine.forward import CachedForward
        from itscale.models.engine.generator import Generator

        self.name = name
        self._folder: FilePath | None = None
        self.prompts = PromptReader(tokenizer, facts)
        fast = tokenizer.backend_tokenizer
        vocabulary = int(model.get_input_embeddings().weight.shape[0])
        eos = model.generation_config.eos_token_id if model.generation_config else None
        eos = tokenizer.eos_token_id if eos is None else eos

        def text_of(before: Sequence[int], ids: Sequence[int]) -> str:
            return str(fast.decode([*before, *ids]))[len(fast.decode(before)) :]

        self._tokenizer = tokenizer
        self._text_of = text_of
        self.engine = Generator(
            CachedForward(model, limit_bytes=memory),
            prompt_tokens=self.prompts.of_path,
            text_of=text_of,
            vocabulary=vocabulary,
            boundary_ids=[i for i in range(len(tokenizer)) if fast.decode([i]).endswith(facts.boundary)],
            eos_ids=eos if isinstance(eos, list) else [eos],
            max_context=int(model.config.get_text_config().max_position_embeddings),
            max_rows=rows,
        )

    @classmethod
    def load(
        cls,
        folder: FilePath,
        *,
        name: str | None = None,
        kv_memory_bytes: int = DEFAULT_MEMORY_BYTES,
        max_rows: int = DEFAULT_ROWS,
    ) -> LocalModel:
        """The model in a checkpoint folder.

        `kv_memory_bytes` limits keys and values: prefixes nobody uses are evicted (and computed
        again if needed), rows beyond it wait, and a path too long even alone raises
        MemoryLimitError. `max_rows` is the largest batch.

        Raises:
            OptionError: torch or transformers are not installed.
            ModelError: the folder holds no whole checkpoint.
        """
        facts = Checkpoint.read(folder)
        model, tokenizer = load_pretrained(folder, "AutoModelForCausalLM")
        loaded = cls(model, tokenizer, facts, name or f"hf:{folder}", kv_memory_bytes, max_rows)
        loaded._folder = folder
        return loaded

    @property
    def identity(self) -> str:
        return fingerprint(self._folder) if self._folder else self.name

    @property
    def computing_s(self) -> float:
        return self.engine.computing_s

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

    async def logprobs_of(
        self, path: Path, token_ids: Sequence[int], sampling: Sampling, ledger: Ledger
    ) -> tuple[float, ...]:
        self.prompts.of_path(path)
        if not token_ids:
            return ()
        question = await self.engine.given(path, token_ids, sampling)
        self._charge(question, ledger)
        return question.logprobs

    async def hidden_states(self, path: Path, ledger: Ledger) -> tuple[float, ...]:
        """Outputs of the layers at half and three quarters of the depth, and of the last one."""
        self.prompts.of_path(path)
        question = await self.engine.hidden(path)
        self._charge(question, ledger)
        return question.states

    @staticmethod
    def _charge(question: Given, ledger: Ledger) -> None:
        """Of a question to the engine; raises what it ended in."""
        cached = max(0, question.prompt_tokens - question.computed_tokens)
        ledger.charge_model(prompt=question.prompt_tokens, cached=cached, generated=0)
        if question.cancelled:
            raise asyncio.CancelledError
        if question.error is not None:
            raise question.error

    def forced(self, path: Path, text: str | Sequence[int]) -> Path:
        """Its text is what the tokens say: a tokenizer that puts the spaces itself drops ours."""
        if isinstance(text, str):
            ids = tuple(self._tokenizer(text, add_special_tokens=False).input_ids)
            said = self._text_of(path.token_ids, ids) or text
        else:
            ids, said = tuple(text), self._text_of(path.token_ids, text)
        return path.child(Step(ids, said, End.BOUNDARY, forced=True))

    async def close(self) -> None:
        self.engine.close()
