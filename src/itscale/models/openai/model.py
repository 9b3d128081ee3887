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
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from itscale.budget import Ledger, Price
from itscale.errors import ModelError
from itscale.models.base import Model
from itscale.models.openai.address import Address, find_key
from itscale.models.openai.client import Call, Endpoint
from itscale.models.openai.dialects import ChatDialect, Dialect, Facts, Request, TokenDialect
from itscale.models.openai.failures import Refused
from itscale.models.openai.llama import LlamaDialect
from itscale.models.openai.probe import probe
from itscale.models.openai.stream import Delta
from itscale.models.openai.wire import Choice, Malformed, Reply, counts_in
from itscale.randomness import Randomness
from itscale.types import End, Path, Sampling, Step, Until

__all__ = ["OpenAIModel"]

_LOG = logging.getLogger(__name__)
_DIALECTS: dict[str, type[Dialect]] = {"token": TokenDialect, "llama": LlamaDialect, "chat": ChatDialect}
_SEEDS = 2**31
_IMPROBABLE = math.log(1e-6)


class OpenAIModel(Model):
    """One model on one server, through the dialect a probe found.

    Models made with the same endpoint share its connections and its limit on requests in flight.
    """

    def __init__(self, endpoint: Endpoint, facts: Facts, *, price: Price | None = None) -> None:
        self.name = f"openai:{facts.model}@{endpoint.address.url}"
        self.capabilities = facts.capabilities
        self.price = price
        self.facts = facts
        """What the server honours; `n` and `stop` are corrected when it turns out not to."""
        self.endpoint = endpoint
        self._dialect = _DIALECTS[facts.dialect](endpoint, facts)

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
        found: list[Facts | BaseException] = []

        async def look() -> Facts:
            try:
                return await probe(reached)
            finally:
                await reached.close()

        def run() -> None:
            try:
                found.append(asyncio.run(look()))
            except BaseException as error:  # noqa: BLE001  raised again in the thread that asked
                found.append(error)

        thread = threading.Thread(target=run, name="itscale-probe", daemon=True)
        thread.start()
        thread.join()
        [facts] = found
        if isinstance(facts, BaseException):
            raise facts
        return cls(reached, facts)

    @property
    def identity(self) -> str:
        return f"{self.name}#boundary={self.endpoint.address.boundary!r}"

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
        heard: Callable[[Delta], None] | None = None,
    ) -> list[Path]:
        """As every model does.

        `heard` is told what is said as it arrives, where the server streams; a delta's index is that of
        its child. What was heard cannot be taken back, so such a request is not made again once it broke.
        """
        request = await self._dialect.request(path, until, sampling)
        if request is None:
            return [path.child(Step((), "", End.LENGTH, 0.0)) for _ in range(n)]
        came: list[Path] = []
        refused = False
        # Greedy children are asked for one by one: servers refuse n at temperature 0.
        if n > 1 and self.facts.n and sampling.temperature > 0:
            try:
                came = await self._together(path, n, request, sampling, rng, ledger, heard)
            except Refused as error:
                if error.status not in (400, 422, 501):
                    raise
                refused = True
        if len(came) < n:
            seeds = [rng.child(i).seed % _SEEDS for i in range(len(came), n)]
            came += await self._apart(path, seeds, request, sampling, ledger, heard, len(came))
        if refused:
            self._distrust_n("refuses n in a request")
        return came

    async def close(self) -> None:
        await self.endpoint.close()

    async def _together(
        self,
        path: Path,
        n: int,
        request: Request,
        sampling: Sampling,
        rng: Randomness,
        ledger: Ledger,
        heard: Callable[[Delta], None] | None,
    ) -> list[Path]:
        """Children out of one request: n, or fewer where the server did not do as it was told."""
        extra = {"n": n} | self._seed(rng.seed % _SEEDS)
        choices, children = await self._ask(path, request, extra, sampling, ledger, heard)
        if len(choices) < n:
            self._distrust_n(f"gave {len(choices)} of {n} texts in one request")
        elif _copies(choices, sampling):
            self._distrust_n(f"gave {n} equal samples in one request")
            return children[:1]
        return children[:n]

    async def _apart(
        self,
        path: Path,
        seeds: list[int],
        request: Request,
        sampling: Sampling,
        ledger: Ledger,
        heard: Callable[[Delta], None] | None,
        first: int,
    ) -> list[Path]:
        """A child for each seed, each from a request of its own; those that failed are missing."""
        answers = await asyncio.gather(
            *(
                self._ask(path, request, self._seed(seed), sampling, ledger, heard and _renumbered(heard, i))
                for i, seed in enumerate(seeds, first)
            ),
            return_exceptions=True,
        )
        children, failures = [], []
        for answer in answers:
            if isinstance(answer, ModelError):
                failures.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                children.append(answer[1][0])
        if failures and not children:
            ledger.failed_calls += len(failures) - 1  # whoever called counts the one it sees
            raise failures[0]
        ledger.failed_calls += len(failures)
        return children

    def _seed(self, seed: int) -> dict[str, int]:
        return {"seed": seed} if self.facts.takes_seed else {}

    async def _ask(
        self,
        path: Path,
        request: Request,
        extra: dict[str, int],
        sampling: Sampling,
        ledger: Ledger,
        heard: Callable[[Delta], None] | None,
    ) -> tuple[tuple[Choice, ...], list[Path]]:
        """One request, charged whatever becomes of it: its choices, and a child for each."""
        call = Call(heard)
        known = request.prompt_tokens or 0

        def again() -> bool:
            """Settle what a broken attempt brought, if the budget has room for as much once more."""
            lost = call.came.generated
            if not ledger.affords(lost) or (lost and heard):
                return False
            if lost:
                ledger.charge({"prompt_tokens": max(known, call.came.prompt), "generated_tokens": lost})
            return True

        call.again = again
        body: dict[str, Any] = {}
        reply: Reply | None = None
        try:
            body = await self.endpoint.post(request.url, {**request.body, **extra}, call)
            reply = self._dialect.read(body)
            alone = reply.counts.generated if reply.counts and len(reply.choices) == 1 else None
            children = []
            for choice in reply.choices:
                shown = self._dialect.count(choice)
                # What is not shown (a hidden thought) was generated for this one too.
                count = max(shown or 0, alone) if alone is not None else shown
                steps = self._dialect.steps(choice, request, sampling, count)
                children.append(_grown(path, steps))
        except Malformed as error:
            raise ModelError(
                f"{request.url} answered against the protocol: {error}; see: itscale doctor {self.name}"
            ) from None
        finally:
            self._charge(call, request, body, reply, ledger)
        return reply.choices, children

    def _charge(
        self, call: Call, request: Request, body: dict[str, Any], reply: Reply | None, ledger: Ledger
    ) -> None:
        """The server's count, or ours where it shows more than it counts."""
        if not call.sent:
            return
        ledger.retries += call.retries
        counts = counts_in(body)
        shown = sum(self._dialect.count(choice) or 0 for choice in reply.choices) if reply else 0
        if not body:  # given up: what had come by then
            shown = call.came.generated
        known = max(request.prompt_tokens or 0, call.came.prompt) if call.worked_on else 0
        prompt = max(known, counts.prompt if counts else 0)
        ledger.charge_model(
            prompt=prompt,
            cached=counts.cached if counts else 0,
            generated=max(shown, counts.generated if counts else 0),
        )

    def _distrust_n(self, why: str) -> None:
        """From now on a request a child."""
        if self.facts.n:
            self.facts = replace(self.facts, n=False)
            _LOG.warning("%s %s; itscale now sends a request for each", self.endpoint.address.url, why)


def _renumbered(heard: Callable[[Delta], None], child: int) -> Callable[[Delta], None]:
    return lambda delta: heard(replace(delta, index=child))


def _grown(path: Path, steps: list[Step]) -> Path:
    for step in steps:
        path = path.child(step)
    return path


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
