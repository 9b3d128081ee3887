"""A causal language model in this process: `embedded` and `hf:PATH`.

Whatever `transformers` loads from a folder, driven by the batching engine. A folder may carry an
`itscale.json` that says how steps end and what prompts the model was made for.
"""

from __future__ import annotations

import hashlib
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from itscale.budget import Ledger
from itscale.errors import ModelError, OptionError
from itscale.models.base import Capability
from itscale.models.in_process import (
    DEFAULT_MEMORY_BYTES,
    Checkpoint,
    EngineModel,
    boundary_ids,
    first_line,
    settle,
    speller,
)
from itscale.types import Path

if TYPE_CHECKING:
    from itscale.models.engine.generator import Generator

__all__ = ["LocalModel", "fingerprint", "load_pretrained"]

DEFAULT_ROWS = 256


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
            f"no usable tokenizer in {folder} ({first_line(error)}); copy tokenizer.json and "
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
            f"cannot load the weights in {folder} ({first_line(error)}); "
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


class LocalModel(EngineModel):
    """A causal language model in this process."""

    capabilities = frozenset(Capability)
    engine: Generator

    def __init__(
        self, model: Any, tokenizer: Any, facts: Checkpoint, name: str, memory: int, rows: int
    ) -> None:
        from itscale.models.engine.forward import CachedForward
        from itscale.models.engine.generator import Generator
        from itscale.models.engine.request import Ending

        text_of = speller(tokenizer.backend_tokenizer.decode)
        super().__init__(name, tokenizer, facts, text_of)
        self._folder: FilePath | None = None
        eos = model.generation_config.eos_token_id if model.generation_config else None
        eos = tokenizer.eos_token_id if eos is None else eos
        self.engine = Generator(
            CachedForward(model, limit_bytes=memory),
            prompt_tokens=self.prompts.of_path,
            text_of=text_of,
            ending=Ending.of(
                int(model.get_input_embeddings().weight.shape[0]),
                boundary_ids(text_of, range(len(tokenizer)), facts),
                eos if isinstance(eos, list) else [eos],
            ),
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

    async def hidden_states(self, path: Path, ledger: Ledger) -> tuple[float, ...]:
        """Outputs of the layers at half and three quarters of the depth, and of the last one."""
        self.prompts.of_path(path)
        question = await self.engine.hidden(path)
        settle(question, 0, ledger)
        return question.states
