"""Paths cut inside a step on the embedded reasoner: what is continued is what was cut."""

from __future__ import annotations

import asyncio

import pytest

from itscale.budget import Budget, Ledger
from itscale.methods.cutting import cut_path
from itscale.models.local import LocalModel
from itscale.randomness import Seeded
from itscale.registry import METHODS
from itscale.tasks import Countdown
from itscale.types import Path, Sampling, Until

GREEDY = Sampling(temperature=0.0)


async def rest(model: LocalModel, path: Path) -> Path:
    """The likeliest end of a path."""
    [whole] = await model.extend(path, 1, Until("end"), GREEDY, Seeded(0), Ledger(Budget()))
    return whole


def test_a_cut_answer_goes_on_as_it_was(reasoner: LocalModel) -> None:
    """Greedy from any beginning, inside a line or between two, gives the greedy answer, token for token."""
    [problem] = Countdown().problems(1)

    async def check() -> None:
        whole = await rest(reasoner, Path.root(problem.prompt))
        for n in range(1, whole.n_tokens, 4):
            part = cut_path(reasoner, whole, n)
            assert whole.text.startswith(part.text)
            again = await rest(reasoner, part)
            assert (again.token_ids, again.text) == (whole.token_ids, whole.text)

    asyncio.run(check())


@pytest.mark.parametrize("name", ["segment-tree", "entropy-tree", "lookahead-tree", "semantic-tree"])
def test_rollout_trees_run_on_a_real_model(reasoner: LocalModel, name: str) -> None:
    """Six answers whose tree spells each of them; the tokens are those of the account."""
    [problem] = Countdown().problems(1)
    method = METHODS[name](segment=5) if name == "segment-tree" else METHODS[name]()  # type: ignore[call-arg]
    result = asyncio.run(method.run(problem.prompt, reasoner, None, Budget(generations=6), 0))
    assert len(result.candidates) == 6
    assert result.tree is not None
    nodes = result.tree.to_json()["nodes"]
    texts: dict[int | None, str] = {None: ""}
    for node in nodes:
        texts[node["id"]] = texts[node["parent"]] + node["text"]
    ends = [texts[node["id"]] for node in nodes if node["end"] == "eos" for _ in range(node["draws"])]
    assert sorted(ends) == sorted(c.path.text for c in result.candidates)
    assert sum(len(node["token_ids"]) for node in nodes) <= result.usage.generated_tokens
