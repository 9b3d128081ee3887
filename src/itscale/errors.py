"""Every error itscale raises on purpose. Each message ends with what to do about it.

ItscaleError
|- OptionError      (ValueError)    an unknown or impossible option, name, spec or budget
|- PromptError      (ValueError)    a prompt the model cannot answer as asked
|- CalibrationError (ValueError)    a calibration file that does not parse or is another model's
|- TaskError        (ValueError)    a task, level or problem file that does not exist or parse
|- ModelError       (RuntimeError)  a model that cannot be loaded, or a call to it that failed
|  |- ContextLimitError             a prompt longer than the model's context
|  `- MemoryLimitError              a path that cannot fit into the KV memory limit
|- ScorerError      (RuntimeError)  a scorer that broke its contract (count, NaN, range)
|- RecordingError   (RuntimeError)  a recording that cannot be read or written
|  `- NotRecordedError              a call the recording lacks, while nothing may be asked live
|- StoreError       (RuntimeError)  a file of results that cannot be written
|- ClusterError     (RuntimeError)  workers of a cluster that die again and again
`- AllFailedError   (RuntimeError)  every candidate of a run failed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral
from typing import Any

__all__ = [
    "AllFailedError",
    "CalibrationError",
    "ClusterError",
    "ContextLimitError",
    "ItscaleError",
    "MemoryLimitError",
    "ModelError",
    "NotRecordedError",
    "OptionError",
    "PromptError",
    "RecordingError",
    "ScorerError",
    "StoreError",
    "TaskError",
    "did_you_mean",
    "whole_number",
]


class ItscaleError(Exception):
    """Base of all errors raised on purpose by itscale."""


class OptionError(ItscaleError, ValueError):
    """An unknown or impossible option, name, spec or budget."""


class PromptError(ItscaleError, ValueError):
    """A prompt the model cannot answer as asked."""


class CalibrationError(ItscaleError, ValueError):
    """A calibration file that does not parse, or was fitted for another model or purpose."""


class TaskError(ItscaleError, ValueError):
    """A task, level or problem file that does not exist or does not parse."""


class ModelError(ItscaleError, RuntimeError):
    """A model that cannot be loaded, or a call to it that failed."""


class ContextLimitError(ModelError):
    """A prompt that leaves no room for an answer in the model's context."""


class MemoryLimitError(ModelError):
    """A path that cannot fit into the KV memory limit even alone."""


class ScorerError(ItscaleError, RuntimeError):
    """A scorer that broke its contract: count of scores, NaN, or range."""


class RecordingError(ItscaleError, RuntimeError):
    """A recording that cannot be read or written. It ends the run: no candidate is to blame."""


class NotRecordedError(RecordingError):
    """A call the recording lacks, while nothing may be asked live (`--offline`)."""


class StoreError(ItscaleError, RuntimeError):
    """A file of results that cannot be written: a full disk, or a file taken away."""


class ClusterError(ItscaleError, RuntimeError):
    """Workers of a cluster that die again and again; every finished run is kept."""


class AllFailedError(ItscaleError, RuntimeError):
    """Every candidate of a run failed."""


def did_you_mean(kind: str, given: str, known: Iterable[str]) -> str:
    """A sentence for an unknown name: what was given, the closest known ones, all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {kind} {given!r}; {hint}known: {', '.join(names)}"


def whole_number(what: str, value: Any, allowed: str) -> int:
    """Any integral number (NumPy's too) as an int; `allowed` says in the message what to give.

    >>> whole_number("seed", True, "from 0 up")
    Traceback (most recent call last):
    itscale.errors.OptionError: seed True is no whole number; give a whole number from 0 up

    Raises:
        OptionError: it is a float (even 4.0), a bool, a text.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise OptionError(f"{what} {value!r} is no whole number; give a whole number {allowed}")
    return int(value)
