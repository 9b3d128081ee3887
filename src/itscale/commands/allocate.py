"""`itscale allocate`: many prompts, one budget."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from itscale.allocation import Allocated, Allocation, OnlinePlan, PetsOffline, PetsOnline, Uniform
from itscale.bench.statistics import wilson_interval
from itscale.budget import Budget
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
from itscale.explain import account
from itscale.files import write_whole
from itscale.methods.majority import Majority
from itscale.randomness import derive
from itscale.registry import TASKS, load_task, parse_method
from itscale.tasks.base import Task
from itscale.types import Problem, Prompt

__all__ = ["allocate"]

RULES = (Uniform.name, PetsOffline.name, PetsOnline.name)


def allocate(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="A task, or a file with a prompt on each line; - reads standard input.")
    ],
    samples: Annotated[int, typer.Option(help="How many samples all prompts get together.")],
    rule: Annotated[str, typer.Option(help=f"Who gets the next sample: {', '.join(RULES)}.")] = "pets",
    plan: Annotated[
        Path | None, typer.Option(help="pets-online: what `itscale calibrate pets-online` wrote.")
    ] = None,
    vote: Annotated[str, typer.Option(help="How prompts are sampled and voted on.")] = "majority",
    problems: Annotated[int, typer.Option(help="A task: how many held-out problems.")] = 200,
    level: Annotated[int | None, typer.Option(help="A task: difficulty.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.")] = 0,
    in_flight: Annotated[int, typer.Option(help="Samples under way at once.")] = 32,
    max_tokens: Annotated[int | None, typer.Option(help="Limit on generated tokens in all.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Limit on wall time.")] = None,
    model: ModelOption = "embedded",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write one JSON object a prompt to this file.")
    ] = None,
    record: RecordOption = None,
    offline: OfflineOption = False,
) -> None:
    """Answer many prompts with one budget: samples go where they change most.

    Every prompt's answer is the majority of its own samples. No labels are used; on a task they say
    how many answers are right.
    """
    room_for(json_file, "--json")
    for name, written in said(context).items() if source not in TASKS else ():
        if name in ("problems", "level"):
            raise OptionError(f"{written} is of a task, and {source} holds prompts; leave it out")
    chosen = _rule(rule, plan, _majority(vote), in_flight)
    work = _Work.of(source, problems, level, seed)
    budget = Budget(generations=samples, tokens=max_tokens, seconds=seconds)

    async def run() -> Allocated:
        async with loaded(Sources(model, "none", record, offline), []) as (asked, _):
            return await chosen.run(work.prompts, asked, budget, seed, seeds=work.seeds)

    result = finished(run())
    lines = (json.dumps(answered.to_json(), ensure_ascii=False) for answered in result.answers)
    kept = None
    try:
        if json_file is not None:
            kept = write_whole(json_file, "".join(f"{line}\n" for line in lines))
    finally:  # a disk without room for the file is no reason to hide what was found
        _print(result, work, kept)


def _rule(name: str, plan: Path | None, vote: Majority, in_flight: int) -> Allocation:
    if name not in RULES:
        raise OptionError(did_you_mean("rule", name, RULES))
    if (name == PetsOnline.name) != (plan is not None):
        raise OptionError(
            "--plan FILE and --rule pets-online go together; make one with: itscale calibrate pets-online"
        )
    if plan is not None:
        return PetsOnline(plan=OnlinePlan.load(plan), vote=vote, in_flight=in_flight)
    return (Uniform if name == Uniform.name else PetsOffline)(vote=vote, in_flight=in_flight)


def _majority(spec: str) -> Majority:
    method = parse_method(spec)
    if not isinstance(method, Majority):
        raise OptionError(f"--vote {spec!r} is no majority; write majority or majority:option=value,...")
    return method


@dataclass(frozen=True)
class _Work:
    """What is to be answered, and who can check it."""

    prompts: Sequence[Prompt]
    seeds: Sequence[int] | None = None
    """Of a task's problems those of `bench`, so that the samples are the same."""
    task: Task | None = None
    problems: Sequence[Problem] = ()

    @classmethod
    def of(cls, source: str, count: int, level: int | None, seed: int) -> _Work:
        if source in TASKS:
            task = load_task(source)
            problems = task.problems(count, level=level, seed=seed)
            seeds = [derive(seed, problem.id) for problem in problems]
            return cls([problem.prompt for problem in problems], seeds, task, problems)
        if source != "-" and not Path(source).is_file():
            raise OptionError(f"{did_you_mean('task', source, TASKS)}; there is no file of that name either")
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        return cls([Prompt.user(line.strip()) for line in text.splitlines() if line.strip()])


def _print(result: Allocated, work: _Work, json_file: Path | None) -> None:
    console = stdout()
    shares = [answered.started for answered in result.answers]
    if work.task is None and json_file is None:
        for answered in result.answers:
            said = answered.refused or answered.answer or answered.text.strip() or "no answer was reached"
            console.print(
                Text(f"{answered.started:>4}  {answered.prompt.question[:60]}  {said}"), soft_wrap=True
            )
    spread = f"{min(shares)} to {max(shares)} each, {statistics.median(shares):g} in the median"
    lines = [f"{result.allocation}: {sum(shares):,} samples for {len(shares):,} prompts; {spread}"]
    unreadable = sum(answered.refused is not None for answered in result.answers)
    if unreadable:
        lines.append(f"{unreadable} prompts were refused by the model")
    if work.task is not None:
        pairs = zip(work.problems, result.answers, strict=True)
        right = sum(work.task.check(problem, answered.text) for problem, answered in pairs)
        low, high = (100 * bound for bound in wilson_interval(right, len(shares)))
        lines.append(f"right: {right / len(shares):.1%} ({low:.1f} to {high:.1f}, 95 %)")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    console.print(Text(account(result.usage, result.stop_reason), style="dim"))
