"""A model that remembers: what it was asked before is answered from a recording, for nothing.

A child is addressed by the model's identity, the prompt, the tokens so far, where to stop, how to
sample, and the seed of its stream, which says the run's seed and the child's index in one number.

Law: a run repeated with its recording has the same paths and the same usage (but for seconds), and
asks the model nothing. A call for more children than were recorded, or for those that a kill left,
asks for the missing ones alone, each with its own stream. What it is charged is what one call for
all of them costs: every child's tokens, and the prompt and the call once. (A server that takes a
request for each child charges each; there, only calls repeated as they were are charged alike.)

A call that failed or was cancelled is charged, and not recorded.

Answers that are drawn together are recorded one by one, at the addresses they have alone, so only where
they are the same alone (`Model.samples_alike`) are they drawn together. They are told of as they come, and
kept with their call; where another process on the file has kept others meanwhile, this run goes on with
what it was told.

Not covered: a limit on seconds, which binds elsewhere in a faster run. A replayed path has nothing
in an engine's cache; what the model makes of it later computes the prefix again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

from itscale.budget import Charges, Ledger
from itscale.errors import OptionError
from itscale.models.base import Came, Model, WrappedModel
from itscale.randomness import Neighbours, Randomness, Seeded, SomeChildren, stretches
from itscale.recording import Address, Calls, Recorded
from itscale.types import End, Path, Sampling, Step, Until

__all__ = ["RecordedModel"]

_Fresh = tuple[Sequence[int], list[Path]]
"""Children as they came live and their numbers; no numbers where nobody can tell them."""


class RecordedModel(WrappedModel):
    """`model`, asked only for what `recording` lacks. Closing it closes the model alone.

    Raises (beside what the model does):
        NotRecordedError: an answer is missing and the recording is offline.
        RecordingError: the recording failed.
        OptionError: the draws are not those of a seed (an enumerator's, say).
    """

    has_extend_each = True

    def __init__(self, model: Model, recording: Calls) -> None:
        super().__init__(model)
        self._recording = recording
        self._identity = model.identity

    @property
    def identity(self) -> str:
        return self._identity

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        async def ask(missing: Sequence[int], spent: Ledger) -> _Fresh:
            stream = rng if len(missing) == n else SomeChildren(rng, missing)
            fresh = await self._model.extend(path, len(missing), until, sampling, stream, spent)
            # Of fewer than were wanted nobody can tell which are which.
            return missing if len(fresh) == len(missing) else (), fresh

        return await self._extended(path, n, until, sampling, rng, ledger, ask, None)

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
        if not (isinstance(rng, Neighbours) and self.samples_together):
            return await super().extend_each(path, n, until, sampling, rng, ledger, came)

        async def ask(missing: Sequence[int], spent: Ledger) -> _Fresh:
            fresh: dict[int, Path] = {}
            for first, count in stretches(missing):

                def told(number: int, child: Path, first: int = first) -> None:
                    fresh[first + number] = child
                    came(first + number, child)

                some = rng.some(first, count)
                await self._model.extend_each(path, count, until, sampling, some, spent, told)
            return sorted(fresh), [fresh[i] for i in sorted(fresh)]

        return await self._extended(path, n, until, sampling, rng, ledger, ask, came)

    async def _extended(
        self,
        path: Path,
        n: int,
        until: Until,
        sampling: Sampling,
        rng: Randomness,
        ledger: Ledger,
        ask: Callable[[Sequence[int], Ledger], Awaitable[_Fresh]],
        came: Came | None,
    ) -> list[Path]:
        """The children, those that are missing in the recording from `ask`, which tells `came` of them."""
        if not isinstance(rng.child(0), Seeded):
            raise OptionError(f"draws of a {type(rng).__name__} cannot be recorded; pass a Seeded stream")
        call = self._address(path, until, sampling)
        addresses = [call.draw(rng.child(i).seed) for i in range(n)]
        account = call.draw(rng.seed).draw(n)
        async with self._recording.turn(call.draw(rng.seed)):
            *found, accounted = await self._recording.look_up([*addresses, account])
            missing = [i for i, recorded in enumerate(found) if recorded is None]
            if missing and self._recording.offline:
                raise await self._recording.missing(addresses[missing[0]], self.name, path.prompt.question)
            replayed = {i: recorded for i, recorded in enumerate(found) if recorded is not None}
            children = {i: _grown(path, recorded.answer) for i, recorded in replayed.items()}
            if came is not None:
                for i, child in children.items():
                    came(i, child)
            free = _together([*replayed.values()], alone=not missing)
            if not missing:
                alone = None if accounted else await self._charged_alone(call, n, rng)
                ledger.charge_replayed(accounted.charges if accounted else alone or free)
                return [*children.values()]
            ledger.charge_replayed(free)
            spent = ledger.apart()
            try:
                numbers, fresh = await ask(missing, spent)
            finally:
                ledger.charge(spent.charges())
            if not numbers:
                return [*children.values(), *fresh]
            steps = [_steps(path, child) for child in fresh]
            live = Recorded.of(steps, spent.charges())
            each = _each(live, [child.n_tokens - path.n_tokens for child in fresh])
            new = dict(zip([addresses[i] for i in numbers], each, strict=True))
            if len(numbers) == len(missing):
                new[account] = Recorded(None, _sum(live.charges, free))
            kept = await self._recording.keep(new)
        for i, child, mine, winner in zip(numbers, fresh, steps, kept, strict=False):
            children[i] = child if came or winner.answer == mine else _grown(path, winner.answer)
        return [children[i] for i in sorted(children)]

    async def _charged_alone(self, call: Address, n: int, rng: Randomness) -> Charges | None:
        """What children cost that were recorded before they were `Neighbours`: each a call of its own."""
        if not isinstance(rng, Neighbours):
            return None
        each = await self._recording.look_up([call.draw(one.seed).draw(1) for one in rng.streams[:n]])
        whole: Charges = {}
        for one in each:
            if one is None:
                return None
            whole = _sum(whole, one.charges)
        return whole

    async def logprobs_of(
        self, path: Path, token_ids: Sequence[int], sampling: Sampling, ledger: Ledger
    ) -> tuple[float, ...]:
        address = self._address(path, list(token_ids), sampling)
        return await self._once(
            address, path, ledger, lambda spent: self._model.logprobs_of(path, token_ids, sampling, spent)
        )

    async def hidden_states(self, path: Path, ledger: Ledger) -> tuple[float, ...]:
        address = self._address(path, "hidden states", Sampling())
        return await self._once(address, path, ledger, lambda spent: self._model.hidden_states(path, spent))

    async def _once(
        self,
        address: Address,
        path: Path,
        ledger: Ledger,
        ask: Callable[[Ledger], Awaitable[tuple[float, ...]]],
    ) -> tuple[float, ...]:
        """The numbers at an address, asked for now if it has none."""
        async with self._recording.turn(address):
            [found] = await self._recording.look_up([address])
            if found is not None:
                ledger.charge_replayed(found.charges)
                return tuple(found.answer)
            if self._recording.offline:
                raise await self._recording.missing(address, self.name, path.prompt.question)
            spent = ledger.apart()
            try:
                numbers = await ask(spent)
            finally:
                ledger.charge(spent.charges())
            [kept] = await self._recording.keep({address: Recorded.of(list(numbers), spent.charges())})
            return tuple(kept.answer)

    def _address(self, path: Path, asked: Until | list[int] | str, sampling: Sampling) -> Address:
        # 1 and 1.0 are one temperature, and two texts.
        numbers = {k: float(v) if isinstance(v, int) else v for k, v in asdict(sampling).items()}
        if not sampling.top_logprobs:
            del numbers["top_logprobs"]  # nothing beyond what recordings always held was asked for
        # A prefix is its tokens, and its text for backends without them: where its steps end is no part.
        beside = [said for step in path.steps for said in (step.reasoning, step.tool_calls) if said]
        prefix = path.token_ids, path.text, beside
        what = asdict(asked) if isinstance(asked, Until) else asked
        return Address.of("model", self._identity, path.prompt.plain(), prefix, what, numbers)


def _steps(path: Path, descendant: Path) -> list[dict[str, Any]]:
    """The steps between them as plain values, as they will be read back."""
    steps = [asdict(node.step) for node in descendant.nodes() if node.step and node.depth > path.depth]
    lists = [
        {name: list(value) for name, value in step.items() if isinstance(value, tuple)} for step in steps
    ]
    plain = [{**step, **own, "end": str(step["end"])} for step, own in zip(steps, lists, strict=True)]
    return plain[::-1]


def _grown(path: Path, steps: list[dict[str, Any]]) -> Path:
    for step in steps:
        lists = {name: tuple(value) for name, value in step.items() if isinstance(value, list)}
        path = path.child(Step(**{**step, **lists, "end": End(step["end"])}))
    return path


def _each(call: Recorded, tokens: list[int]) -> list[Recorded]:
    """A call's children one by one: each with its own tokens, and with what the call costs beside them.

    Tokens that are in no child are the first one's, so that all add up to the call's.
    """
    tokens[0] += call.charges.get("generated_tokens", 0) - sum(tokens)
    return [
        Recorded(steps, {**call.charges, "generated_tokens": own})
        for steps, own in zip(call.answer, tokens, strict=True)
    ]


def _together(children: Sequence[Recorded], *, alone: bool) -> Charges:
    """What children cost in one call, which they share with others unless they are `alone`."""
    tokens = sum(child.charges.get("generated_tokens", 0) for child in children)
    beside = children[0].charges if alone and children else {}
    return {**beside, "generated_tokens": tokens}


def _sum(first: Charges, second: Charges) -> Charges:
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}
