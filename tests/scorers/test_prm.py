"""The in-process process reward model: incremental, batched, a function of tokens alone."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path as FilePath

import pytest
import torch

from itscale.budget import Budget, Ledger
from itscale.embedded import PROCESS_SCORER, REASONER
from itscale.errors import ModelError, OptionError, PromptError, ScorerError
from itscale.models.engine.judge import RESOLUTION
from itscale.models.local import LocalModel, load_pretrained
from itscale.randomness import Seeded
from itscale.scorers.prm import LocalProcessScorer
from itscale.tasks import Chain, Countdown
from itscale.types import End, Path, Prompt, Sampling, Step, Until, to_json


async def sampled(model: LocalModel, count: int) -> list[Path]:
    tasks = [Countdown(), Chain()]
    problems = [p for task in tasks for p in task.problems(count)]
    groups = await asyncio.gather(
        *(
            model.extend(Path.root(p.prompt), 1, Until("end"), Sampling(), Seeded(i), Ledger(Budget()))
            for i, p in enumerate(problems)
        )
    )
    return [path for group in groups for path in group]


def test_incremental_equals_whole(reasoner: LocalModel, process_scorer: LocalProcessScorer) -> None:
    """Scoring every prefix in turn gives the scores of scoring the whole path once, exactly."""

    async def run() -> None:
        for path in await sampled(reasoner, 6):
            prefixes = list(path.nodes())[:-1][::-1]
            stepwise = [(await process_scorer.score(p, Ledger(Budget())))[-1] for p in prefixes]
            fresh = Path.root(path.prompt)  # another object: nothing of it is cached
            for step in path.steps:
                fresh = fresh.child(step)
            assert tuple(stepwise) == tuple(await process_scorer.score(fresh, Ledger(Budget())))

    asyncio.run(run())


def test_each_token_is_scored_once(reasoner: LocalModel, process_scorer: LocalProcessScorer) -> None:
    """The ledger is charged for new tokens only: prompt and path the first time, then nothing."""

    async def run() -> None:
        path = (await sampled(reasoner, 1))[0]
        ledger = Ledger(Budget())
        prompt = len(process_scorer.tokens_of(Path.root(path.prompt)))
        parent = path.parent
        assert parent is not None
        await process_scorer.score(parent, ledger)
        assert ledger.scorer_tokens == prompt + parent.n_tokens
        await process_scorer.score(path, ledger)
        assert ledger.scorer_tokens == prompt + path.n_tokens
        await process_scorer.score(path, ledger)
        assert ledger.scorer_tokens == prompt + path.n_tokens

    asyncio.run(run())


def test_scores_do_not_depend_on_the_batch(reasoner: LocalModel, process_scorer: LocalProcessScorer) -> None:
    """Law 5: a path's scores are the same alone and beside others, and one for every step."""

    async def run() -> None:
        paths = await sampled(reasoner, 16)
        again = await sampled(reasoner, 16)
        together = await asyncio.gather(*(process_scorer.score(p, Ledger(Budget())) for p in paths))
        alone = [await process_scorer.score(p, Ledger(Budget())) for p in again]
        assert [tuple(s) for s in together] == [tuple(s) for s in alone]
        assert all(len(s) == p.depth for s, p in zip(together, paths, strict=True))
        assert all(0 < score < 1 for s in together for score in s)

    asyncio.run(run())


def test_scores_are_the_models_own(reasoner: LocalModel, process_scorer: LocalProcessScorer) -> None:
    """A score is transformers' own probability of "right" at the step's last token, to the rounding."""

    async def run() -> tuple[Path, tuple[float, ...]]:
        path = (await sampled(reasoner, 1))[1]
        return path, tuple(await process_scorer.score(path, Ledger(Budget())))

    path, scores = asyncio.run(run())
    model, _ = load_pretrained(PROCESS_SCORER, "AutoModelForTokenClassification")
    prompt = list(process_scorer.tokens_of(Path.root(path.prompt)))
    with torch.no_grad():
        logits = model(torch.tensor([prompt + list(path.token_ids)])).logits[0].double()
    position = len(prompt) - 1
    for step, score in zip(path.steps, scores, strict=True):
        position += len(step.token_ids)
        odds = float(logits[position, 1] - logits[position, 0])
        got = float(torch.logit(torch.tensor(score, dtype=torch.float64)))
        assert abs(got - odds) <= RESOLUTION / 2 + 1e-3


@pytest.mark.parametrize(
    "question",
    ["What is the capital of France?", "Make 45", "Make 450 from 3, 7.", "Given x = 1 + 2, find x.", ""],
)
def test_a_prompt_outside_the_tasks_is_refused(reasoner: LocalModel, question: str) -> None:
    """The embedded reasoner says what it knows and how to attach another model."""
    root = Path.root(Prompt.user(question))
    call = reasoner.extend(root, 1, Until("step"), Sampling(), Seeded(0), Ledger(Budget()))
    with pytest.raises(PromptError, match=r"Make 45 from.*--model hf:PATH"):
        asyncio.run(call)


def copy_of(folder: FilePath, to: FilePath) -> FilePath:
    shutil.copytree(folder, to)
    return to


def test_broken_checkpoints_say_what_is_wrong(tmp_path: FilePath) -> None:
    """Each kind of damage is one typed sentence that ends with the fix."""
    with pytest.raises(ModelError, match=r"no config\.json"):
        LocalModel.load(tmp_path)
    torn = copy_of(REASONER, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelError, match="copy them again"):
        LocalModel.load(torn)
    wordless = copy_of(REASONER, tmp_path / "wordless")
    (wordless / "tokenizer.json").unlink()
    (wordless / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        LocalModel.load(wordless)
    headless = copy_of(REASONER, tmp_path / "headless")
    with pytest.raises(ModelError, match="lack score"):
        LocalProcessScorer.load(headless, kind="token-classification")
    with pytest.raises(OptionError, match=r"LlamaForCausalLM.*add #kind=KIND, one of: token-classification"):
        LocalProcessScorer.load(headless)
    garbled = copy_of(REASONER, tmp_path / "garbled")
    (garbled / "itscale.json").write_text("{")
    with pytest.raises(ModelError, match=r"itscale\.json is broken"):
        LocalModel.load(garbled)
    larger = copy_of(REASONER, tmp_path / "larger")
    config = json.loads((larger / "config.json").read_text())
    config["num_hidden_layers"] += 1
    (larger / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lack model\.layers"):
        LocalModel.load(larger)


def test_text_alone_is_spelled_as_the_reasoner_would_have(
    reasoner: LocalModel, process_scorer: LocalProcessScorer
) -> None:
    """A path from a server that tells no token ids has the scores of the same path with them."""

    async def run() -> None:
        for path in await sampled(reasoner, 4):
            told = Path.root(path.prompt)
            for step in path.steps:
                told = told.child(Step((), step.text, step.end, counted=step.n_tokens))
            ledger = Ledger(Budget())
            assert await process_scorer.score(told, ledger) == await process_scorer.score(path, ledger)

    asyncio.run(run())


def test_an_engine_that_fails_answers_everybody_who_waits(monkeypatch):
    """What breaks on the engine's thread is a typed error for each path, never a wait for ever."""
    scorer = LocalProcessScorer.load(PROCESS_SCORER)

    def broken(*args, **options):
        raise RuntimeError("planted")

    monkeypatch.setattr(scorer.engine.forward, "prefill", broken)
    paths = [Path.root(Prompt.user(f"Make {n} from 3, 7, 12, 23.")) for n in (45, 31)]
    steps = [path.child(Step((22, 10, 26), "3 + 7", End.BOUNDARY)) for path in paths]

    async def ask() -> list:
        calls = (scorer.score(path, Ledger(Budget())) for path in steps)
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), timeout=20)

    answers = asyncio.run(ask())
    assert [type(answer) for answer in answers] == [ScorerError, ScorerError]
    monkeypatch.undo()
    assert len(asyncio.run(scorer.score(steps[0], Ledger(Budget())))) == 1, "the engine goes on"
    asyncio.run(scorer.close())


def test_how_an_answer_was_drawn_is_nothing_to_the_scorer(
    reasoner: LocalModel, process_scorer: LocalProcessScorer
) -> None:
    """A stop or a form in the request leaves the scores as they are; tools are refused by name."""

    async def run() -> None:
        path = (await sampled(reasoner, 1))[0]
        for request, refused in (({"stop": ["x"], "response_format": {}}, False), ({"tools": []}, True)):
            other = Path.root(Prompt(path.prompt.messages, request=to_json(request)))
            for step in path.steps:
                other = other.child(step)
            if refused:
                with pytest.raises(PromptError, match="cannot honour tools"):
                    await process_scorer.score(other, Ledger(Budget()))
            else:
                scores = await process_scorer.score(other, Ledger(Budget()))
                assert tuple(scores) == tuple(await process_scorer.score(path, Ledger(Budget())))

    asyncio.run(run())
