"""JSON answers: objects, arrays and tool calls as whole values, in a canonical writing.

`{"a": 1.0}` and `{ "a" : 1 }` are the same answer; `1` and `true`, or `1` and `"1"`, are not. A
key given twice, NaN and infinities are no JSON answer: readers disagree on what they mean.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, NoReturn

__all__ = ["extract_json", "normalise_json"]

_TOOL_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_START = re.compile(r"[{\[]")
_MOST_TRIES = 64
"""Brackets that begin nothing, after which a text counts as having no value: keeps reading linear."""
_LONGEST = 200_000
"""Characters from the end of a text that are read."""
_MOST_EXPONENT = 400


class _Number(str):
    """A number as its canonical digits, so that no precision is lost and no text is a number."""

    __slots__ = ()


def extract_json(text: str) -> str | None:
    """All `<tool_call>` blocks as one array, else the last whole object or array; canonical, or None.

    >>> extract_json('First {"x": 2}. Finally: {"b": [1.0, null], "a": "t"}')
    '{"a":"t","b":[1,null]}'
    """
    calls = _TOOL_CALL.findall(text[-_LONGEST:])
    if calls:
        forms = [_canonical(call) for call in calls]
        return None if None in forms else f"[{','.join(map(str, forms))}]"
    last, place, tries = None, 0, 0
    text = text[-_LONGEST:]
    while tries < _MOST_TRIES and (start := _START.search(text, place)):
        try:
            value, place = _DECODER.raw_decode(text, start.start())
            last = _written(value)
        except (ValueError, RecursionError):
            place, tries = start.start() + 1, tries + 1
    return last if tries < _MOST_TRIES else None


def normalise_json(answer: str) -> str:
    """The canonical writing of a JSON text; a text that is no JSON is left as it is."""
    return _canonical(answer) or answer.strip()


def _canonical(text: str) -> str | None:
    try:
        value, end = _DECODER.raw_decode(text.strip())
        return _written(value) if end == len(text.strip()) else None
    except (ValueError, RecursionError):
        return None


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{_written(v)}" for k, v in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return str(value) if isinstance(value, _Number) else json.dumps(value)


def _number(text: str) -> _Number:
    number = Decimal(text)
    if number.is_zero():
        return _Number("0")
    if abs(number.adjusted()) > _MOST_EXPONENT and "e" in text.lower():
        raise ValueError(f"the exponent of {text[:40]} is out of range")
    plain = format(number, "f")
    return _Number(plain.rstrip("0").rstrip(".") if "." in plain else plain)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key is given twice")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_number, parse_float=_number, parse_constant=_refuse
)
