"""Calls begun before anybody asks for their result, one for each key, cancelled when nobody will."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["Ahead"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Ahead(Generic[K, T]):
    """Running calls by key.

    Law: whatever is begun is awaited in the end, by who claims it or by `close`, so that what it
    charges is on the account and no error of an unwanted call is lost or raised.
    """

    def __init__(self) -> None:
        self._running: dict[K, asyncio.Task[T]] = {}
        self._dropped: list[tuple[K, asyncio.Task[T]]] = []

    def __contains__(self, key: K) -> bool:
        return key in self._running

    def __iter__(self) -> Iterator[K]:
        return iter(self._running)

    def begin(self, key: K, call: Coroutine[Any, Any, T]) -> None:
        """Start the call of `key`, in place of an earlier one nobody claimed."""
        self.drop([key])
        self._running[key] = asyncio.ensure_future(call)

    async def claim(self, key: K) -> T:
        """The result of the call of `key`, which is then forgotten; raises what the call raised.

        Cancelled while it waits, it cancels the call and sees it to its end.
        """
        task = self._running.pop(key)
        try:
            return await task
        except asyncio.CancelledError:
            await asyncio.gather(task, return_exceptions=True)
            raise

    def drop(self, keys: Iterable[K]) -> None:
        """Cancel the calls of these keys, where there are any."""
        for key in keys:
            if (task := self._running.pop(key, None)) is not None:
                task.cancel()
                self._dropped.append((key, task))

    async def close(self) -> list[tuple[K, T]]:
        """Cancel every call that nobody claimed, and wait until all have ended; what came all the same."""
        self.drop(list(self._running))
        ended = await asyncio.gather(*(task for _, task in self._dropped), return_exceptions=True)
        return [
            (key, result)
            for (key, _), result in zip(self._dropped, ended, strict=True)
            if not isinstance(result, BaseException)
        ]
