"""Bodies nobody would write, and every operation of the OpenAPI document: no 500, ever."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from itscale.gateway.openapi import document
from tests.gateway.worlds import MESSAGES, World

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
NAMES = st.sampled_from(
    [
        *("model", "messages", "n", "seed", "stream", "temperature", "top_p", "max_tokens", "stop", "tools"),
        *("itscale", "stream_options", "response_format", "prompt", "input", "instructions", "text"),
    ]
)
PATHS = st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/responses"])


async def posted(path: str, content: bytes, headers: dict[str, str], method: str) -> tuple[int, str]:
    world = World()
    try:
        response = await world.client.request(method, path, content=content, headers=headers)
        return response.status_code, response.text
    finally:
        await world.client.aclose()
        await world.gateway.stop()


def hold(path: str, content: bytes, headers: dict[str, str] | None = None, method: str = "POST") -> None:
    """An answer, or a refusal in OpenAI's form."""
    status, text = asyncio.run(posted(path, content, headers or {}, method))
    assert status < 500 or status in (502, 504) or (path, status) == ("/ready", 503), (status, text, content)
    if status not in (200, 503):
        error = json.loads(text)["error"]
        assert set(error) == {"message", "type", "param", "code"}


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(PATHS, st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()))
def test_any_body_is_answered_or_refused(path: str, content: bytes):
    """Bytes and JSON values of all kinds."""
    hold(path, content)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(PATHS, st.dictionaries(NAMES, JSON, max_size=4))
def test_any_fields_on_a_good_request_are_honoured_or_refused(path: str, fields: dict[str, Any]):
    """A good request with up to four fields set to anything."""
    good = {"model": "majority:n=2/toy"} | (
        {"messages": MESSAGES}
        if "chat" in path
        else {"input" if "responses" in path else "prompt": "pick one"}
    )
    hold(path, json.dumps({**good, **fields}).encode())


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["x-itscale-n", "x-itscale-method", "x-itscale-seconds", "authorization", "origin"]),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
        max_size=3,
    )
)
def test_any_headers_are_honoured_or_refused(headers: dict[str, str]):
    """Values of our headers, and of those that are not ours."""
    body = json.dumps({"model": "majority:n=2/toy", "messages": MESSAGES}).encode()
    hold("/v1/chat/completions", body, headers)


SCHEMA = schemathesis.openapi.from_dict(document())


@SCHEMA.parametrize()
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
def test_whatever_the_openapi_document_allows_is_no_server_error(case: Any):
    """schemathesis draws requests from the document, good ones and bad ones, for every operation. A name it
    draws is nobody's, so each request is asked of a method, and of a server's model, too."""
    headers = {name: value for name, value in (case.headers or {}).items() if value.isascii()}
    bodies = [case.body]
    if isinstance(case.body, dict):
        bodies += [{**case.body, "model": name} for name in ("majority:n=2/toy", "far")]
    for body in bodies:
        content = body if isinstance(body, bytes) else json.dumps(body, default=str).encode()
        hold(case.formatted_path, content, headers, method=case.method)
