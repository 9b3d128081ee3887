"""A language model as judge: `judge:MODEL[#option=value,...]`.

It is asked about an answer (an outcome), about each step of one (a process), or about several answers
side by side (a comparison), by the prompts in `judge_prompts.toml`, and its last line is parsed
strictly (`scorers/verdicts.py`). With `mode=yes-no` nothing is parsed: the score is the probability of
"Yes" against "No" as the model's next words, where the backend tells it.

Laws: what is no verdict is no score (ScorerError), never a default. Everything the judge reads and
writes is charged as scorer tokens, prefixes its backend had cached left out, and costs what its model
costs. The same question has the
same draws, whenever and in whatever order it is asked.

Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv 2306.05685.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path as FilePath
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from itscale.budget import Budget, Ledger, Price
from itscale.errors import ModelError, OptionError, PromptError, ScorerError, did_you_mean
from itscale.models.base import Capability, Model, check_plain
from itscale.randomness import Seeded, derive
from itscale.scorers.base import ComparisonScorer, OutcomeScorer, ProcessScorer
from itscale.scorers.specs import number_option, scorer_options
from itscale.scorers.verdicts import best_of_two, merged_ranks, ranking, score_on
from itscale.types import Message, Path, Prompt, Sampling, Until

__all__ = [
    "Asking",
    "ComparisonJudge",
    "OutcomeJudge",
    "ProcessJudge",
    "judge_of",
    "judge_prompts",
    "judging_model",
]

T = TypeVar("T")
_PROMPTS = FilePath(__file__).with_name("judge_prompts.toml")
_BLANK = re.compile(r"\{(question|answer|before|step|answers|count|low|high)\}")
_SURE = 1e-9
"""How near to 0 and 1 a probability may come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a judge is asked.

    Raises:
        OptionError: a value is out of range, or several judgements would all be the same.
    """

    yes_no: bool = False
    """By the probability of Yes against No instead of a score in words."""
    n: int = 1
    """Judgements of the same thing, averaged; those without a verdict are left out of the average."""
    temperature: float | None = None
    """Of the judge; none: 0 for one judgement, 1 for several."""
    max_tokens: int = 1024
    """A judgement may have."""
    low: float = 1.0
    high: float = 10.0

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_tokens < 1 or not self.low < self.high or (self.temperature or 0) < 0:
            raise OptionError(
                f"a judge cannot be asked so ({self}); n and max_tokens are at least 1, the temperature at "
                "least 0, and a scale goes from a smaller to a larger number"
            )
        if self.n > 1 and (self.yes_no or self.temperature == 0):
            raise OptionError(
                "several judgements at temperature 0, or of Yes against No, are all the same; leave out n, "
                "or the temperature"
            )

    @property
    def sampling(self) -> Sampling:
        """What the judge's words are drawn by."""
        chosen = self.temperature if self.temperature is not None else float(self.n > 1)
        return Sampling(temperature=chosen)


def judge_prompts(file: FilePath | None = None) -> Mapping[str, str]:
    """The prompts of a file of the form of `judge_prompts.toml`, ours by default, by name.

    Raises:
        OptionError: the file cannot be read, or lacks a prompt.
    """
    known = _tables(_PROMPTS)
    given = _tables(file) if file is not None else known
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise OptionError(f"{file} has a prompt {unknown[0]!r}; known: {', '.join(sorted(known))}")
    return {**known, **given}


def _tables(file: FilePath) -> dict[str, str]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
        return {name: str(table["user"]).strip() for name, table in tables.items()}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OptionError(
            f"{file} holds no judge prompts ({type(error).__name__}: {error}); copy "
            "itscale/scorers/judge_prompts.toml and change its words"
        ) from error


class _Judge:
    """What all judges share: a model, prompts, and one way to ask."""

    price: Price | None
    plain_only = True

    def __init__(
        self, model: Model, asking: Asking = Asking(), prompts: Mapping[str, str] | None = None
    ) -> None:
        if asking.yes_no and not {Capability.GIVEN, Capability.FORCING} <= model.capabilities:
            raise OptionError(
                f"judge {model.name!r} does not tell the probability of Yes and No; use mode=score, which "
                "any model can answer"
            )
        self.name = f"judge:{model.name}"
        self.asking = asking
        self.calls_each = asking.n
        self.price = model.price
        self._model = model
        self._prompts = judge_prompts() if prompts is None else prompts
        self._identity: str | None = None

    @property
    def identity(self) -> str:
        if self._identity is None:
            asked = json.dumps([asdict(self.asking), dict(self._prompts), type(self).__name__])
            digest = hashlib.blake2b(asked.encode(), digest_size=12).hexdigest()
            self._identity = f"judge:{self._model.identity}#{digest}"
        return self._identity

    async def close(self) -> None:
        """Close the judging model."""
        await self._model.close()

    async def _verdicts(self, name: str, read: Callable[[str], T], ledger: Ledger, **said: str) -> list[T]:
        """What `read` makes of each judgement; those it cannot read, or that failed, left out.

        Raises:
            ScorerError, ModelError: all of them were; this is the last one's.
        """
        text = self._filled(name, said)
        calls = [self._answered(text, i, read, ledger) for i in range(self.asking.n)]
        verdicts: list[T] = []
        failure: Exception | None = None
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, ScorerError | ModelError):
                failure = outcome
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                verdicts.append(outcome)
        if failure is not None and not verdicts:
            raise failure
        return verdicts

    async def _answered(self, text: str, i: int, read: Callable[[str], T], ledger: Ledger) -> T:
        """One judgement."""
        root, rng = _asked(text), Seeded(derive(0, "judge", text, i))
        until = Until("end", self.asking.max_tokens)
        [path] = await self._charged(
            lambda spent: self._model.extend(root, 1, until, self.asking.sampling, rng, spent), ledger
        )
        if not path.finished:
            raise ScorerError(
                f"the judge was not done after {self.asking.max_tokens} tokens; raise #max_tokens=N"
            )
        return read(path.text)

    async def _yes(self, name: str, ledger: Ledger, **said: str) -> float:
        """The probability of Yes, of Yes and No, in the open interval."""
        root = _asked(self._filled(name, said))
        plain = Sampling(temperature=1.0)

        async def log_probability(word: str) -> float:
            step = self._model.forced(root, word).step
            assert step is not None
            return math.fsum(
                await self._charged(
                    lambda spent: self._model.logprobs_of(root, step.token_ids, plain, spent), ledger
                )
            )

        yes, no = [await log_probability(word) for word in ("Yes", "No")]
        if max(yes, no) == -math.inf or math.isnan(yes + no):
            raise ScorerError("the judge gives neither Yes nor No any probability; use mode=score")
        odds = min(700.0, max(-700.0, no - yes))
        return min(1.0 - _SURE, max(_SURE, 1.0 / (1.0 + math.exp(odds))))

    async def _charged(self, ask: Callable[[Ledger], Coroutine[Any, Any, T]], ledger: Ledger) -> T:
        """A call to the judging model, as scorer tokens."""
        spent = Ledger(Budget())
        try:
            return await ask(spent)
        except PromptError as error:
            raise PromptError(f"{self.name} cannot read what a judge is asked: {error}") from error
        finally:
            ledger.charge_judge(
                prompt=spent.prompt_tokens, cached=spent.cached_tokens, generated=spent.generated_tokens
            )
            ledger.retries += spent.retries

    def _filled(self, name: str, said: Mapping[str, str]) -> str:
        """A prompt with its blanks filled in, all at once: what is filled in is not looked at again."""
        values = {"low": f"{self.asking.low:g}", "high": f"{self.asking.high:g}", **said}
        return _BLANK.sub(lambda blank: values.get(blank[1], blank[0]), self._prompts[name])

    def _score(self, text: str) -> float:
        return score_on(text, self.asking.low, self.asking.high)


class OutcomeJudge(_Judge, OutcomeScorer):
    """Judges a finished answer: a number in (0, 1), larger is better."""

    async def score(self, path: Path, ledger: Ledger) -> float:
        said = {"question": _question(path.prompt), "answer": path.text.strip()}
        if self.asking.yes_no:
            return await self._yes("score-yes-no", ledger, **said)
        scores = await self._verdicts("score", self._score, ledger, **said)
        return math.fsum(scores) / len(scores)


class ProcessJudge(_Judge, ProcessScorer):
    """Judges each step given those before it, once, whatever grows from it.

    A step of white space alone is judged like the one before. A path is one scorer call (n for n
    judgements), however many of its steps are new; the tokens are all counted.
    """

    def __init__(
        self, model: Model, asking: Asking = Asking(), prompts: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(model, asking, prompts)
        self._known: WeakKeyDictionary[Path, float] = WeakKeyDictionary()
        self._turns: WeakKeyDictionary[Path, asyncio.Lock] = WeakKeyDictionary()

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        nodes = [node for node in path.nodes() if node.step is not None][::-1]
        says = [node for i, node in enumerate(nodes) if i == 0 or (node.step and node.step.text.strip())]
        outcomes = await asyncio.gather(*(self._judged(n, ledger) for n in says), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        scores: list[float] = []
        for node in nodes:
            scores.append(self._known[node] if node in self._known else scores[-1])
        return scores

    async def _judged(self, node: Path, ledger: Ledger) -> None:
        """Have a node's own step judged."""
        async with self._turns.setdefault(node, asyncio.Lock()):
            if node in self._known:
                return
            assert node.step is not None
            assert node.parent is not None
            before = node.parent.text.strip() or "(nothing yet)"
            said = {"question": _question(node.prompt), "before": before, "step": node.step.text.strip()}
            if self.asking.yes_no:
                self._known[node] = await self._yes("step-yes-no", ledger, **said)
                return
            scores = await self._verdicts("step", self._score, ledger, **said)
            self._known[node] = math.fsum(scores) / len(scores)


class ComparisonJudge(_Judge, ComparisonScorer):
    """Compares answers in the order given: two by their better one, more by a ranking."""

    async def compare(self, paths: Sequence[Path], ledger: Ledger) -> Sequence[int]:
        answers = "\n\n".join(
            f"<answer_{i}>\n{path.text.strip()}\n</answer_{i}>" for i, path in enumerate(paths, 1)
        )
        said = {"question": _question(paths[0].prompt), "answers": answers, "count": str(len(paths))}
        verdicts: Sequence[tuple[int, ...]]
        if len(paths) == 2:
            verdicts = await self._verdicts("pair", best_of_two, ledger, **said)
        else:
            verdicts = await self._verdicts("list", lambda text: ranking(text, len(paths)), ledger, **said)
        return verdicts[0] if len(verdicts) == 1 else merged_ranks(verdicts)


def _asked(text: str) -> Path:
    return Path.root(Prompt(messages=(Message("user", text),)))


def _question(prompt: Prompt) -> str:
    """What was asked, as text: the message, or the whole conversation with its roles."""
    check_plain(prompt.judged, "a judge")
    if prompt.raw is not None or len(prompt.messages) == 1:
        return prompt.question.strip()
    return "\n\n".join(f"[{message.role}]\n{message.content.strip()}" for message in prompt.messages)


def judging_model(spec: str) -> str | None:
    """The spec of the model behind the spec of a judge; None of other scorers.

    >>> judging_model("judge:openai:m@http://h/v1#timeout=60#n=3"), judging_model("embedded")
    ('openai:m@http://h/v1#timeout=60', None)
    """
    kind, _, text = spec.partition(":")
    return scorer_options("judge", text, _OPTIONS)[0] if kind == "judge" else None


_OPTIONS = ("mode", "unit", "n", "temperature", "max_tokens", "scale", "prompts")
_OF_MODELS = ("boundary", "key_file", "timeout")


def judge_of(text: str, load: Callable[[str], Model]) -> OutcomeJudge | ProcessJudge | ComparisonJudge:
    """The judge that `MODEL[#option=value,...]` names, its model loaded by `load`.

    A model's own options stand before the judge's: `openai:M@URL#timeout=60#mode=score`, or end in an
    empty `#`.

    Raises:
        OptionError: an option is unknown or impossible.
    """
    fragment = text.rpartition("#")[2] if "#" in text else ""
    if fragment.partition("=")[0].replace("-", "_") in _OF_MODELS:
        raise OptionError(
            f"#{fragment} would be options of the judge; put those of its model before them, and end in #: "
            f"judge:{text}#"
        )
    spec, options = scorer_options("judge", text, _OPTIONS)
    if spec == "embedded":
        raise OptionError(
            "the embedded reasoner knows its two tasks only and cannot judge; give a judge that reads "
            "instructions (judge:openai:MODEL@URL, judge:hf:PATH), or the embedded process scorer (embedded)"
        )
    mode, unit = options.get("mode", "score"), options.get("unit", "answer")
    for name, value, known in (
        ("mode", mode, ("score", "yes-no", "compare")),
        ("unit", unit, ("answer", "step")),
    ):
        if value not in known:
            raise OptionError(did_you_mean(f"{name} of a judge", value, known))
    if mode == "compare" and "unit" in options:
        raise OptionError("a judge that compares compares whole answers; leave out unit")
    low, high = _scale(options.get("scale", "1-10"))
    asking = Asking(
        yes_no=mode == "yes-no",
        n=number_option(options, "n", 1, 1),
        temperature=_temperature(options.get("temperature")),
        max_tokens=number_option(options, "max_tokens", 1024, 1),
        low=low,
        high=high,
    )
    prompts = judge_prompts(FilePath(options["prompts"]).expanduser() if "prompts" in options else None)
    kind = ComparisonJudge if mode == "compare" else ProcessJudge if unit == "step" else OutcomeJudge
    return kind(load(spec), asking, prompts)


def _scale(text: str) -> tuple[float, float]:
    said = re.fullmatch(r"(-?\d+(?:\.\d+)?)-(-?\d+(?:\.\d+)?)", text)
    if said is None:
        raise OptionError(f"scale is {text!r}; give two numbers, scale=1-10 say")
    return float(said[1]), float(said[2])


def _temperature(text: str | None) -> float | None:
    try:
        value = None if text is None else float(text)
    except ValueError:
        value = math.nan
    if value is not None and not 0 <= value < math.inf:
        raise OptionError(f"temperature is {text!r}; give a number of at least 0")
    return value
