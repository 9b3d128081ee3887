"""The version stands in one place, and the changelog speaks of it first."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import itscale

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"
RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", re.MULTILINE)


def test_installed_source_and_changelog_agree_on_the_version():
    """What pip shows, what the code says and the newest heading are one version."""
    newest = RELEASE.findall(CHANGELOG.read_text(encoding="utf-8"))[0]
    assert itscale.__version__ == newest
    assert version("itscale") == newest


def test_headings_are_those_of_a_changelog():
    """Keep a Changelog's headings, and Scores for whatever moves a number."""
    headings = set(re.findall(r"^### (.+)$", CHANGELOG.read_text(encoding="utf-8"), re.MULTILINE))
    known = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Scores"}
    assert headings
    assert headings <= known
