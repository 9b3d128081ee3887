"""A light predictor of success: logistic regression on what a model shows of a path, and its promise.

Three sorts of features. `logprobs` are statistics of a path's token log-probabilities, which any backend
with log-probabilities tells; `statistics` adds those of the entropies, which models in this process and
servers that tell the likeliest tokens have; `hidden` is what the model holds at the last token.
Fitted with NumPy alone, on standardised features, classes weighted equally, an L2 penalty on the
weights; kept as plain numbers in a calibration file.

`conformal_quantile` is what turns a score into a promise (split conformal prediction): for
exchangeable scores, P(new score > quantile) <= delta.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from itscale.errors import CalibrationError, ModelError, OptionError
from itscale.methods.session import Session
from itscale.models.base import Capability, Model, in_words
from itscale.types import Path

__all__ = [
    "FEATURES",
    "Features",
    "Probe",
    "conformal_quantile",
    "logprob_features",
    "needs_of",
    "read_features",
    "require",
    "required",
]

Floats = npt.NDArray[np.float64]
Features = Literal["logprobs", "statistics", "hidden"]
FEATURES: tuple[Features, ...] = ("logprobs", "statistics", "hidden")
_NEEDS: Mapping[Features, Capability] = {
    "logprobs": Capability.LOGPROBS,
    "statistics": Capability.TOKEN_STATISTICS,
    "hidden": Capability.HIDDEN,
}
STEPS_OF_NEWTON = 50


def needs_of(features: Features) -> frozenset[Capability]:
    """What a model must offer for its paths to have these features."""
    return frozenset({_NEEDS[features]})


def require(model: Model, needs: frozenset[Capability], name: str) -> None:
    """Hold a model against what a probe looks at.

    Raises:
        OptionError: it does not offer that.
    """
    missing = needs - model.capabilities
    if missing:
        raise OptionError(
            f"the probe of {name} needs {in_words(missing)}, which model {model.name!r} does not "
            "offer; calibrate again with features this model has"
        )


def required(file: str, method: str, kind: str) -> str:
    """The file a method reads its calibration from.

    Raises:
        OptionError: none was given.
    """
    if not file:
        raise OptionError(
            f"{method} needs calibration=FILE; make one with: itscale calibrate {kind} TASK --out FILE"
        )
    return file


async def read_features(session: Session, path: Path, features: Features) -> Floats | None:
    """The features of a path, shape (D,); None if the model could not be asked.

    Raises:
        ModelError: a step came without the token statistics that these features are made of.
    """
    if features != "hidden":
        return logprob_features(path, entropies=features == "statistics")
    states = await session.hidden(path)
    return None if states is None else np.array(states)


def logprob_features(path: Path, *, entropies: bool = False) -> Floats:
    """Mean and worst log-probability (and entropy) of all tokens and of the last step's; the lengths.

    Shape (6,), or (10,) with entropies, nats. Forced steps are not the model's and do not count; of
    nothing, zeros.

    Raises:
        ModelError: a step does not tell them of its tokens.
    """
    drawn = [step for step in path.steps if not step.forced and step.n_tokens]
    if any(step.token_logprobs is None or (entropies and step.token_entropies is None) for step in drawn):
        raise ModelError(
            "a step came without the statistics of its tokens; use a model that tells them, at temperature 1 "
            "if it is a server's"
        )
    parts: list[float] = []
    for steps in (drawn, drawn[-1:]):
        logprobs = np.array([x for step in steps for x in step.token_logprobs or ()] or [0.0])
        parts += [logprobs.mean(), logprobs.min()]
        if entropies:
            unsure = np.array([x for step in steps for x in step.token_entropies or ()] or [0.0])
            parts += [unsure.mean(), unsure.max()]
    return np.array([*parts, math.log1p(path.n_tokens), math.log1p(path.depth)])


@dataclass(frozen=True)
class Probe:
    """P(success | features) = sigmoid(weights . (features - mean) / scale + bias)."""

    features: Features
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    @classmethod
    def fit(cls, features: Features, x: Floats, y: npt.NDArray[np.bool_], *, penalty: float = 1.0) -> Probe:
        """The regularised maximum-likelihood fit on x (n, D) and y (n,), by Newton's method.

        Raises:
            CalibrationError: there are no examples of success, or none of failure.
        """
        if not 0 < y.sum() < len(y):
            raise CalibrationError(
                f"{int(y.sum())} of {len(y)} examples succeed; a probe needs both kinds, so take more "
                "problems, or harder or easier ones"
            )
        mean, scale = x.mean(0), x.std(0)
        scale = np.where(scale > 1e-9, scale, 1.0)
        design = np.column_stack([(x - mean) / scale, np.ones(len(x))])
        balance = np.where(y, len(y) / (2 * y.sum()), len(y) / (2 * (~y).sum()))
        ridge = np.full(design.shape[1], penalty)
        ridge[-1] = 0.0
        beta = np.zeros(design.shape[1])
        for _ in range(STEPS_OF_NEWTON):
            p = _sigmoid(design @ beta)
            gradient = design.T @ (balance * (p - y)) + ridge * beta
            curvature = (design.T * (balance * p * (1 - p))) @ design + np.diag(ridge + 1e-9)
            step = np.linalg.solve(curvature, gradient)
            # Far from the optimum a full step may overshoot; no coordinate need move by more than 5.
            beta -= step * min(1.0, 5.0 / max(np.abs(step).max(), 1e-12))
            if np.abs(step).max() < 1e-6:
                break
        return cls(features, _plain(mean), _plain(scale), _plain(beta[:-1]), round(float(beta[-1]), 8))

    def success(self, x: Floats) -> Floats:
        """P(success) of features (..., D), linear, shape (...).

        Raises:
            CalibrationError: the features have another length: they are another model's.
        """
        if x.shape[-1] != len(self.weights):
            raise CalibrationError(
                f"the probe was fitted on {len(self.weights)} features and the model shows {x.shape[-1]}; "
                "fit one for this model with itscale calibrate"
            )
        standard = (x - np.array(self.mean)) / np.array(self.scale)
        return _sigmoid(standard @ np.array(self.weights) + self.bias)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "features": self.features,
            "bias": self.bias,
            "weights": list(self.weights),
            "mean": list(self.mean),
            "scale": list(self.scale),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Probe:
        """The probe `to_json` was made of.

        Raises:
            CalibrationError: it is none.
        """
        try:
            mean, scale, weights = (tuple(map(float, values[name])) for name in ("mean", "scale", "weights"))
            if values["features"] not in FEATURES or not len(mean) == len(scale) == len(weights):
                raise ValueError("its parts do not fit together")
            return cls(values["features"], mean, scale, weights, float(values["bias"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"a broken probe ({error!r}); fit it again: itscale calibrate") from error


def conformal_quantile(scores: Sequence[float], delta: float) -> float:
    """The k-th smallest score, k = ceil((n + 1)(1 - delta)): a new exchangeable one exceeds it with
    probability delta at most. Infinite where k > n: so few scores promise nothing.

    >>> conformal_quantile([1.0, 2.0, 3.0], 0.25), conformal_quantile([1.0, 2.0, 3.0], 0.2)
    (3.0, inf)

    Raises:
        ValueError: delta is no level between 0 and 1.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}; give a level between 0 and 1")
    k = math.ceil(round((len(scores) + 1) * (1 - delta), 9))
    return math.inf if k > len(scores) else sorted(scores)[k - 1]


def _sigmoid(z: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(z, -500, 500)))


def _plain(values: Floats) -> tuple[float, ...]:
    return tuple(float(f"{value:.8g}") for value in values)
