"""A model behind an OpenAI-compatible server.

Laws kept here: every request is charged from the server's usage, or from the tokens it showed where
that is more; each child has a seed of its own; n children come in one request where the server
honours `n`, and in n requests where it does not, which is noticed and said; a cancelled call closes
its connection; a failed request costs its child alone. Where the server streams, what had come of a
request that was cancelled, cut off or timed out is charged to the token.

Not covered: tokens a server generated that were still on their way when a request was given up.
Where it does not stream, nothing is known of those of such a request (its prompt is charged, where
its tokens are known).
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from itscale.budget import Ledger, Price
from itscale.errors import ModelError, OptionError
from itscale.models.base import Came, Capability, Model
from itscale.models.openai.address import Address, find_key
from itscale.models.openai.asking import Asking, Early, Heard
from itscale.models.openai.client import Endpoint
from itscale.models.openai.dialects import ChatDialect, Dialect, Facts, TokenDialect
from itscale.models.openai.failures import Refused, Unanswered
from itscale.models.openai.given import given_logprobs
from itscale.models.openai.llama import LlamaDialect
from itscale.models.openai.probe import chat_facts, probe
from itscale.models.openai.wire import Choice
from itscale.randomness import Neighbours, Randomness
from itscale.types import End, Path, Prompt, Sampling, Step, Until

__all__ = ["OpenAIModel"]

_LOG = logging.getLogger(__name__)
_DIALECTS: dict[str, type[Dialect]] = {"token": TokenDialect, "llama": LlamaDialect, "chat": ChatDialect}
_SEEDS = 2**31
_NOTHING = Step((), "", End.LENGTH, 0.0, token_logprobs=(), token_entropies=(), token_certainties=())
_IMPROBABLE = math.log(1e-6)


class OpenAIModel(Model):
    """One model on one server, through the dialect a probe found.

    Models made with the same endpoint share its connections and its limit on requests in flight.
    """

    def __init__(self, endpoint: Endpoint, facts: Facts, *, price: Price | None = None) -> None:
        self.name = f"openai:{facts.model}@{endpoint.address.url}"
        self.capabilities = facts.capabilities
        self.price = price
        self.endpoint = endpoint
        self._dialect = _DIALECTS[facts.dialect](endpoint, facts)
        self._chat: Dialect | None = None
        self._settling = asyncio.Lock()

    @classmethod
    async def connect(cls, endpoint: Endpoint, *, price: Price | None = None) -> OpenAIModel:
        """Probe a server and be ready.

        Raises:
            OptionError: the server has no such model.
            ModelError: it cannot be reached, refuses, or does not speak the protocol.
        """
        return cls(endpoint, await probe(endpoint), price=price)

    @classmethod
    def load(cls, text: str, *, endpoint: Callable[..., Endpoint] = Endpoint) -> OpenAIModel:
        """The model at `MODEL@URL`, its key taken from the environment or the address's key file.

        Probes the server, in a thread of its own, so it may be called with or without a running loop.

        Raises:
            OptionError: the address is none, or the server has no such model.
            ModelError: the server cannot be reached, refuses, or does not speak the protocol.
        """
        address = Address.parse(text)
        reached = endpoint(address, find_key(address, os.environ))
        return cls(reached, reached.alone(lambda: probe(reached)))

    @property
    def facts(self) -> Facts:
        """What the server honours; `n` is corrected when it turns out not to."""
        return self._dialect.facts

    @property
    def prefers_n(self) -> bool:
        return self.facts.n and self.facts.each

    @property
    def samples_together(self) -> bool:
        # In one piece an answer of several texts would be lost to a deadline with all that are whole.
        return self.facts.n and self.facts.streams is not None

    @property
    def samples_alike(self) -> bool:
        return self.facts.counts_up

    @property
    def top_logprobs(self) -> int:
        return self.facts.top_logprobs or 0

    @property
    def left_out(self) -> float:
        """The most probability (linear) that entropies told so far have left out at one place."""
        return self._dialect.left_out if isinstance(self._dialect, TokenDialect) else 0.0

    @property
    def identity(self) -> str:
        return f"{self.name}#boundary={self.endpoint.address.boundary!r}"

    def why_not(self, missing: frozenset[Capability]) -> str:
        if Capability.TOKEN_STATISTICS in missing and self.facts.dialect == "chat":
            return (
                "a chat server tells no token ids: which tokens of a step it told the likeliest ones for is "
                "not known, and it reads the step anew to go on from it, perhaps as other tokens"
            )
        return ""

    def tells(self, sampling: Sampling, what: frozenset[Capability]) -> bool:
        del what
        return sampling.plain

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r}, dialect={self.facts.dialect!r})"

    async def extend(
        self,
        path: Path,
        n: int,
        until: Until,
        sampling: Sampling,
        rng: Randomness,
        ledger: Ledger,
        *,
        heard: Heard | None = None,
    ) -> list[Path]:
        """As every model does.

        `heard` is told what is said as it arrives, where the server streams; a delta's index is that of
        its child. What was heard cannot be taken back, so such a request is not made again once it broke.
        """
        asking = await self._asking(path, until, sampling, ledger, heard)
        if asking is None:
            return [path.child(_NOTHING) for _ in range(n)]
        return await _children(asking, n, rng, None)

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
        asking = await self._asking(path, until, sampling, ledger, None)
        if asking is None:
            return await super().extend_each(path, n, until, sampling, rng, ledger, came)
        return await _children(asking, n, rng, came)

    async def _asking(
        self, path: Path, until: Until, sampling: Sampling, ledger: Ledger, heard: Heard | None
    ) -> Asking | None:
        """What all requests for children of a path share; None if the context is full."""
        if sampling.top_logprobs and not sampling.plain:
            raise OptionError(
                f"{self.name} tells the statistics of tokens at temperature 1 without top-p and top-k; "
                "use these, or a model in this process (hf:PATH)"
            )
        if self.facts.method_on is not None and ledger.limits_tokens:
            raise OptionError(
                f"{self.name} is a method of an itscale gateway, which generates more than it shows, so no "
                "limit on tokens or dollars can be kept; leave it out, or run the method here on the model "
                f"itself: openai:{self.facts.method_on}@{self.endpoint.address.url}"
            )
        dialect = await self._dialect_for(path.prompt)
        request = await dialect.request(path, until, sampling)
        if request is None:
            return None
        if dialect.facts.slots:
            # What waits there waits on a thread that every token wakes up; here it costs nothing.
            self.endpoint.concurrency.cap(2 * dialect.facts.slots)
        return Asking(dialect, path, request, sampling, ledger, heard)

    async def logprobs_of(
        self, path: Path, token_ids: Sequence[int], sampling: Sampling, ledger: Ledger
    ) -> tuple[float, ...]:
        facts, last = self.facts, len(token_ids)
        if facts.given is None:
            return await super().logprobs_of(path, token_ids, sampling, ledger)
        if not sampling.plain:
            raise OptionError(
                f"{self.name} tells log-probabilities at temperature 1 without top-p and top-k; "
                "use these, or a model in this process (hf:PATH)"
            )
        if not token_ids:
            return ()
        ids = [*await self._dialect.ids_of(path), *token_ids]
        return await given_logprobs(self.endpoint, facts.model, facts.given, ids, last, ledger)

    async def ids_of(self, prompt: Prompt) -> list[int] | None:
        """The token ids the server's model reads a prompt as; None where the server does not tell.

        Raises:
            PromptError: the server's chat template refused it.
            ModelError: the server could not be asked.
        """
        return None if self.facts.dialect == "chat" else await self._dialect.ids_of(Path.root(prompt))

    def forced(self, path: Path, text: str | Sequence[int]) -> Path:
        if Capability.FORCING not in self.capabilities:
            return super().forced(path, text)
        if not isinstance(text, str):
            raise OptionError(
                f"{self.name} is told what to continue in text, not in token ids; "
                "use a model in this process (hf:PATH)"
            )
        return path.child(Step((), text, End.BOUNDARY, counted=0, forced=True))

    async def close(self) -> None:
        await self.endpoint.close()

    async def _dialect_for(self, prompt: Prompt) -> Dialect:
        """Token ids carry texts alone; whatever else a prompt says goes to the chat endpoint."""
        if self.facts.dialect == "chat" or not prompt.more:
            return self._dialect
        async with self._settling:
            if self._chat is None:
                facts = await chat_facts(self.endpoint, self.facts.model, self.facts.max_context)
                if self.samples_alike and not facts.counts_up:
                    facts = replace(facts, n=False)  # one by one then, so that they are
                self._chat = ChatDialect(self.endpoint, facts)
        return self._chat


async def _children(asking: Asking, n: int, rng: Randomness, came: Came | None) -> list[Path]:
    """Up to n children in the order of their numbers, each told to `came` as soon as it is whole."""
    dialect, refused = asking.dialect, False
    early = Early(came or _nobody, n)
    if n > 1 and _is_one_request(asking, n, rng, streamed=came is not None):
        try:
            await _together(asking, n, rng, early, at_once=came is not None)
        except Refused as error:
            if error.status not in (400, 422, 501):
                raise
            refused = True
        except Unanswered as error:
            if asking.heard is not None or error.status == 504:
                raise  # what was heard cannot be taken back, and n more such waits nobody wants
            if asking.ledger.left < 0:
                raise  # what was lost is paid for, and the rest would go beyond a limit
            # Each alone then, so that a failure is one child's.
    if missing := [i for i in range(n) if i not in early.told]:
        await _apart(asking, missing, rng, early)
    if refused:
        _distrust_n(dialect, "refuses n in a request")
    return [early.told[i] for i in sorted(early.told)]


def _is_one_request(asking: Asking, n: int, rng: Randomness, *, streamed: bool) -> bool:
    """Whether several children are asked for in one request, which has to come in pieces if `streamed`."""
    facts = asking.dialect.facts
    if streamed and facts.streams is None:
        return False
    if rng.seed % _SEEDS + n > _SEEDS:
        return False  # a server counts beyond, and one by one they would start anew
    # Greedy children are asked for one by one: servers refuse n at temperature 0.
    return facts.n and asking.sampling.temperature > 0 and (facts.each or asking.request.until.what == "end")


def _nobody(_number: int, _child: Path) -> None:
    """Wants to know of no child."""


async def _together(asking: Asking, n: int, rng: Randomness, early: Early, *, at_once: bool) -> None:
    """Children out of one request: n, or fewer where the server did not do as it was told."""
    dialect = asking.dialect
    choices, children = await asking.ask({"n": n} | _seed(dialect, rng.seed), early if at_once else None)
    if len(choices) < n:
        _distrust_n(dialect, f"gave {len(choices)} of {n} texts in one request")
    elif _copies(choices, asking.sampling):
        _distrust_n(dialect, f"gave {n} equal samples in one request")
        del children[1:]
    for number, child in zip(early.numbers or range(n), children, strict=False):
        early.tell(number, child)


async def _apart(asking: Asking, which: Sequence[int], rng: Randomness, early: Early) -> None:
    """The numbered children, each from a request of its own; those that failed are missing."""
    neighbours = asking.dialect.facts.counts_up and isinstance(rng, Neighbours)

    async def one(i: int) -> None:
        own = rng.seed + i if neighbours else rng.child(i).seed
        _, [child, *_] = await asking.for_child(i).ask(_seed(asking.dialect, own))
        early.tell(i, child)

    if len(which) == 1 and not early.told:  # nobody to wait for beside it
        await one(which[0])
        return
    answers = await asyncio.gather(*map(one, which), return_exceptions=True)
    failures = []
    for answer in answers:
        if isinstance(answer, ModelError):
            failures.append(answer)
        elif isinstance(answer, BaseException):
            raise answer
    if failures and not early.told:
        asking.ledger.failed_calls += len(failures) - 1  # whoever called counts the one it sees
        raise failures[0]
    asking.ledger.failed_calls += len(failures)


def _seed(dialect: Dialect, seed: int) -> dict[str, int]:
    return {"seed": seed % _SEEDS} if dialect.facts.takes_seed else {}


def _distrust_n(dialect: Dialect, why: str) -> None:
    """From now on a request a child."""
    if dialect.facts.n:
        dialect.facts = replace(dialect.facts, n=False)
        _LOG.warning("%s %s; itscale now sends a request for each", dialect.endpoint.address.url, why)


def _copies(choices: tuple[Choice, ...], sampling: Sampling) -> bool:
    """Whether samples are so equal that independent draws would agree once in a million times at most."""
    first = choices[0]
    said = first.token_ids if first.token_ids is not None else first.pieces
    if (
        first.logprobs is None
        or said is None
        or sampling.temperature < 1
        or sampling.top_p < 1
        or sampling.top_k
    ):
        return False
    if any((c.token_ids if c.token_ids is not None else c.pieces) != said for c in choices):
        return False
    return (len(choices) - 1) * math.fsum(first.logprobs) < _IMPROBABLE
