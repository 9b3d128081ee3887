"""Stage two for plain answers: a form in which equal answers are equal strings."""

from __future__ import annotations

import re

__all__ = ["canonical_decimal", "normalise_answer"]

_NUMBER = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[-+]?\d+(?:\.\d+)?")


def normalise_answer(answer: str) -> str:
    """A form in which equal answers are equal strings: numbers by value, text by case and spaces."""
    compact = answer.strip().strip("$").strip()
    if _NUMBER.fullmatch(compact):
        return canonical_decimal(compact)
    return " ".join(compact.casefold().split())


def canonical_decimal(number: str) -> str:
    """`[sign]digits[.digits]`, perhaps with commas, as the one way to write its value.

    On digits, not floats: long numbers stay apart, and one of 400 digits is no overflow.

    >>> canonical_decimal("+1,200.50"), canonical_decimal("-0.0")
    ('1200.5', '0')
    """
    whole, _, fraction = number.lstrip("+-").replace(",", "").partition(".")
    value = ".".join(part for part in (whole.lstrip("0") or "0", fraction.rstrip("0")) if part)
    return f"-{value}" if number.startswith("-") and value != "0" else value
