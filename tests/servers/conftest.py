"""The real servers, each started once for a file of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.running import BACKENDS, Backend, running


@pytest.fixture(scope="module", params=BACKENDS, ids=lambda backend: backend.name)
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Backend, str]]:
    """A running server, and MODEL@URL of what it serves."""
    backend: Backend = request.param
    if not backend.installed:
        pytest.skip(f"{backend.name} is not installed; run: make test-servers")
    with running(backend) as url:
        yield backend, f"{backend.model}@{url}"
