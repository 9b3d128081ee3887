"""The model seam: one method. Token ids in, token ids out wherever the backend allows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import ClassVar

from itscale.budget import Ledger, Price
from itscale.errors import OptionError, PromptError
from itscale.randomness import Randomness
from itscale.types import Path, Prompt, Sampling, Until

__all__ = ["TOLD_OF_TOKENS", "Came", "Capability", "Model", "WrappedModel", "check_plain", "in_words"]

Came = Callable[[int, Path], None]
"""Told of a child of a call: its number there, and itself."""


class Capability(StrEnum):
    """What a backend can do beyond sampling whole answers."""

    STEPS = "steps"
    """Continue a path and stop at a step boundary."""
    LOGPROBS = "logprobs"
    """Steps carry their log-probability."""
    SEEDS = "seeds"
    """The same path, sampling and seed give the same step."""
    TOKEN_STATISTICS = "token_statistics"  # noqa: S105  tokens of text, not a secret
    """Steps carry the log-probability and the entropy of every token, where `Sampling.top_logprobs` is as
    `Model.top_logprobs` says."""
    SELF_CERTAINTY = "self_certainty"
    """And the self-certainty of every token, for which the whole law has to be known."""
    GIVEN = "given"
    """Tell the log-probability of a given continuation (`logprobs_of`)."""
    FORCING = "forcing"
    """Continue a path with text of the method's own (`forced`)."""
    HIDDEN = "hidden"
    """Tell what the model holds at the end of a path (`hidden_states`)."""


TOLD_OF_TOKENS = frozenset({Capability.TOKEN_STATISTICS, Capability.SELF_CERTAINTY})
"""What some backends tell of tokens only when asked."""

_IN_WORDS = {
    Capability.STEPS: "answers made step by step",
    Capability.LOGPROBS: "the log-probabilities of steps",
    Capability.SEEDS: "seeds that repeat",
    Capability.TOKEN_STATISTICS: "the entropies of tokens",
    Capability.SELF_CERTAINTY: "the self-certainty of tokens",
    Capability.GIVEN: "the log-probabilities of a given continuation",
    Capability.FORCING: "answers that go on from text put into them",
    Capability.HIDDEN: "the model's hidden states",
}


def in_words(capabilities: Iterable[Capability]) -> str:
    """For a sentence: each as `doctor` names it, and what that is."""
    return ", ".join(f"{one.value} ({_IN_WORDS[one]})" for one in sorted(capabilities))


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
    def prefers_n(self) -> bool:
        """Whether n children of one path in one call cost less than in n calls."""
        return False

    @property
    def top_logprobs(self) -> int:
        """How many likeliest tokens it must be asked for so as to tell the statistics of a token.

        0 where it knows the whole law and always tells them, exactly. Otherwise they are asked for by
        `Sampling.top_logprobs`, at temperature 0 or 1 without top-p and top-k, and an entropy is the
        least that these tokens allow: exact where they have all the mass, else below the true one.
        """
        return 0

    @property
    def samples_together(self) -> bool:
        """Whether whole answers to one prompt cost less in one call of `extend_each` than in n calls."""
        return False

    @property
    def samples_alike(self) -> bool:
        """Whether an answer drawn from one of some `Neighbours` is the same, whichever of them are asked for
        in one call: what is drawn together can then be recorded, shared and gone on with one by one."""
        return True

    @property
    def identity(self) -> str:
        """What tells this model from every other whose answers differ; recordings are kept by it.

        For weights their fingerprint, for a server its address and the model's name there; never a
        key. The name by default. May take seconds to compute, so ask once.
        """
        return self.name

    @property
    def computing_s(self) -> float | None:
        """Seconds that its engine has computed so far; None where nobody measures it (servers)."""
        return None

    def why_not(self, missing: frozenset[Capability]) -> str:
        """Why it does not offer these, as a clause of a sentence; empty where there is no more to say."""
        del missing
        return ""

    def tells(self, sampling: Sampling, what: frozenset[Capability]) -> bool:
        """Whether what it offers to tell of tokens can be had, as far as `what`, of draws made like this."""
        del sampling, what
        return True

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

    async def extend_each(
        self,
        path: Path,
        n: int,
        until: Until,
        sampling: Sampling,
        rng: Randomness,
        ledger: Ledger,
        came: Came,
    ) -> list[Path]:
        """As `extend`; `came` is told of each child once, as soon as the backend has it whole.

        What was told stands, also if the call is cancelled or fails after it.
        """
        children = await self.extend(path, n, until, sampling, rng, ledger)
        for i, child in enumerate(children):
            came(i, child)
        return children

    async def logprobs_of(
        self, path: Path, token_ids: Sequence[int], sampling: Sampling, ledger: Ledger
    ) -> tuple[float, ...]:
        """Log-probability (nats) of each of `token_ids` given the path and those before it.

        Under the sampling distribution; at temperature 0, whose law has one outcome, under that of
        temperature 1, as `Step.logprob` is. -inf for a token that top-p or top-k leaves out.
        Charged as a call that reads and generates nothing, but for the token some servers make to answer.

        Raises:
            OptionError: this model does not offer `Capability.GIVEN`.
            ModelError: the call failed for good.
        """
        raise OptionError(
            f"model {self.name!r} does not tell the log-probability of a given continuation; "
            "use an in-process model (hf:PATH), or a server that does (itscale doctor says so)"
        )

    def forced(self, path: Path, text: str | Sequence[int]) -> Path:
        """`path` with one more step that says `text`, not drawn; free until something continues it.

        Token ids instead of a text are that very step, where the backend has ids.

        Raises:
            OptionError: this model does not offer `Capability.FORCING`.
        """
        raise OptionError(
            f"model {self.name!r} cannot continue text that it did not write; "
            "use an in-process model (hf:PATH), or a server that does (itscale doctor says so)"
        )

    async def hidden_states(self, path: Path, ledger: Ledger) -> tuple[float, ...]:
        """What the model holds at the path's last token: one vector, the same length for every path.

        For a transformer the outputs of some of its layers, one after the other. Charged as a call
        that reads and generates nothing.

        Raises:
            OptionError: this model does not offer `Capability.HIDDEN`.
            ModelError: the call failed for good.
        """
        raise OptionError(
            f"model {self.name!r} does not show its hidden states; use an in-process model (hf:PATH), "
            "or a probe on log-probabilities (features=logprobs)"
        )

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


class WrappedModel(Model):
    """A model that is another one but for what a subclass changes.

    It draws no samples together, as what `extend` changes would be missing, unless a subclass says that it
    has its own `extend_each`; and then only such as are `samples_alike`.
    """

    has_extend_each: ClassVar[bool] = False

    def __init__(self, model: Model) -> None:
        self.name = model.name
        self.capabilities = model.capabilities
        self.price = model.price
        self._model = model

    @property
    def identity(self) -> str:
        return self._model.identity

    @property
    def prefers_n(self) -> bool:
        return self._model.prefers_n

    @property
    def samples_together(self) -> bool:
        return self.has_extend_each and self._model.samples_together and self.samples_alike

    @property
    def samples_alike(self) -> bool:
        return self._model.samples_alike

    @property
    def top_logprobs(self) -> int:
        return self._model.top_logprobs

    @property
    def computing_s(self) -> float | None:
        return self._model.computing_s

    def why_not(self, missing: frozenset[Capability]) -> str:
        return self._model.why_not(missing)

    def tells(self, sampling: Sampling, what: frozenset[Capability]) -> bool:
        return self._model.tells(sampling, what)

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        return await self._model.extend(path, n, until, sampling, rng, ledger)

    async def logprobs_of(
        self, path: Path, token_ids: Sequence[int], sampling: Sampling, ledger: Ledger
    ) -> tuple[float, ...]:
        return await self._model.logprobs_of(path, token_ids, sampling, ledger)

    def forced(self, path: Path, text: str | Sequence[int]) -> Path:
        return self._model.forced(path, text)

    async def hidden_states(self, path: Path, ledger: Ledger) -> tuple[float, ...]:
        return await self._model.hidden_states(path, ledger)

    async def close(self) -> None:
        await self._model.close()
