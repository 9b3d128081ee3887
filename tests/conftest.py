"""What several rooms' tests share: the shipped models, loaded once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from itscale.embedded import PROCESS_SCORER, REASONER
from itscale.models.local import LocalModel
from itscale.scorers.prm import LocalProcessScorer

# A time limit on one example says more about the machine's other work than about the code. With
# CI set, Hypothesis itself takes its `ci` profile: no limit, and the same examples every time.
settings.register_profile("itscale", deadline=None)
if "CI" not in os.environ:
    settings.load_profile("itscale")


# A shell starts background jobs with Ctrl-C ignored, and Python then never raises KeyboardInterrupt:
# the tests of Ctrl-C, in this process and in those it starts, mean it as at a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def reasoner() -> Iterator[LocalModel]:
    """The embedded reasoner."""
    model = LocalModel.load(REASONER, name="embedded")
    yield model
    asyncio.run(model.close())


@pytest.fixture(scope="session")
def process_scorer() -> Iterator[LocalProcessScorer]:
    """The embedded process reward model."""
    scorer = LocalProcessScorer.load(PROCESS_SCORER, name="embedded")
    yield scorer
    asyncio.run(scorer.close())
