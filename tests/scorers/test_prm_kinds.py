"""Published kinds of process reward models: incremental, and what their authors' code would say."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path as FilePath

import pytest
import torch

from itscale.budget import Budget, Ledger
from itscale.embedded import PROCESS_SCORER
from itscale.errors import ModelError, OptionError, PromptError, ScorerError
from itscale.models.engine.judge import RESOLUTION
from itscale.registry import load_scorer
from itscale.scorers.prm import LocalProcessScorer
from itscale.scorers.prm_kinds import PRM_KINDS, kind_of_folder
from itscale.types import End, Message, Path, Prompt, Step, to_json
from tests.scorers.tiny_prms import TINY_PRMS, TinyPrm

QUESTION = "What is the sum of 2 and 3, times 4?"
STEPS = ["First, the sum: 2 + 3 = 5.", "Then the product,\n5 * 4 = 20.", "So the answer is 20."]
SAY_SO = {"qwen2.5-math-prm", "skywork-o1-prm"}
"""Kinds that their config tells."""


def path_of(*texts: str, prompt: Prompt | None = None) -> Path:
    path = Path.root(prompt or Prompt.user(QUESTION))
    for i, text in enumerate(texts):
        end = End.EOS if i == len(texts) - 1 else End.BOUNDARY
        path = path.child(Step((), text, end, counted=1))
    return path


@pytest.fixture(scope="module", params=TINY_PRMS)
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TinyPrm, LocalProcessScorer]]:
    """A tiny model of each kind, and the scorer loaded from its folder."""
    torch.manual_seed(7)
    prm = TINY_PRMS[request.param](tmp_path_factory.mktemp(request.param))
    kind = None if request.param in SAY_SO else request.param
    scorer = LocalProcessScorer.load(prm.folder, kind=kind)
    yield prm, scorer
    asyncio.run(scorer.close())


def judged(scorer: LocalProcessScorer, *paths: Path) -> tuple[list[list[float]], Ledger]:
    """The scores of paths, one after the other, and what they were charged."""
    ledger = Ledger(Budget())

    async def run() -> list[list[float]]:
        return [list(await scorer.score(path, ledger)) for path in paths]

    return asyncio.run(run()), ledger


def assert_close(scores: list[float], reference: list[float]) -> None:
    """Equal up to the rounding of the engine, in log odds; one for one."""
    assert len(scores) == len(reference)
    for score, plain in zip(scores, reference, strict=True):
        difference = math.log(score / (1 - score)) - math.log(plain / (1 - plain))
        assert abs(difference) <= RESOLUTION / 2 + 1e-3


def test_scores_are_those_of_the_published_code(tiny: tuple[TinyPrm, LocalProcessScorer]) -> None:
    """The whole path at once, and each prefix in turn, are what a plain forward pass gives."""
    prm, scorer = tiny
    reference = prm.reference(QUESTION, STEPS)
    assert len({round(score, 2) for score in reference}) > 1, "scores that tell nothing apart test nothing"
    written = [f"{text}\n\n" for text in STEPS[:-1]] + STEPS[-1:]
    [whole], _ = judged(scorer, path_of(*written))
    assert_close(whole, reference)
    grown = list(path_of(*written).nodes())[-2::-1]
    stepwise, _ = judged(scorer, *grown)
    assert [scores[-1] for scores in stepwise] == whole


def test_a_scored_prefix_is_not_computed_again(tiny: tuple[TinyPrm, LocalProcessScorer]) -> None:
    """All tokens of a path are charged once, in whatever order its prefixes and branches are scored."""
    _, scorer = tiny
    path = path_of(*STEPS)
    branch = path.parent
    assert branch is not None
    other = branch.child(Step((), "No, it is 9.", End.EOS, counted=1))
    nodes = {*path.nodes(), *other.nodes()}
    distinct = sum(len(scorer.tokens_of(node)) for node in nodes)
    prefixes = [node for node in path.nodes() if node.step][::-1]
    _, ledger = judged(scorer, *prefixes, other, path)
    assert ledger.scorer_tokens == distinct


def test_a_step_of_white_space_is_judged_like_the_one_before(
    tiny: tuple[TinyPrm, LocalProcessScorer],
) -> None:
    """The end of sequence after a boundary adds no empty turn; a first step may be empty all the same."""
    prm, scorer = tiny
    [scores, first], _ = judged(scorer, path_of(STEPS[0], STEPS[1], "\n", "", STEPS[2]), path_of(""))
    a, b, c = prm.reference(QUESTION, STEPS)
    assert_close(scores, [a, b, b, b, c])
    assert len(first) == 1


def test_a_mark_in_the_text_is_no_step(tiny: tuple[TinyPrm, LocalProcessScorer]) -> None:
    """A model that writes the step mark itself gets one score a step all the same."""
    _, scorer = tiny
    text = "I say <extra_0> and ки and + <|eot_id|> now."
    [scores], _ = judged(scorer, path_of(text, text))
    assert len(scores) == 2


def test_a_system_message_is_not_for_the_scorer(tiny: tuple[TinyPrm, LocalProcessScorer]) -> None:
    """It tells the model how to answer; the scorer has instructions of its own. A conversation is refused."""
    _, scorer = tiny
    system = Prompt((Message("system", "Be brief."), Message("user", QUESTION)))
    talk = Prompt((Message("user", "Hi"), Message("assistant", "Hello"), Message("user", QUESTION)))
    [plain, with_system], _ = judged(scorer, path_of(*STEPS), path_of(*STEPS, prompt=system))
    assert plain == with_system
    with pytest.raises(PromptError, match="one question"):
        judged(scorer, path_of(*STEPS, prompt=talk))


def test_beyond_the_context_or_the_window_is_refused(tiny: tuple[TinyPrm, LocalProcessScorer]) -> None:
    """A sliding window is plain attention up to its width, and there the context ends."""
    prm, scorer = tiny
    config = json.loads((prm.folder / "config.json").read_text())
    expected = 400 if config["model_type"] == "mistral" else 512
    with pytest.raises(ScorerError, match=f"context holds {expected}"):
        judged(scorer, path_of("x" * 600))


def test_another_kind_is_another_scorer(tiny: tuple[TinyPrm, LocalProcessScorer]) -> None:
    """The same weights read as two kinds must not share a recording."""
    prm, scorer = tiny
    kind = scorer.identity.partition("#")[2]
    assert kind in PRM_KINDS
    assert scorer.identity.startswith("local:")
    loaded = load_scorer(f"hf:{prm.folder}#kind={kind}")
    assert isinstance(loaded, LocalProcessScorer)
    assert loaded.identity == scorer.identity
    asyncio.run(loaded.close())


def test_the_wrong_kind_is_refused(tiny: tuple[TinyPrm, LocalProcessScorer]) -> None:
    """Whatever is missing for it (a mark, a label, a head) is named, with the fix."""
    prm, scorer = tiny
    right = scorer.identity.partition("#")[2]
    for kind in set(TINY_PRMS) - {right}:
        with pytest.raises((ModelError, OptionError), match=r"#kind=KIND|copy"):
            LocalProcessScorer.load(prm.folder, kind=kind)


def test_kinds_are_told_by_their_config(tmp_path: FilePath) -> None:
    """Where it can be told; a name that is none gets a hint."""
    assert kind_of_folder(PROCESS_SCORER).name == "token-classification"
    for kind in PRM_KINDS.values():
        if kind.architecture:
            (tmp_path / "config.json").write_text(json.dumps({"architectures": [kind.architecture]}))
            assert kind_of_folder(tmp_path) is kind
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(OptionError, match=r"LlamaForCausalLM.*#kind=KIND, one of"):
        kind_of_folder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="copy the folder again"):
        kind_of_folder(tmp_path)
    with pytest.raises(OptionError, match="did you mean 'rlhflow-prm'"):
        load_scorer(f"hf:{tmp_path}#kind=rlhf-prm")
    with pytest.raises(OptionError, match="did you mean 'kind'"):
        load_scorer(f"hf:{tmp_path}#kin=rlhflow-prm")


def test_a_head_that_is_not_there_is_said(tmp_path: FilePath) -> None:
    """Trunk without head: no random weights are made up. A head in a .bin file is found."""
    prm = TINY_PRMS["qwen2.5-math-prm"](tmp_path / "whole")
    from safetensors.torch import load_file, save_file

    tensors = load_file(prm.folder / "model.safetensors")
    trunk = {name: tensor for name, tensor in tensors.items() if not name.startswith("score.")}
    headless = tmp_path / "headless"
    shutil.copytree(prm.folder, headless)
    save_file(trunk, headless / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack score\.0\.weight and 3 more"):
        LocalProcessScorer.load(headless)
    torch.save({n: t for n, t in tensors.items() if n not in trunk}, headless / "pytorch_model-head.bin")
    scorer = LocalProcessScorer.load(headless)
    [scores], _ = judged(scorer, path_of(*STEPS))
    assert_close(scores, prm.reference(QUESTION, STEPS))
    asyncio.run(scorer.close())


def test_every_fact_has_its_source() -> None:
    """A row says where it comes from, and what no source settled."""
    for kind in PRM_KINDS.values():
        assert kind.source
        assert kind.aggregate or kind.unsure
        assert (kind.layout is None) == (kind.name == "token-classification")
    assert set(TINY_PRMS) == {name for name, kind in PRM_KINDS.items() if kind.layout}


def test_how_an_answer_was_drawn_is_not_for_the_scorer(tiny: tuple[TinyPrm, LocalProcessScorer]) -> None:
    """A stop in the request is the sampler's."""
    _, scorer = tiny
    stopped = Prompt((Message("user", QUESTION),), request=to_json({"stop": "x"}))
    [plain, other], _ = judged(scorer, path_of(*STEPS), path_of(*STEPS, prompt=stopped))
    assert plain == other
