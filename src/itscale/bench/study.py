"""What a run of the bench asks: sweeps over tasks, levels, models, scorers and seeds, from flags or a file.

A file says the same as the flags, in TOML; whatever is not said has the flag's default:

    title = "What do more samples buy?"
    tasks = ["countdown"]
    levels = [3, 4, 5]
    methods = ["majority", "best-of-n:aggregate=min"]
    budgets = [1, 4, 16]
    problems = 200
    seeds = [0, 1]

With several seeds the first one chooses the problems and each draws anew on the same ones.
"""

from __future__ import annotations

import math
import tomllib
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import groupby, product
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from itscale.bench.rows import CellKey, RowKey
from itscale.bench.store import DEFAULT_TRACE_MB
from itscale.bench.sweep import DEFAULT_CONCURRENCY, Sweep
from itscale.errors import OptionError, did_you_mean
from itscale.registry import check_specs, load_task, method_label, parse_method
from itscale.tasks.base import Task

__all__ = ["MAIN_METHODS", "Study", "read_study"]

MAIN_METHODS = ("greedy", "majority", "best-of-n", "weighted-best-of-n", "beam", "particle-filter")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A bench run as asked for; the fields are the keys of the file.

    Raises:
        OptionError: an unknown name, or nothing to run.
        TaskError: a task has no such level, or fewer problems.
    """

    title: str = ""
    """The question the report opens with."""
    tasks: tuple[str, ...]
    levels: tuple[int, ...] = ()
    """Difficulties; each task's own when empty."""
    models: tuple[str, ...] = ("embedded",)
    scorers: tuple[str, ...] = ()
    """Empty: `embedded` with the embedded model, `none` with any other."""
    methods: tuple[str, ...] = MAIN_METHODS
    budgets: tuple[int, ...] = (1, 4, 16, 64)
    problems: int = 200
    seeds: tuple[int, ...] = (0,)
    concurrency: int = DEFAULT_CONCURRENCY
    trace_mb: float = DEFAULT_TRACE_MB
    """Megabytes of traces to keep; 0 keeps none."""
    keep_calls: bool = False
    """Keep every model and scorer call in the run's folder, as --record does in a file."""

    def __post_init__(self) -> None:
        for name in ("tasks", "models", "methods", "budgets", "seeds"):
            if not getattr(self, name):
                raise OptionError(f"{name} is empty; a sweep needs at least one of each")
        if self.concurrency < 1:
            raise OptionError(f"concurrency {self.concurrency} runs nothing; give at least 1")
        if not 0 <= self.trace_mb < math.inf:
            raise OptionError(f"trace_mb is {self.trace_mb:g}; give megabytes, 0 for no traces")
        check_specs(self.models, self.scorers)
        self.sweeps  # noqa: B018  what cannot be run is refused here, before a model is loaded

    @cached_property
    def sweeps(self) -> tuple[Sweep, ...]:
        """One for each task, level, model, scorer and seed; those of one model and scorer in a row."""
        methods = tuple(map(parse_method, self.methods))
        loaded = {spec: load_task(spec) for spec in self.tasks}
        names = Counter(task.name for task in loaded.values())
        if twice := next((name for name, count in names.items() if count > 1), None):
            raise OptionError(
                f"two tasks are called {twice!r} and their rows could not be told; rename a file"
            )
        tasks = [(task, level) for task in loaded.values() for level in self._levels(task)]
        return tuple(
            Sweep(
                task=task,
                methods=methods,
                budgets=self.budgets,
                count=self.problems,
                level=level,
                seed=seed,
                problem_seed=self.seeds[0],
                model=model,
                scorer=scorer,
            )
            for model in dict.fromkeys(self.models)
            for scorer in self._scorers(model)
            for (task, level), seed in product(tasks, dict.fromkeys(self.seeds))
        )

    @property
    def groups(self) -> list[tuple[str, str, list[Sweep]]]:
        """The sweeps by model and scorer, which are loaded once for each group."""
        return [(*key, list(own)) for key, own in groupby(self.sweeps, key=lambda s: (s.model, s.scorer))]

    @property
    def keys(self) -> list[RowKey]:
        """The key of every row."""
        return [key for sweep in self.sweeps for key in sweep.keys]

    @property
    def cells(self) -> list[CellKey]:
        """Every cell, in the order of the table."""
        return list(dict.fromkeys(cell for sweep in self.sweeps for cell in sweep.cell_keys))

    @property
    def swept(self) -> dict[str, Any]:
        """What a folder's rows share from one start to the next."""
        levels = dict.fromkeys(sweep.level for sweep in self.sweeps)
        scorers = dict.fromkeys(sweep.scorer for sweep in self.sweeps)
        return {
            "task": _one_or_all(self.tasks),
            "level": _one_or_all(tuple(levels)),
            "seed": _one_or_all(self.seeds),
            "model": _one_or_all(self.models),
            "scorer": _one_or_all(tuple(scorers)),
        }

    @property
    def extent(self) -> dict[str, Any]:
        """What may grow from one start to the next."""
        return {
            "title": self.title,
            "methods": [method_label(method) for method in self.sweeps[0].methods],
            "budgets": list(self.budgets),
            "problems": self.problems,
            "concurrency": self.concurrency,
        }

    @property
    def what(self) -> str:
        """One line on what is measured."""
        level = self.swept["level"]
        parts = [
            " and ".join(self.tasks),
            "" if level is None else f"level {_listed(level)}",
            f"{self.problems} problems",
            f"seed {_listed(self.swept['seed'])}",
        ]
        return ", ".join(filter(None, parts))

    def _levels(self, task: Task) -> Sequence[int | None]:
        return tuple(dict.fromkeys(self.levels)) or (task.default_level,)

    def _scorers(self, model: str) -> Sequence[str]:
        return tuple(dict.fromkeys(self.scorers)) or ("embedded" if model == "embedded" else "none",)


def read_study(file: Path) -> Study:
    """The study a TOML file describes.

    Raises:
        OptionError: the file does not exist or parse (the line is named), or says what is not honoured.
    """
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OptionError(
            f"there is no file {file}; give a TOML file, or a task (itscale list tasks)"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{file} is not TOML: {error}; mend it there") from error
    hints = get_type_hints(Study)
    for key in values:
        if key not in hints:
            raise OptionError(f"{file}: {did_you_mean('key', key, [f.name for f in fields(Study)])}")
    if "tasks" not in values:
        raise OptionError(f'{file} names no tasks; add a line like: tasks = ["countdown"]')
    return Study(**{key: _value(file, key, hints[key], value) for key, value in values.items()})


def _value(file: Path, key: str, kind: Any, value: Any) -> Any:
    """`value` as the type of a field, or a sentence on what it should be."""
    if get_origin(kind) is tuple:
        member = get_args(kind)[0]
        if not isinstance(value, list):
            raise OptionError(f"{file}: {key} is {value!r}; give a list of {_PLURAL[member]}, in brackets")
        return tuple(_value(file, key, member, one) for one in value)
    members = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if float in members and type(value) is int:
        return float(value)
    if type(value) not in members:
        raise OptionError(f"{file}: {key} is {value!r}; give {_SINGULAR[members[0]]}")
    return value


_PLURAL: Mapping[Any, str] = {str: "texts", int: "whole numbers"}
_SINGULAR: Mapping[Any, str] = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false"
}  # fmt: skip


def _one_or_all(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else list(values)


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
