"""The pages say true things about the tree: links lead somewhere, files and methods exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import itscale
from itscale.registry import METHODS

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
NAMED_FILE = re.compile(r"`([\w./-]+(?:/|\.py|\.txt|\.md))`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    """Every relative link of a page is a file or folder."""
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path):
    """A path in code type is in the repository, in the package, or short for one inside it."""
    package = ROOT / "src" / "itscale"
    names = set(NAMED_FILE.findall(page.read_text(encoding="utf-8"))) - {"runs/"}
    missing = [
        name
        for name in sorted(names)
        if not (ROOT / name).exists() and not (package / name).exists() and not any(package.rglob(name))
    ]
    assert missing == []


def test_every_method_has_its_section():
    """The page of methods describes what can be run, all of it and nothing else."""
    sections = re.findall(
        r"^## (.+)$", (ROOT / "docs" / "methods.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sections == list(METHODS)


def readme_code() -> tuple[str, str]:
    """The block of Python in the README and the block of output after it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.+?)```\s*```text\n(.+?)```", text, re.DOTALL)
    assert len(blocks) == 1, "the README needs one ```python block, its true output after it as ```text"
    return blocks[0]


def test_readme_code_is_short_and_uses_public_names():
    """Ten lines that are no blank, and nothing imported that is not public."""
    code, _ = readme_code()
    imported = re.findall(r"^from itscale import (.+)$", code, re.MULTILINE)[0].split(", ")
    assert set(imported) <= set(itscale.__all__)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 10


@pytest.mark.slow
def test_readme_shows_its_true_output(tmp_path: Path):
    """What the README says the ten lines print is what they print."""
    code, shown = readme_code()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == shown.strip()
