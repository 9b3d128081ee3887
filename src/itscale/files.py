"""Files written in one move, and what is said when a disk has no room for them."""

from __future__ import annotations

from pathlib import Path

from itscale.errors import StoreError

__all__ = ["not_written", "write_whole"]


def write_whole(file: Path, content: str | bytes, fix: str = "make room, or give another file") -> Path:
    """Write a file in one move: a kill or a full disk leaves the old one or the new one, whole.

    Raises:
        StoreError: it cannot be written; an earlier one is left as it was. `fix` ends the sentence.
    """
    beside = file.with_name(file.name + ".tmp")
    try:
        beside.write_bytes(content if isinstance(content, bytes) else content.encode())
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise not_written(file, error, fix) from error
    return file


def not_written(file: Path, error: OSError, fix: str) -> StoreError:
    """The sentence for a write that failed."""
    return StoreError(f"cannot write {file} ({error.strerror or error}); {fix}")
