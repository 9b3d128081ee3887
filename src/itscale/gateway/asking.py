"""One request on its way: who asks, for what, and its body, read with patience that ends."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request

from itscale.gateway.admission import Accounts, check_name, who
from itscale.gateway.config import KeyEntry, Server
from itscale.gateway.faults import Fault
from itscale.gateway.routing import Plan, options_in, plan_for
from itscale.gateway.runtime import Runtime
from itscale.gateway.schema import ItscaleOptions, Strict, read_json, read_request
from itscale.gateway.streaming import HungUp
from itscale.gateway.watching import Record

__all__ = ["Asking", "read_body"]


class Asking:
    """A request, its record, and the configuration it began with."""

    def __init__(self, request: Request, record: Record, runtime: Runtime) -> None:
        self.request = request
        self.record = record
        self.runtime = runtime
        self.body = b""
        self.said: dict[str, Any] = {}
        """The body as JSON."""
        self._plan: Plan | None = None

    @property
    def key(self) -> KeyEntry | None:
        """The key that asks; None where the gateway is open to all."""
        return self.runtime.config.keys[self.record.key] if self.record.key is not None else None

    @property
    def budgeted(self) -> bool:
        """Whether every token must be counted."""
        return self.key is not None and self.key.tokens_per_day is not None

    def identify(self, accounts: Accounts, *, count: bool = True) -> None:
        """Find out who asks.

        Raises:
            Fault: 401 without a known key, 429 beyond its rate or budget.
        """
        name = who(self.request.headers.get("authorization"), self.runtime.config.keys)
        self.record.key = name
        if name is not None and count:
            accounts.admit(name, self.runtime.config.keys[name])

    def may_ask_for(self, name: str) -> bool:
        """Whether the key's list has that name."""
        try:
            check_name(name, self.key)
        except Fault:
            return False
        return True

    async def read(self) -> None:
        """Read the body.

        Raises:
            Fault: it is too long, too slow, or no JSON object.
            HungUp: the client is gone.
        """
        self.body = await read_body(self.request, self.runtime.config.server)
        self.said = read_json(self.body)

    def plan(self) -> Plan:
        """What it names, found once.

        Raises:
            Fault: an unknown model, an impossible option, a name the key may not ask for.
        """
        if self._plan is not None:
            return self._plan
        name = self.said.get("model")
        if not isinstance(name, str) or not name:
            raise Fault(
                400,
                "model: say which; GET /v1/models lists them",
                param="model",
                code="missing_required_parameter",
            )
        given = self.said.get("itscale")
        body = read_request(_Wrapped, {"itscale": given}).itscale if given is not None else None
        check_name(name, self.key)
        plan = plan_for(self.runtime.config, name, options_in(self.request.headers, body))
        if plan.options.method:  # as good as asking for that name
            check_name(f"{plan.options.method}/{plan.model}", self.key)
        self._plan = plan
        self.record.model, self.record.method = plan.model, plan.label
        return plan


class _Wrapped(Strict):
    """The body's `itscale` alone, so that faults in it are named in full."""

    itscale: ItscaleOptions


async def read_body(request: Request, server: Server) -> bytes:
    """All of a body.

    Raises:
        Fault: 413 beyond the limit, 408 when it takes too long.
        HungUp: the client is gone.
    """
    limit = server.max_body_bytes
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise _too_long(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(server.body_timeout_s):
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise _too_long(limit)
    except TimeoutError:
        raise Fault(408, "the body took too long to arrive; send it at once", code="slow_body") from None
    except ClientDisconnect:
        raise HungUp from None
    return bytes(body)


def _too_long(limit: int) -> Fault:
    return Fault(413, f"the body is longer than {limit:,} bytes; send less", code="body_too_long")
