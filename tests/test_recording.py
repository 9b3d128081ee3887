"""The store of recordings: what is kept stays, whoever else is on the file and whatever happens."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from itscale import recording as room
from itscale.errors import RecordingError
from itscale.recording import FORMAT, Address, Recorded, Recording
from tests.disk import no_file_beyond


def at(*asked: object) -> Address:
    return Address.of("model", "someone", *asked)


def answer(text: str) -> Recorded:
    return Recorded({"text": text}, {"generated_tokens": len(text)})


async def kept(recording: Recording, *asked: object) -> Recorded | None:
    [found] = await recording.look_up([at(*asked)])
    return found


def test_what_is_kept_is_there_after_reopening(tmp_path: Path):
    """Answers and charges come back as they were; an address nobody kept is empty."""

    async def scenario() -> None:
        with Recording(tmp_path / "new" / "calls.db") as recording:
            assert await kept(recording, 1) is None
            odd = Recorded([0.1 + 0.2, "\ud800 é\n\x00", float("-inf"), None], {"model_calls": 3})
            assert await recording.keep({at(1): answer("one"), at(2): odd}) == [answer("one"), odd]
        with Recording(tmp_path / "new" / "calls.db") as recording:
            assert await recording.look_up([at(2), at(3), at(1)]) == [odd, None, answer("one")]

    asyncio.run(scenario())


def test_addresses_tell_everything_apart():
    """Kind, identity, what is asked and the seed of a draw are each part of an address."""
    addresses = [
        at(1),
        at("1"),
        at(1, 2),
        at([1, 2]),
        at(12),
        at({"a": 1}),
        Address.of("process", "someone", 1),
        Address.of("model", "someone else", 1),
        at(1).draw(1),
        at(1).draw(11),
        at(1).draw(-1),
        at(1).draw(1).draw(1),
    ]
    assert len({address.key for address in addresses}) == len(addresses)
    assert at({"b": 2, "a": 1}) == at({"a": 1, "b": 2})


def test_the_first_answer_is_the_answer(tmp_path: Path):
    """Who keeps second, on another connection, is given what was kept first."""

    async def scenario() -> None:
        with Recording(tmp_path / "f") as first, Recording(tmp_path / "f") as second:
            await first.keep({at(1): answer("first")})
            assert await second.keep({at(1): answer("second"), at(2): answer("two")}) == [
                answer("first"),
                answer("two"),
            ]
            assert await kept(first, 1) == await kept(second, 1) == answer("first")

    asyncio.run(scenario())


def test_a_locked_file_does_not_block_the_loop_and_waiting_calls_are_kept_together(tmp_path: Path):
    """While another process writes, the loop goes on; then all that waited is one or two transactions.

    Were the write on the loop, the lock could not be released by it, and SQLite would give up.
    """

    async def scenario() -> None:
        with Recording(tmp_path / "f") as recording:
            other = sqlite3.connect(tmp_path / "f", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            keeping = [asyncio.create_task(recording.keep({at(i): answer(str(i))})) for i in range(50)]
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in keeping)
            other.execute("ROLLBACK")
            other.close()
            assert await asyncio.gather(*keeping) == [[answer(str(i))] for i in range(50)]
            assert 1 <= recording.commits <= 2

    asyncio.run(scenario())


def test_a_file_locked_for_too_long_is_an_error_and_the_next_call_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The message says what to look at; nothing hangs, and nothing half done is left behind."""
    monkeypatch.setattr(room, "BUSY_S", 0.05)

    async def scenario() -> None:
        with Recording(tmp_path / "f") as recording:
            other = sqlite3.connect(tmp_path / "f", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(RecordingError, match=r"locked.*no other program holds the file"):
                await recording.keep({at(1): answer("lost")})
            other.execute("ROLLBACK")
            other.close()
            await recording.keep({at(2): answer("kept")})
            assert await recording.look_up([at(1), at(2)]) == [None, answer("kept")]

    asyncio.run(scenario())


def test_a_full_disk_is_said_and_what_was_kept_stays(tmp_path: Path):
    """Nothing of what did not fit is there, all that was kept before is, and with room again it goes on."""

    async def scenario() -> None:
        with Recording(tmp_path / "f") as recording:
            await recording.keep({at(1): answer("kept")})
            [[pages]] = recording._database.execute("PRAGMA page_count").fetchall()
            recording._database.execute(f"PRAGMA max_page_count = {pages}")
            with pytest.raises(
                RecordingError, match=r"/f failed \(database or disk is full\); make room on its"
            ):
                await recording.keep({at(2): answer("x" * 99_999)})
        with Recording(tmp_path / "f") as recording:
            assert await recording.look_up([at(1), at(2)]) == [answer("kept"), None]
            await recording.keep({at(2): answer("x" * 99_999)})
            assert await recording.look_up([at(2)]) == [answer("x" * 99_999)]

    asyncio.run(scenario())


def test_a_recording_that_finds_no_room_from_the_start_says_so(tmp_path: Path):
    """Another file is not the only way out."""
    with (
        no_file_beyond(100),
        pytest.raises(RecordingError, match=r"/f cannot be opened .*; make room on its"),
    ):
        Recording(tmp_path / "f")


def test_who_is_cancelled_while_keeping_has_kept(tmp_path: Path):
    """A paid answer is not lost because nobody waits for it any more."""

    async def scenario() -> None:
        with Recording(tmp_path / "f") as recording:
            task = asyncio.create_task(recording.keep({at(1): answer("paid")}))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await kept(recording, 1) == answer("paid")

    asyncio.run(scenario())


def test_closing_waits_for_what_is_being_kept(tmp_path: Path):
    """Afterwards asking is an error, and the file is whole by itself, without its journal."""

    async def scenario() -> None:
        recording = Recording(tmp_path / "f")
        task = asyncio.create_task(recording.keep({at(1): answer("late")}))
        await asyncio.sleep(0)
        recording.close()
        recording.close()
        await task
        with pytest.raises(RecordingError, match="closed"):
            await kept(recording, 1)
        with Recording(tmp_path / "f", offline=True) as again:
            assert await kept(again, 1) == answer("late")

    asyncio.run(scenario())
    assert [name.name for name in tmp_path.iterdir()] == ["f"]


def newer(file: Path) -> None:
    Recording(file).close()
    database = sqlite3.connect(file)
    database.execute(f"PRAGMA user_version = {FORMAT + 1}")
    database.close()


def somebody_elses(file: Path) -> None:
    database = sqlite3.connect(file)
    database.execute("CREATE TABLE cookies (jar)")
    database.commit()
    database.close()


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (newer, f"newer itscale .format {FORMAT + 1}, .* up to {FORMAT}.; upgrade"),
        (somebody_elses, "a database, but no recording; choose another file"),
        (lambda file: file.write_text("no database at all, " * 100), "cannot be opened .*choose another"),
        (lambda file: file.mkdir(), "recording"),
    ],
    ids=["newer", "somebody_elses", "text", "folder"],
)
def test_other_files_are_refused_and_left_alone(
    make: Callable[[Path], object], says: str, offline: bool, tmp_path: Path
):
    """A newer format, another program's database, a text, a folder: refused in a sentence, not touched."""
    make(tmp_path / "f")
    before = (tmp_path / "f").read_bytes() if (tmp_path / "f").is_file() else None
    with pytest.raises(RecordingError, match=says):
        Recording(tmp_path / "f", offline=offline)
    assert ((tmp_path / "f").read_bytes() if (tmp_path / "f").is_file() else None) == before


def test_offline_makes_no_file(tmp_path: Path):
    """What does not exist, or is empty, cannot answer; nothing is made in its place."""
    with pytest.raises(RecordingError, match=r"no recording at .* run once without --offline"):
        Recording(tmp_path / "none", offline=True)
    (tmp_path / "empty").touch()
    with pytest.raises(RecordingError, match="is empty; run once without --offline"):
        Recording(tmp_path / "empty", offline=True)
    assert [(file.name, file.stat().st_size) for file in tmp_path.iterdir()] == [("empty", 0)]


def test_offline_cannot_write(tmp_path: Path):
    """The file is only read, whatever is tried."""

    async def scenario() -> None:
        Recording(tmp_path / "f").close()
        with (
            Recording(tmp_path / "f", offline=True) as recording,
            pytest.raises(RecordingError, match="readonly"),
        ):
            await recording.keep({at(1): answer("no")})

    asyncio.run(scenario())


@pytest.mark.parametrize("value", ["{", "[1]", "17"])
def test_a_damaged_answer_is_no_answer(value: str, tmp_path: Path):
    """What does not parse is an error that names the file, never a wrong answer."""

    async def scenario() -> None:
        with Recording(tmp_path / "f") as recording:
            await recording.keep({at(1): answer("fine")})
            database = sqlite3.connect(tmp_path / "f")
            database.execute("UPDATE calls SET value = ?", (value,))
            database.commit()
            database.close()
            with pytest.raises(RecordingError, match=r"f is damaged .*restore it from a copy"):
                await kept(recording, 1)

    asyncio.run(scenario())
