"""Pruned majority: of N samples begun, the most promising go on, and vote with their promise.

After ARRoL (online rollout pruning for reinforcement learning), its use at inference: a light predictor
q of success looks at every sample once it has `after_tokens` tokens, the best share `keep` goes on, the
rest is stopped, and the vote is

    W[a] = sum of q_i over the samples with answer a

q comes from `itscale calibrate success`, fitted on the user's own runs. Departures: at inference the
largest q survive (in training the group is kept balanced instead); samples are looked at at the end
of a step, where a backend can stop them. Samples that end sooner are judged there.

Law: keep = 1 with votes of one each is `majority` (grown in steps); cost is N prefixes and
ceil(keep N) rests, and what was pruned is in the usage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from itscale.errors import AllFailedError, OptionError
from itscale.methods.arrivals import together
from itscale.methods.base import Outcome
from itscale.methods.probes import read_features, required
from itscale.methods.session import Session
from itscale.methods.success import CALIBRATION_KIND, SuccessPredictor
from itscale.methods.whole import Voting
from itscale.models.base import Capability, Model
from itscale.scorers.base import Scorer
from itscale.types import Path

__all__ = ["PrunedMajority", "grown", "promise"]


@dataclass(frozen=True, kw_only=True)
class PrunedMajority(Voting):
    """N prefixes, a share of them finished, votes weighted by predicted success.

    Raises:
        OptionError: an option is out of range.
        CalibrationError: the calibration is missing or broken.
    """

    name: ClassVar[str] = "pruned-majority"
    summary: ClassVar[str] = "N samples begun, those a fitted predictor believes in finish and vote"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "none"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.STEPS})

    calibration: str = ""
    """The file that `itscale calibrate success` wrote."""
    keep: float = 0.5
    """Share of the samples that go on (above 0, at most 1)."""
    weighted: bool = True
    """Whether votes weigh their predicted success; one each if not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep <= 1:
            raise OptionError(f"keep is {self.keep}; give a share above 0 and at most 1")
        if self.calibration:
            SuccessPredictor.load(self.calibration)

    @cached_property
    def predictor(self) -> SuccessPredictor:
        """What the file says."""
        return SuccessPredictor.load(required(self.calibration, self.name, CALIBRATION_KIND))

    @property
    def looks_at(self) -> frozenset[Capability]:
        return self.required | self.predictor.looks_at

    def check(self, model: Model, scorer: Scorer | None) -> None:
        super().check(model, scorer)
        self.predictor.check(model, self.name)

    async def search(self, session: Session) -> Outcome:
        begun = await grown(session, [session.root] * session.generations, self.predictor.after_tokens)
        promises = await together(promise(session, path, self.predictor) for path in begun)
        kept = math.ceil(round(self.keep * len(begun), 9))
        ranked = sorted(range(len(begun)), key=lambda i: (-promises[i], i))
        session.pruned([begun[i] for i in ranked[kept:]])
        paths = await grown(session, [begun[i] for i in sorted(ranked[:kept])])
        scores = await together(promise(session, path, self.predictor) for path in paths)
        candidates = [self.candidate(path, score=score) for path, score in zip(paths, scores, strict=True)]
        clusters = await self.votes(candidates, scores if self.weighted else None, scores)
        best = max(range(len(paths)), key=lambda i: (scores[i], -i))
        total = math.fsum(scores) if self.weighted else len(candidates)
        return self.elected(candidates, next(iter(clusters), None), total, fallback=best)


async def grown(session: Session, paths: Sequence[Path], tokens: int | None = None) -> list[Path]:
    """Each path step by step until it has that many tokens or ends; to its end without a number.

    Paths whose calls failed are missing.

    Raises:
        AllFailedError: none is left.
    """
    kept: list[Path | None] = list(paths)

    def wanted(path: Path | None) -> bool:
        return path is not None and session.can_grow(path) and (tokens is None or path.n_tokens < tokens)

    while going := [i for i, path in enumerate(kept) if wanted(path)]:
        groups = await session.extend([paths_i for i in going if (paths_i := kept[i])], required=False)
        moved = False
        for i, group in zip(going, groups, strict=True):
            child = group[0] if group else None
            moved, kept[i] = moved or child is not kept[i], child
        if not moved:
            break
    left = [path for path in kept if path is not None]
    if not left:
        raise AllFailedError(
            f"every sample failed; the last error was: {session.failure}"
        ) from session.failure
    return left


async def promise(session: Session, path: Path, predictor: SuccessPredictor) -> float:
    """Predicted success (linear) of a path, by the probe for prefixes or for whole answers.

    0 for one that a limit cut off: it has no answer. 0.5 where the model could not be asked.
    """
    if path.truncated:
        return 0.0
    probe = predictor.whole if path.finished else predictor.prefix
    x = await read_features(session, path, probe.features)
    return 0.5 if x is None else float(probe.success(x))
