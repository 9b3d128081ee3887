"""What several rooms' tests share: the shipped models, loaded once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from itscale.embedded import PROCESS_SCORER, REASONER
from itscale.models.local import LocalModel
from itscale.scorers.prm import LocalProcessScorer


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
