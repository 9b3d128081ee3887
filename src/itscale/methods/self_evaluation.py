"""Self-evaluation: the model says whether a restart would do better, to stop, to prune and to choose.

Manvi, Singh and Ermon 2024, "Adaptive Inference-Time Compute: LLMs Can Predict if They Can Do
Better, Even Mid-Generation", arXiv 2410.02725. After a prefix or an answer one fixed question is put,
and of the next token

    score = P(no) / (P(no) + P(yes))          "would you do better if you started over?"

    choose   the answer with the largest score
    stop     as soon as an answer scores `threshold`, N at the latest, `at_once` samples at a time
    prune    after `prune_after` tokens the best share `keep` of those at once goes on

One token is read for each evaluation and none generated. In the paper the model was trained to answer
this question; an untrained one is badly calibrated, so set the threshold on runs of your own, or give
`calibration`, a file of `itscale calibrate success`: then the score is what a probe fitted on the
model's own hidden states or token statistics says.

Law: threshold 0 takes one group of samples, above 1 always all N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from itscale.errors import OptionError
from itscale.methods.arrivals import together
from itscale.methods.base import Outcome
from itscale.methods.pruned_majority import grown, promise
from itscale.methods.session import Session
from itscale.methods.success import SuccessPredictor
from itscale.methods.whole import WholeAnswers
from itscale.models.base import Capability, Model, in_words
from itscale.scorers.base import Scorer
from itscale.types import Path, Prompt

__all__ = ["SelfEvaluation"]


@dataclass(frozen=True, kw_only=True)
class SelfEvaluation(WholeAnswers):
    """Samples until the model itself is content with one.

    Raises:
        OptionError: an option is out of range.
        CalibrationError: the calibration is missing or broken.
    """

    name: ClassVar[str] = "self-evaluation"
    summary: ClassVar[str] = "the model says whether a restart would do better: stop, prune, choose"
    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "none"

    threshold: float = 0.9
    """The score at which no more samples are drawn: 0 one group, above 1 all N."""
    at_once: int = 1
    """Samples under way at once."""
    prune_after: int = 0
    """Tokens after which the worst of those at once are stopped; 0 for never."""
    keep: float = 0.5
    """Share that goes on then (above 0, at most 1)."""
    question: str = "\\nWould you do better if you started over? ("
    r"""Put after what is judged (\n is a new line); the next token is the answer."""
    yes: str = "Yes"
    """The answer that speaks for a restart; its first token counts, and it must not be that of `no`."""
    no: str = "No"
    """The answer that speaks against one."""
    calibration: str = ""
    """A file of `itscale calibrate success`, asked in place of the question."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold < 0 or math.isnan(self.threshold):
            raise OptionError(f"threshold is {self.threshold}; give 0 or more")
        if self.at_once < 1:
            raise OptionError(f"at_once is {self.at_once}; give at least 1")
        if self.prune_after < 0:
            raise OptionError(f"prune_after is {self.prune_after}; give tokens, or 0 for never")
        if not 0 < self.keep <= 1:
            raise OptionError(f"keep is {self.keep}; give a share above 0 and at most 1")
        if self.calibration:
            SuccessPredictor.load(self.calibration)

    @cached_property
    def predictor(self) -> SuccessPredictor | None:
        """What the file says, if there is one."""
        return SuccessPredictor.load(self.calibration) if self.calibration else None

    @property
    def looks_at(self) -> frozenset[Capability]:
        return self.required | (self.predictor.looks_at if self.predictor else {Capability.GIVEN})

    def check(self, model: Model, scorer: Scorer | None) -> None:
        super().check(model, scorer)
        needs = set() if self.predictor else {Capability.GIVEN, Capability.FORCING}
        if self.prune_after:
            needs.add(Capability.STEPS)
        missing = needs - model.capabilities
        if missing:
            raise OptionError(
                f"self-evaluation needs {in_words(missing)}, which model {model.name!r} does not "
                "offer; give calibration=FILE of a probe, or use adaptive-consistency"
            )
        if self.predictor:
            self.predictor.check(model, self.name)
        else:
            self._check_words(model)

    def _check_words(self, model: Model) -> None:
        """That the two answers to the question begin with tokens of the model, and not with the same one."""
        asked = model.forced(Path.root(Prompt.user("")), self._asked)
        probe = "calibration=FILE of a probe (itscale calibrate success TASK --out FILE)"
        first = [_first_token(model.forced(asked, text)) for text in (self.yes, self.no)]
        if None in first:
            raise OptionError(
                f"model {model.name!r} does not tell the token of an answer; use one that speaks "
                f"token ids, or give {probe}"
            )
        if first[0] == first[1]:
            raise OptionError(
                f"yes={self.yes!r} and no={self.no!r} begin with the same token of model {model.name!r}, "
                f"as do words that its vocabulary lacks; give two that it has, such as yes=1,no=0, or {probe}"
            )

    @property
    def _asked(self) -> str:
        return self.question.replace("\\n", "\n")

    async def search(self, session: Session) -> Outcome:
        paths, scores = list[Path](), list[float]()
        n = session.generations
        while len(paths) < n and not session.exhausted and max(scores, default=-1.0) < self.threshold:
            group = await self._group(session, len(paths), min(self.at_once, n - len(paths)))
            paths += group
            scores += await together(self._score(session, path) for path in group)
        candidates = [self.candidate(path, score=score) for path, score in zip(paths, scores, strict=True)]
        ended = [i for i, path in enumerate(paths) if path.finished] or range(len(paths))
        return Outcome(candidates, max(ended, key=lambda i: (scores[i], -i)))

    async def _group(self, session: Session, first: int, n: int) -> list[Path]:
        """Samples `first` and following, the worst prefixes among them left unfinished."""
        if not self.prune_after:
            drawn = await together(session.sample_number(first + i) for i in range(n))
            found = [path for path in drawn if path is not None]
            return found or await grown(session, [session.root])
        begun = await grown(session, [session.root] * n, self.prune_after)
        scores = await together(self._score(session, path) for path in begun)
        ranked = sorted(range(len(begun)), key=lambda i: (-scores[i], i))
        kept = math.ceil(round(self.keep * len(begun), 9))
        stopped = [begun[i] for i in ranked[kept:]]
        session.pruned(stopped)
        return [*await grown(session, [begun[i] for i in sorted(ranked[:kept])]), *stopped]

    async def _score(self, session: Session, path: Path) -> float:
        """The score (linear) of a prefix or answer; 0 where a limit cut it off, 0.5 where nobody can say."""
        if path.truncated:
            return 0.0
        if self.predictor:
            return await promise(session, path, self.predictor)
        asked = session.force(path, self._asked)
        ids = [_first_token(session.force(asked, text)) for text in (self.yes, self.no)]
        told = [await session.logprobs(asked, [token]) for token in ids if token is not None]
        if any(logprobs is None for logprobs in told):
            return 0.5
        yes, no = (math.exp(logprobs[0]) for logprobs in told if logprobs)
        return no / (yes + no) if yes + no > 0 else 0.5


def _first_token(path: Path) -> int | None:
    """Of a path's last step; None where the backend does not tell."""
    return path.step.token_ids[0] if path.step is not None and path.step.token_ids else None
