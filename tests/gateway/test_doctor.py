"""The doctor on a gateway, whose model may read nothing but its own tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from itscale.budget import Budget
from itscale.doctor import Finding, Verdict, examine
from itscale.errors import PromptError
from itscale.gateway.app import application
from itscale.gateway.config import Config
from itscale.methods import Majority
from itscale.models.local import LocalModel
from itscale.models.openai.address import Address
from itscale.models.openai.client import Endpoint
from itscale.models.openai.model import OpenAIModel
from tests.gateway.wire import Wire

T = TypeVar("T")


def served(reasoner: LocalModel, work: Callable[[OpenAIModel], Awaitable[T]]) -> T:
    """What `work` gives with the embedded reasoner behind a gateway."""

    class Kept(LocalModel):
        """Not closed with the gateway: other tests use it."""

        def __init__(self) -> None:
            self.__dict__.update(reasoner.__dict__)

        async def close(self) -> None:
            pass

    async def run() -> T:
        config = Config.model_validate({"models": {"embedded": {"spec": "embedded"}}})
        gateway = application(config, models={"embedded": Kept()})
        await gateway.start()
        model = await OpenAIModel.connect(
            Endpoint(Address("embedded", "http://gateway/v1"), None, transport=Wire(gateway))
        )
        try:
            return await work(model)
        finally:
            await model.close()
            await gateway.stop()

    return asyncio.run(run())


def test_the_embedded_model_behind_a_gateway_is_asked_what_it_can_read(reasoner: LocalModel):
    """Every check is made, on the model's own tasks, and no law is broken."""
    findings: list[Finding] = served(reasoner, examine)
    assert not [finding for finding in findings if finding.verdict is Verdict.BROKEN]
    said = {finding.check: finding.verdict for finding in findings}
    assert said["usage"] is said["length"] is Verdict.HONOURED


def test_a_prompt_it_cannot_read_is_the_prompts_fault(reasoner: LocalModel):
    """Not a failure of each candidate: the run ends, with the sentence of the model behind."""

    async def ask(model: OpenAIModel) -> None:
        await Majority().run("Tell me a story.", model, None, Budget(generations=2))

    with pytest.raises(PromptError, match=r"cannot read this prompt: .* knows two tasks only"):
        served(reasoner, ask)
