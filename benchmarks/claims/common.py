"""What every claim's script shares: one recorded pool of samples a task, intervals, verdicts, the page.

The pool is a recording (`itscale.recording`): sample i of a problem is the very sample i any method
draws under the sweep's seed, so a method that runs on `recorded(...)` is the real one, unchanged, and
pays for nothing that another script had sampled before. What a recording cannot replay is time: use
`Paced` where it matters which sample ends first.
"""

from __future__ import annotations

import asyncio
import functools
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from itscale.budget import Budget, Ledger
from itscale.methods import Majority, Method, Result
from itscale.models.base import Model, WrappedModel
from itscale.models.recorded import RecordedModel
from itscale.randomness import Randomness, derive
from itscale.recording import Recording
from itscale.registry import TASKS, load_model, load_scorer, load_task
from itscale.scorers.base import ProcessScorer, Scorer
from itscale.scorers.recorded import record_scores
from itscale.tasks.base import GeneratedTask
from itscale.types import Path, Problem, Sampling, Until

__all__ = [
    "Claim",
    "Estimate",
    "Finding",
    "Paced",
    "Pooled",
    "Questions",
    "estimate",
    "every",
    "judged",
    "pool",
    "ratio",
    "recorded",
    "results",
    "write_section",
]

ROOT = FilePath(__file__).parents[2]
RECORDINGS = ROOT / "runs" / "claims"
PAGE = ROOT / "docs" / "evidence.md"
SEEDS = (0, 1, 2)
PROBLEMS_A_SEED = 100
SAMPLES = 64
IN_FLIGHT = 8
"""Problems at once."""
RESAMPLES = 2000

T = TypeVar("T")
Floats = npt.NDArray[np.float64]
Verdict = Literal["holds", "holds partly", "does not hold"]


# -- the claims and what came of them ---------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """What a paper says."""

    name: str
    """Of the script: `benchmarks/claims/NAME.py`, its name in kebab case."""
    says: str
    source: str
    """arXiv number, or an address where there is none."""


@dataclass(frozen=True)
class Finding:
    """What was measured for one claim on one task."""

    task: str
    measured: str
    """With intervals."""
    verdict: Verdict
    why: str


def block(claim: Claim, findings: Sequence[Finding]) -> str:
    """One claim's part of the page."""
    is_address = claim.source.startswith("https://")
    source = (
        f"[source]({claim.source})"
        if is_address
        else f"[arXiv {claim.source}](https://arxiv.org/abs/{claim.source})"
    )
    lines = [
        f"<!-- claim {claim.name} -->",
        f"**{claim.says}** ({source}; `python -m benchmarks.claims {claim.name}`)",
        "",
        "| task | measured | verdict | why |",
        "|---|---|---|---|",
        *(f"| {f.task} | {f.measured} | **{f.verdict}** | {f.why} |" for f in findings),
        f"<!-- /claim {claim.name} -->",
    ]
    return "\n".join(lines)


def write_section(blocks: Sequence[tuple[Claim, str]], page: FilePath = PAGE) -> None:
    """Put blocks between the page's two markers, in place of older ones of the same claims.

    Every other byte of the page stays. Blocks stand in the order of their names, so that claims measured
    by several people meet in the page without a conflict, whoever was first.

    Raises:
        ValueError: the page lacks the markers.
    """
    text = page.read_text(encoding="utf-8")
    begin, end = "<!-- claims:begin -->", "<!-- claims:end -->"
    if not 0 <= text.find(begin) < text.find(end):
        raise ValueError(f"{page} has no section between {begin} and {end}; put both markers where it goes")
    before, _, rest = text.partition(begin)
    section, _, after = rest.partition(end)
    kept = dict(re.findall(r"(?s)(?<=<!-- claim )([\w-]+)(?= -->\n)(.*?<!-- /claim \1 -->)", section))
    kept = {name: f"<!-- claim {name}{own}" for name, own in kept.items()}
    kept |= {claim.name: own for claim, own in blocks}
    inside = "\n\n".join(kept[name] for name in sorted(kept))
    beside = page.with_name(page.name + ".tmp")
    beside.write_text(f"{before}{begin}\n\n{inside}\n\n{end}{after}", encoding="utf-8")
    beside.replace(page)


# -- questions, pools, methods on recordings ----------------------------------------------------


@dataclass(frozen=True)
class Questions:
    """The problems of a task that all claims are measured on: 100 for each of three seeds."""

    task: GeneratedTask
    level: int
    problems: tuple[Problem, ...]
    seeds: tuple[int, ...]
    """Of each problem's run, as `bench` derives it."""

    @classmethod
    def of(cls, name: str, *, level: int | None = None, a_seed: int = PROBLEMS_A_SEED) -> Questions:
        """The task's, at its default level unless another is given."""
        task = load_task(name)
        assert isinstance(task, GeneratedTask)
        drawn = [(seed, p) for seed in SEEDS for p in task.problems(a_seed, level=level, seed=seed)]
        # Problems of different seeds may coincide; each is one question.
        unique = list({p.prompt: (seed, p) for seed, p in drawn}.values())
        seeds = tuple(derive(seed, p.id) for seed, p in unique)
        return cls(task, level or task.default_level, tuple(p for _, p in unique), seeds)


@dataclass(frozen=True)
class Pooled:
    """N samples of each of P questions; arrays have shape (P, N), samples in the order of their seeds."""

    questions: Questions
    answers: tuple[tuple[str | None, ...], ...]
    """Normalised; None where a sample states none."""
    correct: npt.NDArray[np.bool_]
    tokens: npt.NDArray[np.int64]
    paths: tuple[tuple[Path, ...], ...]


@asynccontextmanager
async def recorded(
    name: str, *, scorer: bool = False, level: int | None = None
) -> AsyncIterator[tuple[RecordedModel, Scorer | None]]:
    """The embedded model (and scorer) on the recording of a task's claims."""
    model = load_model("embedded")
    judge = load_scorer("embedded") if scorer else None
    file = RECORDINGS / (f"{name}.db" if level is None else f"{name}-{level}.db")
    try:
        with Recording(file) as recording:
            yield RecordedModel(model, recording), judge and record_scores(judge, recording)
    finally:
        if judge is not None:
            await judge.close()
        await model.close()


async def results(
    questions: Questions, method: Method, n: int, model: Model, scorer: Scorer | None = None
) -> list[Result]:
    """A method's result on every question, at N = n."""

    async def one(problem: Problem, seed: int) -> Result:
        return await method.run(problem.prompt, model, scorer, Budget(generations=n), seed)

    pairs = zip(questions.problems, questions.seeds, strict=True)
    return await every([functools.partial(one, problem, seed) for problem, seed in pairs])


async def every(
    calls: Sequence[Callable[[], Awaitable[T]]], *, at_once: int = IN_FLIGHT, say: str = ""
) -> list[T]:
    """All results in order, a few calls at a time."""
    gate, done = asyncio.Semaphore(at_once), 0

    async def one(call: Callable[[], Awaitable[T]]) -> T:
        nonlocal done
        async with gate:
            result = await call()
        done += 1
        if say and sys.stderr.isatty():
            print(f"\r{say}: {done} of {len(calls)}", end="", file=sys.stderr, flush=True)
        return result

    return list(await asyncio.gather(*map(one, calls)))


@functools.lru_cache(maxsize=8)
def pool(name: str, n: int = SAMPLES, *, level: int | None = None, a_seed: int = PROBLEMS_A_SEED) -> Pooled:
    """The pool of a task, sampled now as far as its recording lacks it."""
    questions = Questions.of(name, level=level, a_seed=a_seed)

    async def run() -> list[Result]:
        async with recorded(name, level=level) as (model, _):
            return await results(questions, Majority(), n, model)

    kind = Majority().answer_kind
    sampled = asyncio.run(run())
    correct, tokens, answers, paths = [], [], [], []
    for problem, result in zip(questions.problems, sampled, strict=True):
        own = result.candidates
        answers.append(tuple(None if c.answer is None else kind.normalise(c.answer) for c in own))
        correct.append([questions.task.check(problem, c.path.text) for c in own])
        tokens.append([c.path.n_tokens for c in own])
        paths.append(tuple(c.path for c in own))
    return Pooled(questions, tuple(answers), np.array(correct), np.array(tokens), tuple(paths))


async def judged(name: str, pooled: Pooled) -> np.ndarray:
    """Log odds of the last step's score, (P, N); very low for unfinished samples."""
    async with recorded(name, scorer=True) as (_, scorer):
        assert isinstance(scorer, ProcessScorer)

        async def score(path: Path) -> float:
            if not path.finished:
                return -50.0
            last = (await scorer.score(path, Ledger(Budget())))[-1]
            return float(np.log(last) - np.log1p(-last))

        paths = [path for own in pooled.paths for path in own]
        flat = await every([lambda p=path: score(p) for path in paths], at_once=128)
    return np.array(flat).reshape(pooled.correct.shape)


def tasks() -> Iterator[str]:
    """The embedded tasks every claim is measured on."""
    return iter(TASKS)


class Paced(WrappedModel):
    """A model whose every token takes the same time, so that a replayed pool keeps its races.

    Whole answers only. A cancelled sample is charged the tokens its time was enough for, as an engine
    would have made them; `clock_s` is the time of one token.
    """

    def __init__(self, model: Model, clock_s: float) -> None:
        super().__init__(model)
        self.clock_s = clock_s

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        spent = Ledger(Budget())
        loop = asyncio.get_running_loop()
        grown = await self._model.extend(path, n, until, sampling, rng, spent)
        made, began, whole = 0, loop.time(), max(child.n_tokens - path.n_tokens for child in grown)
        try:
            await asyncio.sleep(whole * self.clock_s)
            made = whole
        finally:
            made = made or min(whole, int((loop.time() - began) / self.clock_s))
            shown = sum(min(made, child.n_tokens - path.n_tokens) for child in grown)
            ledger.charge_model(prompt=spent.prompt_tokens, cached=spent.cached_tokens, generated=shown)
        return grown


# -- estimates --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def percent(self, digits: int = 1) -> str:
        """As `12.3 % (10.1 to 14.5)`."""
        value, low, high = (100 * x for x in (self.value, self.low, self.high))
        return f"{value:.{digits}f} % ({low:.{digits}f} to {high:.{digits}f})"

    def points(self, digits: int = 1) -> str:
        """A difference of shares as `+1.2 points (-0.4 to 2.8)`."""
        value, low, high = (100 * x for x in (self.value, self.low, self.high))
        return f"{value:+.{digits}f} points ({low:+.{digits}f} to {high:+.{digits}f})"

    def plain(self, digits: int = 2) -> str:
        """As `1.23 (1.01 to 1.45)`."""
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def estimate(values: Sequence[float] | Floats) -> Estimate:
    """The mean over questions and its bootstrap interval: questions are drawn again, with replacement."""
    return ratio(values, np.ones(len(values)))


def ratio(numerators: Sequence[float] | Floats, denominators: Sequence[float] | Floats) -> Estimate:
    """sum of numerators / sum of denominators, over questions, both of the same ones in each resample."""
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(top), (RESAMPLES, len(top)))
    ratios = top[drawn].sum(1) / bottom[drawn].sum(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Estimate(float(top.sum() / bottom.sum()), float(low), float(high))
