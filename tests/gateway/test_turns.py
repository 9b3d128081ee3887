"""What a request costs the event loop: no turns of its own, no rubbish, and a hang-up cancels exactly it."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from types import CoroutineType, FunctionType
from typing import Any, cast

import pytest

from itscale.events import Stopped
from itscale.gateway.live import live
from itscale.gateway.streaming import HungUp, connected
from itscale.models.openai.client import Call
from tests.gateway.worlds import World, within
from tests.models.openai.servers import Server


async def forever() -> dict[str, Any]:
    """A client that stays."""
    await asyncio.Event().wait()
    raise AssertionError


async def gone() -> dict[str, Any]:
    """A client that leaves at once."""
    return {"type": "http.disconnect"}


async def broken() -> dict[str, Any]:
    """A client whose connection fails."""
    raise ConnectionResetError


def left() -> int:
    """Cancellations that this task has been asked for and nobody took back."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


def test_being_connected_takes_no_turn_of_the_loop():
    """Else the requests of a burst would wait for each other's turns, and all end together."""

    async def main() -> tuple[int, int]:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async def work() -> int:
            return turns

        counting = asyncio.ensure_future(count())
        await asyncio.sleep(0)
        before = turns
        during = await connected(forever, work())
        counting.cancel()
        return during - before, turns - before

    assert asyncio.run(main()) == (0, 0)


@pytest.mark.parametrize("receive", [gone, broken])
def test_a_hang_up_cancels_the_work_and_nothing_after_it(receive: Any):
    """The task lives on, with no cancellation left over."""

    async def main() -> None:
        ended = False

        async def work() -> None:
            nonlocal ended
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)  # cleaning up takes its time and is seen to its end
                ended = True

        with pytest.raises(HungUp):
            await connected(receive, work())
        assert ended
        assert left() == 0
        await asyncio.sleep(0.01)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_work_that_ends_all_the_same_says_what_it_came_to(how: str):
    """A hang-up that comes in its last moment, or that it does not heed, changes nothing."""

    async def main() -> None:
        async def work() -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if how == "raises":
                    raise ValueError("said") from None
            return "done"

        if how == "raises":
            with pytest.raises(ValueError, match="said"):
                await connected(gone, work())
        else:
            assert await connected(gone, work()) == "done"
        assert left() == 0
        await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_hang_up_after_the_end_is_nobodys():
    """The work ends in the very turn in which the client leaves."""

    async def main() -> str:
        leaving = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await leaving.wait()
            return {"type": "http.disconnect"}

        async def work() -> str:
            await asyncio.sleep(0)
            leaving.set()
            await asyncio.sleep(0)  # the client is heard of in this turn
            return "done"

        said = await connected(receive, work())
        for _ in range(5):
            await asyncio.sleep(0)
        assert left() == 0
        return said

    assert asyncio.run(main()) == "done"


def test_a_cancellation_from_outside_stays_one():
    """A server that ends is no client that hung up, even when both happen."""

    async def main(receive: Any) -> None:
        async def work() -> None:
            await asyncio.Event().wait()

        task = asyncio.ensure_future(connected(receive, work()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for receive in (forever, gone):
        asyncio.run(main(receive))


def rubbish(model: str, upstream: Server, status: int = 200, **fields: Any) -> Counter[str]:
    """What only a search for cycles frees after a request, by type: this library's, not the client's."""

    async def ask(world: World) -> Counter[str]:
        for _ in range(2):  # probes, caches
            assert (await world.chat(model, **fields)).status_code == status
        await asyncio.sleep(0.01)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            assert (await world.chat(model, **fields)).status_code == status
            await asyncio.sleep(0.01)
            gc.collect()
            return Counter(map(_kind, gc.garbage)) - Counter({"": len(gc.garbage)})
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    return within(ask, upstream=upstream)


def _kind(value: object) -> str:
    known = value if isinstance(value, FunctionType) else type(value)
    module, name = known.__module__, known.__qualname__
    if isinstance(value, CoroutineType):
        module, name = value.cr_code.co_filename.replace("/", "."), value.__qualname__
    return name if "itscale." in module and "tests." not in module else ""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", ["honours", "ignores"])
@pytest.mark.parametrize(
    "model",
    [
        *("toy", "majority:n=4/toy", "best-of-n:n=4/toy", "particle-filter:n=4/toy", "beam:n=4/toy"),
        *("far", "majority:n=4/far", "adaptive-consistency:n=4/far"),
    ],
)
def test_a_request_leaves_no_cycles(model: str, n: str, stream: bool):
    """What it took is free when it ends. Else a search for it stops all requests now and then: 150 ms for
    those of a thousand."""
    sampled = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 64}
    streamed = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    assert rubbish(model, Server(n=n), **sampled, **streamed) == {}


@pytest.mark.parametrize(
    ("model", "status", "fields"),
    [
        ("nobody", 404, {}),
        ("toy", 400, {"n": "many"}),
        ("majority:n=4/toy", 400, {"tool_choice": "auto"}),
        ("majority:n=4/far", 400, {"max_tokens": 10**9}),
    ],
)
def test_a_refusal_leaves_no_cycles(model: str, status: int, fields: dict[str, Any]):
    """Errors hold the frames they came through, and those hold the request."""
    assert rubbish(model, Server(), status, **fields) == {}


def test_a_cycle_is_seen(monkeypatch: pytest.MonkeyPatch):
    """Planted: a call that its own callbacks hold."""
    made = Call.__init__

    def held(self: Call, *args: Any, **options: Any) -> None:
        made(self, *args, **options)
        self.again = lambda _: self.sent < 2

    monkeypatch.setattr(Call, "__init__", held)
    assert rubbish("majority:n=4/far", Server())["Call"] == 1


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["toy", "far", "best-of-n:n=2/toy"])
def test_a_client_that_is_found_gone_while_it_is_answered_leaves_nothing_behind(
    model: str, stream: bool, at: int, caplog: pytest.LogCaptureFixture
):
    """Its socket says so where no disconnect was heard yet. No fault, and every place is free."""

    async def ask(world: World) -> int:
        message = {
            "type": "http.request",
            "body": json.dumps({"model": model, "stream": stream, **CHAT}).encode(),
        }
        heard, sent = [message], 0

        async def receive() -> dict[str, Any]:
            return heard.pop() if heard else await forever()

        async def send(message: Any) -> None:
            nonlocal sent
            sent += 1
            if sent > at:
                raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; it is closed")

        await world.gateway({**SCOPE, "path": "/v1/chat/completions"}, receive, send)
        gates = [world.gateway.gate, *(served.gate for served in world.gateway.runtime.models.values())]
        assert [gate.inside for gate in gates] == [0, 0, 0]
        while world.upstream.running:
            await asyncio.sleep(0.001)
        return sent

    asked = within(ask)
    assert asked == (2 if not stream and at == 2 else at + 1)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


CHAT = {"messages": [{"role": "user", "content": "pick one"}]}
SCOPE: dict[str, Any] = {"type": "http", "method": "POST", "headers": [(b"host", b"x")], "query_string": b""}


def test_an_event_and_a_hang_up_in_one_turn_lose_neither():
    """The stream of a run is cancelled though the event that it waited for has just come."""

    async def main(turns: int) -> bool:
        told: list[Any] = []

        class Run:
            seeds = (0,)
            method = None

            async def run(self, choice: int, observe: Any) -> None:
                told.append(observe)
                await asyncio.Event().wait()

        async def listen() -> None:
            async for _ in live(cast("Any", Run())):
                pass

        listening = asyncio.ensure_future(listen())
        while not told:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        told[0](Stopped("done"))
        for _ in range(turns):
            await asyncio.sleep(0)
        listening.cancel()
        done, _ = await asyncio.wait({listening}, timeout=0.5)
        return bool(done)

    assert all(asyncio.run(main(turns)) for turns in range(4))
