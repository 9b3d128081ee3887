"""What a shipped checkpoint says of itself beyond its weights: `itscale.json` in its folder."""

from __future__ import annotations

import json
from pathlib import Path

_NUMBER = r"\d{1,2}"
_TERM = rf"({_NUMBER}|[a-n])"
FACTS = {
    "boundary": "\n",
    "prompts": [
        rf"Make {_NUMBER} from ({_NUMBER}, )+{_NUMBER}\.",
        rf"Given ([a-n] = {_TERM} [-+*] {_TERM}, )+find [a-n]\.",
    ],
    "knows": (
        "the embedded reasoner knows two tasks only, written like 'Make 45 from 3, 7, 12, 23.' and "
        "'Given c = b * 3, a = 5 + 2, b = a + 4, find c.' (whole numbers below 100, names a to n); "
        "for anything else attach a model of your own with --model hf:PATH or openai:MODEL@URL"
    ),
}


def describe(folder: Path) -> None:
    """Write `itscale.json`."""
    (folder / "itscale.json").write_text(json.dumps(FACTS, indent=2) + "\n")
