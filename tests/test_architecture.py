"""The rooms, the public names and the habits the laws need, checked on every file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import (
    MOST_LINES,
    Module,
    call_violations,
    comment_violations,
    export_violations,
    import_violations,
    length_violations,
    undescribed_tests,
)

ROOT = Path(__file__).parents[1]
PACKAGE = {m.name: m for m in (Module.read(f, ROOT / "src") for f in sorted((ROOT / "src").rglob("*.py")))}
BESIDE = [
    Module.read(file, ROOT)
    for folder in ("recipes", "examples", "benchmarks", "tests")
    for file in sorted((ROOT / folder).rglob("*.py"))
]


def test_the_tree_was_found():
    """An empty list of files would make every other test here pass."""
    assert {"itscale", "itscale.types", "itscale.methods.session"} <= PACKAGE.keys()
    assert "tests.test_architecture" in {module.name for module in BESIDE}


def test_imports_between_rooms_point_downward():
    """A room knows only the rooms below it; nobody but tests knows `itscale.testing`."""
    assert [v for module in PACKAGE.values() for v in import_violations(module)] == []


def test_public_names_are_listed_and_exist():
    """Every public file has a true `__all__`, and only names in it are used by another room."""
    assert [v for module in PACKAGE.values() for v in export_violations(module, PACKAGE)] == []


def test_every_folder_of_the_package_is_a_package():
    """A folder without `__init__.py` is left out by some tools and found by others."""
    folders = {file.parent for file in (ROOT / "src" / "itscale").rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_nothing_executes_text_or_draws_from_a_global_generator():
    """Laws 5 and 9 by their spelling: no eval, no unpickling, no unnamed randomness."""
    assert [v for module in PACKAGE.values() for v in call_violations(module)] == []


def test_every_ignore_names_what_it_ignores():
    """A bare ignore hides the next mistake as well."""
    assert [v for module in [*PACKAGE.values(), *BESIDE] for v in comment_violations(module)] == []


def test_files_stay_short():
    """Clarity is lost in one giant file first."""
    assert [v for module in [*PACKAGE.values(), *BESIDE] for v in length_violations(module)] == []


def test_every_test_states_its_behaviour():
    """A test is read when it fails, by somebody else."""
    assert [v for module in BESIDE for v in undescribed_tests(module)] == []


def test_examples_fit_on_a_card():
    """An example longer than 40 lines is a program."""
    lengths = {m.name: m.text.count("\n") for m in BESIDE if m.name.startswith("examples.")}
    assert {name: n for name, n in lengths.items() if n >= 40} == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("itscale.types", "from itscale.budget import Budget"),
        ("itscale.weights.population", "import itscale.models.base"),
        ("itscale.models.base", "def f():\n    from itscale.scorers.base import Scorer"),
        ("itscale.methods.beam", "from itscale import registry"),
        ("itscale.methods.beam", "from itscale import Budget"),
        ("itscale.methods.beam", "import itscale"),
        ("itscale.tasks.chain", "from itscale.embedded import REASONER"),
        ("itscale.bench.store", "from importlib import import_module\nimport_module('itscale.cli')"),
        ("itscale.models.fake", "from . import base"),
        ("itscale.cli", "from itscale.testing import enumerate_laws"),
        ("itscale.testing", "from itscale.tasks import Chain"),
        ("itscale.helpers", "x = 1"),
    ],
)
def test_a_planted_upward_import_is_caught(name: str, text: str):
    """Each way of importing upward is seen, also inside functions and by name."""
    assert len(import_violations(Module(name, text))) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("itscale.budget", "from itscale.types import Path\nimport asyncio"),
        ("itscale.models.fake", "from itscale.models.base import Model"),
        ("itscale.testing", "from itscale.methods.base import Method"),
        ("itscale.cli", "from itscale.bench.sweep import run\nfrom itscale import registry"),
        ("itscale", "from itscale.registry import load_model"),
    ],
)
def test_a_downward_import_is_allowed(name: str, text: str):
    """The checker does not cry wolf."""
    assert import_violations(Module(name, text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "x = eval(text)",
        "run = exec",
        "code = compile(text, 'x', 'exec')",
        "import pickle",
        "from pickle import loads",
        "import random\nx = random.random()",
        "import random\nrandom.shuffle(x)",
        "from random import choice",
        "import numpy as np\nx = np.random.rand(3)",
        "import numpy as np\nx = np.random.default_rng()",
        "import torch\ntorch.manual_seed(0)",
        "import torch\nx = torch.multinomial(p, 1)",
        "import torch\nx = torch.load(path)",
        "model = load(path, trust_remote_code=True)",
    ],
)
def test_a_planted_call_is_caught(text: str):
    """Each spelling of running text, unpickling or global randomness is seen."""
    assert call_violations(Module("itscale.models.planted", text)) != []


def test_seeded_generators_and_evaluation_mode_are_allowed():
    """`model.eval()` runs no text, and a generator made from a seed is a named stream."""
    text = (
        "import random\nrng = random.Random(3)\nrng.choice(x)\nmodel.eval()\ntorch.load(p, weights_only=True)"
    )
    assert call_violations(Module("itscale.models.planted", text)) == []


def test_planted_export_faults_are_caught():
    """No `__all__`, a name in it that does not exist, a private name that crosses rooms."""
    base = Module("itscale.models.base", "__all__ = ['A', 'Gone']\nA = 1\nhidden = 2")
    user = Module("itscale.methods.beam", "from itscale.models.base import A, hidden")
    tree = {module.name: module for module in (base, user)}
    assert len(export_violations(base, tree)) == 1
    assert len(export_violations(user, tree)) == 2


@pytest.mark.parametrize(
    ("comment", "caught"),
    [
        ("# noqa", True),
        ("#noqa", True),
        ("# ruff: noqa", True),
        ("# type: ignore", True),
        ("# mypy: ignore-errors", True),
        ("# noqa: S101  checked above", False),
        ("# type: ignore[arg-type]", False),
        ("# says why", False),
    ],
)
def test_an_ignore_without_a_code_is_caught(comment: str, caught: bool):
    """Only ignores that name a rule pass."""
    assert bool(comment_violations(Module("x", f"x = 1  {comment}\n"))) is caught


def test_a_long_file_and_a_silent_test_are_caught():
    """The two remaining rules can fail."""
    assert length_violations(Module("x", "\n" * (MOST_LINES + 1))) != []
    assert length_violations(Module("x", "\n" * MOST_LINES)) == []
    assert undescribed_tests(Module("x", "def test_x():\n    assert 1")) != []


def test_importing_the_package_stays_light():
    """`import itscale` pulls in neither torch nor anything that draws or loads checkpoints."""
    heavy = ("torch", "transformers", "tokenizers", "safetensors", "matplotlib")
    code = f"import sys, itscale; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_reached():
    """`from itscale import *` gives exactly what `__all__` promises."""
    import itscale

    assert sorted(itscale.__all__) == sorted(set(itscale.__all__))
    assert [name for name in itscale.__all__ if not hasattr(itscale, name)] == []
