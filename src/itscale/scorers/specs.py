"""The options behind the `#` of a scorer's spec: `KIND:REST#option=value,...`."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote

from itscale.errors import OptionError, did_you_mean

__all__ = ["number_option", "scorer_options"]


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
