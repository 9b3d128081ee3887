"""Hidden states of a path, from the engine, the fake model and a recording."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch

from itscale.budget import Budget, Ledger
from itscale.embedded import REASONER
from itscale.errors import OptionError
from itscale.models.base import Model
from itscale.models.fake import FakeModel
from itscale.models.local import LocalModel
from itscale.models.recorded import RecordedModel
from itscale.randomness import Seeded
from itscale.recording import Recording
from itscale.types import Path, Prompt, Sampling, Until
from tests.methods.trees import TREE

COUNTDOWN = Prompt.user("Make 45 from 3, 7, 12, 23.")


@pytest.fixture(scope="module")
def reasoner():
    model = LocalModel.load(REASONER)
    yield model
    asyncio.run(model.close())


async def paths_and_states(model):
    """Prefixes of one answer, their states asked for all at once, and the account."""
    ledger = Ledger(Budget())
    [whole] = await model.extend(
        Path.root(COUNTDOWN), 1, Until("end", 64), Sampling(temperature=0), Seeded(0), ledger
    )
    paths = [node for node in whole.nodes() if not node.finished]
    before = ledger.generated_tokens
    states = await asyncio.gather(*(model.hidden_states(path, ledger) for path in paths))
    assert ledger.generated_tokens == before
    return paths, states, ledger


def test_states_are_those_of_the_whole_network(reasoner):
    """Of every prefix, the root too: what transformers computes from the tokens alone, without a cache."""
    paths, states, ledger = asyncio.run(paths_and_states(reasoner))
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(str(REASONER), dtype=torch.float32)
    for path, own in zip(paths, states, strict=True):
        ids = [*reasoner.prompts.of_path(path), *path.token_ids]
        with torch.inference_mode():
            layers = plain(torch.tensor([ids]), output_hidden_states=True).hidden_states
        depth = len(layers) - 1
        expected = torch.cat([layers[k][0, -1] for k in (depth // 2, 3 * depth // 4, depth)])
        np.testing.assert_allclose(own, expected.numpy(), atol=2e-4)
    assert ledger.model_calls == 1 + len(paths)
    assert ledger.cached_tokens < ledger.prompt_tokens


def test_asking_changes_nothing_that_is_drawn(reasoner):
    """Samples after the question are those without it."""

    async def sampled(ask):
        ledger = Ledger(Budget())
        root = Path.root(COUNTDOWN)
        paths = await reasoner.extend(root, 4, Until("step", 64), Sampling(), Seeded(3), ledger)
        if ask:
            await asyncio.gather(*(reasoner.hidden_states(path, ledger) for path in paths))
        more = [
            await reasoner.extend(path, 1, Until("end", 64), Sampling(), Seeded(4), ledger) for path in paths
        ]
        return [child.text for [child] in more]

    assert asyncio.run(sampled(ask=True)) == asyncio.run(sampled(ask=False))


def test_a_recording_answers_the_second_time(tmp_path):
    """The same numbers, charged alike, and the model is not asked again."""
    model = FakeModel(TREE)
    ledgers = [Ledger(Budget()), Ledger(Budget())]

    async def ask(ledger):
        return await RecordedModel(model, recording).hidden_states(Path.root(Prompt.user("a b")), ledger)

    with Recording(tmp_path / "calls.db") as recording:
        states = [asyncio.run(ask(ledger)) for ledger in ledgers]
    assert states[0] == states[1] == tuple(model.probabilities([]).tolist())
    assert model.calls == 1
    assert ledgers[1].replayed_calls == 1
    assert ledgers[0].prompt_tokens == ledgers[1].prompt_tokens == 2


def test_a_model_without_them_says_what_would_do():
    """A typed error that names the probe that works anywhere."""

    class Plain(FakeModel):
        hidden_states = Model.hidden_states

    with pytest.raises(OptionError, match="features=logprobs"):
        asyncio.run(Plain(TREE).hidden_states(Path.root(COUNTDOWN), Ledger(Budget())))
