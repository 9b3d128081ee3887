"""What every command that asks a model shares: its options, what they load, where results are printed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from itscale.errors import OptionError
from itscale.methods.base import Method
from itscale.models.base import Model
from itscale.models.recorded import RecordedModel
from itscale.recording import Calls, Recording
from itscale.registry import load_model, load_scorer
from itscale.scorers.base import Scorer
from itscale.scorers.recorded import record_scores

__all__ = [
    "HardwareOption",
    "ModelOption",
    "OfflineOption",
    "PricesOption",
    "RecordOption",
    "ScorerOption",
    "Sources",
    "loaded",
    "remembering",
    "room_for",
    "said",
    "stdout",
    "whole_numbers",
]

HardwareOption = Annotated[
    str | None,
    typer.Option(help="Also model costs on this machine: h100, or one of the price file.", metavar="NAME"),
]
PricesOption = Annotated[
    Path | None,
    typer.Option(
        help="Dollars a token, machines, shapes of models (TOML; see docs/bench.md).", metavar="FILE"
    ),
]
ModelOption = Annotated[str, typer.Option("--model", help="See: itscale list models", metavar="SPEC")]
ScorerOption = Annotated[
    str | None,
    typer.Option(
        "--scorer",
        help="embedded, hf:PATH, judge:MODEL, pooling:MODEL@URL ...; see: itscale list scorers",
        metavar="SPEC",
        show_default="embedded with the embedded model, else none",
    ),
]
RecordOption = Annotated[
    Path | None,
    typer.Option("--record", help="Answer what this file has from it; add the rest.", metavar="FILE"),
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Stop where the file of --record lacks an answer.")
]


def stdout() -> Console:
    """Stdout; a file or pipe is as wide as our tables want."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def said(context: typer.Context) -> dict[str, str]:
    """What was said on the command line: parameters by name, each as it is written there."""
    return {
        parameter.name: max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name
        and (source := context.get_parameter_source(parameter.name)) is not None
        and source.name == "COMMANDLINE"
    }


def whole_numbers(what: str, text: str) -> tuple[int, ...]:
    """`1,4,16` as numbers.

    Raises:
        OptionError: it is something else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"{what} {text!r} is no list of whole numbers; write it like 4 or 1,4,16") from None


def room_for(file: Path | None, option: str) -> None:
    """That a file can be written later: its folder is made, and it is none itself.

    Raises:
        OptionError: it cannot be.
    """
    if file is None:
        return
    if file.is_dir():
        raise OptionError(f"{option} {file} is a folder; give a file")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"{option} {file} cannot be written ({error.strerror})"
        raise OptionError(f"{why}; give another file") from error


@dataclass(frozen=True)
class Sources:
    """Where answers and judgements come from."""

    model: str
    scorer: str | None
    record: Path | None
    offline: bool

    def __post_init__(self) -> None:
        if self.offline and self.record is None:
            raise OptionError("--offline answers from a recording; add --record FILE")

    @property
    def judge(self) -> str:
        """The scorer's spec; the embedded scorer knows only what the embedded model writes."""
        return self.scorer or ("embedded" if self.model == "embedded" else "none")

    def recording(self) -> AbstractContextManager[Recording | None]:
        return Recording(self.record, offline=self.offline) if self.record else nullcontext()


@asynccontextmanager
async def loaded(sources: Sources, methods: Sequence[Method]) -> AsyncIterator[tuple[Model, Scorer | None]]:
    """Model and scorer, closed afterwards; no scorer is loaded that nobody asks for."""
    with sources.recording() as recording:
        async with remembering(sources, methods, recording) as pair:
            yield pair


@asynccontextmanager
async def remembering(
    sources: Sources, methods: Sequence[Method], calls: Calls | None
) -> AsyncIterator[tuple[Model, Scorer | None]]:
    """The same with a recording that somebody else has open, or none."""
    needed = sources.scorer is not None or any(method.scorer_kind != "none" for method in methods)
    model = load_model(sources.model)
    try:
        judge = load_scorer(sources.judge) if needed else None
        try:
            if calls is None:
                yield model, judge
            else:
                yield RecordedModel(model, calls), judge and record_scores(judge, calls)
        finally:
            if judge is not None:
                await judge.close()
    finally:
        await model.close()
