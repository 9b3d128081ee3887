"""Who may enter: bounded concurrency with a bounded queue, keys, rates, and tokens a day.

Laws: whoever is cancelled while waiting leaves no trace; a full queue answers 429 at once; keys are
compared in constant time and held as hashes; what a key spent survives a restart where the operator
names a file, and is shared between workers there.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase

from itscale.gateway.config import KeyEntry
from itscale.gateway.faults import Fault
from itscale.models.openai.concurrency import Concurrency

__all__ = ["Accounts", "Gate", "check_name", "hash_of", "new_key", "who"]

_DAY_S = 86_400


class Gate:
    """At most `limit` inside and `queue` waiting."""

    def __init__(self, what: str, limit: int, queue: int) -> None:
        self.what = what
        self.queue = queue
        self.waiting = 0
        self._slots = Concurrency(limit, limit)
        self._usual_s = 1.0

    @property
    def inside(self) -> int:
        """How many are inside."""
        return self._slots.in_flight

    @asynccontextmanager
    async def pass_through(self) -> AsyncIterator[None]:
        """Wait for a place, and give it back at the end.

        Raises:
            Fault: 429, as many are waiting as may.
        """
        full = self._slots.in_flight >= int(self._slots.limit)
        if full and self.waiting >= self.queue:
            wait_s = self._usual_s * (self.waiting + 1) / self._slots.limit
            raise Fault(
                429,
                f"{self.what} is busy and its queue is full; try again in a moment",
                code="overloaded",
                retry_after_s=min(60.0, max(1.0, wait_s)),
            )
        self.waiting += 1
        try:
            mark = await self._slots.acquire()
        finally:
            self.waiting -= 1
        began = time.monotonic()
        try:
            yield
        finally:
            self._usual_s += 0.1 * (time.monotonic() - began - self._usual_s)
            self._slots.release(mark)


def hash_of(key: str) -> str:
    """What stands in the operator's file for a key. Keys are random, so one round of SHA-256 is enough."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A key of 256 random bits."""
    return "its-" + secrets.token_urlsafe(32)


def who(authorization: str | None, keys: Mapping[str, KeyEntry]) -> str | None:
    """The name of the key in an Authorization header; None where the gateway is open to all.

    Raises:
        Fault: 401, there is no such key.
    """
    if not keys:
        return None
    kind, _, given = (authorization or "").partition(" ")
    if kind.lower() != "bearer" or not given:
        raise Fault(401, "a key is needed; send Authorization: Bearer KEY", code="missing_api_key")
    mine, found = hash_of(given.strip()), None
    for name, entry in keys.items():  # all of them: how long it takes tells nothing
        if hmac.compare_digest(mine, entry.hash):
            found = name
    if found is None:
        raise Fault(401, "this key is not known here; ask the operator for one", code="invalid_api_key")
    return found


def check_name(name: str, entry: KeyEntry | None) -> None:
    """Raises Fault (403) if the key may not ask for a model of this name."""
    if entry is not None and not any(fnmatchcase(name, pattern) for pattern in entry.models):
        raise Fault(
            403, f"this key may not use {name!r}; GET /v1/models says what it may", code="model_not_allowed"
        )


class Accounts:
    """What each key asked and spent, in one SQLite table."""

    def __init__(self, file: str | None = None, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._db = sqlite3.connect(file or ":memory:", timeout=5.0, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")  # a power cut may forgive the last tokens of a day
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS spent (key TEXT, what TEXT, period INTEGER, amount INTEGER, "
            "PRIMARY KEY (key, what, period)) WITHOUT ROWID"
        )

    def admit(self, name: str, entry: KeyEntry) -> None:
        """Count one request.

        Raises:
            Fault: 429, the rate or the day's tokens are used up.
        """
        now = self._now()
        if entry.tokens_per_day is not None:
            limit = entry.tokens_per_day
            if self.spent_today(name) >= limit:
                raise Fault(
                    429,
                    f"the {limit:,} tokens of this key for today (UTC) are spent; try tomorrow",
                    code="insufficient_quota",
                    retry_after_s=_DAY_S - now % _DAY_S,
                )
        if entry.requests_per_minute is not None:
            minute, second = divmod(now, 60.0)
            before, this = (
                self._amount(name, "requests", int(minute) - 1),
                self._amount(name, "requests", int(minute)),
            )
            # The sliding window, estimated from two fixed ones.
            if before * (1 - second / 60) + this >= entry.requests_per_minute:
                raise Fault(
                    429,
                    f"this key may ask {entry.requests_per_minute} times a minute; wait a little",
                    code="rate_limit_exceeded",
                    retry_after_s=60.0 / entry.requests_per_minute if before else 60 - second,
                )
            self._add(name, "requests", int(minute), 1)
            self._db.execute("DELETE FROM spent WHERE what = 'requests' AND period < ?", (int(minute) - 1,))

    def charge(self, name: str, tokens: int) -> None:
        """A request of this key took `tokens`, prompt and generated."""
        if tokens:
            self._add(name, "tokens", int(self._now() // _DAY_S), tokens)

    def spent_today(self, name: str) -> int:
        """Tokens of this UTC day."""
        return self._amount(name, "tokens", int(self._now() // _DAY_S))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _amount(self, name: str, what: str, period: int) -> int:
        row = self._db.execute(
            "SELECT amount FROM spent WHERE key = ? AND what = ? AND period = ?", (name, what, period)
        ).fetchone()
        return int(row[0]) if row else 0

    def _add(self, name: str, what: str, period: int, amount: int) -> None:
        self._db.execute(
            "INSERT INTO spent VALUES (?, ?, ?, ?) "
            "ON CONFLICT (key, what, period) DO UPDATE SET amount = amount + excluded.amount",
            (name, what, period, amount),
        )
