"""Every method that works in steps or grows a tree: from the command line on both tasks, and on servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path as FilePath

import pytest
from typer.testing import CliRunner

from itscale import cli
from itscale.budget import Budget, Ledger
from itscale.commands import sources
from itscale.errors import OptionError
from itscale.models.base import Capability, WrappedModel
from itscale.models.local import LocalModel
from itscale.registry import METHODS, parse_method
from itscale.scorers.base import ProcessScorer
from itscale.scorers.fake import FakeProcessScorer
from itscale.scorers.prm import LocalProcessScorer
from itscale.types import Path, Prompt
from tests.models.openai.servers import Server, connected

TREES = ["segment-tree", "entropy-tree", "lookahead-tree", "semantic-tree"]
NAMES = [name for name, method in METHODS.items() if method.scorer_kind == "process"] + TREES
OPTIONS = [
    "particle-filter:proposal_temperature=0.8",
    "particle-cascade:races=true",
    "particle-gibbs:ancestors=true,ess_threshold=1",
    "mcts:value=rollouts",
    "beam:speculate=true",
]
SPECS = [*NAMES, *OPTIONS]


class Kept(WrappedModel):
    """A model that other tests still need."""

    async def close(self) -> None:
        """Stays open."""


class KeptScorer(ProcessScorer):
    """A scorer that other tests still need."""

    def __init__(self, scorer: ProcessScorer) -> None:
        self.name = scorer.name
        self._scorer = scorer

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        return await self._scorer.score(path, ledger)

    async def close(self) -> None:
        """Stays open."""


def test_all_of_them_are_here():
    """An empty list would make every other test here pass."""
    assert len(NAMES) >= 22


@pytest.mark.parametrize("task", ["countdown", "chain"])
def test_the_command_line_runs_them_all(
    task: str,
    reasoner: LocalModel,
    process_scorer: LocalProcessScorer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: FilePath,
):
    """`itscale bench TASK` on the embedded models, N = 2: each method's row is there, without an error."""
    monkeypatch.setattr(sources, "load_model", lambda spec: Kept(reasoner))
    monkeypatch.setattr(sources, "load_scorer", lambda spec: KeptScorer(process_scorer))
    words = ["bench", task, "--methods", ",".join(SPECS), "--budgets", "2", "--problems", "1"]
    done = CliRunner().invoke(cli.app, [*words, "--out", str(tmp_path / "run"), "--trace-mb", "0"])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert [row["error"] for row in rows if row["error"]] == []
    assert len({row["method"] for row in rows}) == len(rows) == len(SPECS)
    assert all(row["generated_tokens"] > 0 for row in rows)


@pytest.mark.parametrize("kind", [{}, {"tokens": False}], ids=["token ids", "chat"])
@pytest.mark.parametrize("spec", SPECS)
def test_servers_run_them_or_they_are_refused(spec: str, kind: dict):
    """On a server of token ids all end with a finished answer but those that ask for the entropy of every
    token; on one of texts those that it can serve. The others say what they miss, before any token."""

    async def scenario() -> None:
        server = Server(**kind)
        model = await connected(server)
        method = parse_method(spec)
        scorer = FakeProcessScorer(lambda texts: 0.4 + 0.3 * ("yes" in texts[-1]))
        missing = method.required - model.capabilities
        asked = len(server.requests)

        def run():
            return method.run(Prompt.user("a b"), model, scorer, Budget(generations=4), seed=1)

        if missing:
            assert kind or missing == {Capability.TOKEN_STATISTICS}
            with pytest.raises(OptionError, match=", ".join(sorted(missing))):
                await run()
            assert len(server.requests) == asked
        elif "proposal_temperature" in spec:  # servers tell log-probabilities at temperature 1 alone
            with pytest.raises(OptionError, match="leave out proposal_temperature"):
                await run()
            assert len(server.requests) == asked
        else:
            result = await run()
            assert result.candidates[result.chosen].path.finished
            assert result.usage.failed_calls == 0
        await model.close()

    asyncio.run(scenario())


def test_a_chat_server_runs_most_of_them():
    """Steps over texts are enough for all but those that ask for token statistics or given tokens."""
    few = {Capability.TOKEN_STATISTICS, Capability.GIVEN}
    assert sum(not parse_method(spec).required & few for spec in SPECS) >= 20
