"""Where a server is, whose key goes there, and the sentence for a server that cannot be used."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import ItscaleError, ModelError, OptionError
from itscale.models.openai.address import ALL, Address, Key, find_key
from itscale.models.openai.client import Endpoint
from itscale.models.openai.model import OpenAIModel
from itscale.randomness import Seeded
from itscale.types import Path, Prompt, Sampling, Until
from tests.models.openai.servers import URL, Server, Sleeps, endpoint_at

ROOT = Path.root(Prompt.user("a b c"))
KEY = "sk-very-secret"


async def asked(model: OpenAIModel) -> list[Path]:
    return await model.extend(ROOT, 1, Until("end", 20), Sampling(), Seeded(0), Ledger(Budget()))


def test_where_keys_come_from(tmp_path: Any):
    """ITSCALE_API_KEY is for the server in the spec; OPENAI_API_KEY for OpenAI's own host alone."""
    own, other = Address("m", "https://api.openai.com/v1"), Address("m", "http://10.0.0.5:8000/v1")
    openai = {"OPENAI_API_KEY": "sk-o"}
    assert find_key(other, {}) is None
    assert find_key(other, openai) is None
    assert find_key(Address("m", "http://api.openai.com/v1"), openai) is None, "never in the clear"
    assert find_key(own, openai).header_for("https://api.openai.com/v1/x") == {"Authorization": "Bearer sk-o"}
    assert find_key(own, openai).header_for("https://evil.example/v1/x") == {}
    based = {**openai, "OPENAI_BASE_URL": "http://10.0.0.5:8000/v1"}
    assert find_key(other, based) is not None
    assert find_key(own, based) is None
    assert find_key(other, {"ITSCALE_API_KEY": "sk-i", **openai}).masked("a sk-i b") == "a *** b"
    file = tmp_path / "key"
    file.write_text("sk-f\n")
    filed = Address("m", other.url, key_file=str(file))
    assert find_key(filed, openai).header_for(other.url) == {"Authorization": "Bearer sk-f"}
    file.write_text("two\nlines")
    with pytest.raises(OptionError, match="holds no key"):
        find_key(filed, {})
    with pytest.raises(OptionError, match="cannot read the key file"):
        find_key(Address("m", other.url, key_file=str(tmp_path / "none")), {})


def test_addresses():
    """The last @http begins the URL; /v1 is added to a bare host; options stand behind #."""
    address = Address.parse("org/m@x@http://h:1#boundary=%0A,timeout=5,key-file=/k")
    assert (address.model, address.url, address.root) == ("org/m@x", "http://h:1/v1", "http://h:1")
    assert (address.boundary, address.timeout_s, address.key_file) == ("\n", 5.0, "/k")
    assert address.top_logprobs is None
    assert Address.parse("@http://h#top-logprobs=5").top_logprobs == 5
    assert Address.parse("@http://h#top_logprobs=all").top_logprobs == ALL
    assert Address.parse("@https://h/api/v1/").url == "https://h/api/v1"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("m", "names no server; write openai:MODEL@http"),
        ("m@ftp://h", "names no server"),
        ("m@http://", "not the URL of a server"),
        ("m@http://h:port/v1", "not the URL of a server"),
        ("m@http://h/v1?x=1", "not the URL of a server"),
        ("m@http://me:pw@h/v1", "must not carry a password"),
        ("m@http://h#timout=3", "did you mean 'timeout'"),
        ("m@http://h#timeout", "needs one value"),
        ("m@http://h#timeout=0", "give seconds above 0"),
        ("m@http://h#timeout=nan", "give seconds above 0"),
        ("m@http://h#boundary=", "boundary is empty"),
        ("m@http://h#top_logprobs=1", "give a number of tokens from 2, or all"),
        ("m@http://h#top_logprobs=many", "give a number of tokens from 2, or all"),
    ],
)
def test_a_wrong_address_is_refused(text: str, sentence: str):
    """With how it is written, and without the password that was in it."""
    with pytest.raises(OptionError, match=sentence) as caught:
        Address.parse(text)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("server", "model", "sentence"),
    [
        (
            Server(names=("llama-8b", "qwen-7b")),
            "llama-9b",
            "did you mean 'llama-8b'. known: llama-8b, qwen-7b",
        ),
        (Server(names=("a", "b")), "", "lists 2 models; name it as openai:MODEL@.*, one of: a, b"),
        (Server(names=()), "", "lists 0 models; name it as .*, the one it was started with"),
        (
            Server(tokens=False, chat=False),
            "tiny",
            "no OpenAI-compatible server .it has no /chat/completions",
        ),
        (Server(key="k"), "tiny", "401: .*it wants a key: set ITSCALE_API_KEY"),
        (
            Server(tokens=False, logprobs=False, usage=lambda usage: None),
            "tiny",
            "does not say how many tokens it generates, so no budget can be kept",
        ),
    ],
)
def test_a_server_that_cannot_be_used_is_one_sentence(server: Server, model: str, sentence: str):
    """Unknown model, no model named, no such protocol, no key, no usage: before any run."""
    with pytest.raises(ItscaleError, match=sentence):
        asyncio.run(OpenAIModel.connect(endpoint_at(server, model=model)))


def test_a_web_site_is_no_server():
    """HTML instead of JSON, or a 404 on /models, is told as what it is."""

    async def site(scope: Any, receive: Any, send: Any, status: int = 200) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>hello</html>"})

    async def missing(scope: Any, receive: Any, send: Any) -> None:
        await site(scope, receive, send, 404)

    with pytest.raises(ModelError, match="is it an OpenAI-compatible server"):
        asyncio.run(OpenAIModel.connect(endpoint_at(site)))
    with pytest.raises(ModelError, match=r"no OpenAI-compatible server .*give the URL that ends in /v1"):
        asyncio.run(OpenAIModel.connect(endpoint_at(missing)))


def test_an_unreachable_host_is_one_sentence():
    """Nobody listens: the URL is named, and what to look at."""

    class Nowhere(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("All connection attempts failed")

    sleeps = Sleeps()
    endpoint = Endpoint(Address("m", URL), transport=Nowhere(), sleep=sleeps, jitter=lambda: 0.5)
    with pytest.raises(
        ModelError, match=r"127.0.0.1:8000/v1/models cannot be reached \(All connection .*is the"
    ):
        asyncio.run(OpenAIModel.connect(endpoint))
    assert sleeps.seconds == [0.25], "one more try is enough to know"


def test_loading_works_with_and_without_a_running_loop(monkeypatch: pytest.MonkeyPatch):
    """A spec is probed in a thread of its own, and the model then used from several event loops."""
    monkeypatch.setenv("ITSCALE_API_KEY", KEY)
    server = Server(key=KEY)

    def endpoint(address: Address, key: Key | None) -> Endpoint:
        return Endpoint(address, key, transport=httpx.ASGITransport(server))

    async def inside() -> OpenAIModel:
        return OpenAIModel.load("@http://127.0.0.1:8000#boundary=|", endpoint=endpoint)

    for model in (asyncio.run(inside()), OpenAIModel.load(f"tiny@{URL}", endpoint=endpoint)):
        assert model.name == f"openai:tiny@{URL}"
        for _ in range(2):
            [path] = asyncio.run(asked(model))
            assert path.finished
    with pytest.raises(OptionError, match="unknown model"):
        OpenAIModel.load(f"other@{URL}", endpoint=endpoint)
