"""The pages say true things about the tree: links lead somewhere, files and methods exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import itscale
from docs.methods.pictures import drawing
from itscale.registry import COMMON_OPTIONS, METHODS, method_options

ROOT = Path(__file__).parents[1]
METHOD_PAGES = ROOT / "docs" / "methods"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
SECTIONS = ["Aim", "Budget", "Options", "When to use it", "Source"]
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


def test_every_method_has_its_page():
    """What can be run has a page, and a row in the table that compares them; nothing else has."""
    index = (METHOD_PAGES / "README.md").read_text(encoding="utf-8")
    assert sorted(page.stem for page in METHOD_PAGES.glob("*.md")) == sorted(["README", *METHODS])
    assert sorted(re.findall(r"^\| \[([\w-]+)\]\(\1\.md\)", index, re.MULTILINE)) == sorted(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_page_says_what_there_is_to_say(name: str):
    """Every page has the same form, shows what the method does, and lists its options truly."""
    page = (METHOD_PAGES / f"{name}.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert page.startswith(f"# {name}\n")
    assert [s for s in sections if s in SECTIONS] == SECTIONS
    assert f"](pictures/{name}.svg)" in page or "```text" in page, "a picture, or a diagram in text"
    common = {option for option, _, _ in COMMON_OPTIONS}
    options = [(option, default) for option, _, default in method_options(METHODS[name])]
    own = [(option, _written(default)) for option, default in options if option not in common]
    listed = page.partition("## Options")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \| `(.*?)` \|", listed, re.MULTILINE) == own


def _written(default: str) -> str:
    """A default as the command line takes it."""
    return default.lower() if default in ("True", "False", "None") else default


def test_the_options_of_every_method_are_listed():
    """The common options stand on the index page, with their defaults."""
    index = (METHOD_PAGES / "README.md").read_text(encoding="utf-8")
    listed = index.partition("## Options of every method")[2].partition("\n## ")[0]
    expected = [(option, default) for option, _, default in COMMON_OPTIONS]
    assert re.findall(r"^\| `(\w+)` \| `(.*?)` \|", listed, re.MULTILINE) == expected


@pytest.mark.parametrize("picture", sorted((METHOD_PAGES / "pictures").glob("*.svg")), ids=lambda p: p.stem)
def test_pictures_show_what_happens(picture: Path):
    """Drawn again from a run of the method as it is now, a picture is the same to the byte."""
    assert drawing(picture.stem) == picture.read_text(encoding="utf-8"), (
        "the method does something else now; python docs/methods/pictures.py draws it"
    )


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
