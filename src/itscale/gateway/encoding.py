"""JSON as it is sent."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse

__all__ = ["Json", "encoded"]


def encoded(value: Any) -> bytes:
    """JSON in UTF-8. Half a surrogate pair, which JSON can say and UTF-8 cannot, stays an escape."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


class Json(JSONResponse):
    """A response that is a JSON value."""

    def render(self, content: Any) -> bytes:
        return encoded(content)
