"""What can go wrong with a call, as one sentence each, with the fix."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from itscale.errors import ModelError

__all__ = [
    "NOT_ACCEPTED",
    "Refused",
    "Trouble",
    "Unanswered",
    "detail_of",
    "error_in",
    "refusal",
    "retry_after_s",
]

_OVERFLOW = (
    "context length",
    "context_length",
    "context size",
    "maximum context",
    "too many tokens",
    "too long",
)
_SHOWN = 300
NOT_ACCEPTED = "prompt_not_accepted"
"""A gateway's code for a prompt that its model cannot read, whoever asks for what of it."""


class Refused(ModelError):  # noqa: N818  it reads as what it says
    """The server understood and said no; asking again in the same words is of no use."""

    def __init__(
        self, message: str, status: int, detail: str, error: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail
        """What the server said."""
        self.error = error or {}
        """Its error object (message, type, code, param), where it gave one."""


class Unanswered(ModelError):  # noqa: N818  it reads as what it says
    """No usable answer after all attempts. `status` is the last one's, 504 for a time limit, None
    where the server could not be reached; `wait_s` is how long it wants to be left alone, `error` its
    error object, where it gave one."""

    def __init__(
        self,
        message: str,
        status: int | None,
        wait_s: float | None,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.wait_s = wait_s
        self.error = error or {}


class Trouble(Exception):  # noqa: N818  a signal inside this room; the user sees a ModelError
    """One attempt failed in a way another may not."""

    def __init__(
        self,
        what: str,
        *,
        overloaded: bool = False,
        slow: bool = False,
        unread: bool = False,
        wait_s: float | None = None,
        status: int | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(what)
        self.error = error or {}
        self.status = 504 if slow else status
        self.overloaded = overloaded
        self.slow = slow
        """It took the whole time limit, so few more tries are worth it."""
        self.unread = unread
        """The server did no work on it."""
        self.wait_s = wait_s
        """How long the server wants to be left alone."""


def detail_of(body: bytes) -> str:
    """What an error body says, whatever its shape, on one line."""
    try:
        said: Any = json.loads(body)
    except ValueError:
        said = body.decode("utf-8", "replace")
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and name in said:
            said = said[name]
    text = " ".join((said if isinstance(said, str) else json.dumps(said)).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def error_in(body: bytes) -> Mapping[str, Any]:
    """The error object of an OpenAI-compatible server's answer; empty if there is none."""
    try:
        said: Any = json.loads(body)
    except ValueError:
        return {}
    error = said.get("error") if isinstance(said, dict) else None
    return error if isinstance(error, dict) else {}


def refusal(
    status: int,
    detail: str,
    url: str,
    model: str,
    *,
    keyed: bool,
    error: Mapping[str, Any] | None = None,
) -> Refused:
    """The typed error for a final status code."""
    return Refused(_sentence(status, detail, url, model, keyed), status, detail, error)


def _sentence(status: int, detail: str, url: str, model: str, keyed: bool) -> str:
    if status in (401, 403):
        fix = "check the key" if keyed else "it wants a key: set ITSCALE_API_KEY, or add #key_file=PATH"
        return f"{url} refused access ({status}: {detail}); {fix}"
    if 300 <= status < 400:
        return f"{url} redirects elsewhere, where a key must not follow; give the final URL"
    if any(words in detail.lower() for words in _OVERFLOW):
        return f"the context of {model!r} overflows ({detail}); shorten the prompt or lower max_tokens"
    if status == 404:
        return (
            f"{url} does not exist or does not know model {model!r} ({detail}); "
            "see: itscale list models --probe URL"
        )
    return f"{url} refused the request ({status}: {detail}); change what it names"


def retry_after_s(header: str | None) -> float | None:
    """Seconds from a Retry-After header: a number or an HTTP date; None if it is neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
