r"""Stage one: where a text states its answer. Patterns are bounded, so any text is read in linear time.

Law: a text that states nothing has no answer (None), whatever else stands in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["extract_answer", "last_boxed", "statements", "without_markup"]

_STATED = re.compile(
    r"^\W{0,20}(?:final )?answer\W{0,4}?(?::|[ \t]is\b)[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE
)
_LABELLED = re.compile(r"^[ \t*]{0,8}(?:####|A:)[ \t]*(\S.*)$", re.MULTILINE)
"""How the GSM8K solutions end, the original ones and those of its fine-tuned models."""
_IN_SENTENCE = re.compile(r"\banswer\b[*_` ]{0,4}(?::|is\b:?)[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE)
_BOXED = "\\boxed{"
_MARKUP = "*` \t"
"""What models put around a stated answer for emphasis."""


def extract_answer(text: str) -> str | None:
    r"""The answer a text states last: a line `Answer: X`, else the content of `\boxed{X}`, else None."""
    stated = _STATED.findall(text)
    boxed = last_boxed(stated[-1] if stated else text)
    if boxed is not None or not stated:
        return boxed
    return without_markup(stated[-1])


def statements(text: str) -> Iterator[str]:
    r"""Everything a text states as its answer, the last first.

    Lines `Answer: X`, `#### X` or `A: X` and `\boxed{X}`; after them "the answer is X" in a sentence,
    because "so our answer is correct" often follows the answer.
    """
    found = [(m.start(1), m.group(1)) for pattern in (_LABELLED, _STATED) for m in pattern.finditer(text)]
    boxed = last_boxed(text)
    if boxed is not None:
        found.append((text.rfind(_BOXED), boxed))
    found.sort(reverse=True)
    for stated in (*(stated for _, stated in found), *_IN_SENTENCE.findall(text)[::-1]):
        inside = last_boxed(stated)
        plain = without_markup(stated) if inside is None else inside
        if plain is not None:
            yield plain


def without_markup(stated: str) -> str | None:
    """A statement without emphasis and the full stop at its end; None if nothing is left."""
    return stated.strip(_MARKUP).rstrip(".").strip(_MARKUP) or None


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}`; None without one, if it is empty or never closed."""
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    depth, begin = 1, start + len(_BOXED)
    for i in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i].strip() or None
    return None
