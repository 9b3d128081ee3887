"""The ASGI application: one table of routes, and around them what every request has in common.

A request gets an id, a record, and an answer in OpenAI's form whatever happens. The configuration
may change under way: a request keeps the one it began with.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from itscale.errors import ItscaleError, PromptError
from itscale.gateway import answers, openapi, pages, responses
from itscale.gateway.admission import Accounts, Gate
from itscale.gateway.asking import Asking, read_body
from itscale.gateway.cache import Cache
from itscale.gateway.config import Config
from itscale.gateway.encoding import Json
from itscale.gateway.faults import Fault, fault_of
from itscale.gateway.routing import names_of
from itscale.gateway.runtime import Runtime
from itscale.gateway.streaming import HungUp
from itscale.gateway.watching import LOG, Metrics, Record, Spans
from itscale.models.base import Model
from itscale.models.openai.failures import Refused
from itscale.scorers.base import Scorer

__all__ = ["Gateway", "application"]

_ID = re.compile(r"[\w.-]{1,64}")
Handler = Callable[["Gateway", Asking], Awaitable[Response]]


class Gateway:
    """The application, and what all its requests share."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        server = runtime.config.server
        self.gate = Gate("the gateway", server.concurrency, server.queue)
        self.accounts = Accounts(server.accounts)
        self.cache = Cache(server.cache_entries)
        self.metrics = Metrics()
        self.spans = Spans(server.spans)
        self.draining = False
        self.started = int(time.time())
        self.problems: list[str] | None = None
        """What could not be loaded; None while loading."""
        self._loading: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:  # a websocket: refused before it is one
            await send({"type": "websocket.close", "code": 1000})

    async def start(self) -> None:
        """Begin to load what the configuration names; requests wait for what they need."""
        self._loading = asyncio.ensure_future(self._load())

    async def stop(self) -> None:
        """Release everything."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self.runtime.retire()
        self.accounts.close()

    async def reload(self, config: Config) -> None:
        """Answer from now on with another configuration; requests under way keep theirs.

        Raises:
            ItscaleError: it names something impossible; the old one stays.
        """
        before = self.runtime
        after = Runtime(config, transports=before.transports, before=before)
        self.runtime = after
        server = config.server
        self.gate = Gate("the gateway", server.concurrency, server.queue)
        self.cache = Cache(server.cache_entries)
        await before.retire(after)
        await self._load()

    async def _load(self) -> None:
        self.problems = await self.runtime.load()
        for problem in self.problems:
            LOG.warning("not ready", extra={"fields": {"problem": problem}})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        handler, route = _route(scope["method"], path)
        request = Request(scope, receive)
        given = request.headers.get("x-request-id", "")
        record = Record(id=given if _ID.fullmatch(given) else secrets.token_hex(8), route=route)
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                record.status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", record.id.encode())]
                if self.draining:
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            try:
                await send(message)
            except RuntimeError as error:  # uvloop's, where the socket has closed and nobody was told yet
                if "closed" not in str(error):
                    raise
                raise HungUp from None

        asking = Asking(request, record, self.runtime)
        try:
            with self.spans.around(record, request.headers):
                try:
                    _same_origin(request)
                    response = await handler(self, asking)
                    await response(scope, receive, sending)
                except Exception as error:
                    if isinstance(error, HungUp) or begun:
                        raise
                    await _fault_response(self._fault(error, record))(scope, receive, sending)
        except HungUp:
            record.status = record.status or 499
            record.code = "client_closed_request"
        finally:
            self._over(asking)

    def fault(self, record: Record) -> Callable[[BaseException], Fault]:
        """For a stream that fails on its way: what the client is told, noted."""
        return lambda error: self._fault(error, record)

    def _fault(self, error: BaseException, record: Record) -> Fault:
        if isinstance(error, ItscaleError) and not isinstance(error, PromptError):
            # Why a model or server failed is the operator's to know in full, but for what a server says of
            # a request that it refuses: that goes to the client, and often repeats the prompt.
            refused = next((e for e in (error, error.__cause__) if isinstance(e, Refused)), None)
            why = f"the server refused it with {refused.status}" if refused else str(error)
            LOG.warning(
                "failed", extra={"fields": {"id": record.id, "error": type(error).__name__, "why": why}}
            )
        fault = fault_of(error)
        if fault.code == "internal_error":
            LOG.error("internal error", exc_info=error, extra={"fields": {"id": record.id}})
        code = fault.code or fault.kind
        record.code = code if _KNOWN_CODE.fullmatch(code) else "upstream"
        return fault

    def _over(self, asking: Asking) -> None:
        record = asking.record
        if record.key is not None:
            self.accounts.charge(record.key, record.tokens)
        self.metrics.over(record)
        if record.route in _QUIET_ROUTES:
            return
        fields = {
            k: v for k, v in vars(record).items() if v not in (None, 0, "", False, 0.0) and k != "began"
        }
        fields["seconds"] = round(time.monotonic() - record.began, 4)
        LOG.info("request", extra={"fields": fields})


_KNOWN_CODE = re.compile(r"[a-z_]{1,40}")


async def _health(gateway: Gateway, asking: Asking) -> Response:
    return Json({"status": "ok"})


async def _ready(gateway: Gateway, asking: Asking) -> Response:
    loading = gateway.problems is None
    models = {
        name: "ready" if served.loaded else "loading" if loading else "unreachable"
        for name, served in gateway.runtime.models.items()
    }
    ready = not gateway.draining and any(state == "ready" for state in models.values())
    said = {"ready": ready, "draining": gateway.draining, "models": models}
    return Json(said, 200 if ready else 503, {} if ready else {"retry-after": "1"})


async def _models(gateway: Gateway, asking: Asking) -> Response:
    asking.identify(gateway.accounts, count=False)
    listed = [_model(gateway, name) for name in names_of(gateway.runtime.config) if asking.may_ask_for(name)]
    return Json({"object": "list", "data": listed})


async def _one_model(gateway: Gateway, asking: Asking) -> Response:
    asking.identify(gateway.accounts, count=False)
    name = asking.request.url.path.removeprefix("/v1/models/")
    if name not in names_of(gateway.runtime.config) or not asking.may_ask_for(name):
        raise Fault(404, f"{name!r} is not served here; see GET /v1/models", code="model_not_found")
    return Json(_model(gateway, name))


def _model(gateway: Gateway, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": gateway.started, "owned_by": "itscale"}


async def _metrics(gateway: Gateway, asking: Asking) -> Response:
    if not gateway.runtime.config.server.metrics:
        raise Fault(404, "metrics are switched off; set server.metrics = true", code="not_found")
    return Response(gateway.metrics.text(gateway.runtime), media_type="text/plain; version=0.0.4")


async def _openapi(gateway: Gateway, asking: Asking) -> Response:
    return Json(openapi.document())


async def _nothing(gateway: Gateway, asking: Asking) -> Response:
    await read_body(asking.request, gateway.runtime.config.server)
    path = asking.request.url.path
    known = [method for (method, route) in ROUTES if route == path]
    if known:
        response = _fault_response(
            Fault(405, f"{path} takes {', '.join(known)} only; use that", code="method_not_allowed")
        )
        response.headers["allow"] = ", ".join(known)
        return response
    raise Fault(404, "there is nothing here; see GET /openapi.json", code="not_found")


ROUTES: Mapping[tuple[str, str], Handler] = {
    ("POST", "/v1/chat/completions"): answers.chat,
    ("POST", "/v1/completions"): answers.completions,
    ("POST", "/v1/responses"): responses.create,
    ("GET", "/v1/models"): _models,
    ("GET", "/health"): _health,
    ("GET", "/ready"): _ready,
    ("GET", "/metrics"): _metrics,
    ("GET", "/openapi.json"): _openapi,
    ("GET", "/"): pages.page,
}
_QUIET_ROUTES = {"/health", "/ready", "/metrics", "/v1/models", "/", "/page", "/openapi.json"}


def _route(method: str, path: str) -> tuple[Handler, str]:
    """Who answers, and the route's name for the metrics, which a client cannot make up."""
    method = "GET" if method == "HEAD" else method
    handler = ROUTES.get((method, path))
    if handler is not None:
        return handler, path
    if method == "GET" and path.startswith("/v1/models/"):
        return _one_model, "/v1/models"
    if method == "GET" and path.startswith("/page/"):
        return pages.part, "/page"
    return _nothing, "other"


def _same_origin(request: Request) -> None:
    """A web page from elsewhere must not spend what a gateway without keys offers this machine."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise Fault(
            403,
            "pages of other sites may not ask this gateway from a browser; ask from a server",
            code="cross_origin",
        )


def _fault_response(fault: Fault) -> Response:
    return Json(fault.body, fault.status, fault.headers)


def application(
    config: Config,
    *,
    models: Mapping[str, Model] | None = None,
    scorers: Mapping[str, Scorer] | None = None,
    **options: Any,
) -> Gateway:
    """The application of a configuration; `models` and `scorers` stand in for what it names.

    Raises:
        OptionError: the configuration is impossible.
    """
    config.check()
    return Gateway(Runtime(config, models=models, scorers=scorers, **options))
