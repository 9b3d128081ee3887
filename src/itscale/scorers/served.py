"""Reward models behind a vLLM server: `reward:`, `classify:` and `score:`, each at its own endpoint.

    reward:MODEL@URL      /pooling     one number for question and answer, any scale
    classify:MODEL@URL    /classify    the probability of one label (#label=INDEX)
    score:MODEL@URL       /score       how well the answer fits the question, as a cross-encoder says

These are outcome scorers; a process reward model is `pooling:` (`scorers/served_prm.py`). All share the
pooled client of `models/openai/`: keys, retries, Retry-After, limits on requests in flight.

Laws: an answer that is not of the stated form is a ScorerError with what came, never a number made of
it; what the server read is charged as scorer tokens, retries as retries.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from itscale.budget import Ledger
from itscale.errors import OptionError, ScorerError, did_you_mean
from itscale.models.base import check_plain
from itscale.models.openai.address import Address, find_key
from itscale.models.openai.client import Call, Endpoint
from itscale.models.openai.probe import models_at
from itscale.scorers.base import OutcomeScorer
from itscale.types import Path

__all__ = [
    "ClassifyScorer",
    "RewardScorer",
    "ScoreScorer",
    "Served",
    "label_index",
    "numbers_in",
    "only_item",
    "reached",
]

T = TypeVar("T", bound="Served")
_OF_SERVERS = ("key_file", "timeout")


class Served:
    """What all scorers on a server share: where it is, and one way to ask."""

    form: str
    """What stands before the colon of its spec."""
    plain_only = True

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self.name = f"{self.form}:{model}@{endpoint.address.url}"
        self.endpoint = endpoint
        self._model = model

    @classmethod
    def load(
        cls: type[T],
        text: str,
        *,
        endpoint: Callable[..., Endpoint] = Endpoint,
        **arguments: Callable[[str], Any],
    ) -> T:
        """The scorer at `MODEL@URL#option=value,...`, its key taken as for models.

        The server is asked for its models, so that a wrong address or name is known at once.

        Args:
            text: what stands behind the colon of the spec.
            endpoint: makes the endpoint; for tests.
            arguments: options of this scorer, each with what makes a value of its text.

        Raises:
            OptionError: the address or an option is none, or the server has no such model.
            ModelError: it cannot be reached, or refuses.
        """
        rest, mark, fragment = text.partition("#")
        values: dict[str, Any] = {}
        servers: list[str] = []
        for part in fragment.split(",") if fragment else ():
            name, _, value = part.partition("=")
            name = name.strip().replace("-", "_")
            if name in arguments and name not in values:
                values[name] = arguments[name](value)
            elif name in _OF_SERVERS:
                servers.append(part)
            else:
                raise OptionError(
                    did_you_mean(f"option of a {cls.form} scorer", name, [*arguments, *_OF_SERVERS])
                )
        address = Address.parse(f"{rest}#{','.join(servers)}" if mark else rest)
        at = endpoint(address, find_key(address, os.environ))
        return cls(at, reached(at), **values)

    @property
    def identity(self) -> str:
        """The name: address, model and endpoint; never a key."""
        return self.name

    async def close(self) -> None:
        """Close the connections."""
        await self.endpoint.close()

    async def _ask(self, where: str, body: Mapping[str, Any], ledger: Ledger, known: int = 0) -> Any:
        """The answer of an endpoint, charged; `known` tokens are read if the server does not say."""
        call, answer = Call(), {}
        try:
            answer = await self.endpoint.post(
                f"{self.endpoint.address.root}{where}", {"model": self._model, **body}, call
            )
        finally:
            ledger.retries += call.retries
            ledger.charge_scorer(tokens=_tokens_read(answer, known if call.worked_on else 0))
        return answer

    def _refused(self, why: str) -> ScorerError:
        return ScorerError(
            f"{self.name} answered {why}; see that the server runs a model for this endpoint, and how: "
            "docs/models.md"
        )


def reached(endpoint: Endpoint) -> str:
    """The name of the address's model, once its server has said that it has it.

    Raises:
        OptionError: it has no such model, or several and none was named.
        ModelError: it cannot be reached, or refuses.
    """

    async def look() -> str:
        offered = await models_at(endpoint)
        name = endpoint.address.model or (next(iter(offered)) if len(offered) == 1 else "")
        if name not in offered:
            what = f"model {name!r} is not what {endpoint.address.url} offers" if name else "name the model"
            raise OptionError(f"{what}; choose one of: {', '.join(sorted(offered)) or 'none'}")
        return name

    return endpoint.alone(look)


def _tokens_read(answer: Mapping[str, Any], known: int) -> int:
    """The tokens a server computed: those of the prompt that it had not cached."""
    usage = answer.get("usage")
    prompt = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if type(prompt) is not int or prompt < 0:
        return known
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return prompt - min(cached, prompt) if type(cached) is int and cached > 0 else prompt


def only_item(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one item of an answer to one input; empty if it is none."""
    data = answer.get("data")
    if isinstance(data, list) and len(data) == 1 and isinstance(data[0], dict):
        return data[0]
    return {}


def numbers_in(values: Any) -> list[float] | None:
    """A list of finite numbers; None if it is anything else."""
    if not isinstance(values, list) or not values:
        return None
    if not all(type(v) in (int, float) and math.isfinite(v) for v in values):
        return None
    return [float(v) for v in values]


def _conversation(path: Path) -> dict[str, Any]:
    """Question and answer as a server's chat template takes them; text where the prompt is text."""
    check_plain(path.prompt.judged, "a reward model")
    if path.prompt.raw is not None:
        return {"input": path.prompt.raw + path.text}
    turns = [{"role": m.role, "content": m.content} for m in path.prompt.messages]
    return {"messages": [*turns, {"role": "assistant", "content": path.text}]}


class RewardScorer(Served, OutcomeScorer):
    """One number for question and answer: the pooled one, or that of the last token."""

    form = "reward"

    async def score(self, path: Path, ledger: Ledger) -> float:
        item = only_item(await self._ask("/pooling", _conversation(path), ledger, path.n_tokens))
        data = item.get("data")
        last = data[-1] if isinstance(data, list) and data and isinstance(data[-1], list) else data
        values = numbers_in(last)
        if values is None or len(values) != 1:
            raise self._refused("something else than one number for one answer")
        return values[0]


class ClassifyScorer(Served, OutcomeScorer):
    """The probability of one label of a classifier.

    Args:
        label: its index; by default the only one, or the second of two.
    """

    form = "classify"

    def __init__(self, endpoint: Endpoint, model: str, label: int | None = None) -> None:
        super().__init__(endpoint, model)
        self.label = label

    @property
    def identity(self) -> str:
        return self.name if self.label is None else f"{self.name}#label={self.label}"

    async def score(self, path: Path, ledger: Ledger) -> float:
        item = only_item(await self._ask("/classify", _conversation(path), ledger, path.n_tokens))
        values = numbers_in(item.get("probs"))
        if values is None:
            raise self._refused("no probabilities")
        label = len(values) - 1 if self.label is None else self.label
        if label >= len(values) or (self.label is None and len(values) > 2):
            raise ScorerError(
                f"{self.name} has {len(values)} labels; say which one is good with #label=INDEX, from 0"
            )
        return values[label]


def label_index(text: str) -> int:
    """The index of a label.

    Raises:
        OptionError: it is none.
    """
    if not text.isdecimal():
        raise OptionError(f"label is {text!r}; give the index of the label that is good, from 0")
    return int(text)


class ScoreScorer(Served, OutcomeScorer):
    """How well the answer fits the question, in the cross-encoder's own units."""

    form = "score"

    async def score(self, path: Path, ledger: Ledger) -> float:
        check_plain(path.prompt.judged, "a cross-encoder")
        body = {"text_1": path.prompt.question, "text_2": path.text}
        item = only_item(await self._ask("/score", body, ledger, path.n_tokens))
        values = numbers_in([item.get("score")])
        if values is None:
            raise self._refused("no score")
        return values[0]
