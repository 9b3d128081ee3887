"""What the operator sees: metrics, one JSON line a request, spans. Never a key, never a prompt's text
unless the operator asked for it, and no label a client could make up."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from itscale.budget import Usage
from itscale.errors import OptionError
from itscale.gateway.runtime import Runtime
from itscale.models.openai.wire import Counts

__all__ = ["LOG", "Metrics", "Record", "Spans", "json_logging"]

LOG = logging.getLogger("itscale.gateway")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass
class Record:
    """What is known of one request when it is over."""

    id: str
    route: str
    began: float = field(default_factory=time.monotonic)
    key: str | None = None
    model: str = ""
    method: str = ""
    status: int = 0
    code: str | None = None
    """Of the fault, if there was one."""
    streamed: bool = False
    cache: str | None = None
    stop_reason: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    discarded_tokens: int = 0
    scorer_tokens: int = 0
    model_calls: int = 0
    failed_calls: int = 0
    dollars: float = 0.0
    texts: dict[str, Any] | None = None
    """Prompt and answer, where the operator wants them logged."""

    @property
    def tokens(self) -> int:
        """What a daily budget is charged."""
        return self.prompt_tokens + self.generated_tokens

    def spent(self, usages: Sequence[Usage]) -> None:
        """Runs came to this."""
        for usage in usages:
            for name in _SPENT:
                setattr(self, name, getattr(self, name) + getattr(usage, name))

    def counted(self, counts: Counts | None) -> None:
        """A passed answer says it took this."""
        self.model_calls += 1
        if counts is not None:
            self.prompt_tokens += counts.prompt
            self.cached_tokens += counts.cached
            self.generated_tokens += counts.generated


_SPENT = (
    *("prompt_tokens", "cached_tokens", "generated_tokens", "discarded_tokens", "scorer_tokens"),
    *("model_calls", "failed_calls", "dollars"),
)
_TOKEN_KINDS = ("prompt", "cached", "generated", "discarded", "scorer")


class Metrics:
    """Counters and histograms for Prometheus, over all workers where there are several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter(
            "itscale_requests", "Requests ended.", ["route", "model", "method", "status"], **make
        )
        self.seconds = Histogram(
            "itscale_request_seconds",
            "From the first byte in to the last byte out.",
            ["route", "method"],
            buckets=_SECONDS,
            **make,
        )
        self.tokens = Counter("itscale_tokens", "Tokens spent.", ["model", "method", "kind"], **make)
        self.dollars = Counter("itscale_dollars", "Dollars spent.", ["model", "method"], **make)
        self.calls = Counter("itscale_model_calls", "Calls to models.", ["model", "outcome"], **make)
        self.faults = Counter("itscale_faults", "Requests that ended in a fault.", ["code"], **make)
        self.cache = Counter("itscale_cache", "Requests the cache could answer.", ["outcome"], **make)
        live: dict[str, Any] = {**make, "multiprocess_mode": "livesum"}
        self.inside = Gauge("itscale_in_flight", "Requests being answered.", ["model"], **live)
        self.waiting = Gauge("itscale_queue", "Requests waiting for a place.", ["model"], **live)

    def over(self, record: Record) -> None:
        """Count a request that has ended."""
        model, method = record.model, record.method
        requests, seconds = self._counting(record.route, model, method, record.status)
        requests.inc()
        seconds.observe(time.monotonic() - record.began)
        if record.code is not None:
            self.faults.labels(record.code).inc()
        if record.cache is not None:
            self.cache.labels(record.cache).inc()
        if record.model_calls:
            for kind in _TOKEN_KINDS:
                if amount := getattr(record, f"{kind}_tokens"):
                    self.tokens.labels(model, method, kind).inc(amount)
            self.calls.labels(model, "all").inc(record.model_calls)
            if record.failed_calls:
                self.calls.labels(model, "failed").inc(record.failed_calls)
            if record.dollars:
                self.dollars.labels(model, method).inc(record.dollars)

    @cache  # noqa: B019  as many as there are series; finding one by its labels takes longer than counting
    def _counting(self, route: str, model: str, method: str, status: int) -> tuple[Counter, Histogram]:
        return self.requests.labels(route, model, method, str(status)), self.seconds.labels(route, method)

    def text(self, runtime: Runtime) -> bytes:
        """The page Prometheus reads."""
        for name, served in runtime.models.items():
            self.inside.labels(name).set(served.gate.inside)
            self.waiting.labels(name).set(served.gate.waiting)
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            everybody = CollectorRegistry()
            MultiProcessCollector(everybody)  # type: ignore[no-untyped-call]
            return generate_latest(everybody)
        return generate_latest(self.registry)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        said |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            # Where it happened, not what it said: an error's text may hold a prompt.
            said["error"] = record.exc_info[0].__name__
            trace = record.exc_info[2]
            said["at"] = []
            while trace is not None:
                code = trace.tb_frame.f_code
                said["at"].append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
                trace = trace.tb_next
        return json.dumps(said, ensure_ascii=False)


def json_logging() -> None:
    """One JSON object a line on stderr, the server's own messages included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name in ("itscale", "uvicorn"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(logging.INFO)


class Spans:
    """OpenTelemetry spans, where the operator wants them. Where they go is for OpenTelemetry's own
    settings to say (`opentelemetry-instrument itscale serve ...`); here they are only made."""

    def __init__(self, wanted: bool) -> None:
        self._tracer: Any = None
        if wanted:
            try:
                from opentelemetry import trace
            except ImportError as error:
                raise OptionError(
                    f"server.spans needs OpenTelemetry: pip install opentelemetry-api ({error})"
                ) from error
            self._tracer = trace.get_tracer("itscale.gateway")

    @contextmanager
    def around(self, record: Record, headers: Mapping[str, str]) -> Iterator[None]:
        """A span of one request, below the client's own, with what was spent as its attributes."""
        if self._tracer is None:
            yield
            return
        from opentelemetry.propagate import extract

        name = f"{record.route}"
        with self._tracer.start_as_current_span(name, extract(dict(headers))) as span:
            try:
                yield
            finally:
                span.set_attribute("http.response.status_code", record.status)
                span.set_attribute("gen_ai.request.model", record.model)
                span.set_attribute("gen_ai.usage.input_tokens", record.prompt_tokens)
                span.set_attribute("gen_ai.usage.output_tokens", record.generated_tokens)
                span.set_attribute("itscale.method", record.method)
                span.set_attribute("itscale.model_calls", record.model_calls)
                span.set_attribute("itscale.request_id", record.id)
