"""The claims' part of docs/evidence.md: each claim rewrites its own block and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.claims.common import Claim, Finding, block, write_section

PAGE = "# Page\n\nbefore\n\n<!-- claims:begin -->\n\n<!-- claims:end -->\n\nafter\n"


def measured(name: str, figure: str) -> tuple[Claim, str]:
    """A claim with one finding, as its block."""
    claim = Claim(name, f"{name} holds", "2305.00000")
    return claim, block(claim, [Finding("countdown", figure, "holds", "as said")])


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page with an empty section."""
    file = tmp_path / "evidence.md"
    file.write_text(PAGE, encoding="utf-8")
    return file


def test_a_claim_run_again_replaces_its_own_block(page: Path):
    """The other block stays to the letter, whatever is around the section too."""
    for name, figure in (("short", "1"), ("pets", "2")):
        write_section([measured(name, figure)], page)
    before = page.read_text(encoding="utf-8")
    write_section([measured("short", "3")], page)
    after = page.read_text(encoding="utf-8")
    assert after == before.replace("| 1 |", "| 3 |")
    assert after.startswith("# Page\n\nbefore\n\n<!-- claims:begin -->")
    assert after.endswith("<!-- claims:end -->\n\nafter\n")
    assert list(page.parent.iterdir()) == [page]


def test_the_order_of_runs_does_not_show(page: Path, tmp_path: Path):
    """Whoever runs first, the page is the same: blocks stand by name."""
    other = tmp_path / "other.md"
    other.write_text(PAGE, encoding="utf-8")
    names = ["pets", "a-star", "short", "pets-2"]
    for name in names:
        write_section([measured(name, "1")], page)
    write_section([measured(name, "1") for name in reversed(names)], other)
    assert page.read_text(encoding="utf-8") == other.read_text(encoding="utf-8")


def test_a_page_without_the_section_is_refused(page: Path):
    """Nothing is written where the markers are missing or the wrong way round."""
    wrong = "<!-- claims:end -->\n<!-- claims:begin -->\n"
    page.write_text(wrong, encoding="utf-8")
    with pytest.raises(ValueError, match="put both markers where it goes"):
        write_section([measured("pets", "1")], page)
    assert page.read_text(encoding="utf-8") == wrong
