"""A process reward model in this process: `embedded` and `hf:PATH`.

A decoder read at the last token of every step: the probability that an answer which begins like this
ends right (or that this step is right: what a model was trained for is its authors' affair). Which
token that is, and what the head says there, depends on the kind of model (`scorers/prm_kinds.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any

from itscale.budget import Ledger
from itscale.errors import ModelError, ScorerError
from itscale.models.in_process import DEFAULT_MEMORY_BYTES, Checkpoint, PromptReader
from itscale.models.local import fingerprint, load_pretrained
from itscale.scorers.base import ProcessScorer
from itscale.scorers.prm_kinds import PrmKind, kind_of_folder, named_kind
from itscale.types import End, Path

__all__ = ["LocalProcessScorer"]

DEFAULT_ROWS = 256


class LocalProcessScorer(ProcessScorer):
    """A process reward model in this process; a prefix already scored is not computed again.

    Args:
        model: gives logits of (wrong, right) at every token.
        tokens_of: the tokens a node adds to its parent's, judged at the last of them. Raises for a
            prompt or a step that this model cannot judge.
    """

    plain_only = True

    def __init__(
        self, model: Any, name: str, memory: int, tokens_of: Callable[[Path], Sequence[int]]
    ) -> None:
        from itscale.models.engine.forward import CachedForward
        from itscale.models.engine.judge import Judge

        self.name = name
        self.tokens_of = tokens_of
        self._identity: Callable[[], str] = lambda: name
        self.engine = Judge(
            CachedForward(model, limit_bytes=memory),
            prompt_tokens=tokens_of,
            step_tokens=tokens_of,
            max_context=_context_without_window(model.config.get_text_config()),
            max_rows=DEFAULT_ROWS,
        )

    @classmethod
    def load(
        cls,
        folder: FilePath,
        *,
        kind: str | None = None,
        name: str | None = None,
        kv_memory_bytes: int = DEFAULT_MEMORY_BYTES,
    ) -> LocalProcessScorer:
        """The scorer in a checkpoint folder, of the kind its config says if none is given.

        Raises:
            OptionError: torch or transformers are not installed, or the kind is unknown.
            ModelError: the folder holds no whole checkpoint of that kind.
        """
        facts = Checkpoint.read(folder)
        known = named_kind(kind) if kind else kind_of_folder(folder)
        label = name or (f"hf:{folder}#kind={kind}" if kind else f"hf:{folder}")
        model, tokens_of = _own(folder, facts) if known.layout is None else _published(folder, known)
        loaded = cls(model, label, kv_memory_bytes, tokens_of)
        suffix = "" if known.layout is None else f"#{known.name}"
        loaded._identity = lambda: fingerprint(folder) + suffix
        return loaded

    @property
    def identity(self) -> str:
        return self._identity()

    @property
    def computing_s(self) -> float:
        return self.engine.computing_s

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        for node in path.nodes():
            added = self.tokens_of(node)  # what cannot be judged is refused before the engine sees it
            if node.depth == 1 and not added:
                raise ScorerError(
                    f"{self.name} cannot judge a first step without a token; use another scorer"
                )
        request = await self.engine.score(path)
        ledger.charge_scorer(tokens=request.computed_tokens)
        if request.cancelled:
            raise asyncio.CancelledError
        if request.error is not None:
            raise request.error
        return request.scores

    async def close(self) -> None:
        self.engine.close()


def _own(folder: FilePath, facts: Checkpoint) -> tuple[Any, Callable[[Path], Sequence[int]]]:
    """A token-classification model over the reasoner's own token ids."""
    model, tokenizer = load_pretrained(folder, "AutoModelForTokenClassification")
    if model.config.num_labels != 2:
        raise ModelError(
            f"{folder} has {model.config.num_labels} labels; a process reward model has two, wrong and right"
        )
    prompts = PromptReader(tokenizer, facts)

    def tokens_of(path: Path) -> Sequence[int]:
        step = path.step
        if step is None:
            return prompts.ids(path.prompt.judged)
        if step.token_ids or not (step.text or step.n_tokens):
            return step.token_ids
        # A server that tells text alone: it is spelled as this scorer's own reasoner would have.
        ids = tuple(tokenizer(step.text, add_special_tokens=False).input_ids)
        return (*ids, tokenizer.eos_token_id) if step.end is End.EOS else ids

    return model, tokens_of


def _published(folder: FilePath, kind: PrmKind) -> tuple[Any, Callable[[Path], Sequence[int]]]:
    """A model of a known kind, that reads text and spells it itself."""
    assert kind.layout is not None
    whole = kind.head == "tokens"
    with _unexpected_is_expected():
        model, tokenizer = load_pretrained(folder, "AutoModelForCausalLM" if whole else "AutoModel")
    layout = kind.layout(tokenizer)
    from itscale.models.engine import headed

    if kind.head == "tokens":
        head, trunk = headed.head_of_tokens(model, layout.labels), model.base_model
    elif kind.head == "two layers":
        names = [f"score.{layer}.{what}" for layer in (0, 2) for what in ("weight", "bias")]
        head, trunk = headed.head_of_two_layers(headed.stored_tensors(folder, names)), model
    else:
        names = [f"v_head.summary.{what}" for what in ("weight", "bias")]
        head, trunk = headed.head_of_value(headed.stored_tensors(folder, names)), model
    return headed.Headed(trunk, head), layout.tokens


@contextmanager
def _unexpected_is_expected() -> Iterator[None]:
    """No warning for tensors the trunk does not know: they are the head's, read by ourselves."""
    logger = logging.getLogger("transformers.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _context_without_window(config: Any) -> int:
    """How many tokens the model may be given; up to its sliding window attention is plain attention."""
    context = int(config.max_position_embeddings)
    window = getattr(config, "sliding_window", None)
    if window is not None:
        context = min(context, int(window))
        config.sliding_window = None
    return context
