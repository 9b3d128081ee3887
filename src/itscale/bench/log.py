"""A file of JSON lines that only grows: what stands in it survives a kill at any moment.

Law: when `append` returns, the whole line is with the operating system, so that a killed process
loses nothing (a machine that loses power may lose the last seconds). A line that could not be
written whole, on a full disk, is taken back, so that the file always ends in a whole line or in the
torn line of a kill. A torn last line is dropped on reading; any other line that does not parse is an
error with its number, never skipped.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from itscale.errors import OptionError, StoreError
from itscale.files import not_written
from itscale.files import write_whole as written

__all__ = ["AppendLog", "full_disk", "read_log", "write_whole"]

_GO_ON = "every finished run is kept: make room, then go on with --resume"


class AppendLog:
    """A log opened for appending. Opening cuts off what a kill left half-written."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self.size = _whole_bytes(file)
        """Bytes of whole lines."""
        os.ftruncate(self._descriptor, self.size)

    def append(self, value: Mapping[str, Any]) -> None:
        """Add one line.

        Raises:
            StoreError: it could not be written whole; the file is as it was before.
        """
        data = (json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            os.ftruncate(self._descriptor, self.size)
            raise full_disk(self.file, error) from error
        self.size += len(data)

    def close(self) -> None:
        """Hand everything to the disk and let go of the file."""
        if self._descriptor >= 0:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                if error.errno != errno.EINVAL:  # a pipe or a special file has no disk behind it
                    raise full_disk(self.file, error) from error
            finally:
                os.close(self._descriptor)
                self._descriptor = -1

    def __enter__(self) -> AppendLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_log(file: Path, what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every whole line as its number, from 1, and its object. An absent file has none.

    Raises:
        OptionError: a line is not a JSON object; it says which, `what` says what it should have been.
    """
    if not file.exists():
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                value = json.loads(line)
            except ValueError as error:
                raise _broken(file, number, what, error) from error
            if not isinstance(value, dict):
                raise _broken(file, number, what, f"a {type(value).__name__}")
            yield number, value


def write_whole(file: Path, content: str | bytes) -> Path:
    """Write a file of a run in one move. Errors are those of `files.write_whole`."""
    return written(file, content, _GO_ON)


def full_disk(file: Path, error: OSError) -> StoreError:
    """The sentence for a write that failed."""
    return not_written(file, error, _GO_ON)


def _broken(file: Path, number: int, what: str, why: object) -> OptionError:
    return OptionError(f"{file} line {number} is not {what} ({why!r}); remove the line to run it again")


def _whole_bytes(file: Path) -> int:
    """Length of the file up to and including its last newline, read from the end."""
    end = file.stat().st_size
    with file.open("rb") as data:
        while end:
            begin = max(0, end - 65536)
            data.seek(begin)
            found = data.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
    return 0
