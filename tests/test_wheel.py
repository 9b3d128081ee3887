"""What `pip install` delivers: the wheel carries the embedded models and answers without the source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PROMPT = "Make 45 from 3, 7, 12, 23."
CHECKPOINT_FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that sees neither this tree nor this session's Python settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built without fetching anything."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT, cwd=folder)
    [built] = folder.glob("itscale-*.whl")
    return built


@pytest.fixture(scope="module")
def fresh_bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a new venv that has the wheel, and this venv's dependencies behind it.

    The dependencies come through a path entry, in which Python does not look for other path files,
    so the editable installation of the source tree stays out of sight.
    """
    folder = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", scripts / "python", "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    packages = run(
        scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
    )
    (Path(packages.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return scripts


def test_the_wheel_carries_checkpoints_and_types(wheel: Path):
    """Both checkpoints whole, the typing marker and the licence; no test, recipe or leftover."""
    names = zipfile.ZipFile(wheel).namelist()
    for checkpoint in ("reasoner", "process_scorer"):
        prefix = f"itscale/embedded/{checkpoint}/"
        assert {name.removeprefix(prefix) for name in names if name.startswith(prefix)} >= CHECKPOINT_FILES
    assert "itscale/py.typed" in names
    assert any(name.endswith("/LICENSE") for name in names)
    strays = [n for n in names if n.split("/")[0] != "itscale" and ".dist-info/" not in n]
    assert strays == []
    assert [name for name in names if name.endswith((".pyc", ".jsonl"))] == []


def test_every_embedded_weight_file_is_small(wheel: Path):
    """Each checkpoint stays under 16 MB, so that it can live in the repository."""
    weights = {
        i.filename: i.file_size
        for i in zipfile.ZipFile(wheel).infolist()
        if "model.safetensors" in i.filename
    }
    assert len(weights) == 2
    assert {name: size for name, size in weights.items() if size >= 16_000_000} == {}


def test_the_package_comes_from_the_wheel(fresh_bin: Path, tmp_path: Path):
    """The venv of the next test really does not see the source tree."""
    place = run(fresh_bin / "python", "-c", "import itscale; print(itscale.__file__)", cwd=tmp_path).strip()
    assert Path(place).is_relative_to(fresh_bin.parent)


def test_solve_answers_from_the_wheel(fresh_bin: Path, tmp_path: Path):
    """`itscale solve` runs on the embedded models with nothing but the installed package."""
    method = ["--method", "best-of-n", "--budget", "4", "--seed", "0"]
    answer = json.loads(run(fresh_bin / "itscale", "solve", PROMPT, *method, "--json", cwd=tmp_path))
    assert answer["method"] == "best-of-n"
    assert len(answer["candidates"]) == 4
    assert answer["usage"]["generated_tokens"] > 0
