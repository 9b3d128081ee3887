"""Calibration files: what was fitted on recorded or training runs, one readable JSON file each.

    {"calibration": "early-exit", "format": 1, "itscale": "0.1.0", "model": "local:6f0c...",
     "evidence": {"task": "countdown", "problems": 400, ...}, "values": {...}}

Law: a file is used for the model it was fitted on (`Model.identity`) and for nothing else. What a
probe or a plan says of other weights is a guess, so it is an error, never a silent degradation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itscale.errors import CalibrationError
from itscale.files import write_whole
from itscale.version import __version__

__all__ = ["Calibration"]

FORMAT = 1


@dataclass(frozen=True)
class Calibration:
    """What was fitted, for which model, on what evidence. All plain JSON values."""

    kind: str
    """What it is for: the command that fits it and the methods that read it know the name."""
    model: str
    """The identity of the model it was fitted on."""
    values: Mapping[str, Any]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What it was fitted on, and how well it held there: for people, never read back."""

    def save(self, file: Path) -> None:
        """Write the file, in one move; its folder is made if need be.

        Raises:
            StoreError: it cannot be written; an earlier one is left as it was.
        """
        content = {
            "calibration": self.kind,
            "format": FORMAT,
            "itscale": __version__,
            "model": self.model,
            "evidence": dict(self.evidence),
            "values": dict(self.values),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, file: Path | str, kind: str) -> Calibration:
        """The calibration of that kind in a file.

        Raises:
            CalibrationError: there is no such file, it does not parse, or it is of another kind.
        """
        again = f"make it with: itscale calibrate {kind} TASK --out FILE"
        try:
            content = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
            found, format_ = content["calibration"], content["format"]
            loaded = cls(found, content["model"], content["values"], content["evidence"])
        except OSError as error:
            raise CalibrationError(f"no calibration at {str(file)!r} ({error.strerror}); {again}") from error
        except (ValueError, KeyError, TypeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise CalibrationError(f"{file} is no calibration file ({why}); {again}") from error
        if format_ != FORMAT:
            raise CalibrationError(f"{file} is of format {format_}, this itscale reads {FORMAT}; {again}")
        if found != kind:
            raise CalibrationError(f"{file} is a calibration for {found!r}, not {kind!r}; {again}")
        return loaded

    def require(self, identity: str, name: str) -> None:
        """Make sure that this is for the model of that identity, called `name` in the message.

        Raises:
            CalibrationError: it was fitted on another.
        """
        if self.model != identity:
            raise CalibrationError(
                f"the {self.kind} calibration belongs to model {self.model}, not to {name} ({identity}); "
                f"fit one for this model with: itscale calibrate {self.kind}"
            )
