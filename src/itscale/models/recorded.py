"""A model that remembers: what it was asked before is answered from a recording, for nothing.

A child is addressed by the model's identity, the prompt, the tokens so far, where to stop, how to
sample, and the seed of its stream, which says the run's seed and the child's index in one number.

Law: a run repeated with its recording has the same paths and the same usage (but for seconds), and
asks the model nothing. A call for more children than were recorded, or for those that a kill left,
asks for the missing ones alone, each with its own stream. What it is charged is what one call for
all of them costs: every child's tokens, and the prompt and the call once. (A server that takes a
request for each child charges each; there, only calls repeated as they were are charged alike.)

A call that failed or was cancelled is charged, and not recorded.

Not covered: a limit on seconds, which binds elsewhere in a faster run. A replayed path has nothing
in an engine's cache; what the model makes of it later computes the prefix again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

from itscale.budget import Charges, Ledger
from itscale.errors import OptionError
from itscale.models.base import Model, WrappedModel
from itscale.randomness import Randomness, Seeded, SomeChildren
from itscale.recording import Address, Calls, Recorded
from itscale.types import End, Path, Sampling, Step, Until

__all__ = ["RecordedModel"]


class RecordedModel(WrappedModel):
    """`model`, asked only for what `recording` lacks. Closing it closes the model alone.

    Raises (beside what the model does):
        NotRecordedError: an answer is missing and the recording is offline.
        RecordingError: the recording failed.
        OptionError: the draws are not those of a seed (an enumerator's, say).
    """

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
            replayed = [recorded for recorded in found if recorded is not None]
            children = [_grown(path, recorded.answer) for recorded in replayed]
            free = _together(replayed, alone=not missing)
            if not missing:
                ledger.charge_replayed(accounted.charges if accounted else free)
                return children
            ledger.charge_replayed(free)
            spent = ledger.apart()
            try:
                stream = rng if len(missing) == n else SomeChildren(rng, missing)
                fresh = await self._model.extend(path, len(missing), until, sampling, stream, spent)
            finally:
                ledger.charge(spent.charges())
            if len(fresh) < len(missing):
                return children + fresh  # nobody can tell which are which
            steps = [_steps(path, child) for child in fresh]
            live = Recorded.of(steps, spent.charges())
            each = _each(live, [child.n_tokens - path.n_tokens for child in fresh])
            new = dict(zip([addresses[i] for i in missing], each, strict=True))
            kept = await self._recording.keep({**new, account: Recorded(None, _sum(live.charges, free))})
        for i, child, mine, winner in zip(missing, fresh, steps, kept, strict=False):
            children.insert(i, child if winner.answer == mine else _grown(path, winner.answer))
        return children

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
