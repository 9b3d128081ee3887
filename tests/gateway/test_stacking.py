"""itscale on an itscale gateway: what is asked may be a method, whose candidates are paid for unseen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path as File
from typing import TypeVar

import pytest

from itscale.budget import Budget
from itscale.doctor import examine
from itscale.errors import ModelError, OptionError
from itscale.methods import Majority
from itscale.methods.base import Result
from itscale.models.openai.address import Address
from itscale.models.openai.client import Endpoint
from itscale.models.openai.model import OpenAIModel
from itscale.models.recorded import RecordedModel
from itscale.recording import Recording
from tests.gateway.wire import Wire
from tests.gateway.worlds import World, within

T = TypeVar("T")
VOTE = Majority(max_tokens=3)
"""No more than one answer of the toy model has; the gateway's methods generate several."""


def asked(name: str, work: Callable[[OpenAIModel, World], Awaitable[T]]) -> T:
    """What `work` gives with a client of the toy gateway that asks for `name`."""

    async def run(world: World) -> T:
        address = Address(name, "http://gateway/v1")
        model = await OpenAIModel.connect(Endpoint(address, None, transport=Wire(world.gateway)))
        try:
            return await work(model, world)
        finally:
            await model.close()

    return within(run)


@pytest.mark.parametrize("name", ["majority:n=4/toy", "best-of-n:n=4/toy", "careful"])
@pytest.mark.parametrize("streams", [True, False])
def test_a_method_of_a_gateway_answers_and_every_candidate_is_charged(name: str, streams: bool):
    """Three answers of four candidates each: one is shown and counts as the answer, twelve are paid for."""

    async def ask(model: OpenAIModel, world: World) -> Result:
        assert model.facts.streams
        if not streams:
            model._dialect.facts = replace(model.facts, streams=None)
        return await VOTE.run("pick one", model, None, Budget(generations=3))

    result = asked(name, ask)
    assert [candidate.path.n_tokens for candidate in result.candidates] == [3, 3, 3]
    assert all(candidate.path.finished for candidate in result.candidates)
    assert result.usage.generated_tokens == 3 * 4 * 3
    assert result.usage.discarded_tokens == 3 * 3 * 3


def test_options_in_a_name_are_the_gateways_affair():
    """A name that is listed without its options is tried; one that is not listed at all is no name."""
    with pytest.raises(ModelError, match=r"n in 'majority:n=x' is no whole number; write majority:n=16"):
        asked("majority:n=x/toy", lambda model, world: asyncio.sleep(0))
    with pytest.raises(OptionError, match=r"did you mean 'majority/toy'\?"):
        asked("majorty:n=4/toy", lambda model, world: asyncio.sleep(0))


@pytest.mark.parametrize("recorded", [False, True])
def test_a_limit_that_such_a_method_cannot_keep_is_refused(recorded: bool, tmp_path: File):
    """How much is generated unseen is the gateway's affair, so a limit on tokens would be no promise."""

    async def ask(model: OpenAIModel, world: World) -> None:
        with Recording(tmp_path / "calls.sqlite") as recording:
            kept = RecordedModel(model, recording) if recorded else model
            with pytest.raises(
                OptionError, match=r"no limit on tokens .* itself: openai:toy@http://gateway/v1"
            ):
                await VOTE.run("pick one", kept, None, Budget(generations=3, tokens=100))

    asked("majority:n=4/toy", ask)


def test_the_doctor_sends_who_asks_for_a_method_to_the_model_itself():
    """The laws are those of a model; the sentence says how to write it."""

    async def ask(model: OpenAIModel, world: World) -> None:
        with pytest.raises(OptionError, match=r"itself: itscale doctor openai:toy@http://gateway/v1"):
            await examine(model)

    asked("majority:n=4/toy", ask)


def test_the_model_itself_is_no_method():
    """Plain names are answered by the model, limits and all."""

    async def ask(model: OpenAIModel, world: World) -> Result:
        assert model.facts.method_on is None
        return await VOTE.run("pick one", model, None, Budget(generations=3, tokens=9))

    result = asked("toy", ask)
    assert result.usage.generated_tokens == 9
    assert result.usage.discarded_tokens == 0
