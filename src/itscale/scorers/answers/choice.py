"""Multiple choice: one letter A to J, stated as a choice. "A train" is a train, not answer A."""

from __future__ import annotations

import re

from itscale.scorers.answers.extract import statements, without_markup

__all__ = ["extract_choice", "normalise_choice"]

_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\{([^{}]{0,80})\}")
_WORD = r"(?:(?:option|choice|answer) )?"
_BARE = re.compile(rf"{_WORD}([A-J])[.):]?", re.IGNORECASE)
_BRACKETED = re.compile(rf"{_WORD}[(\[]([A-J])[)\]][.:]?(?P<rest>\s.*|)", re.IGNORECASE | re.DOTALL)
_LABELLED = re.compile(rf"{_WORD}([A-J])(?:[.):]| [-\u2013\u2014](?= ))(?P<rest>\s+\S.*)", re.DOTALL)
_SECOND = re.compile(r"^\s*(?:,|/|&|and\b|or\b)\s*[(\[]?[A-J](?:\b|[)\]])", re.IGNORECASE)
"""A second letter: two choices are none."""


def extract_choice(text: str) -> str | None:
    """The letter (upper case) of what the text states last; else its last line, if only a letter.

    >>> [extract_choice(t) for t in ("The answer is (b).", "Answer: A train", "Answer: A) train")]
    ['B', None, 'A']
    """
    for stated in statements(text):
        return _letter(stated)
    lines = text.strip().splitlines()
    line = without_markup(lines[-1]) if lines else None
    bare = re.fullmatch(r"[(\[]?([A-J])[)\]]?[.:]?", line or "")
    return bare[1] if bare else None


def normalise_choice(answer: str) -> str:
    """The letter alone, upper case; a text that is no choice is left as it is."""
    return _letter(answer) or answer.strip()


def _letter(stated: str) -> str | None:
    plain = _LATEX_TEXT.sub(r"\1", stated).replace("**", "").strip().strip("$").strip()
    whole = _BARE.fullmatch(plain)
    if whole:
        return whole[1].upper()
    marked = _BRACKETED.fullmatch(plain) or _LABELLED.fullmatch(plain)
    if marked is None or _SECOND.match(marked["rest"]):
        return None
    return marked[1].upper()
