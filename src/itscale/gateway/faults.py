"""Every way a request can end badly, in the form of OpenAI's API.

Laws: a fault has a status that is not 200, and names what to do; what an upstream server refused
keeps its status, type and code, 429 its Retry-After; an upstream that broke is 502, one that was
too slow 504; no text of an unexpected error, no key and no upstream address leaves the process.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from itscale.errors import (
    AllFailedError,
    ContextLimitError,
    MemoryLimitError,
    ModelError,
    OptionError,
    PromptError,
    ScorerError,
)
from itscale.models.openai.failures import Refused, Unanswered

__all__ = ["Fault", "fault_of", "option_fault", "upstream_fault"]

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
}
"""OpenAI's types that say more than that the request was wrong (other 4xx) or the server (5xx)."""
_URL = re.compile(r"(openai:[^\s'\"]*@)?https?://[^\s'\"]+")


class Fault(Exception):  # noqa: N818  it is what the client sees, not only what went wrong here
    """An answer that says no.

    Args:
        status: of the response, 400 or more.
        message: one sentence that ends with the fix.
        param: the field of the request that is to blame.
        code: a word for programs.
        kind: OpenAI's `type`; follows from the status if left out.
        retry_after_s: when to try again, in seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.kind = kind or _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        wait_s = self.retry_after_s
        headers = {} if wait_s is None else {"retry-after": str(math.ceil(wait_s))}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def fault_of(error: BaseException) -> Fault:
    """What the client is told of an error; of an unexpected one, nothing but that it happened."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, AllFailedError) and isinstance(error.__cause__, ModelError):
        return fault_of(error.__cause__)
    if isinstance(error, Refused):
        return upstream_fault(error.status, {**error.error, "message": error.detail})
    if isinstance(error, PromptError):
        return Fault(400, _without_urls(str(error)), param="messages", code="prompt_not_accepted")
    if isinstance(error, OptionError):
        return option_fault(error)
    if isinstance(error, ContextLimitError | MemoryLimitError):
        return Fault(400, _without_urls(str(error)), param="messages", code="context_length_exceeded")
    if isinstance(error, Unanswered):
        return _unavailable(error)
    if isinstance(error, ModelError):
        return Fault(
            502,
            "the model failed or cannot be loaded; the gateway's log says how, under this request's id",
            code="model_failed",
        )
    if isinstance(error, ScorerError | AllFailedError):
        return Fault(
            502,
            "the scorer failed, or every candidate did; the gateway's log says how, under this request's id",
            code="run_failed",
        )
    return Fault(500, "the gateway failed; its log says how, under this request's id", code="internal_error")


def option_fault(error: OptionError, param: str | None = None) -> Fault:
    """An option that cannot be, or that model or scorer cannot serve."""
    return Fault(400, _without_urls(str(error)), param=param, code="invalid_option")


def upstream_fault(status: int, said: Mapping[str, Any], retry_after_s: float | None = None) -> Fault:
    """An upstream's refusal: 4xx as it is, anything else 502 (504 for a time limit)."""
    message = _without_urls(str(said.get("message") or json.dumps(dict(said))))
    if not 400 <= status < 500:
        slow = status == 504
        return Fault(
            504 if slow else 502,
            f"the model's server answered {status} ({message}); try again later",
            code="upstream_timeout" if slow else "upstream_error",
        )
    kind, code, param = (said.get(name) for name in ("type", "code", "param"))
    return Fault(
        status,
        message,
        param=param if isinstance(param, str) else None,
        code=str(code) if code is not None else None,
        kind=kind if isinstance(kind, str) else None,
        retry_after_s=retry_after_s,
    )


def _unavailable(error: Unanswered) -> Fault:
    """A server that did not answer, after all attempts."""
    if error.status == 429:
        wait_s = 1.0 if error.wait_s is None else error.wait_s
        said = {"code": "upstream_overloaded", **error.error, "message": str(error)}
        return upstream_fault(429, said, wait_s)
    slow = error.status == 504
    return Fault(
        504 if slow else 502,
        _without_urls(str(error)),
        code="upstream_timeout" if slow else "upstream_error",
    )


def _without_urls(text: str) -> str:
    """The sentence without where the operator's servers are."""
    return _URL.sub("the model's server", text)
