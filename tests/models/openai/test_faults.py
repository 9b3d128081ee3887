"""What goes wrong on the way: retries, accounts, cancellation, keys, and one clear sentence each."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from itscale.budget import Budget, Ledger
from itscale.errors import AllFailedError, ModelError, OptionError
from itscale.methods import Majority
from itscale.models.openai.address import Key
from itscale.models.openai.concurrency import Concurrency
from itscale.models.openai.failures import detail_of, retry_after_s
from itscale.models.openai.model import OpenAIModel
from itscale.randomness import Seeded
from itscale.types import Path, Prompt, Sampling, StopReason, Until
from tests.models.openai.canned import cut, fault, hang
from tests.models.openai.servers import Server, Sleeps, connected, endpoint_at

ROOT = Path.root(Prompt.user("a b c"))
KEY = "sk-very-secret"


async def asked(model: OpenAIModel, n: int = 1, ledger: Ledger | None = None) -> list[Path]:
    return await model.extend(ROOT, n, Until("end", 20), Sampling(), Seeded(0), ledger or Ledger(Budget()))


@pytest.mark.parametrize(
    "trouble",
    [
        fault(500, "oops"),
        fault(502, b"<html>bad gateway</html>"),
        fault(429, "slow down"),
        fault(503, "loading"),
        fault(200, b"{ this is no json"),
        fault(200, b'{"choices": [{"text": "one '),
        fault(200, b"[1, 2]"),
        cut,
    ],
)
def test_a_passing_fault_is_retried_and_counted(trouble: Any):
    """Two faults in a row cost two waits, and the third answer is the true one."""

    async def run() -> None:
        sleeps, server, ledger = Sleeps(), Server(), Ledger(Budget())
        model = await connected(server, sleep=sleeps)
        server.faults = [trouble, trouble]
        [path] = await asked(model, ledger=ledger)
        assert path.finished
        assert sleeps.seconds == [0.25, 0.5]  # half of 0.5 s, then half of 1 s: full jitter at one half
        assert (ledger.retries, ledger.model_calls) == (2, 1)
        assert ledger.generated_tokens == path.n_tokens == server.generated

    asyncio.run(run())


@pytest.mark.parametrize("wait", ["7", format_datetime(datetime.now(UTC) + timedelta(hours=-1), usegmt=True)])
def test_retry_after_is_the_least_that_is_waited(wait: str):
    """In seconds or as a date; a date that has passed asks for nothing."""

    async def run() -> None:
        sleeps, server = Sleeps(), Server()
        model = await connected(server, sleep=sleeps)
        server.faults = [fault(429, "slow down", retry_after=wait)]
        await asked(model)
        assert sleeps.seconds == [7.25 if wait == "7" else 0.25]

    asyncio.run(run())


def test_retry_after_in_every_spelling():
    """A number, a date to come, and what is neither."""
    assert retry_after_s(None) is None
    assert retry_after_s("soon") is None
    assert retry_after_s("-3") == 0.0
    ahead = retry_after_s(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True))
    assert ahead is not None
    assert 30 < ahead <= 60


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        ([fault(500, "oops")] * 5, r"/v1/completions answered 500 \(oops\)"),
        ([fault(429, "slow", retry_after="3600")], r"answered 429"),
        ([cut] * 5, "broke the connection off"),
        ([fault(200, b"no")] * 5, "no JSON object"),
        ([fault(200, b'{"choices": []}')], "no choices in it; see: itscale doctor openai:tiny@"),
        ([fault(200, b'{"choices": [{"message": 1}]}')], "a choice without text"),
        ([fault(400, "This model's maximum context length is 5 tokens")], "overflows .*; shorten the prompt"),
        ([fault(401, "bad key")], r"refused access \(401: bad key\); it wants a key: set ITSCALE_API_KEY"),
        ([fault(404, "gone")], "itscale list models --probe URL"),
        (
            [fault(307, b"", location="http://elsewhere/v1")],
            "redirects elsewhere, where a key must not follow",
        ),
        ([fault(422, "what")], r"refused the request \(422: what\)"),
        ([hang] * 2, r"gave no answer within 0.05 s; raise the limit with #timeout=SECONDS"),
    ],
)
def test_a_lasting_fault_is_one_sentence(faults: list[Any], sentence: str):
    """The call ends in a ModelError, also when its own time limit passed, and is charged as a call."""

    async def run() -> None:
        server, ledger = Server(), Ledger(Budget())
        endpoint = endpoint_at(server)
        model = OpenAIModel(endpoint_at(server, timeout_s=0.05), (await OpenAIModel.connect(endpoint)).facts)
        await model.extend(ROOT, 1, Until("end", 20), Sampling(), Seeded(0), Ledger(Budget()))
        server.faults = list(faults)
        with pytest.raises(ModelError, match=sentence) as caught:
            await asked(model, ledger=ledger)
        assert "\n" not in str(caught.value)
        assert server.faults == []
        assert (ledger.model_calls, ledger.generated_tokens) == (1, 0)

    asyncio.run(run())


def test_a_failed_call_costs_one_candidate():
    """Of four samples one fails for good: three vote, and the account names the failure."""

    async def run() -> None:
        server = Server(n="ignores")
        model = await connected(server)
        server.faults = [fault(400, "no")]
        result = await Majority(max_tokens=20).run(ROOT.prompt, model, None, Budget(generations=4))
        assert len(result.candidates) == 3
        assert result.usage.failed_calls == 1
        assert result.usage.generated_tokens == server.generated
        server.faults = [fault(400, "no")] * 4
        with pytest.raises(AllFailedError, match="refused the request"):
            await Majority(max_tokens=20).run(ROOT.prompt, model, None, Budget(generations=4))

    asyncio.run(run())


def test_copies_that_broke_off_are_not_asked_for_beyond_a_limit():
    """What a broken request for several brought is paid for; where the limit then has no room for them
    once more, they are not asked for one by one."""

    async def run(tokens: int) -> list[int]:
        server = Server()
        model = await connected(server)
        server.requests.clear()
        server.cuts = [3]
        ledger = Ledger(Budget(tokens=tokens))
        assert await ledger.reserve_tokens(4) == 4
        with suppress(ModelError):
            await model.extend(ROOT, 2, Until("end", 2), Sampling(), Seeded(0), ledger)
        wanted = [body.get("n", 1) for where, body, _ in server.requests if where.endswith("completions")]
        assert ledger.generated_tokens == server.generated <= tokens
        return wanted

    assert asyncio.run(run(4)) == [2]
    assert asyncio.run(run(7)) == [2, 2]  # there is room for what was lost


def test_a_failed_child_of_a_fan_out_costs_that_child():
    """The others come back, and the failure is counted."""

    async def run() -> None:
        server, ledger = Server(n="rejects"), Ledger(Budget())
        model = await connected(server)
        server.faults = [fault(400, "no")]
        children = await asked(model, 4, ledger)
        assert len(children) == 3
        assert (ledger.failed_calls, ledger.model_calls) == (1, 4)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("usage", "dialect", "charged"),
    [
        (lambda usage: None, {}, "shown"),
        (lambda usage: {**usage, "completion_tokens": 0}, {}, "shown"),
        (lambda usage: {**usage, "completion_tokens": "many"}, {}, "shown"),
        (lambda usage: {**usage, "completion_tokens": True, "prompt_tokens": -1}, {}, "shown"),
        (lambda usage: {**usage, "completion_tokens": usage["completion_tokens"] + 7}, {}, "more"),
        (lambda usage: None, {"tokens": False}, "shown"),
    ],
)
def test_wrong_usage_never_makes_tokens_free(usage: Any, dialect: dict[str, Any], charged: str):
    """Charged is what the server counts, or what it shows where that is more."""

    async def run() -> None:
        server, ledger = Server(usage=usage, **dialect), Ledger(Budget())
        model = await connected(server)
        [path] = await asked(model, ledger=ledger)
        assert ledger.generated_tokens == server.generated + (7 if charged == "more" else 0)
        assert path.n_tokens == server.generated
        assert ledger.prompt_tokens == (0 if dialect else 3)

    asyncio.run(run())


def test_cached_tokens_are_a_part_of_the_prompt():
    """What the server says was in its cache is charged as cached, never more than the prompt."""

    async def run() -> None:
        def usage(true: dict[str, int]) -> dict[str, Any]:
            return {**true, "prompt_tokens_details": {"cached_tokens": 2}}

        ledger = Ledger(Budget())
        await asked(await connected(Server(usage=usage)), ledger=ledger)
        assert (ledger.prompt_tokens, ledger.cached_tokens) == (3, 2)
        ledger = Ledger(Budget())
        await asked(
            await connected(Server(usage=lambda u: {**u, "prompt_tokens_details": {"cached_tokens": 99}})),
            ledger=ledger,
        )
        assert ledger.cached_tokens == 3

    asyncio.run(run())


def test_a_cancelled_call_aborts_its_request_and_is_charged_what_is_known():
    """The server sees the connection end at once; the prompt it had read is paid for."""

    async def run() -> None:
        server, ledger = Server(), Ledger(Budget())
        model = await connected(server)
        await asked(model)
        server.faults = [hang]
        task = asyncio.ensure_future(asked(model, ledger=ledger))
        while not server.running:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (server.aborted, server.running) == (1, 0)
        assert model.endpoint.concurrency.in_flight == 0
        assert (ledger.model_calls, ledger.prompt_tokens, ledger.generated_tokens) == (1, 3, 0)

    asyncio.run(run())


def test_a_run_that_is_out_of_time_aborts_its_requests():
    """The deadline of a run ends calls that would hang for ever, and leaves none behind."""

    async def run() -> None:
        server = Server(n="ignores")
        model = await connected(server)
        server.faults = [hang, hang]
        result = await Majority(max_tokens=20).run(
            ROOT.prompt, model, None, Budget(generations=6, seconds=0.2)
        )
        assert result.stop_reason is StopReason.SECONDS
        assert (server.aborted, server.running) == (2, 0)

    asyncio.run(run())


def test_requests_in_flight_stay_below_the_limit():
    """Forty calls at once through three slots: never a fourth, and every one is answered."""

    async def run() -> None:
        server = Server()
        model = await connected(server, concurrency=Concurrency(3, 3))
        await asked(model)
        server.peak, server.turns = 0, 10
        paths = await asyncio.gather(*(asked(model) for _ in range(40)))
        assert len(paths) == 40
        assert server.peak == model.endpoint.concurrency.peak == 3

    asyncio.run(run())


def test_concurrency_grows_slowly_and_halves_once_a_burst():
    """Four good answers at the limit are one slot more; a burst of refusals is one halving."""

    async def run() -> None:
        slots = Concurrency(8, 16)
        marks = [await slots.acquire() for _ in range(8)]
        for mark in marks:
            slots.release(mark, overloaded=True)
        assert slots.limit == 4
        for _ in range(4):
            marks = [await slots.acquire() for _ in range(int(slots.limit))]
            slots.release(marks.pop(), succeeded=True)
            for mark in marks:
                slots.release(mark)
        assert slots.limit == 5
        slots.release(await slots.acquire(), succeeded=True)
        assert slots.limit == 5, "it does not grow while it does not bind"
        for _ in range(9):
            slots.release(await slots.acquire(), overloaded=True)
        assert slots.limit == 1

    asyncio.run(run())


def test_a_slot_survives_whoever_is_cancelled_while_waiting():
    """Cancelled before, and in the very moment, it would have had its turn: no slot is lost."""

    async def run() -> None:
        slots = Concurrency(1, 1)
        mark = await slots.acquire()
        waiting = [asyncio.ensure_future(slots.acquire()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        slots.release(mark)  # the second has its turn ...
        waiting[1].cancel()  # ... and is cancelled before it knows
        mark = await asyncio.wait_for(waiting[2], 1)
        assert slots.in_flight == 1
        slots.release(mark)
        assert slots.in_flight == 0

    asyncio.run(run())


def test_impossible_concurrency_is_refused():
    """It starts with at least one slot, and not above its own ceiling."""
    for start, ceiling in ((0, 4), (5, 4)):
        with pytest.raises(OptionError, match="give 1 or more"):
            Concurrency(start, ceiling)


def test_overload_lowers_the_limit():
    """A 429, a 503 and a timeout do; a 500 says nothing of load."""

    async def run() -> None:
        for trouble, lower in (
            (fault(429, "x"), True),
            (fault(503, "x"), True),
            (hang, True),
            (fault(500, "x"), False),
        ):
            server = Server()
            facts = (await connected(server)).facts
            model = OpenAIModel(endpoint_at(server, timeout_s=0.05, concurrency=Concurrency(8)), facts)
            await asked(model)
            server.faults = [trouble]
            await asked(model)
            assert (model.endpoint.concurrency.limit < 8) is lower

    asyncio.run(run())


def test_a_key_is_sent_to_its_host_and_shown_to_nobody():
    """The header goes with every request; no repr or error has the key, even if the server echoes it."""

    async def run() -> None:
        server = Server(key=KEY)
        model = await connected(server, key=KEY)
        await asked(model)
        assert {headers["authorization"] for _, _, headers in server.requests} == {f"Bearer {KEY}"}
        wrong = endpoint_at(server, key="sk-wrong-one")
        with pytest.raises(ModelError, match=r"401: .*\*\*\*.*check the key") as caught:
            await OpenAIModel.connect(wrong)
        seen = [repr(model), repr(model.endpoint), repr(wrong), str(caught.value), model.identity, model.name]
        seen += [repr(Key(KEY, "h")), str(model.facts.to_json())]
        assert not [text for text in seen if "sk-" in text]

    asyncio.run(run())


def test_a_redirect_is_not_followed():
    """Nothing is sent to where a server points."""

    async def run() -> None:
        hosts = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            hosts.append(dict(scope["headers"])[b"host"])
            headers = [(b"location", b"http://elsewhere.example/v1/models")]
            await send({"type": "http.response.start", "status": 302, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

        with pytest.raises(ModelError, match="redirects"):
            await OpenAIModel.connect(endpoint_at(app, key=KEY))
        assert hosts == [b"127.0.0.1:8000"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "no such\\n model", "code": 404}}', "no such model"),
        (b'{"error": "plain"}', "plain"),
        (b'{"object": "error", "message": "older"}', "older"),
        (b'{"detail": [{"loc": ["n"]}]}', '[{"loc": ["n"]}]'),
        (b"<html>\n  bad </html>", "<html> bad </html>"),
        (b"x" * 1000, "x" * 300 + "..."),
        (b"\xff", "\ufffd"),
        (b"", ""),
    ],
)
def test_error_bodies_of_every_shape_are_read(body: bytes, said: str):
    """The message is found where servers put it, on one line and not without end."""
    assert detail_of(body) == said
