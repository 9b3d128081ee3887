"""Every example runs as a user would run it, on the embedded models, and says what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))

# What the output of each example must show; an example without an entry here fails.
PROMISES = {
    "solve_countdown.py": r"Answer: \d+\n\n(weight 0\.\d+  score 0\.\d+  .*\n){3}\d+ tokens generated",
    "compare_methods.py": r"majority +\d+ of 20 .*\nbest-of-n +\d+ of 20 .*\nparticle-filter +\d+ of 20 ",
    "own_scorer.py": r"( *-?\d+  .+\n){8}chosen: \d+",
}


def test_every_example_is_listed():
    """A new example needs a promise, and a removed one leaves none behind."""
    assert {example.name for example in EXAMPLES} == PROMISES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_an_example_runs_and_shows_what_it_promises(example: Path, tmp_path: Path):
    """Exit status 0, no warning on standard error, and the promised lines."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(PROMISES[example.name], done.stdout), done.stdout
    assert done.stderr == ""
