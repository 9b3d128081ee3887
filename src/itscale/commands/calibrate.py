"""`itscale calibrate`: fit what some methods need to know of a model, on runs of that model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from itscale.allocation.pets_online import CALIBRATION_KIND as PLAN
from itscale.bench.calibrating import fit_early_exit, fit_plan, fit_success, training_problems
from itscale.calibration import Calibration
from itscale.commands.ending import finished
from itscale.commands.sources import (
    ModelOption,
    OfflineOption,
    RecordOption,
    Sources,
    loaded,
    room_for,
    said,
    stdout,
)
from itscale.errors import OptionError, did_you_mean
from itscale.methods.budget_forcing import BudgetForcing
from itscale.methods.early_exit import CALIBRATION_KIND as EXIT
from itscale.methods.early_exit import Unit
from itscale.methods.majority import Majority
from itscale.methods.probes import FEATURES, Features, needs_of, require
from itscale.methods.success import CALIBRATION_KIND as SUCCESS
from itscale.models.base import Model
from itscale.registry import load_task

__all__ = ["calibrate"]

KINDS = (EXIT, SUCCESS, PLAN)
_OF = {
    **dict.fromkeys(("delta", "unit", "cue", "exit_"), (EXIT,)),
    "features": (EXIT, SUCCESS),
    "samples": (SUCCESS, PLAN),
    "after_tokens": (SUCCESS,),
}
"""Options that only some kinds honour."""


def calibrate(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help=f"What for: {', '.join(KINDS)}.")],
    task: Annotated[str, typer.Argument(help="Whose training problems; see: itscale list tasks")],
    out: Annotated[Path, typer.Option(help="The file to write, readable JSON.")],
    problems: Annotated[int, typer.Option(help="How many training problems.")] = 500,
    level: Annotated[int | None, typer.Option(help="Difficulty.", show_default="the task's own")] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="What a probe looks at: hidden or statistics (models in this process), logprobs (any).",
            show_default="hidden where the model shows it",
        ),
    ] = None,
    delta: Annotated[float, typer.Option(help="early-exit: the error level that is promised.")] = 0.05,
    unit: Annotated[
        Unit, typer.Option(help="early-exit: promised for a question, or for a single cue as published.")
    ] = "question",
    cue: Annotated[
        str, typer.Option(help="early-exit: step, or words like wait|hmm|alternatively.")
    ] = "step",
    exit_: Annotated[
        str, typer.Option("--exit", help="early-exit: answer, think, or the text that asks for the answer.")
    ] = "answer",
    samples: Annotated[
        int | None, typer.Option(help="Samples a problem.", show_default="success 8, pets-online 40")
    ] = None,
    after_tokens: Annotated[
        int, typer.Option(help="success: tokens after which a prefix is looked at, at a step's end.")
    ] = 8,
    max_tokens: Annotated[int, typer.Option(help="Tokens of one chain at most.")] = 512,
    temperature: Annotated[float, typer.Option(help="At which chains are drawn.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Chooses the problems, and every draw on them.")] = 0,
    model: ModelOption = "embedded",
    record: RecordOption = None,
    offline: OfflineOption = False,
) -> None:
    """Fit a probe, a threshold or a plan on runs of a model, and say what it promises, on what evidence.

    Runs are made on training problems, or come from a recording of them (--record). The file belongs
    to the model it was fitted on.
    """
    if kind not in KINDS:
        raise OptionError(did_you_mean("calibration", kind, KINDS))
    room_for(out, "--out")
    for name, written in said(context).items():
        if kind not in _OF.get(name, KINDS):
            raise OptionError(f"{written} is of {' and '.join(_OF[name])}, not of {kind}; leave it out")
    if not 0 < delta < 1:
        raise OptionError(f"delta is {delta}; give an error level between 0 and 1, 0.05 say")
    if features is not None and features not in FEATURES:
        raise OptionError(did_you_mean("features", features, FEATURES))
    for name, value in (("problems", problems), ("samples", samples), ("after-tokens", after_tokens)):
        if value is not None and value < 1:
            raise OptionError(f"{name} is {value}; give at least 1")
    solved = load_task(task)
    questions = training_problems(solved, problems, level=level, seed=seed)
    sampled: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}

    async def fitted(asked: Model) -> Calibration:
        evidence: dict[str, Any] = {
            "model": model,
            "task": task,
            "level": questions[0].level,
            "seed": seed,
            **sampled,
        }
        if kind == PLAN:
            vote = Majority(**sampled)
            plan, found = await fit_plan(questions, asked, vote, samples=samples or 40, seed=seed)
            return plan.to_calibration(evidence | found)
        looks = _features(features, asked)
        require(asked, needs_of(looks), f"itscale calibrate {kind}")
        if kind == EXIT:
            chain = BudgetForcing(exit=exit_, **sampled)
            chain.check(asked, None)
            rule, found = await fit_early_exit(
                solved, questions, asked, chain, features=looks, delta=delta, unit=unit, cue=cue, seed=seed
            )
            return rule.to_calibration(evidence | found)
        predictor, found = await fit_success(
            solved,
            questions,
            asked,
            Majority(**sampled),
            features=looks,
            samples=samples or 8,
            after_tokens=after_tokens,
            seed=seed,
        )
        return predictor.to_calibration(evidence | found)

    async def run() -> Calibration:
        async with loaded(Sources(model, "none", record, offline), []) as (asked, _):
            return await fitted(asked)

    calibration = finished(run())
    calibration.save(out)
    for line in (*_said(calibration), f"written to {out}, for model {calibration.model}"):
        stdout().print(Text(line), soft_wrap=True)


def _features(wanted: str | None, model: Model) -> Features:
    if wanted is not None:
        return next(known for known in FEATURES if known == wanted)
    return "hidden" if needs_of("hidden") <= model.capabilities else "logprobs"


def _said(calibration: Calibration) -> list[str]:
    """The promise and its evidence, in words."""
    if calibration.kind == EXIT:
        return _exit_said(calibration.values, calibration.evidence)
    seen = calibration.evidence
    if calibration.kind == SUCCESS:
        prefix, whole = seen["auc_of_prefix_on_unseen"], seen["auc_of_whole_on_unseen"]
        aucs = f"{prefix:.3f} after {calibration.values['after_tokens']} tokens, {whole:.3f} at the end"
        return [f"AUC on {seen['questions_unseen']} unseen questions: {aucs}"]
    buckets = [f"{'+'.join(map(str, b['pattern']))} {b['share']:.1%}" for b in calibration.values["buckets"]]
    return [f"first four answers of {seen['questions']} questions agree: {', '.join(buckets)}"]


def _exit_said(values: Mapping[str, Any], seen: Mapping[str, Any]) -> list[str]:
    of = "questions are left" if values["unit"] == "question" else "cues with a wrong answer are left"
    on = f"{seen['questions_calibrated_on']} questions, {seen['cues_calibrated_on']} cues"
    rule = "too few examples for that level: it never exits; give more --problems, or a larger --delta"
    if values["q_wrong"] is not None and values["q_right"] is not None:
        bars = f"more than {values['q_wrong']:.3f} and at least {1 - values['q_right']:.3f}"
        rule = f"it exits where the probe says {bars}; its AUC on unseen ones: {seen['auc_on_unseen']:.3f}"
    low, high = (100 * bound for bound in seen["left_at_a_wrong_answer_95"])
    wrong = f"{seen['left_at_a_wrong_answer']:.1%} at a wrong answer ({low:.1f} to {high:.1f}, 95 %)"
    early = f"of {seen['questions_unseen']} unseen questions {seen['left_early']:.1%} are left early"
    gained = f"accuracy {seen['accuracy']:.1%} for {seen['tokens']:.1f} tokens a question"
    whole = f"{seen['accuracy_of_whole_chains']:.1%} for {seen['tokens_of_whole_chains']:.1f}"
    return [
        f"promise: at most {values['delta']:.1%} of {of} at a wrong answer (split conformal on {on})",
        rule,
        f"evidence: {early}, {wrong}",
        f"{gained}; whole chains {whole}",
    ]
