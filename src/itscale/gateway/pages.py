"""`/`: the playground, files of this package under a policy that allows nothing else."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from starlette.responses import Response

from itscale.gateway.asking import Asking
from itscale.gateway.faults import Fault

if TYPE_CHECKING:
    from itscale.gateway.app import Gateway

__all__ = ["page", "part"]

_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


async def page(gateway: Gateway, asking: Asking) -> Response:
    """The page."""
    return _file(gateway, "index.html")


async def part(gateway: Gateway, asking: Asking) -> Response:
    """A script or style of the page."""
    return _file(gateway, asking.request.url.path.removeprefix("/page/"))


def _file(gateway: Gateway, name: str) -> Response:
    if not gateway.runtime.config.server.page or name not in _names():
        raise Fault(404, "there is nothing here; see GET /openapi.json", code="not_found")
    kind = _KINDS[name.rpartition(".")[2]]
    return Response(_read(name), media_type=f"{kind}; charset=utf-8", headers=_HEADERS)


@cache
def _names() -> frozenset[str]:
    folder = resources.files("itscale.gateway") / "page"
    return frozenset(file.name for file in folder.iterdir() if file.name.rpartition(".")[2] in _KINDS)


@cache
def _read(name: str) -> bytes:
    return (resources.files("itscale.gateway") / "page" / name).read_bytes()
