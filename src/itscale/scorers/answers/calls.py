"""Tool calls as an answer: the whole of them, so that votes are never cast argument by argument."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from itscale.types import to_json

__all__ = ["answer_of_calls", "is_calls"]

_MARK = '[{"tool":'


def answer_of_calls(calls: Sequence[Mapping[str, Any]]) -> str | None:
    """The answer that these calls, in this order, are: equal calls have equal answers, whatever the
    order of keys and the ids; None where arguments are no JSON object, since nobody could make such a call.

    >>> answer_of_calls([{"id": "a", "function": {"name": "f", "arguments": '{"y": 2, "x": 1}'}}])
    '[{"tool":"f","arguments":{"x":1,"y":2}}]'
    """
    said = []
    for call in calls:
        function = call.get("function")
        if not isinstance(function, Mapping):
            return None
        try:
            arguments = json.loads(function.get("arguments") or "{}")
        except (ValueError, TypeError):
            return None
        if not isinstance(arguments, dict):
            return None
        ordered = json.loads(json.dumps(arguments, sort_keys=True))
        said.append({"tool": function.get("name"), "arguments": ordered})
    return to_json(said) if said else None


def is_calls(answer: str) -> bool:
    """Whether an answer is calls: equal only to the very same, never read as a number or a text."""
    return answer.startswith(_MARK)
