"""A recording: answers of models and scorers in one SQLite file, addressed by what was asked.

Law: when `keep` returns, the answer survives the death of the process, and the same address is
answered alike ever after, in every process on the file: the first answer kept is the answer. Every
`keep` is in a committed transaction (what waits together is committed together); the journal is a
write-ahead log, so a kill at any moment leaves a whole file. A power cut may take back the last
moments, and leaves a whole file too.

One thread has the connection, so nothing here blocks the event loop, not even a file that another
process has locked. Addresses are hashes: the file holds what was answered and its cost, and nothing
of keys, URLs or prompts.

Not covered: failed and cancelled calls, which are made again; growth, for nothing is ever deleted.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import queue
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from threading import Thread
from typing import Any, Literal, TypeVar
from weakref import WeakValueDictionary

from itscale.budget import Charges
from itscale.errors import NotRecordedError, RecordingError

__all__ = ["Address", "Calls", "Kind", "Recorded", "Recording"]

FORMAT = 1
APPLICATION = int.from_bytes(b"itsc", "big")
"""How SQLite files say whose they are."""
_MAKE_ROOM = "make room on its disk"
BUSY_S = 30.0
"""How long another process may hold the file before that is an error."""

T = TypeVar("T")
Kind = Literal["model", "process", "outcome", "comparison"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where the answer to one call is kept: a hash of everything the answer depends on."""

    kind: Kind
    whose: bytes
    """A hash of the identity of the model or scorer."""
    key: bytes

    @classmethod
    def of(cls, kind: Kind, identity: str, *asked: Any) -> Address:
        """The address of plain values (what JSON can say); equal values have equal addresses."""
        whose = _digest(f"{kind} {identity}".encode())
        return cls(kind, whose, _digest(whose + json.dumps(asked, sort_keys=True).encode()))

    def draw(self, seed: int) -> Address:
        """Of one draw of this call: that with the stream of `seed`."""
        return replace(self, key=_digest(self.key + str(seed).encode()))


@dataclass(frozen=True, slots=True)
class Recorded:
    """One answer: plain values, and what it was charged."""

    answer: Any
    charges: Charges

    @classmethod
    def of(cls, answer: Any, charges: Charges) -> Recorded:
        """An answer that was paid for; what an inner recording gave for nothing counts as paid."""
        return cls(answer, {k: n for k, n in charges.items() if not k.startswith("replayed_")})


@dataclass(slots=True, eq=False)
class _Job:
    """Addresses to look up, or calls to keep."""

    addresses: Sequence[Address]
    texts: Sequence[str] = ()
    """What to keep there; empty for a look-up."""
    done: Future[list[str | None]] = field(default_factory=Future)


class Calls(ABC):
    """Recorded calls, wherever they are kept. In this process one waits for another's turn at an address."""

    def __init__(self, file: FilePath, *, offline: bool = False) -> None:
        self.file = file
        self.offline = offline
        """Nothing may be asked live, so a missing answer is an error."""
        self._turns: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    @abstractmethod
    async def at(self, addresses: Sequence[Address], texts: Sequence[str] = ()) -> list[str | None]:
        """What is kept at each address, as text. Where `texts` are given they are kept, each unless
        something was there before, and what was there before is told.

        Raises:
            RecordingError: the file cannot be read or written.
        """

    async def look_up(self, addresses: Sequence[Address]) -> list[Recorded | None]:
        """What is kept at each address; None where nothing is.

        Raises:
            RecordingError: the file cannot be read.
        """
        return [None if text is None else self._parsed(text) for text in await self.at(addresses)]

    async def keep(self, calls: Mapping[Address, Recorded]) -> list[Recorded]:
        """Keep answers for good; at each address the answer that counts.

        That is the one given here, unless another process kept one before.

        Raises:
            RecordingError: the file cannot be written.
        """
        texts = [json.dumps([call.answer, dict(call.charges)]) for call in calls.values()]
        before = await self.at(list(calls), texts)
        given = zip(before, calls.values(), strict=True)
        return [call if text is None else self._parsed(text) for text, call in given]

    def turn(self, address: Address) -> asyncio.Lock:
        """A lock for whoever is about to ask what this address is of, lest two ask at once."""
        return self._turns.setdefault(address.key, asyncio.Lock())

    async def missing(self, address: Address, name: str, question: str) -> NotRecordedError:
        """The error for an address without an answer, when nothing may be asked live."""
        sort = "model" if address.kind == "model" else "scorer"
        if await self.at([replace(address, key=b"")]) != [None]:
            return NotRecordedError(
                f"{self.file} lacks a call of {sort} {name!r} on {question[:60]!r}; run once without "
                "--offline to record it, or ask as it was recorded"
            )
        return NotRecordedError(
            f"{self.file} has no call of {sort} {name!r}, or it was recorded with other weights or from "
            "another server; run once without --offline to record it"
        )

    def _parsed(self, text: str) -> Recorded:
        try:
            answer, charges = json.loads(text)
        except (ValueError, TypeError) as error:
            raise RecordingError(
                f"{self.file} is damaged ({error}); restore it from a copy, or record anew"
            ) from error
        return Recorded(answer, charges)


class Recording(Calls):
    """A recording, open for reading and adding. A context manager: leaving it closes the file.

    Args:
        file: made, folders and all, if it does not exist.
        offline: nothing may be asked live, so a missing answer is an error. The file is only read.

    Raises:
        RecordingError: the file is no recording, was written by a newer itscale, cannot be opened,
            or does not exist and `offline` asks for its answers.
    """

    def __init__(self, file: FilePath, *, offline: bool = False) -> None:
        super().__init__(file, offline=offline)
        self.commits = 0
        """Transactions so far."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        try:
            self._database = _opened(file, offline)
        except (sqlite3.Error, OSError) as error:
            fix = f"{_MAKE_ROOM}, or choose another file" if _is_of_the_disk(error) else "choose another file"
            raise RecordingError(f"{file} cannot be opened as a recording ({error}); {fix}") from error
        self._thread = Thread(target=self._serve, name="itscale-recording", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for what is being kept, and release the file."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            self._thread.join()
            self._database.close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def at(self, addresses: Sequence[Address], texts: Sequence[str] = ()) -> list[str | None]:
        if self._closed:
            raise RecordingError(f"the recording {self.file} is closed; open it again")
        job = _Job(addresses, texts)
        self._jobs.put(job)
        # Shielded, so that a cancelled run still keeps what it has paid for.
        return await asyncio.shield(asyncio.wrap_future(job.done))

    # -- the thread ---------------------------------------------------------------------------

    def _serve(self) -> None:
        """Everything that waits at once, in one transaction."""
        closing = False
        while not closing:
            waiting = [self._jobs.get()]
            while not self._jobs.empty():
                waiting.append(self._jobs.get())
            closing = None in waiting
            jobs = [job for job in waiting if job is not None]
            try:
                found = self._transaction(jobs)
            except Exception as error:  # noqa: BLE001  the thread must outlive any one call
                if self._database.in_transaction:
                    self._database.rollback()
                for job in jobs:
                    job.done.set_exception(self._failure(error))
            else:
                for job, texts in zip(jobs, found, strict=True):
                    job.done.set_result(texts)

    def _transaction(self, jobs: list[_Job]) -> list[list[str | None]]:
        if any(job.texts for job in jobs):
            self._database.execute("BEGIN IMMEDIATE")
        found = [self._keep(job) if job.texts else list(map(self._text_at, job.addresses)) for job in jobs]
        if self._database.in_transaction:
            self._database.execute("COMMIT")
            self.commits += 1
        return found

    def _keep(self, job: _Job) -> list[str | None]:
        """What was at the addresses before, and so stays there."""
        before: list[str | None] = []
        for address, text in zip(job.addresses, job.texts, strict=True):
            added = self._database.execute(
                "INSERT INTO calls (key, whose, kind, value) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (address.key, address.whose, address.kind, text),
            )
            before.append(None if added.rowcount else self._text_at(address))
        return before

    def _text_at(self, address: Address) -> str | None:
        if address.key:
            row = self._database.execute("SELECT value FROM calls WHERE key = ?", (address.key,)).fetchone()
        else:
            row = self._database.execute(
                "SELECT value FROM calls WHERE whose = ? LIMIT 1", (address.whose,)
            ).fetchone()
        return str(row[0]) if row else None

    def _failure(self, error: Exception) -> RecordingError:
        fix = "restore it from a copy, or record into another file"
        if isinstance(error, sqlite3.OperationalError):
            fix = "see that no other program holds the file, then run again"
        if _is_of_the_disk(error):
            fix = f"{_MAKE_ROOM}, then run again: what was recorded before is kept"
        failure = RecordingError(f"the recording {self.file} failed ({error}); {fix}")
        failure.__cause__ = error
        return failure


def _opened(file: FilePath, offline: bool) -> sqlite3.Connection:
    """A connection to a recording, made if need be."""
    if offline and not file.is_file():
        raise RecordingError(
            f"there is no recording at {file} to answer from; run once without --offline to make it"
        )
    if not offline:
        file.parent.mkdir(parents=True, exist_ok=True)
    target = f"{file.resolve().as_uri()}?mode={'rw' if offline else 'rwc'}"
    database = sqlite3.connect(
        target, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        if not _patiently(lambda: _is_recording(database, file)):
            if offline:
                raise RecordingError(f"{file} is empty; run once without --offline to record into it")
            _patiently(lambda: _begin(database))
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA query_only = {int(offline)}")
    except BaseException:
        database.close()
        raise
    return database


def _is_recording(database: sqlite3.Connection, file: FilePath) -> bool:
    """Whether it is one; False for an empty file. Anything else raises RecordingError."""
    with _Snapshot(database):
        [[application]] = database.execute("PRAGMA application_id").fetchall()
        [[version]] = database.execute("PRAGMA user_version").fetchall()
        empty = database.execute("SELECT 1 FROM sqlite_master").fetchone() is None
    if application != APPLICATION and not (empty and application == version == 0):
        raise RecordingError(f"{file} is a database, but no recording; choose another file")
    if version > FORMAT:
        raise RecordingError(
            f"{file} was written by a newer itscale (format {version}, this one reads up to {FORMAT}); "
            'upgrade with pip install -U "itscale", or record into another file'
        )
    return bool(application == APPLICATION)


def _begin(database: sqlite3.Connection) -> None:
    """Make an empty file a recording; harmless where another process just did."""
    database.execute("PRAGMA journal_mode = WAL")
    with _Snapshot(database, "BEGIN IMMEDIATE"):
        database.execute(
            "CREATE TABLE IF NOT EXISTS calls "
            "(key BLOB PRIMARY KEY, whose BLOB NOT NULL, kind TEXT NOT NULL, value TEXT NOT NULL)"
        )
        database.execute(f"PRAGMA application_id = {APPLICATION}")
        database.execute(f"PRAGMA user_version = {FORMAT}")


class _Snapshot:
    """A transaction, committed on leaving and rolled back on errors."""

    def __init__(self, database: sqlite3.Connection, begin: str = "BEGIN") -> None:
        self._database = database
        self._begin = begin

    def __enter__(self) -> None:
        self._database.execute(self._begin)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._database.in_transaction:
            self._database.execute("COMMIT" if kind is None else "ROLLBACK")


def _is_of_the_disk(error: Exception) -> bool:
    """Whether it says that something could not be written: a full disk, or in SQLite's words an I/O error."""
    code = error.sqlite_errorcode & 0xFF if isinstance(error, sqlite3.OperationalError) else None
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def _patiently(work: Callable[[], T]) -> T:
    """`work`, again while another process is in the way: SQLite does not wait at every lock itself."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return work()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=20).digest()
