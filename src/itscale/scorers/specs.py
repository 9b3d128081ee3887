"""Specs of scorers: the options behind the `#` of `KIND:REST#option=value,...`, and those on a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from urllib.parse import unquote

from itscale.errors import OptionError, did_you_mean
from itscale.scorers.base import Scorer

__all__ = ["SERVED_SCORERS", "number_option", "scorer_options"]


def scorer_options(kind: str, text: str, known: Iterable[str]) -> tuple[str, dict[str, str]]:
    """What stands before the last `#`, and the options behind it; values may be percent-encoded.

    Raises:
        OptionError: an option is unknown, given twice or without a value.
    """
    rest, mark, fragment = text.rpartition("#")
    if not mark:
        return text, {}
    options: dict[str, str] = {}
    for part in fragment.split(",") if fragment else ():
        name, equals, value = part.partition("=")
        name = name.strip().replace("-", "_")
        if name not in known:
            raise OptionError(did_you_mean(f"option of a {kind} scorer", name, known))
        if not equals or not value or name in options:
            raise OptionError(f"option {name!r} of a {kind} scorer needs one value; write #{name}=VALUE")
        options[name] = unquote(value)
    return rest, options


def number_option(options: dict[str, str], name: str, default: int, least: int) -> int:
    """A whole number of at least `least`.

    Raises:
        OptionError: it is none.
    """
    text = options.get(name, str(default))
    if not text.isdecimal() or int(text) < least:
        raise OptionError(f"{name} is {text!r}; give a whole number of at least {least}")
    return int(text)


def _served(form: str) -> Callable[[str], Scorer]:
    """The loader of a scorer on a server; what it needs is imported when it is asked for."""

    def load(text: str) -> Scorer:
        from itscale.scorers.served import ClassifyScorer, RewardScorer, ScoreScorer, label_index
        from itscale.scorers.served_prm import PoolingScorer, served_kind

        if form == "pooling":
            return PoolingScorer.load(text, kind=served_kind)
        if form == "classify":
            return ClassifyScorer.load(text, label=label_index)
        return RewardScorer.load(text) if form == "reward" else ScoreScorer.load(text)

    return load


SERVED_SCORERS: Sequence[tuple[str, str, Callable[[str], Scorer]]] = (
    (
        "pooling:MODEL@URL[#kind=KIND]",
        "a process reward model served by vLLM (/pooling); KIND: token-classification, qwen2.5-math-prm",
        _served("pooling"),
    ),
    (
        "reward:MODEL@URL",
        "a reward model served by vLLM (/pooling): one number for an answer",
        _served("reward"),
    ),
    (
        "classify:MODEL@URL[#label=INDEX]",
        "a classifier served by vLLM (/classify): the probability of a label",
        _served("classify"),
    ),
    (
        "score:MODEL@URL",
        "a cross-encoder served by vLLM (/score): how well an answer fits the question",
        _served("score"),
    ),
)
"""How each is written, what it is, how it is loaded."""
