"""Numbers: the one number of a statement, compared by exact value.

A statement with two numbers, an open calculation or a word that turns a number into another one
("minus", "half", "at least") has no number: a wrong reading would vote. Currency, units and the
percent sign are dropped, so `$18.00`, `18 dollars` and `18 %` are all 18.
"""

from __future__ import annotations

import re
from fractions import Fraction

from itscale.scorers.answers.extract import statements
from itscale.scorers.answers.normalise import canonical_decimal

__all__ = ["extract_number", "normalise_number"]

_MOST_DIGITS = 400
"""Longer numbers are compared as written; scaling or dividing them is refused."""
_DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_READING = re.compile(
    rf"(?P<sign>[-+]?)[$€£ ]{{0,2}}(?P<sign2>[-+]?)(?:(?P<whole>[0-9]{{1,9}}) +(?=[0-9]+ ?/))?"
    rf"(?P<number>{_DECIMAL})(?:[eE](?P<exponent>[-+]?[0-9]{{1,3}})(?![0-9])"
    r"| ?/ ?(?P<divisor>[0-9]+)(?![0-9.,]))?"
)
_SCALES = {
    "dozen": 12,
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_TURNS = re.compile(
    r"\b(?:minus|negative|not|no|half|halves|thirds?|quarters?|than|least|most|between|or|and|[kKMB]|bn|mn|x)\b"
)
_OPERATORS = re.compile(
    r"[0-9+*\u00d7\u00f7\u00b1<>\u2264\u2265^_=\\|{}\[\]()?!]|-(?![A-Za-z])|(?<![A-Za-z])-"
)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{([0-9]{1,40})\}\{([0-9]{1,40})\}")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|mbox)\{([^{}]{0,80})\}")
_NAMED = re.compile(r"^[A-Za-z]\w{0,20} ?= ?(?=\S)")
_SENTENCE_END = re.compile(r"(?<=\S)\. |,? (?:because|since|so|as|which)\b")


def extract_number(text: str) -> str | None:
    r"""What the text states last, if that is one number; None otherwise.

    >>> extract_number("so she makes 9 * 2 dollars\nA: $1,018.50"), extract_number("A: 10+John's age")
    ('$1,018.50', None)
    """
    stated = next(statements(text), None)
    if stated is None:
        return None
    for reading in (stated, _SENTENCE_END.split(stated, maxsplit=1)[0]):
        if _value(reading) is not None:
            return reading.strip()
    return None


def normalise_number(answer: str) -> str:
    """The value in one way of writing: a decimal where it ends, else a reduced fraction.

    A text that is no number is left as it is.

    >>> [normalise_number(text) for text in ("$1,200.0", "1/2", "2/6", "-1.8 billion", "3 1/2")]
    ['1200', '0.5', '1/3', '-1800000000', '3.5']
    """
    value = _value(answer)
    return answer.strip() if value is None else value


def _value(text: str) -> str | None:
    """The canonical form of the one number in a text."""
    plain = _plain(text)
    match = _READING.search(plain)
    if match is None:
        return None
    before, after = plain[: match.start()], plain[match.end() :]
    scale, after = _scale(after)
    around = before + "\n" + after
    glued = (
        bool(match["sign"] and match["sign2"])
        or before[-1:].isalnum()
        or after[:1].isnumeric()
        or after.startswith(("'", "\u2019"))
    )
    if glued or _OPERATORS.search(around) or any(c.isnumeric() for c in around) or _TURNS.search(around):
        return None
    negative = "-" in (match["sign"], match["sign2"])
    return _exact(match, scale, negative)


def _plain(text: str) -> str:
    """Without the LaTeX and the signs that carry no value."""
    text = text.replace("\u2212", "-").replace("\\$", "$").replace("\\%", "%")
    text = re.sub(r"\\[!,;: ()\[\]]|\\(?:left|right)\b", "", text)
    text = re.sub(r"\^\{?\\circ\}?", "\u00b0", text)
    text = _LATEX_TEXT.sub(r" \1 ", text)
    text = _LATEX_FRACTION.sub(r"\1/\2", text).strip().strip("*`").strip()
    if text.startswith("$") and text.endswith("$"):
        text = text.strip("$").strip()
    return _NAMED.sub("", text.rstrip(".").rstrip())


def _scale(after: str) -> tuple[int, str]:
    """The factor a word right after a number stands for, and what follows it."""
    word = re.match(r" *([A-Za-z]+)", after)
    factor = _SCALES.get(word[1].lower().rstrip("s")) if word else None
    if word is None or factor is None:
        return 1, after
    return factor, after[word.end() :]


def _exact(match: re.Match[str], scale: int, negative: bool) -> str | None:
    number, exponent, divisor, whole = (match[group] for group in ("number", "exponent", "divisor", "whole"))
    sign = "-" if negative else ""
    if exponent is None and divisor is None and whole is None and scale == 1:
        return canonical_decimal(sign + number)
    if len(number) + len(divisor or "") > _MOST_DIGITS or (divisor and not divisor.strip("0")):
        return None
    if whole is not None and divisor is None:
        return None
    value = Fraction(number.replace(",", "")) * scale
    if exponent is not None:
        value *= Fraction(10) ** int(exponent)
    if divisor is not None:
        value = Fraction(whole or 0) + value / int(divisor)
    return _written(-value if negative else value)


def _written(value: Fraction) -> str:
    """A decimal if the value has a finite one, else numerator/denominator."""
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    places = max(twos, fives)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return canonical_decimal(f"{sign}{digits[: len(digits) - places]}.{digits[len(digits) - places :]}")
