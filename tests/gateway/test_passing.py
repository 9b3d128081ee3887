"""Plain models behind a server: bytes pass untouched, faults keep their meaning, secrets stay home."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway.wire import CHAT, Upstream
from tests.gateway.worlds import CONFIG, MESSAGES, World, within

SECRET = "sk-upstream-secret"


def world_with_key(tmp_path: Any) -> dict[str, Any]:
    """Options of a world whose upstream has a key."""
    file = tmp_path / "key"
    file.write_text(SECRET)
    spec = f"openai:tiny@http://upstream:1/v1#key_file={file}"
    return {"models": {**CONFIG["models"], "far": {"spec": spec}, "tiny": {"spec": spec}}}


def test_the_very_bytes_pass_where_the_name_is_the_servers_own(tmp_path):
    """Fields nobody here knows, spacing and order included, both ways."""
    body = b'{ "messages": [], "model":"tiny", "top_k": 3,\n "chat_template_kwargs": {"a": [1, null]} }'

    async def ask(world: World) -> Any:
        response = await world.post("/v1/chat/completions", body)
        return response, world.upstream.asked

    response, asked = within(ask, **world_with_key(tmp_path))
    assert response.content == json.dumps(CHAT).encode()
    assert asked[-1][0] == "/v1/chat/completions"
    assert asked[-1][2] == body


def test_only_the_name_is_changed_where_the_server_calls_it_differently():
    """Everything else of the request arrives as it was."""

    async def ask(world: World) -> Any:
        await world.chat("far", top_k=3, stop=["x"])
        return json.loads(world.upstream.asked[-1][2])

    assert within(ask) == {"model": "tiny", "messages": MESSAGES, "top_k": 3, "stop": ["x"]}


def test_no_header_or_field_moves_the_server_or_reveals_its_key(tmp_path):
    """The client's headers do not travel; the server's key goes to the server and nowhere else."""

    async def ask(world: World) -> Any:
        response = await world.chat(
            "far",
            {
                "authorization": "Bearer client-key",
                "x-its-endpoint": "http://evil",
                "host": "evil",
                "x-forwarded-host": "evil",
                "cookie": "a=b",
            },
            base_url="http://evil",
            api_base="http://evil",
        )
        metrics = await world.client.get("/metrics")
        ready = await world.client.get("/ready")
        return response, world.upstream.asked[-1][1], metrics.text + ready.text

    response, headers, pages = within(ask, **world_with_key(tmp_path))
    assert response.status_code == 200
    assert headers["host"] == "upstream:1"
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert not {"cookie", "x-its-endpoint", "x-forwarded-host"} & set(headers)
    assert SECRET not in pages + response.text + str(response.headers)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429])
def test_an_upstream_refusal_keeps_status_type_and_code(status: int, tmp_path):
    """And 429 its Retry-After; a key the server repeats is masked."""

    async def ask(world: World) -> Any:
        error = {"message": f"bad {SECRET}", "type": "their_type", "code": "their_code", "param": "stop"}
        world.upstream.status, world.upstream.pieces = status, [json.dumps({"error": error}).encode()]
        world.upstream.headers = {"retry-after": "7"}
        return await world.chat("far"), await world.chat("far", stream=True)

    for response in within(ask, **world_with_key(tmp_path)):
        error = response.json()["error"]
        assert response.status_code == status
        assert (error["type"], error["code"], error["param"]) == ("their_type", "their_code", "stop")
        assert response.headers["retry-after"] == "7"
        assert SECRET not in response.text


@pytest.mark.parametrize(
    ("status", "ours"), [(500, 502), (502, 502), (503, 502), (504, 504), (302, 502), (204, 502)]
)
def test_an_upstream_that_breaks_is_502_or_504(status: int, ours: int):
    """Its text may say anything; ours is OpenAI's error object."""

    async def ask(world: World) -> Any:
        world.upstream.status, world.upstream.pieces = status, [b"<html>oops</html>"]
        return await world.chat("far")

    response = within(ask)
    assert response.status_code == ours
    assert response.json()["error"]["type"] == "server_error"
    assert "upstream:1" not in response.text


def test_a_stream_passes_byte_for_byte():
    """Whatever the server's events look like."""
    pieces = [b'data: {"choices":[{"delta":{"content":"4', b'2"}}]}\r\n\r\n', b": odd\n\ndata: [DONE]\n\n"]

    async def ask(world: World) -> Any:
        world.upstream.pieces = pieces
        return await world.chat("far", stream=True)

    response = within(ask)
    assert response.content == b"".join(pieces)
    assert response.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("size", [1, 5, 64, 10**6])
@pytest.mark.parametrize("end", [b"\n\ndata: [DONE]\n\n", b"\r\n\r\n", b""])
def test_the_usage_of_a_passed_stream_is_counted_however_its_bytes_are_cut(size: int, end: bytes):
    """Split anywhere, without an end of its line too; of a stream that counts on, the last one counts."""
    early = b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":7,"completion_tokens":1}}\n\n'
    last = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}'
    sent = early + last + end

    async def ask(world: World) -> Any:
        world.upstream.pieces = [sent[i : i + size] for i in range(0, len(sent), size)]
        response = await world.chat("far", stream=True)
        return response.content, (await world.client.get("/metrics")).text

    content, metrics = within(ask)
    assert content == sent
    assert 'itscale_tokens_total{kind="generated",method="none",model="far"} 5.0' in metrics
    assert 'itscale_tokens_total{kind="prompt",method="none",model="far"} 7.0' in metrics


def test_a_method_on_a_server_model_reports_upstream_refusals_too():
    """A refusal of every candidate is the refusal, with the server's status."""

    async def ask(world: World) -> Any:
        world.upstream.status = 401
        world.upstream.pieces = [b'{"error": {"message": "no", "type": "t", "code": "c"}}']
        return await world.chat("majority/far")

    response = within(ask, upstream=Upstream())
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "c"


def test_options_of_a_method_without_one_are_refused():
    """`itscale.n` on a plain name would be ignored, so it is refused."""

    async def ask(world: World) -> Any:
        return await world.chat("far", itscale={"n": 4})

    response = within(ask)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "itscale.n"
