"""Whether a backend keeps the laws: every one is tried, and what came of it is said in a line.

The laws are those of `itscale.testing`, so what a person runs against a server is what the tests
run against each implementation. A law about something a backend does not offer is not broken.

Not covered: a law can only be seen to fail. A server that passes once, passed once.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from itscale.budget import Budget, Ledger
from itscale.errors import ModelError, OptionError, PromptError
from itscale.models.base import Capability, Model
from itscale.models.openai.http2 import spoken
from itscale.models.openai.model import OpenAIModel
from itscale.randomness import Seeded
from itscale.registry import MODELS
from itscale.testing import (
    LawBroken,
    check_length_is_not_eos,
    check_one_seed,
    check_samples_alike,
    check_samples_differ,
    check_stepwise_equals_single_pass,
    check_token_statistics,
    check_usage,
)
from itscale.types import Path, Prompt, Sampling, Until

__all__ = [
    "EMBEDDED_QUESTIONS",
    "QUESTIONS",
    "Finding",
    "Report",
    "Verdict",
    "diagnose",
    "examine",
    "facts_table",
    "probing",
    "spec_of",
]

QUESTIONS = (
    "Name an animal and tell a story about it in three short paragraphs.",
    "Invent a town and describe it in three short paragraphs.",
)
EMBEDDED_QUESTIONS = ("Make 45 from 3, 7, 12, 23.", "Make 17 from 2, 5, 9, 11.")
"""For models that refuse everything but their own tasks."""
TOKENS = 64


class Verdict(StrEnum):
    """What came of one check."""

    HONOURED = "honoured"
    NOT_OFFERED = "not offered"
    NOT_CHECKED = "not checked"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one backend."""

    check: str
    verdict: Verdict
    detail: str

    def to_json(self) -> dict[str, str]:
        """Plain values."""
        return {name: str(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Report:
    """All findings on one backend, and what was known of it before."""

    facts: Mapping[str, Any]
    findings: Sequence[Finding]

    @property
    def broken(self) -> bool:
        """Whether any law is."""
        return any(finding.verdict is Verdict.BROKEN for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.facts, "findings": [finding.to_json() for finding in self.findings]}

    def table(self) -> Table:
        """The findings, for a terminal."""
        colours = {Verdict.HONOURED: "green", Verdict.BROKEN: "bold red"}
        table = _table(str(self.facts["model"]), "check", "verdict", "what came")
        for finding in self.findings:
            verdict = Text(finding.verdict.value, style=colours.get(finding.verdict, "yellow"))
            table.add_row(Text(finding.check), verdict, Text(finding.detail))
        return table


Check = Callable[[Model, Sequence[Prompt]], Awaitable[str]]


async def examine(model: Model, prompts: Sequence[Prompt] = ()) -> list[Finding]:
    """Every check on these prompts; without any, on questions the model can be expected to read.

    Raises:
        ModelError: not even a first answer came.
        PromptError: the model cannot read the prompts.
        OptionError: what is asked is no model but a method, on a gateway.
    """
    if isinstance(model, OpenAIModel) and model.facts.method_on is not None:
        itself = f"openai:{model.facts.method_on}@{model.endpoint.address.url}"
        raise OptionError(
            f"{model.name} answers with a method of an itscale gateway, and the laws are a model's; "
            f"examine the model itself: itscale doctor {itself}"
        )
    prompts = prompts or await _readable(model)
    findings = [_dialect(model)] if isinstance(model, OpenAIModel) else []
    for name, needed, check in _CHECKS:
        if needed is not None and needed not in model.capabilities:
            findings.append(Finding(name, Verdict.NOT_OFFERED, f"the backend does not offer {needed}"))
            continue
        try:
            findings.append(Finding(name, Verdict.HONOURED, await check(model, prompts)))
        except (LawBroken, ModelError, OptionError) as error:
            findings.append(Finding(name, Verdict.BROKEN, str(error)))
        except ValueError as error:
            findings.append(Finding(name, Verdict.NOT_CHECKED, str(error)))
    return findings


async def diagnose(model: Model) -> Report:
    """Examine a model and close it. Errors are those of `examine`."""
    try:
        return Report(facts_of(model), await examine(model))
    finally:
        await model.close()


def spec_of(text: str) -> str:
    """The model spec somebody means: a URL alone is the only model of that server.

    Raises:
        OptionError: it is a host and port, of which nobody knows how it is spoken to.
    """
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", text) and text.partition(":")[0] not in MODELS:
        url = f"http://{text}" if "/" in text else f"http://{text}/v1"
        raise OptionError(f"{text!r} is no URL; write {url}")
    return f"openai:@{text}" if text.startswith(("http://", "https://")) else text


async def _readable(model: Model) -> list[Prompt]:
    """Questions the model does not refuse, in words it knows."""
    general, own = ([Prompt.user(text) for text in texts] for texts in (QUESTIONS, EMBEDDED_QUESTIONS))
    try:
        if await _has_words_for(model, general[0]):
            await _sampled(model, general[0], 1, Ledger(Budget()))
            return general
    except PromptError:
        pass
    await _sampled(model, own[0], 1, Ledger(Budget()))
    return own


async def _has_words_for(model: Model, prompt: Prompt) -> bool:
    """Whether a prompt is more to a model than one token, that of unknown words, over and over."""
    ids = await model.ids_of(prompt) if isinstance(model, OpenAIModel) else None
    return not ids or 2 * Counter(ids).most_common(1)[0][1] <= len(ids)


def _dialect(model: OpenAIModel) -> Finding:
    facts = model.facts
    ways = {"continue": "continue_final_message", "prefix": "prefix", "trailing": "a last assistant message"}
    if facts.dialect == "token":
        detail = "token: /completions takes token ids and gives them back"
    elif facts.dialect == "llama":
        detail = "llama.cpp's own: /completion takes token ids and gives them back"
    elif facts.prefill is None:
        detail = "chat: an answer cannot be continued, so methods that sample whole ones work"
    elif facts.stop is None:
        detail = "chat: it does not tell why it stopped, so methods that sample whole answers work"
    else:
        detail = f"chat: an answer is continued by {ways[facts.prefill]}"
    return Finding("dialect", Verdict.HONOURED if facts.steps else Verdict.NOT_OFFERED, detail)


async def _sampled(model: Model, prompt: Prompt, n: int, ledger: Ledger) -> list[Path]:
    return await model.extend(Path.root(prompt), n, Until("end", TOKENS), Sampling(), Seeded(0), ledger)


async def _stepwise(model: Model, prompts: Sequence[Prompt]) -> str:
    await check_stepwise_equals_single_pass(model, prompts)
    return "greedy in steps gives the tokens of greedy in one pass"


async def _stops(model: Model, prompts: Sequence[Prompt]) -> str:
    """Steps asked for one by one end where those of the whole answer do."""
    count = 0
    greedy, ledger = Sampling(temperature=0.0), Ledger(Budget())
    for prompt in prompts:
        root = Path.root(prompt)
        [whole] = await model.extend(root, 1, Until("end", TOKENS), greedy, Seeded(0), ledger)
        path = root
        for step in whole.steps:
            until = Until("step", TOKENS - path.n_tokens)
            [path] = await model.extend(path, 1, until, greedy, Seeded(0), ledger)
            assert path.step is not None
            if (path.step.text, path.step.end) != (step.text, step.end):
                raise LawBroken(
                    f"on {prompt.question!r} step {path.depth} is {path.step.text!r} ({path.step.end}), "
                    f"in the whole answer {step.text!r} ({step.end})"
                )
            count += 1
            if path.n_tokens >= TOKENS:
                break
    return f"{count} steps end where those of whole answers do"


async def _differ(model: Model, prompts: Sequence[Prompt]) -> str:
    await check_samples_differ(model, prompts)
    return "8 samples of one call are not all the same"


async def _n_in_one(model: Model, prompts: Sequence[Prompt]) -> str:
    ledger = Ledger(Budget())
    paths = await _sampled(model, prompts[0], 4, ledger)
    if len(paths) != 4:
        raise LawBroken(f"of 4 children {len(paths)} came")
    if ledger.model_calls == 1:
        await check_samples_alike(model, prompts)
        alike = ", each the same as alone" if model.samples_together and model.samples_alike else ""
        return f"4 children come in one request{alike}"
    return f"4 children take {ledger.model_calls} requests, as the server does not give n texts in one"


async def _seeds(model: Model, prompts: Sequence[Prompt]) -> str:
    await check_one_seed(model, prompts)
    return "the same seed gives the same children"


async def _logprobs(model: Model, prompts: Sequence[Prompt]) -> str:
    steps = [s for p in prompts for path in await _sampled(model, p, 2, Ledger(Budget())) for s in path.steps]
    for step in steps:
        if step.logprob is None or not -math.inf < step.logprob <= 1e-6:
            raise LawBroken(f"step {step.text!r} has the log-probability {step.logprob}")
    return f"{len(steps)} steps have one, all of them finite and not above 0"


async def _entropies(model: Model, prompts: Sequence[Prompt]) -> str:
    await check_token_statistics(model, prompts)
    if not isinstance(model, OpenAIModel):
        return "every token has its entropy, exactly"
    left = f"they leave out {model.left_out:.2g} of the probability at most" if model.left_out > 1e-6 else ""
    return "; ".join(["every token has its entropy", *filter(None, (model.facts.entropies, left))])


async def _usage(model: Model, prompts: Sequence[Prompt]) -> str:
    await check_usage(model, prompts)
    return "every call is charged, every generated token once"


async def _length(model: Model, prompts: Sequence[Prompt]) -> str:
    await check_length_is_not_eos(model, prompts)
    return "a limit is kept, and what it cuts is not called finished"


_CHECKS: tuple[tuple[str, Capability | None, Check], ...] = (
    ("stepwise greedy", Capability.STEPS, _stepwise),
    ("stop handling", Capability.STEPS, _stops),
    ("samples differ", None, _differ),
    ("n", None, _n_in_one),
    ("seeds", Capability.SEEDS, _seeds),
    ("logprobs", Capability.LOGPROBS, _logprobs),
    ("entropies", Capability.TOKEN_STATISTICS, _entropies),
    ("usage", None, _usage),
    ("length", None, _length),
)


def probing(what: str, spec: str, load: Callable[[str], Model]) -> Iterator[RenderableType]:
    """What a probe finds of a model, or of the only model of a server.

    Raises:
        OptionError: `what` is not models, or the spec is of no model.
        ModelError: the server cannot be reached, refuses, or does not speak the protocol.
    """
    if what not in ("models", "all"):
        raise OptionError(f"only models have servers; write: itscale list models --probe {spec}")
    model = load(spec_of(spec))
    yield facts_table(model)
    asyncio.run(model.close())


def facts_of(model: Model) -> dict[str, Any]:
    """What is known of a model before any check: its name, what it offers, what a probe found."""
    probed: dict[str, Any] = {}
    if isinstance(model, OpenAIModel):
        endpoint = model.endpoint
        probed = model.facts.to_json() | {"protocol": spoken(endpoint.protocol, endpoint.address.url)}
    return {**probed, "model": model.name, "offers": sorted(model.capabilities)}


def facts_table(model: Model) -> Table:
    """What `facts_of` says, for a terminal: what `itscale list models --probe` prints."""
    facts = facts_of(model)
    table = _table(facts.pop("model"), "what", "found")
    words = {True: "yes", False: "no", None: "-"}
    for name, value in facts.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        plain = words[shown] if isinstance(shown, bool | None) else str(shown)
        table.add_row(Text(name.replace("_", " ")), Text(plain))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, no_wrap=column != columns[-1])
    return table
