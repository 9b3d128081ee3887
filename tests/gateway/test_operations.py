"""Queues, limits, reload, readiness, metrics, logs, cache."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any

import pytest

from itscale.errors import OptionError
from itscale.gateway.admission import Gate
from itscale.gateway.config import Config, read_config, single
from itscale.gateway.watching import LOG
from tests.gateway.worlds import CONFIG, MESSAGES, World, toy, within


def test_a_full_queue_answers_429_at_once_and_no_request_is_lost():
    """One inside, one waiting, the third is told when to come again; then all places are free."""

    async def ask(world: World) -> Any:
        asks = [asyncio.ensure_future(world.chat("majority:n=1/toy")) for _ in range(3)]
        answers = await asyncio.gather(*asks)
        return sorted(r.status_code for r in answers), [r.headers.get("retry-after") for r in answers], world

    models = {"toy": {**CONFIG["models"]["toy"], "concurrency": 1, "queue": 1}}
    statuses, waits, world = within(ask, toy(latency_s=0.02), models=models, presets={})
    assert statuses == [200, 200, 429]
    assert any(waits)
    gate = world.gateway.runtime.models["toy"].gate
    assert (gate.inside, gate.waiting) == (0, 0)


def test_who_is_cancelled_while_waiting_leaves_no_trace():
    """Ten wait, five are cancelled, the other five all get in, one after the other."""

    async def run() -> tuple[int, int, int]:
        gate, entered = Gate("it", 1, 100), 0

        async def enter() -> None:
            nonlocal entered
            async with gate.pass_through():
                entered += 1
                await asyncio.sleep(0)

        tasks = [asyncio.ensure_future(enter()) for _ in range(11)]
        await asyncio.sleep(0)
        for task in tasks[1::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return entered, gate.inside, gate.waiting

    assert asyncio.run(run()) == (6, 0, 0)


def test_a_body_beyond_the_limit_is_413_whether_or_not_it_says_so():
    """By its content-length at once, without one as soon as it is too long."""

    async def ask(world: World) -> Any:
        async def pieces() -> Any:
            for _ in range(10):
                yield b"x" * 1000

        said = await world.post("/v1/chat/completions", b"x" * 5000)
        unsaid = await world.client.post("/v1/chat/completions", content=pieces())
        return said.status_code, unsaid.status_code

    assert within(ask, server={"max_body_bytes": 2000}) == (413, 413)


def test_ready_says_what_is_missing_and_turns_503_while_draining():
    """An upstream that is down is no reason not to serve the others."""

    async def ask(world: World) -> Any:
        world.gateway.problems = None
        loading = await world.client.get("/ready")
        await world.gateway._load()
        ready = await world.client.get("/ready")
        world.gateway.draining = True
        answer = await world.chat("toy")
        return loading.json()["models"], ready, await world.client.get("/ready"), answer

    async def down(scope: Any, receive: Any, send: Any) -> None:
        raise ConnectionError("http://secret-host is down")

    loading, ready, draining, answer = within(ask, upstream=down, models=CONFIG["models"])
    assert loading["far"] in ("loading", "unreachable")
    assert (ready.status_code, ready.json()["models"]) == (200, {"toy": "ready", "far": "unreachable"})
    assert draining.status_code == 503
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"


def test_a_new_configuration_takes_over_and_a_request_under_way_keeps_the_old_one():
    """New names appear, old ones go, models named in the same words are not loaded again."""

    async def ask(world: World) -> Any:
        before = world.gateway.runtime.models["toy"]
        under_way = asyncio.ensure_future(world.chat("careful"))
        while not world.model.running:
            await asyncio.sleep(0.001)
        config = {**CONFIG, "presets": {"new": {"model": "toy", "method": "majority"}}}
        await world.gateway.reload(Config.model_validate(config))
        statuses = [
            (await under_way).status_code,
            (await world.chat("careful")).status_code,
            (await world.chat("new")).status_code,
        ]
        return statuses, world.gateway.runtime.models["toy"] is before

    assert within(ask, toy(latency_s=0.02)) == ([200, 404, 200], True)


def test_a_broken_configuration_is_refused_with_the_closest_known_name(tmp_path: Any):
    """Unknown settings, dangling names and impossible values each say where."""
    file = tmp_path / "gateway.toml"
    good = '[models.m]\nspec = "embedded"\n'
    for text, words in (
        (good + "[server]\nprot = 1\n", "did you mean 'port'"),
        (good + "scorers = 1", "extra|scorer|dict"),
        (good + '[presets.p]\nmodel = "n"\nmethod = "majority"\n', "known: m"),
        (good + "[limits]\nseconds = -1\n", "limits.seconds"),
        ("x = [", "no TOML"),
        ("", "models"),
        (
            good + '[scorers.s]\nspec = "embedded"\nprompt_usd = 1\n',
            "only a judge's tokens cost; leave it out",
        ),
        (good + '[keys.a]\nhash = "secret"\n', "keys.a.hash"),
    ):
        file.write_text(text)
        with pytest.raises(OptionError, match=words):
            read_config(file)
    file.write_text(good)
    assert read_config(file).models["m"].spec == "embedded"


def test_all_workers_together_keep_to_the_limits():
    """Each has an equal share of them, and none is left without."""
    models = {"toy": {"spec": "embedded", "concurrency": 10, "queue": 5, "calls": 7}}
    config = Config.model_validate({"server": {"workers": 3, "concurrency": 8, "queue": 2}, "models": models})
    config.check()
    mine = config.share(3)
    toy_entry = mine.models["toy"]
    assert (mine.server.concurrency, mine.server.queue) == (2, 0)
    assert (toy_entry.concurrency, toy_entry.queue, toy_entry.calls) == (3, 1, 2)
    assert config.share(1) == config
    few = Config.model_validate({"server": {"workers": 9, "concurrency": 8}, "models": models})
    with pytest.raises(OptionError, match=r"server\.concurrency is 8 for 9 workers"):
        few.check()


def test_without_a_file_one_model_is_served():
    """The model's own name, its scorer, and the method under the name default."""
    config = single("openai:a/b@http://h/v1", None, "majority", "127.0.0.1", 1)
    assert list(config.models) == ["a/b"]
    assert config.presets["default"].method == "majority"
    assert single("embedded", None, None, "127.0.0.1", 1).models["embedded"].scorer == "scorer"


def test_metrics_count_requests_tokens_and_faults_under_names_nobody_can_make_up():
    """Routes, models and methods of the configuration only, whatever a client writes."""

    async def ask(world: World) -> str:
        await world.chat("majority:n=2/toy")
        await world.chat("nobody-knows-this")
        await world.client.get("/made-up-path")
        return (await world.client.get("/metrics")).text

    text = within(ask)
    assert re.search(
        r'itscale_requests_total\{method="majority",model="toy",route="/v1/chat/completions",'
        r'status="200"\} 1',
        text,
    )
    assert 'itscale_tokens_total{kind="generated",method="majority",model="toy"} 6' in text
    assert 'itscale_faults_total{code="model_not_found"} 1' in text
    assert "nobody-knows-this" not in text
    assert "made-up-path" not in text


def test_the_log_has_one_line_a_request_without_its_text(caplog: Any):
    """Spend and outcome; the prompt only where the operator wants it."""
    LOG.propagate = True

    async def ask(world: World) -> None:
        await world.chat("toy")

    for wanted in (False, True):
        caplog.clear()
        with caplog.at_level(logging.INFO, "itscale.gateway"):
            within(ask, server={"log_prompts": wanted})
        [fields] = [r.fields for r in caplog.records if r.getMessage() == "request"]
        assert fields["status"] == 200
        assert fields["generated_tokens"] == 3
        assert ("pick one" in json.dumps(fields)) is wanted


@pytest.mark.parametrize("model", ["far", "majority:n=2/far"])
def test_no_log_or_label_holds_what_a_server_says_of_a_request(model: str, caplog: Any):
    """Its refusal often repeats the prompt, and its codes are its own: the client is told, nobody else."""
    LOG.propagate = True

    async def ask(world: World) -> Any:
        error = {"message": "invalid input: pick one", "type": "T", "code": "Bad: pick one"}
        world.upstream.status, world.upstream.pieces = 400, [json.dumps({"error": error}).encode()]
        return await world.chat(model), (await world.client.get("/metrics")).text

    with caplog.at_level(logging.INFO, "itscale.gateway"):
        response, metrics = within(ask)
    assert "pick one" in response.json()["error"]["message"]
    told = json.dumps([record.__dict__.get("fields") for record in caplog.records])
    assert "pick one" not in told + metrics
    assert 'itscale_faults_total{code="upstream"} 1' in metrics


def test_an_unexpected_error_is_a_500_that_says_nothing_of_it(monkeypatch: Any):
    """The message goes to nobody; the id in the answer finds it in the log."""

    async def ask(world: World) -> Any:
        async def broken(*_: Any) -> Any:
            raise RuntimeError("secret of the house")

        monkeypatch.setattr(type(world.model), "extend", broken)
        return await world.chat("toy")

    response = within(ask)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["x-request-id"]


def test_the_cache_answers_equal_reproducible_requests_for_nothing():
    """A seed or temperature 0, not a stream; usage is zero, and another key's answer is not shared."""

    async def ask(world: World) -> Any:
        first = (await world.chat("majority:n=2/toy", seed=1)).json()
        calls = world.model.calls
        again = (await world.chat("majority:n=2/toy", seed=1)).json()
        other = (await world.chat("majority:n=2/toy", seed=2)).json()
        unseeded = (await world.chat("majority:n=2/toy")).json()
        return first, again, other, unseeded, calls, world.model.calls

    first, again, other, unseeded, calls, all_calls = within(ask, server={"cache_entries": 8})
    assert again["choices"] == first["choices"]
    assert again["itscale"]["cache"] == "hit"
    assert again["usage"]["total_tokens"] == 0
    assert "cache" not in other["itscale"]
    assert "cache" not in unseeded["itscale"]
    assert all_calls == 3 * calls


def test_pages_of_other_sites_may_not_spend_what_this_machine_may():
    """A browser names the page's origin; one that is not ours is refused."""

    async def ask(world: World) -> Any:
        foreign = await world.chat("toy", {"origin": "http://evil.example"})
        own = await world.chat("toy", {"origin": "http://gateway"})
        return foreign.status_code, own.status_code

    assert within(ask) == (403, 200)


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/page/style.css"])
def test_the_page_comes_with_a_policy_that_allows_nothing_else(path: str):
    """Scripts and styles of this host only, none inline, no frame, no other host."""

    async def ask(world: World) -> Any:
        return await world.client.get(path)

    response = within(ask)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in response.text.replace("http://www.w3.org", "") or path != "/"


def test_no_file_but_the_pages_own_is_served():
    """Paths that climb find nothing."""

    async def ask(world: World) -> Any:
        paths = ("/page/../config.py", "/page/..%2fconfig.py", "/page/nothing.js", "/page/")
        return [(await world.client.get(path)).status_code for path in paths]

    assert within(ask) == [404] * 4


def test_unknown_paths_and_methods_are_told_in_openais_form():
    """404 and 405 are error objects too."""

    async def ask(world: World) -> Any:
        return await world.client.get("/v1/embeddings"), await world.client.get("/v1/chat/completions")

    missing, wrong = within(ask)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"]["type"] == "invalid_request_error"


def test_requests_are_spans_where_the_operator_wants_them():
    """One span a request, with what was spent."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    async def ask(world: World) -> None:
        await world.post(
            "/v1/chat/completions",
            {"model": "majority:n=2/toy", "messages": MESSAGES},
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )

    within(ask, server={"spans": True})
    [span] = exporter.get_finished_spans()
    assert span.name == "/v1/chat/completions"
    assert span.attributes is not None
    assert span.attributes["gen_ai.usage.output_tokens"] == 6
    assert span.parent is not None
    assert format(span.parent.trace_id, "032x") == "0af7651916cd43dd8448eb211c80319c"
