"""The model seam: one method. Token ids in, token ids out wherever the backend allows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum

from itscale.budget import Ledger, Price
from itscale.errors import PromptError
from itscale.randomness import Randomness
from itscale.types import Path, Prompt, Sampling, Until

__all__ = ["Capability", "Model", "check_plain"]


class Capability(StrEnum):
    """What a backend can do beyond sampling whole answers."""

    STEPS = "steps"
    """Continue a path and stop at a step boundary."""
    LOGPROBS = "logprobs"
    """Steps carry their log-probability."""
    SEEDS = "seeds"
    """The same path, sampling and seed give the same step."""


class Model(ABC):
    """Proposes steps.

    Laws: stepwise greedy equals single-pass greedy, token for token; length is never called eos;
    child `i` of a call draws from `rng.child(i)`, so n samples differ under one seed; everything
    generated is charged to `ledger`, also when the call fails or is cancelled.
    """

    name: str
    capabilities: frozenset[Capability]
    price: Price | None = None

    @property
    def identity(self) -> str:
        """What tells this model from every other whose answers differ; recordings are kept by it.

        For weights their fingerprint, for a server its address and the model's name there; never a
        key. The name by default. May take seconds to compute, so ask once.
        """
        return self.name

    @abstractmethod
    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        """`n` children of `path`, each with one more step.

        With `until.what == "end"` each is a descendant with the whole rest: one node a step, up to
        the end of the answer or `until.max_tokens`.

        Raises:
            ModelError: the call failed for good.
            PromptError: this model cannot read the prompt.
        """

    async def close(self) -> None:  # noqa: B027  most models have nothing to release
        """Release what the model holds; using it afterwards is an error."""


def check_plain(prompt: Prompt, model: str) -> None:
    """For a backend that reads roles and texts: refuse whatever the prompt says beyond them.

    Raises:
        PromptError: it has tool calls, content in parts, or fields of a request.
    """
    if prompt.more:
        raise PromptError(
            f"{model} reads plain messages and cannot honour {', '.join(prompt.more)}; "
            "use a chat server (openai:MODEL@URL), or leave that out"
        )
