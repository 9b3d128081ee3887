"""Calibrated predictors of success, as a file holds them: of a prefix, and of a whole answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from itscale.calibration import Calibration
from itscale.errors import CalibrationError
from itscale.methods.probes import Probe, needs_of, require
from itscale.models.base import Capability, Model

__all__ = ["CALIBRATION_KIND", "SuccessPredictor"]

CALIBRATION_KIND = "success"


@dataclass(frozen=True)
class SuccessPredictor:
    """P(the answer will be right), from the first step boundary after some tokens, and from the end."""

    model: str
    prefix: Probe
    whole: Probe
    after_tokens: int
    """The prefix probe was fitted where a path had first this many tokens at the end of a step."""

    @property
    def looks_at(self) -> frozenset[Capability]:
        """What of a path the probes read."""
        return needs_of(self.prefix.features) | needs_of(self.whole.features)

    def check(self, model: Model, name: str) -> None:
        """Hold a model against this; `name` is the method's.

        Raises:
            OptionError: the model does not show what the probes look at.
            CalibrationError: the probes were fitted on another model.
        """
        require(model, self.looks_at, name)
        Calibration(CALIBRATION_KIND, self.model, {}).require(model.identity, model.name)

    def to_calibration(self, evidence: Mapping[str, Any]) -> Calibration:
        """As a file holds it."""
        values = {
            "after_tokens": self.after_tokens,
            "prefix": self.prefix.to_json(),
            "whole": self.whole.to_json(),
        }
        return Calibration(CALIBRATION_KIND, self.model, values, evidence)

    @classmethod
    def load(cls, file: FilePath | str) -> SuccessPredictor:
        """The predictor in a calibration file.

        Raises:
            CalibrationError: the file is missing, broken, or holds something else.
        """
        calibration = Calibration.load(file, CALIBRATION_KIND)
        values = calibration.values
        try:
            prefix, whole = Probe.from_json(values["prefix"]), Probe.from_json(values["whole"])
            return cls(calibration.model, prefix, whole, int(values["after_tokens"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(
                f"{file} holds no predictor ({error!r}); fit it again: itscale calibrate success"
            ) from error
