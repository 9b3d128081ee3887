"""Conformal early exit: a probe at cues says whether an answer asked for now would be right.

After LYNX (arXiv 2512.05325): at every cue a probe p(x) on what the model holds; with
class-conditional split conformal sets at level delta,

    exit iff p > q_wrong and p >= 1 - q_right      (the set is {right} alone)

where q_right bounds 1 - p at cues whose forced answer was right. The promise depends on what q_wrong
is a quantile of, which the calibration file says:

    unit=question   of each question's largest p at a cue whose forced answer is wrong (no such cue: 0).
                    P(a question is left at a wrong answer) <= delta, however often the probe looks.
    unit=event      of p at single such cues, as published: P(exit | a cue whose answer is wrong) <= delta
                    at one cue; a question has several looks and may err more often.

Departures: the quantile is infinite, and there is no exit, where ceil((n + 1)(1 - delta)) > n (the
published code clips it, and the promise with it); cues are the ends of steps, which a backend can
stop at, and with words given, the ends of steps that say one of them, left before that step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any, ClassVar, Literal

from itscale.calibration import Calibration
from itscale.errors import CalibrationError, OptionError
from itscale.methods.base import Outcome
from itscale.methods.exiting import Exit, Exiting, exit_of
from itscale.methods.probes import (
    Probe,
    conformal_quantile,
    needs_of,
    read_features,
    require,
    required,
)
from itscale.methods.session import Session
from itscale.models.base import Capability, Model
from itscale.scorers.base import Scorer
from itscale.types import Path

__all__ = ["CALIBRATION_KIND", "Cue", "EarlyExit", "ExitRule", "Unit", "cue_of"]

CALIBRATION_KIND = "early-exit"
Unit = Literal["question", "event"]


@dataclass(frozen=True)
class Cue:
    """Where a chain may be left: at the end of a step, or of one that says a word."""

    words: tuple[str, ...] = ()

    def at(self, path: Path) -> Path | None:
        """The path an exit would go on from, if the end of this one is a cue."""
        if path.step is None or path.ended or path.step.forced:
            return None
        if not self.words:
            return path
        said = re.search(rf"\b(?:{'|'.join(map(re.escape, self.words))})\b", path.step.text, re.IGNORECASE)
        return path.parent if said else None


def cue_of(text: str) -> Cue:
    """The cue an option names: `step`, or words with bars between them, `wait|hmm|alternatively`.

    Raises:
        OptionError: an empty word.
    """
    words = () if text == "step" else tuple(word.strip() for word in text.split("|"))
    if not all(words):
        raise OptionError(f"cue {text!r} has an empty word; write step, or words like wait|hmm|alternatively")
    return Cue(words)


@dataclass(frozen=True)
class ExitRule:
    """A probe and the two thresholds that make its promise."""

    model: str
    probe: Probe
    q_wrong: float
    q_right: float
    delta: float
    unit: Unit
    cue: str
    exit: str

    @classmethod
    def calibrate(
        cls,
        model: str,
        probe: Probe,
        questions: Sequence[Sequence[tuple[float, bool]]],
        *,
        delta: float,
        unit: Unit,
        cue: str = "step",
        exit: str = "answer",  # noqa: A002  the option's name
    ) -> ExitRule:
        """Thresholds from questions the probe has not seen: each cue's p, and if its answer was right."""
        wrong = [[p for p, right in cues if not right] for cues in questions]
        right = [1 - p for cues in questions for p, ok in cues if ok]
        largest, single = [max(own, default=0.0) for own in wrong], [p for own in wrong for p in own]
        scores = largest if unit == "question" else single
        return cls(
            model,
            probe,
            conformal_quantile(scores, delta),
            conformal_quantile(right, delta),
            delta,
            unit,
            cue,
            exit,
        )

    def leaves(self, p: float) -> bool:
        """Whether the set at this cue is {right} alone."""
        return p > self.q_wrong and p >= 1 - self.q_right

    def to_calibration(self, evidence: Mapping[str, Any]) -> Calibration:
        """As a file holds it; an infinite threshold is null."""
        values = {
            "delta": self.delta,
            "unit": self.unit,
            "cue": self.cue,
            "exit": self.exit,
            "q_wrong": None if math.isinf(self.q_wrong) else self.q_wrong,
            "q_right": None if math.isinf(self.q_right) else self.q_right,
            "probe": self.probe.to_json(),
        }
        return Calibration(CALIBRATION_KIND, self.model, values, evidence)

    @classmethod
    def load(cls, file: FilePath | str) -> ExitRule:
        """The rule in a calibration file.

        Raises:
            CalibrationError: the file is missing, broken, or holds something else.
        """
        calibration = Calibration.load(file, CALIBRATION_KIND)
        values = calibration.values
        try:
            wrong, right = (
                math.inf if values[name] is None else float(values[name]) for name in ("q_wrong", "q_right")
            )
            unit, cue, exit_ = values["unit"], str(values["cue"]), str(values["exit"])
            rest = float(values["delta"]), unit, cue, exit_
            return cls(calibration.model, Probe.from_json(values["probe"]), wrong, right, *rest)
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(
                f"{file} is a broken exit rule ({error!r}); fit it again: itscale calibrate early-exit"
            ) from error


@dataclass(frozen=True, kw_only=True)
class EarlyExit(Exiting):
    """One chain, left as soon as its calibrated probe says that the answer is there.

    Raises:
        OptionError: an option is out of range.
        CalibrationError: the calibration is missing or broken.
    """

    name: ClassVar[str] = "early-exit"
    summary: ClassVar[str] = "one chain, left where a calibrated probe says its answer is right"
    scales: ClassVar[bool] = False

    calibration: str = ""
    """The file that `itscale calibrate early-exit` wrote; cue and exit are those it was fitted with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exit != EarlyExit.exit:
            raise OptionError("early-exit leaves as its calibration was fitted; leave out exit")
        if self.calibration:
            ExitRule.load(self.calibration)

    @cached_property
    def rule(self) -> ExitRule:
        """What the file says."""
        return ExitRule.load(required(self.calibration, self.name, CALIBRATION_KIND))

    @cached_property
    def way_out(self) -> Exit:
        return exit_of(self.rule.exit)

    @property
    def looks_at(self) -> frozenset[Capability]:
        return self.required | needs_of(self.rule.probe.features)

    def check(self, model: Model, scorer: Scorer | None) -> None:
        super().check(model, scorer)
        require(model, needs_of(self.rule.probe.features), self.name)
        Calibration(CALIBRATION_KIND, self.rule.model, {}).require(model.identity, model.name)

    async def search(self, session: Session) -> Outcome:
        rule, cue = self.rule, cue_of(self.rule.cue)
        path = session.root
        while (room := self.room(session, path.n_tokens)) > 0:
            longer = await self.step(session, path, room)
            if longer is path:
                break
            path = longer
            if self.is_over(path):
                return Outcome([self.candidate(await self.conclude(session, path))], 0)
            from_here = cue.at(path)
            if from_here is not None:
                x = await read_features(session, path, rule.probe.features)
                if x is not None and rule.leaves(float(rule.probe.success(x))):
                    path = from_here
                    break
        [answered] = await self.leave(session, [path])
        return Outcome([self.candidate(answered)], 0)
