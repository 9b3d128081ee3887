"""One folder per run: what was asked, and one row for each problem and cell, safe from the first on.

    manifest.json     format, version, what is swept, every start of it with its command and machine
    results.jsonl     one row a line, appended as a run ends: the truth all else is made from
    problems.jsonl    question and reference of every problem
    traces.jsonl      what happened in each run, a line a run, until the size limit is reached
    calls.sqlite      the recorded calls, where they are kept (`--keep-calls`)
    results.parquet   the rows again, for DuckDB and data frames; made when a sweep ends or is stopped
    report.html, table.md, accuracy.png, accuracy.svg    made from the rows, then too

Law: a killed process loses nothing but its runs in flight, see `log.py`. One process at a time: the
folder is locked by the system, which lets go however the process ends.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from itscale.bench.log import AppendLog, read_log, write_whole
from itscale.bench.parquet import write_parquet
from itscale.bench.rows import SCHEMA_VERSION, Row, RowKey
from itscale.errors import OptionError
from itscale.types import Problem
from itscale.version import __version__

__all__ = ["DEFAULT_TRACE_MB", "Row", "RowKey", "Run", "RunFolder", "read_run"]

DEFAULT_TRACE_MB = 64.0
"""Megabytes of traces after which no more are kept."""


@dataclass(frozen=True)
class Run:
    """A run's folder as it stood when it was read."""

    path: Path
    manifest: Mapping[str, Any]
    rows: Sequence[Row]
    problems: Mapping[str, Mapping[str, Any]]
    """By id: task, level, question, reference."""

    def traces(self, wanted: Iterable[RowKey]) -> dict[RowKey, dict[str, Any]]:
        """The kept traces of these runs, by key.

        Raises:
            OptionError: a line of the traces does not parse.
        """
        keys, found = set(wanted), dict[RowKey, dict[str, Any]]()
        for number, line in read_log(self.path / "traces.jsonl", "a trace"):
            try:
                key = RowKey(**line["run"])
            except (KeyError, TypeError) as error:
                raise _not_a("trace", self.path / "traces.jsonl", number, error) from error
            if key in keys:
                found[key] = line
        return found


def _begun(swept: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a run that has nothing yet."""
    return {"format": SCHEMA_VERSION, "created_at": _now(), "swept": swept, "starts": []}


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def read_run(path: Path) -> Run:
    """Read a folder, also while another process writes to it.

    Raises:
        OptionError: it holds no run, one of a newer version, or a line that does not parse.
    """
    file = path / "manifest.json"
    if not file.exists():
        raise OptionError(f"{path} holds no run (no manifest.json); give the --out folder of itscale bench")
    manifest = _checked(_read_json(file), file)
    problems = dict(_read_problems(path / "problems.jsonl"))
    return Run(path, manifest, _read_rows(path, manifest), problems)


class RunFolder:
    """A run's folder, open for one process. A context manager: leaving it releases the folder."""

    def __init__(
        self,
        path: Path,
        swept: Mapping[str, Any],
        extent: Mapping[str, Any],
        *,
        resume: bool = False,
        trace_mb: float = 0.0,
    ) -> None:
        """Make or reopen the folder.

        Args:
            path: where; made if it does not exist.
            swept: what rows must share to stand in one folder (task, seed, model ...).
            extent: what may grow from one start to the next (methods, budgets, problems ...).
            resume: continue what is there; an absent or empty folder is begun.
            trace_mb: megabytes of traces to keep; 0 keeps none.

        Raises:
            OptionError: the folder is of another, a newer or an unresumed run, in use, not a run's, or
                cannot be made.
            StoreError: the folder cannot be written.
        """
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(
                f"cannot make the folder {path} ({error.strerror}); choose another --out"
            ) from error
        self.trace_bytes = int(trace_mb * 1e6)
        self._lock = _locked(path)
        self._results: AppendLog | None = None
        self._traces: AppendLog | None = None
        try:
            manifest = self._manifest(dict(swept), resume)
            manifest["starts"].append(_start(extent))
            self._written = manifest
            self.rows: list[Row] = _read_rows(path, manifest)
            _write_json(path / "manifest.json", manifest)
            self._results = AppendLog(path / "results.jsonl")
        except BaseException:
            self.close()
            raise

    def append(self, row: Row, trace: Mapping[str, Any] | None = None) -> None:
        """Keep a row, and before it its trace: on disk, as far as a killed process is concerned,
        when this returns. A trace that would pass the limit is not kept.

        Raises:
            StoreError: the row could not be written whole; nothing of it was.
        """
        assert self._results is not None
        if trace is not None and self.trace_bytes:
            if self._traces is None:
                self._traces = AppendLog(self.path / "traces.jsonl")
            if self._traces.size < self.trace_bytes:
                self._traces.append({"run": row.key._asdict(), **trace})
        self._results.append(row.to_json())
        self.rows.append(row)

    def keep_problems(self, task: str, problems: Iterable[Problem]) -> None:
        """Write down questions and references of problems that are not yet there."""
        file = self.path / "problems.jsonl"
        known = {id_ for id_, _ in _read_problems(file)}
        with AppendLog(file) as log:
            for problem in problems:
                if problem.id not in known:
                    what = {"task": task, "level": problem.level, "question": problem.prompt.question}
                    log.append({"id": problem.id, **what, "reference": problem.reference})

    def export(self) -> Path | None:
        """Write `results.parquet`; None if pyarrow is not installed.

        Raises:
            StoreError: the file cannot be written; the rows are safe.
        """
        return write_parquet(self.rows, self.path / "results.parquet")

    def ended(self, facts: Mapping[str, Any]) -> None:
        """Note in the manifest how this start went, when it was not cut short.

        Raises:
            StoreError: it cannot be written; the rows are safe.
        """
        self._written["starts"][-1] |= {"ended_at": _now(), **facts}
        _write_json(self.path / "manifest.json", self._written)

    def close(self) -> None:
        """Release the folder for other processes."""
        try:
            for log in (self._results, self._traces):
                if log is not None:
                    log.close()
        finally:
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
            others = [
                entry.name
                for entry in self.path.iterdir()
                if entry.name not in (".lock", "manifest.json.tmp")
            ]
            if others:
                raise OptionError(
                    f"{self.path} holds {others[0]!r} and no run of ours; choose an empty folder with --out"
                )
            return _begun(swept)
        if not resume and not _size(self.path / "results.jsonl"):
            # Refused before its first row (a method that the model cannot run, say): no run.
            _checked(_read_json(file), file)
            (self.path / "problems.jsonl").unlink(missing_ok=True)
            return _begun(swept)
        if not resume:
            raise OptionError(
                f"{self.path} already holds a run; add --resume to continue it, or choose another --out"
            )
        manifest = _checked(_read_json(file), file)
        before = manifest["swept"]
        differing = [key for key in swept | before if swept.get(key) != before.get(key)]
        if differing:
            key = differing[0]
            raise OptionError(
                f"{self.path} holds a run with {key} {before.get(key)}, not {swept.get(key)}; "
                "resume it with the same, or choose another --out"
            )
        return manifest | {"format": SCHEMA_VERSION}


def _read_rows(folder: Path, manifest: Mapping[str, Any]) -> list[Row]:
    """All whole rows; those of schema 1 take from the manifest what they left to it."""
    file = folder / "results.jsonl"
    shared = {name: manifest["swept"].get(name) or "" for name in ("task", "model", "scorer")}
    rows = []
    for number, line in read_log(file, "a result row"):
        try:
            rows.append(Row.from_json(line if "task" in line else shared | line))
        except (ValueError, KeyError, TypeError) as error:
            raise _not_a("result row", file, number, error) from error
    return rows


def _read_problems(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each problem with its id."""
    for number, line in read_log(file, "a problem"):
        try:
            yield str(line["id"]), line
        except KeyError as error:
            raise _not_a("problem", file, number, error) from error


def _not_a(what: str, file: Path, number: int, error: Exception) -> OptionError:
    return OptionError(f"{file} line {number} is not a {what} ({error!r}); remove the line to run it again")


def _checked(manifest: dict[str, Any], file: Path) -> dict[str, Any]:
    """The manifest, if this version can read what it describes."""
    written = manifest.get("format")
    if isinstance(written, int) and written > SCHEMA_VERSION:
        raise OptionError(
            f"{file} was written by a newer itscale (format {written}, not {SCHEMA_VERSION} or earlier); "
            "upgrade itscale to read it"
        )
    if not (isinstance(written, int) and isinstance(manifest.get("swept"), dict) and "starts" in manifest):
        raise OptionError(f"{file} is not the manifest of a run; choose another folder with --out")
    return manifest


def _start(extent: Mapping[str, Any]) -> dict[str, Any]:
    return {"started_at": _now(), **extent, "command": sys.argv, "machine": _machine()}


def _machine() -> dict[str, Any]:
    """What figures depend on beside the code."""
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "packages": _versions(("numpy", "torch", "transformers", "pyarrow")),
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
    return value if isinstance(value, dict) else {}


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    write_whole(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


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
