"""What is known of published process reward models, one row each, and where it is written.

Facts were read in the sources named, not tried on the weights; tests hold each layout against a plain
forward pass of a tiny model of the same architecture. `unsure` says what no source settled: there a
model is refused rather than guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Literal

from itscale.errors import ModelError, OptionError, did_you_mean
from itscale.scorers.base import Aggregation
from itscale.scorers.layouts import (
    Layout,
    MathShepherdLayout,
    QwenLayout,
    RLHFlowLayout,
    SkyworkLayout,
)

__all__ = ["PRM_KINDS", "PrmKind", "kind_of_folder", "named_kind"]

Head = Literal["labels", "two layers", "value", "tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrmKind:
    """One kind of process reward model."""

    name: str
    models: str
    """The published checkpoints of this kind."""
    head: Head
    """What reads the trunk's last hidden state at a step's last token: `labels`, a linear layer to
    (wrong, right); `two layers`, linear, ReLU, linear to (wrong, right); `value`, one number, the
    log odds; `tokens`, the language model's logits of two tokens."""
    layout: type[Layout] | None
    """How the solution is written down; None: the reasoner's own token ids, read at each step's last."""
    architecture: str | None
    """What config.json calls it, if that tells it from every other kind."""
    aggregate: Aggregation | None
    """How its authors make step scores one number (the `aggregate` of a method)."""
    source: str
    unsure: str = ""


PRM_KINDS: Mapping[str, PrmKind] = {
    kind.name: kind
    for kind in (
        PrmKind(
            name="token-classification",
            models="the embedded one, and any like it over the reasoner's own vocabulary",
            head="labels",
            layout=None,
            architecture=None,  # any *ForTokenClassification
            aggregate="last",
            source="recipes/train_process_scorer.py",
        ),
        PrmKind(
            name="qwen2.5-math-prm",
            models="Qwen2.5-Math-PRM-7B and -72B, Qwen2.5-Math-7B-PRM800K",
            head="two layers",
            layout=QwenLayout,
            architecture="Qwen2ForProcessRewardModel",
            aggregate="product",
            source="model card of Qwen/Qwen2.5-Math-PRM-7B (template, <extra_0> after each step, softmax, "
            "label 1); vllm-project/vllm vllm/model_executor/models/qwen2_rm.py (the head); arXiv 2501.07301",
            unsure="whether `product` is meant beyond the paper's best-of-n tables",
        ),
        PrmKind(
            name="skywork-o1-prm",
            models="Skywork-o1-Open-PRM-Qwen-2.5-1.5B and -7B",
            head="value",
            layout=SkyworkLayout,
            architecture="Qwen2ForPrmModel",
            aggregate=None,
            source="SkyworkAI/skywork-o1-prm-inference vllm_add_dummy_model/prm_model.py (head, name) "
            "and its model_utils, as copied in openreasoner/openr reason/llm_service/utils/"
            "skywork_o1_prm_inference (io_utils.py: layout; prm_model.py: sigmoid)",
            unsure="how its authors aggregate; what they do with empty lines (left out here, as in openr)",
        ),
        PrmKind(
            name="rlhflow-prm",
            models="Llama3.1-8B-PRM-Deepseek-Data and -Mistral-Data",
            head="tokens",
            layout=RLHFlowLayout,
            architecture=None,  # a LlamaForCausalLM like any other
            aggregate="mean",
            source="RLHFlow/RLHF-Reward-Modeling math-rm/prm_evaluate.py (turns, position -3, mean)",
        ),
        PrmKind(
            name="math-shepherd",
            models="math-shepherd-mistral-7b-prm",
            head="tokens",
            layout=MathShepherdLayout,
            architecture=None,  # a MistralForCausalLM like any other
            aggregate="min",
            source="model card of peiyi9979/math-shepherd-mistral-7b-prm; huggingface/search-and-learn "
            "src/sal/models/reward_models.py (tokens 648, 387, mark 12902); arXiv 2312.08935 (min)",
            unsure="it was trained on steps that begin `Step 1:`; they are passed on as they were written",
        ),
    )
}


def named_kind(name: str) -> PrmKind:
    """A kind by name.

    Raises:
        OptionError: there is no such kind.
    """
    if name not in PRM_KINDS:
        raise OptionError(did_you_mean("kind of process reward model", name, PRM_KINDS))
    return PRM_KINDS[name]


def kind_of_folder(folder: FilePath) -> PrmKind:
    """The kind a checkpoint folder says it is.

    Raises:
        ModelError: config.json cannot be read.
        OptionError: it does not say.
    """
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architectures = [str(name) for name in config.get("architectures") or ["nothing"]]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ModelError(f"{folder}/config.json cannot be read ({error}); copy the folder again") from error
    for kind in PRM_KINDS.values():
        if kind.architecture in architectures:
            return kind
    if architectures[0].endswith("ForTokenClassification"):
        return PRM_KINDS["token-classification"]
    raise OptionError(
        f"the config of {folder} says {architectures[0]}, from which the kind of process reward model cannot "
        f"be told; add #kind=KIND, one of: {', '.join(PRM_KINDS)}"
    )
