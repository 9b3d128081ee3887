"""What crosses from the event loop to the engine's thread and back."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from itscale.errors import ModelError
from itscale.types import Path, Sampling, Until

__all__ = ["Ending", "Engine", "Given", "Request", "Worker"]


@dataclass(slots=True, eq=False)
class Request:
    """`n` children of `path` are wanted."""

    path: Path
    n: int
    until: Until
    sampling: Sampling
    seeds: list[int]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    cancelled: bool = False
    children: dict[int, Path] = field(default_factory=dict)
    error: Exception | None = None
    spawned: int = 0
    running: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    """Context tokens that were computed because of this request."""
    generated_tokens: int = 0


@dataclass(slots=True, eq=False)
class Given:
    """The log-probabilities of `token_ids` after `path` are wanted."""

    path: Path
    token_ids: tuple[int, ...]
    sampling: Sampling
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    cancelled: bool = False
    error: Exception | None = None
    logprobs: tuple[float, ...] = ()
    prompt_tokens: int = 0
    computed_tokens: int = 0
    """Tokens that were computed because of this question."""
    hidden: bool = False
    """What is wanted instead is what the model holds at the path's last token."""
    states: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """Which tokens end a step and which the whole path, as flags of shape (vocabulary,)."""

    step: npt.NDArray[np.bool_]
    path: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, vocabulary: int, boundary_ids: Sequence[int], eos_ids: Sequence[int]) -> Ending:
        """From lists of ids."""
        ids = np.arange(vocabulary)
        return cls(np.isin(ids, list(boundary_ids)), np.isin(ids, list(eos_ids)))


class _Answerable(Protocol):
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    cancelled: bool


class Worker:
    """A thread that takes requests in bursts and answers them on their event loops.

    `turn(new)` is called on the thread with whatever has arrived; it returns whether it has more to
    do by itself. It reports finished requests through `answer`. An error in a turn is given to
    `failed`, which must answer everything outstanding. `prepare` is called once, on the thread.
    """

    def __init__(
        self,
        name: str,
        turn: Callable[[list[Any]], bool],
        failed: Callable[[Exception], None],
        prepare: Callable[[], None],
    ) -> None:
        self.computing_s = 0.0
        """Seconds spent in turns so far."""
        self._prepare = prepare
        self._turn = turn
        self._failed = failed
        self._arrived: deque[Any] = deque()
        self._wake = Condition()
        self._closed = False
        self._unanswered: set[_Answerable] = set()
        self._answers: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def ask(self, request: _Answerable) -> None:
        """Hand over a request and wait until it is answered.

        When the wait is cancelled, however often, the request is marked so, and this returns
        normally as soon as the thread has let go of it: what it cost until then is known.

        Raises:
            ModelError: the thread was stopped before it had answered.
        """
        with self._wake:
            if self._closed:
                raise ModelError(f"{self._thread.name} is closed; load the model again")
            self._unanswered.add(request)
            self._arrived.append(request)
            self._wake.notify()
        try:
            while not request.done.done():
                try:
                    await asyncio.shield(request.done)
                except asyncio.CancelledError:
                    request.cancelled = True
                    self._look()
            request.done.result()
        finally:
            self._unanswered.discard(request)

    def _look(self) -> None:
        """Make the thread look at what has arrived or was cancelled."""
        with self._wake:
            self._wake.notify()

    def answer(self, request: _Answerable) -> None:
        """A request is finished; its future is set when the turn ends."""
        self._answers.setdefault(request.loop, []).append(request.done)

    def close(self) -> None:
        """Stop the thread after its current turn; what it has not answered fails."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        self._prepare()
        busy = False
        while True:
            with self._wake:
                while not (self._arrived or busy or self._closed):
                    self._wake.wait(timeout=1.0)
                if self._closed:
                    break
            new = []
            while self._arrived:
                new.append(self._arrived.popleft())
            began = time.perf_counter()
            try:
                busy = self._turn(new)
            except Exception as error:  # noqa: BLE001  the thread must outlive any one request
                busy = False
                self._failed(error)
            self.computing_s += time.perf_counter() - began
            self._flush(None)
        for request in list(self._unanswered):
            self.answer(request)
        self._flush(
            ModelError(f"{self._thread.name} was closed before it had answered; load the model again")
        )

    def _flush(self, error: ModelError | None) -> None:
        for loop, futures in self._answers.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, futures, error)
        self._answers = {}


class Engine:
    """An engine as the event loop sees it: what is asked goes to its worker, and comes back answered."""

    _worker: Worker

    async def extend(self, path: Path, until: Until, sampling: Sampling, seeds: list[int]) -> Request:
        """One child of `path` for each seed; the request comes back with children and counts.

        A cancelled call stops its rows at once and returns, cancelled, when the engine has let go.
        """
        loop = asyncio.get_running_loop()
        request = Request(path, len(seeds), until, sampling, seeds, loop, loop.create_future())
        await self._worker.ask(request)
        return request

    async def given(self, path: Path, token_ids: Sequence[int], sampling: Sampling) -> Given:
        """The log-probabilities of `token_ids` (at least one) after `path`, and what that cost."""
        loop = asyncio.get_running_loop()
        question = Given(path, tuple(token_ids), sampling, loop, loop.create_future())
        await self._worker.ask(question)
        return question

    @property
    def computing_s(self) -> float:
        """Seconds that the thread has computed so far."""
        return self._worker.computing_s

    def close(self) -> None:
        """Stop the thread."""
        self._worker.close()


def _resolve(futures: list[asyncio.Future[None]], error: ModelError | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
