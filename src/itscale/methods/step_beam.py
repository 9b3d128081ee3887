"""Step-level beam search of AlphaMath: value-guided, with places that finished answers use up.

Chen et al. 2024, "AlphaMath Almost Zero: Process Supervision without Process", arXiv 2405.03553,
section 3.3. With B1 places and B2 = `width` samples, C = {root}:

    every prefix of C gets B2 sampled next steps; those that say the same are one; each is valued
    the best B1 of all stay; a finished one becomes an answer and takes its place with it: B1 -= 1
    until no place or no open prefix is left; the answer of largest value is the answer

B1 = N // B2. Departures: the value is the process scorer's judgement (the paper's model has a value
head of its own), and the search begins with one prefix, the prompt, as in the published code, so the
first level samples B2 and not N steps. `Beam` differs in that a finished path there competes for its
place anew in every round, or gives it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from itscale.methods.base import Outcome
from itscale.methods.searching import Candidates, ForkingSearch, rolled_out
from itscale.methods.session import Session
from itscale.methods.tree import distinct
from itscale.types import Path, StopReason

__all__ = ["StepBeam"]


@dataclass(frozen=True, kw_only=True)
class StepBeam(ForkingSearch):
    """N // width places, `width` samples from each, finished answers keep theirs.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    name: ClassVar[str] = "step-beam"
    summary: ClassVar[str] = "beam search whose finished answers use up their places (AlphaMath)"

    width: int = 5
    """B2: samples from every kept prefix. A budget below it narrows it."""

    async def search(self, session: Session) -> Outcome:
        """Sample, value, keep; until every place is taken by an answer."""
        width = min(self.width, session.generations)
        places = session.generations // width
        judged, answers, kept, spare = Candidates(self.aggregate), list[Path](), [session.root], list[Path]()
        for _ in range(self.max_steps):
            families = await session.extend(kept, width, required=not answers and not spare)
            drawn = [path for family in families for path in distinct(family)]
            if session.exhausted and all(path in kept for path in drawn):
                break
            session.begin(drawn)
            judged.add([list(zip(drawn, await session.score(drawn), strict=True))])
            # If every call failed, the next best of before take over.
            ranked = sorted(drawn, key=judged.value, reverse=True) or spare
            session.pruned([path for path in spare if path not in ranked])
            best, spare = ranked[:places], ranked[places:]
            ended = [path for path in best if not session.can_grow(path)]
            answers, places = answers + ended, places - len(ended)
            kept = [path for path in best if session.can_grow(path)]
            if not kept or session.exhausted:
                break
        session.pruned(spare)
        stop = session.exhausted or (StopReason.STEPS if kept else None)
        if kept and not any(path.finished for path in answers):
            answers.append(await rolled_out(session, judged, judged.best(kept)))
        return judged.outcome(answers, self.choose, stop)
