"""One folder per run: what was asked, and one row for each problem and cell, safe from the first on.

    manifest.json    version, what is swept, every start of it with its command and machine
    results.jsonl    one row a line, appended and flushed as a run ends
    table.md, accuracy.png, accuracy.svg    made from the rows when a sweep ends or is stopped

Law: a killed process loses nothing but its runs in flight. A last line without its newline was torn
by a kill and is dropped; anything else that does not parse is an error, never skipped.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from itscale.budget import Usage
from itscale.errors import OptionError
from itscale.version import __version__

__all__ = ["Row", "RowKey", "RunFolder"]

FORMAT = 1
RowKey = tuple[str, str, int, int]
"""Problem id, method label, budget, seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How one run of one method on one problem went."""

    problem: str
    level: int | None
    method: str
    """The method's label: its name and every option that is not the default."""
    budget: int
    """N: generations the run could start."""
    seed: int
    """The sweep's; the run's own is derived from it and the problem's id."""
    correct: bool
    any_correct: bool
    """Whether any candidate is right, chosen or not."""
    answer: str | None
    stop_reason: str | None
    """None where the run ended in an error."""
    error: str | None
    usage: Usage

    @property
    def key(self) -> RowKey:
        """What makes two rows the same run."""
        return self.problem, self.method, self.budget, self.seed

    def to_json(self) -> dict[str, Any]:
        """Plain values; usage fields stand beside the others."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "usage"}
        return own | self.usage.to_json()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Row:
        """The row `to_json` was made of.

        Raises:
            KeyError: a field is missing.
        """
        usage = Usage(**{f.name: values[f.name] for f in fields(Usage)})
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name != "usage"}, usage=usage)


class RunFolder:
    """A run's folder, open for one process. A context manager: leaving it releases the folder."""

    def __init__(
        self, path: Path, swept: Mapping[str, Any], extent: Mapping[str, Any], *, resume: bool = False
    ) -> None:
        """Make or reopen the folder.

        Args:
            path: where; made if it does not exist.
            swept: what rows must share to stand in one folder (task, seed, model ...).
            extent: what may grow from one start to the next (methods, budgets, problems ...).
            resume: continue what is there; an absent or empty folder is begun.

        Raises:
            OptionError: the folder is of another or an unresumed run, in use, or not a run's at all.
        """
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(path)
        self._results: IO[str] | None = None
        try:
            manifest = self._manifest(dict(swept), resume)
            manifest["starts"].append(_start(extent))
            self.rows: list[Row] = self._read_rows()
            _write_json(path / "manifest.json", manifest)
            self._results = (path / "results.jsonl").open("a", encoding="utf-8")
        except BaseException:
            self.close()
            raise

    def append(self, row: Row) -> None:
        """Keep a row: on disk, as far as a killed process is concerned, when this returns."""
        assert self._results is not None
        self._results.write(json.dumps(row.to_json(), ensure_ascii=False) + "\n")
        self._results.flush()
        self.rows.append(row)

    def close(self) -> None:
        """Release the folder for other processes."""
        if self._results is not None:
            self._results.close()
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _manifest(self, swept: dict[str, Any], resume: bool) -> dict[str, Any]:
        """The manifest to continue, or a fresh one where the folder is empty."""
        file = self.path / "manifest.json"
        swept = {"version": __version__, **swept}
        if not file.exists():
            others = [entry.name for entry in self.path.iterdir() if entry.name != ".lock"]
            if others:
                raise OptionError(
                    f"{self.path} holds {others[0]!r} and no run of ours; choose an empty folder with --out"
                )
            return {"format": FORMAT, "created_at": _now(), "swept": swept, "starts": []}
        if not resume:
            raise OptionError(
                f"{self.path} already holds a run; add --resume to continue it, or choose another --out"
            )
        manifest = _read_json(file)
        if manifest.get("format") != FORMAT:
            raise OptionError(
                f"{file} is of format {manifest.get('format')}, not {FORMAT}; "
                "resume it with the itscale that wrote it"
            )
        before = manifest["swept"]
        differing = [key for key in swept | before if swept.get(key) != before.get(key)]
        if differing:
            key = differing[0]
            raise OptionError(
                f"{self.path} holds a run with {key} {before.get(key)}, not {swept.get(key)}; "
                "resume it with the same, or choose another --out"
            )
        return manifest

    def _read_rows(self) -> list[Row]:
        """All whole rows; a torn last line is cut off the file."""
        file = self.path / "results.jsonl"
        if not file.exists():
            return []
        data = file.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(file, len(whole))
        rows = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                rows.append(Row.from_json(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise OptionError(
                    f"{file} line {number} is not a result row ({error!r}); remove the line to run it again"
                ) from error
        return rows


def _start(extent: Mapping[str, Any]) -> dict[str, Any]:
    return {"started_at": _now(), **extent, "command": sys.argv, "machine": _machine()}


def _machine() -> dict[str, Any]:
    """What figures depend on beside the code."""
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "packages": _versions(("numpy", "torch", "transformers")),
    }


def _versions(names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OptionError(f"{file} does not parse ({error}); choose another folder with --out") from error
    return dict(value)


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Replace a file in one move: a kill leaves the old one or the new one, whole."""
    beside = file.with_suffix(".tmp")
    beside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    beside.replace(file)


def _locked(folder: Path) -> IO[str]:
    """An open file that no other process can lock; the system unlocks it when we end, however we end."""
    lock = (folder / ".lock").open("a", encoding="utf-8")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise OptionError(
            f"another process is writing to {folder}; wait for it, or choose another --out"
        ) from error
    return lock
