"""What can be said of an answer while it is being found.

Law: text is sent only when it is certain to be how the answer begins. Of a plain model that is every
step; of the particle filters, what all particles share after a resampling, since every answer grows
out of one of them; of any other method, the winner once it is decided.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import takewhile
from typing import Any

from itscale.events import Event, Failed, Proposed, Resampled, Scored
from itscale.gateway.plain import Plain
from itscale.gateway.running import Job
from itscale.methods.base import Result
from itscale.methods.entropic_particle_filter import EntropicParticleFilter
from itscale.methods.particle_filter import ParticleFilter

__all__ = ["Ended", "Happened", "Quiet", "Said", "Tally", "live"]

QUIET_S = 5.0
"""A silence longer than this is broken by a keep-alive."""
GRACE_S = 1.0
"""How long an answer may wait for its first event before its status is sent."""


@dataclass(frozen=True, slots=True)
class Said:
    """The answer goes on with this text."""

    choice: int
    text: str


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of the run."""

    choice: int
    event: Event


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing has happened for a while."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A choice is complete."""

    choice: int
    result: Result


Live = Said | Happened | Quiet | Ended


class Tally:
    """A run's events in one line."""

    def __init__(self) -> None:
        self.steps = self.tokens = self.scored = self.failed = self.resampled = 0

    def add(self, event: Event) -> None:
        """Count it."""
        if isinstance(event, Proposed):
            self.steps += 1
            self.tokens += event.tokens
        elif isinstance(event, Scored):
            self.scored += 1
        elif isinstance(event, Failed):
            self.failed += 1
        elif isinstance(event, Resampled):
            self.resampled += 1

    def __str__(self) -> str:
        said = {"steps": self.steps, "tokens": self.tokens, "scored": self.scored}
        said |= {"resampled": self.resampled, "failed": self.failed}
        return " ".join(f"{name}={count}" for name, count in said.items() if count)


class _Certain:
    """The text every answer still possible begins with."""

    def __init__(self, job: Job) -> None:
        self._plain = isinstance(job.method, Plain)
        self._follows = isinstance(job.method, Plain | ParticleFilter | EntropicParticleFilter)
        self._texts: dict[int, str] = {0: ""}
        self.text = ""

    def add(self, event: Event) -> str:
        """What has become certain by it."""
        if not self._follows:
            return ""
        if isinstance(event, Proposed):
            self._texts[event.path] = self._texts.get(event.parent, "") + event.text
            return self._grown([event.path]) if self._plain else ""
        if isinstance(event, Resampled):
            return self._grown(event.paths)
        return ""

    def rest(self, text: str) -> str:
        """What of the final text has not been said."""
        assert text.startswith(self.text), "a text that was called certain is not how the answer begins"
        return text[len(self.text) :]

    def _grown(self, paths: list[int] | tuple[int, ...]) -> str:
        shared = _common([self._texts.get(path, "") for path in paths])
        more, self.text = shared[len(self.text) :], max(self.text, shared, key=len)
        return more


def _common(texts: list[str]) -> str:
    """The longest text all of them begin with."""
    least, most = min(texts), max(texts)  # in order of characters, so the rest lies between
    same = takewhile(lambda pair: pair[0] == pair[1], zip(least, most, strict=False))
    return "".join(character for character, _ in same)


async def live(job: Job) -> AsyncGenerator[Live, None]:
    """All choices of a job as they come. Closing it cancels everything under way.

    The first item comes when something has happened, so that what fails at once can still be
    answered with a status of its own.

    Raises:
        Fault, ItscaleError: a run failed.
    """
    queue: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()
    tasks: list[asyncio.Task[Result]] = []
    for choice in range(len(job.seeds)):

        def observe(event: Event, choice: int = choice) -> None:
            queue.put_nowait((choice, event))

        task = asyncio.ensure_future(job.run(choice, observe))
        task.add_done_callback(partial(_note_end, queue, choice))
        tasks.append(task)
    certain = [_Certain(job) for _ in tasks]
    open_choices, wait_s = len(tasks), GRACE_S
    begun, held = False, list[Happened]()  # failures alone begin no answer
    try:
        while open_choices:
            try:
                async with asyncio.timeout(wait_s):  # Python 3.11's wait_for can lose a cancellation
                    choice, event = await queue.get()
            except TimeoutError:
                wait_s = QUIET_S
                yield Quiet()
                continue
            wait_s = QUIET_S
            if event is None:
                result = tasks[choice].result()
                open_choices -= 1
                yield Said(choice, certain[choice].rest(result.text))
                yield Ended(choice, result)
            elif isinstance(event, Failed) and not begun:
                held.append(Happened(choice, event))
            else:
                begun = True
                while held:
                    yield held.pop(0)
                yield Happened(choice, event)
                if text := certain[choice].add(event):
                    yield Said(choice, text)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _note_end(queue: asyncio.Queue[tuple[int, Event | None]], choice: int, _: Any) -> None:
    queue.put_nowait((choice, None))


def event_json(event: Event, began: float) -> dict[str, Any]:
    """An event as plain values, with the seconds since the run began."""
    name = type(event).__name__.lower()
    return {"event": name, "at": round(time.monotonic() - began, 4), **asdict(event)}
