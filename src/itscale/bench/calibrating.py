"""What calibrations are fitted on: runs of a model on a task's training problems, checked.

Three fits, one for each kind of calibration file. Every figure of evidence is measured on questions
that neither the probe nor its thresholds have seen. Runs are seeded like those of a sweep, so a
recording (`--record`) makes the next calibration, with another level say, cost nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from itscale.allocation.pets_online import FITTED_UPTO, OnlinePlan
from itscale.bench.statistics import wilson_interval
from itscale.budget import Budget, Ledger
from itscale.errors import CalibrationError
from itscale.events import Trace
from itscale.methods.arrivals import together
from itscale.methods.budget_forcing import BudgetForcing
from itscale.methods.early_exit import ExitRule, Unit, cue_of
from itscale.methods.majority import Majority
from itscale.methods.probes import Features, Probe, needs_of, read_features
from itscale.methods.pruned_majority import grown
from itscale.methods.session import Session
from itscale.methods.success import SuccessPredictor
from itscale.methods.whole import WholeAnswers
from itscale.models.base import Model
from itscale.randomness import Seeded, derive
from itscale.tasks.base import GeneratedTask, Task
from itscale.types import Problem, Prompt

__all__ = [
    "auc",
    "fit_early_exit",
    "fit_plan",
    "fit_success",
    "training_problems",
]

T = TypeVar("T")
AT_ONCE = 16
"""Problems at once."""
FIT, CALIBRATE = 0.4, 0.8
"""Questions up to these shares fit the probe and set the thresholds; the rest are the evidence."""


def training_problems(task: Task, count: int, *, level: int | None = None, seed: int = 0) -> list[Problem]:
    """Problems of the training side, for tasks that have one; else the task's own.

    Raises:
        TaskError: the task has no such level, or too few problems.
    """
    if not isinstance(task, GeneratedTask):
        return task.problems(count, level=level, seed=seed)
    task.problems(1, level=level)  # refuses a level that does not exist
    level = task.default_level if level is None else level
    stream = task.exercises("train", level, random.Random(f"calibrate/{task.name}/{level}/{seed}"))
    problems = []
    for i in range(count):
        exercise = next(stream)
        name = f"{task.name}-train-{level}-{seed}-{i}"
        problems.append(Problem(name, Prompt.user(exercise.prompt), exercise.answer, level))
    return problems


@dataclass(frozen=True)
class _Event:
    """A cue of a chain: what the probe sees, and whether an answer forced here is right."""

    x: npt.NDArray[np.float64]
    right: bool
    tokens: int
    """Generated up to here, the forced answer included."""


@dataclass(frozen=True)
class _Chain:
    """One whole chain and its cues."""

    events: tuple[_Event, ...]
    right: bool
    tokens: int


async def fit_early_exit(
    task: Task,
    problems: Sequence[Problem],
    model: Model,
    method: BudgetForcing,
    *,
    features: Features,
    delta: float,
    unit: Unit = "question",
    cue: str = "step",
    seed: int = 0,
) -> tuple[ExitRule, dict[str, Any]]:
    """A probe and its thresholds, and the evidence for their promise.

    `method` says how chains are drawn and left.

    Raises:
        CalibrationError: too few cues, or all forced answers alike.
    """
    chain = partial(_chain, task, model, method, features, cue, seed)
    chains = await _every(chain, problems)
    first, second = (round(share * len(chains)) for share in (FIT, CALIBRATE))
    fitting = [event for chain in chains[:first] for event in chain.events]
    if not fitting:
        raise CalibrationError(f"no chain has a cue ({cue!r}); use cue=step, or words the model says")
    probe = Probe.fit(features, *_examples([(event.x, event.right) for event in fitting]))

    def judged(chain: _Chain) -> list[tuple[float, bool]]:
        return [(float(probe.success(event.x)), event.right) for event in chain.events]

    rule = ExitRule.calibrate(
        model.identity,
        probe,
        [judged(chain) for chain in chains[first:second]],
        delta=delta,
        unit=unit,
        cue=cue,
        exit=method.exit,
    )
    unseen = chains[second:]
    events = [pair for chain in unseen for pair in judged(chain)]
    evidence = {
        "questions_fitted_on": first,
        "questions_calibrated_on": second - first,
        "cues_calibrated_on": sum(len(chain.events) for chain in chains[first:second]),
        "auc_on_unseen": auc([p for p, right in events if right], [p for p, right in events if not right]),
    }
    return rule, evidence | _on_unseen(unseen, rule)


def _on_unseen(chains: Sequence[_Chain], rule: ExitRule) -> dict[str, Any]:
    """What the rule does on questions it has not seen."""
    exits = wrong = right = tokens = 0
    for chain in chains:
        left = next((e for e in chain.events if rule.leaves(float(rule.probe.success(e.x)))), None)
        exits += int(left is not None)
        wrong += int(left is not None and not left.right)
        right += int(left.right if left else chain.right)
        tokens += left.tokens if left else chain.tokens
    n = max(1, len(chains))
    low, high = wilson_interval(wrong, len(chains))
    return {
        "questions_unseen": len(chains),
        "left_early": exits / n,
        "left_at_a_wrong_answer": wrong / n,
        "left_at_a_wrong_answer_95": [low, high],
        "accuracy": right / n,
        "accuracy_of_whole_chains": sum(chain.right for chain in chains) / n,
        "tokens": tokens / n,
        "tokens_of_whole_chains": sum(chain.tokens for chain in chains) / n,
    }


async def _chain(
    task: Task,
    model: Model,
    method: BudgetForcing,
    features: Features,
    cue: str,
    seed: int,
    problem: Problem,
) -> _Chain:
    session, where = _session(method, problem, model, seed, features), cue_of(cue)
    path, events = session.root, list[_Event]()
    while (room := method.room(session, path.n_tokens)) > 0 and not method.is_over(path):
        longer = await method.step(session, path, room)
        if longer is path:
            break
        path = longer
        from_here = where.at(path)
        if from_here is None or method.is_over(path):
            continue
        x = await read_features(session, path, features)
        [answered] = await method.leave(session, [from_here])
        if x is not None:
            spent = path.n_tokens + answered.n_tokens - from_here.n_tokens
            events.append(_Event(x, task.check(problem, answered.text), spent))
    whole = await method.conclude(session, path)
    return _Chain(tuple(events), task.check(problem, whole.text), whole.n_tokens)


async def fit_success(
    task: Task,
    problems: Sequence[Problem],
    model: Model,
    method: WholeAnswers,
    *,
    features: Features,
    samples: int,
    after_tokens: int,
    seed: int = 0,
) -> tuple[SuccessPredictor, dict[str, Any]]:
    """Predictors of success from a prefix and from a whole answer, and how well they tell.

    Raises:
        CalibrationError: too few examples, or all of one kind.
    """
    runs = await _every(
        partial(_prefixes, task, model, method, features, samples, after_tokens, seed), problems
    )
    first = round(CALIBRATE * len(runs))
    probes = list[Probe]()
    evidence: dict[str, Any] = {"questions_fitted_on": first, "questions_unseen": len(runs) - first}
    for which, name in enumerate(("prefix", "whole")):
        seen = [pair for run in runs[:first] for pair in run[which]]
        unseen = [pair for run in runs[first:] for pair in run[which]]
        if not seen:
            raise CalibrationError(f"no sample has a {name} to look at; lower --after-tokens")
        probe = Probe.fit(features, *_examples(seen))
        told = [(float(probe.success(x)), right) for x, right in unseen]
        evidence[f"auc_of_{name}_on_unseen"] = auc(
            [p for p, right in told if right], [p for p, right in told if not right]
        )
        probes.append(probe)
    return SuccessPredictor(model.identity, probes[0], probes[1], after_tokens), evidence


Examples = list[tuple[npt.NDArray[np.float64], bool]]


async def _prefixes(
    task: Task,
    model: Model,
    method: WholeAnswers,
    features: Features,
    samples: int,
    after_tokens: int,
    seed: int,
    problem: Problem,
) -> tuple[Examples, Examples]:
    """Features and success of the prefixes and of the whole answers of some samples."""
    session = _session(method, problem, model, seed, features)
    begun = await grown(session, [session.root] * samples, after_tokens)
    groups = await together(grown(session, [path]) for path in begun)
    prefixes, wholes = Examples(), Examples()
    for prefix, [whole] in zip(begun, groups, strict=True):
        right = task.check(problem, whole.text)
        for path, examples in ((prefix, prefixes), (whole, wholes)):
            wanted = not path.ended if path is prefix else path.finished
            x = await read_features(session, path, features) if wanted else None
            if x is not None:
                examples.append((x, right))
    return prefixes, wholes


async def fit_plan(
    problems: Sequence[Problem], model: Model, vote: Majority, *, samples: int = FITTED_UPTO, seed: int = 0
) -> tuple[OnlinePlan, dict[str, Any]]:
    """A plan for `pets-online` from that many samples of each problem; no labels are used."""

    async def counts(problem: Problem) -> list[int]:
        budget = Budget(generations=samples)
        result = await vote.run(problem.prompt, model, None, budget, derive(seed, problem.id))
        sizes = [len(cluster.members) for cluster in await vote.votes(result.candidates)]
        silent = samples - sum(sizes)
        return [*sizes, silent] if silent else sizes

    plan = OnlinePlan.fit(await _every(counts, problems), model.identity)
    return plan, {"questions": len(problems), "samples_each": samples}


def auc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """P(a positive's score is above a negative's), ties half; 0.5 where one kind is missing.

    >>> auc([0.9, 0.5], [0.1, 0.5])
    0.875
    """
    if not positives or not negatives:
        return 0.5
    high, low = np.array(positives)[:, None], np.array(negatives)[None, :]
    return float(np.mean((high > low) + 0.5 * (high == low)))


def _session(method: WholeAnswers, problem: Problem, model: Model, seed: int, features: Features) -> Session:
    rng = Seeded(derive(seed, problem.id))
    return method.session(problem.prompt, model, None, Ledger(Budget()), rng, Trace(), needs_of(features))


def _examples(pairs: Examples) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    return np.stack([x for x, _ in pairs]), np.array([right for _, right in pairs])


async def _every(call: Callable[[Problem], Awaitable[T]], problems: Sequence[Problem]) -> list[T]:
    """All results in order, some calls at a time; an error ends all."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(problem: Problem) -> T:
        async with gate:
            return await call(problem)

    return await together(map(one, problems))
