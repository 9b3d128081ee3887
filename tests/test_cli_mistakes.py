"""What a clumsy user meets on the command line: one sentence with the fix, a code above 0."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from itscale import cli

GATEWAY = '[models.m]\nspec = "{model}"\n[presets.p]\nmodel = "m"\nmethod = "{method}"\n'


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("bench countdown --problems 1 --out {file}", "cannot make the folder .*; choose another --out"),
        ("bench countdown --problems 1 --out {folder}/run --json {folder}", "is a folder; give a file"),
        ("bench countdown --problems 1 --out {folder}/run --seed -3", "seed -3 is out of range; give"),
        ("verifier countdown --json {folder}", "is a folder; give a file"),
        ("verifier countdown --json {file}/x", "cannot be written .*; give another file"),
        ("verifier countdown --threshold nan", "threshold is nan; give a number"),
        ("allocate countdown --samples 9 --json {folder}", "is a folder; give a file"),
        ("calibrate success countdown --out {folder}", "--out .* is a folder; give a file"),
        ("serve --port 99999", "--port: .* less than or equal to 65535; change it"),
        ("serve --method nope", "unknown method 'nope'"),
        ("serve --method beam:widht=2", "did you mean 'width'"),
        ("serve --model nope", "unknown model 'nope'"),
        ("serve {toml} --check", r"\.toml: models is missing; add it"),
        ("bench countdown --concurrency 0", "concurrency 0 runs nothing; give at least 1"),
        ("bench countdown --trace-mb nan", "trace_mb is nan; give megabytes, 0 for no traces"),
        ("bench countdown --trace-mb -1", "trace_mb is -1; give megabytes"),
        ("bench countdown --trace-mb inf", "trace_mb is inf; give megabytes"),
        ("bench countdown --level x", "level 'x' is no list of whole numbers; write it like 4 or 1,4,16"),
        ("verifier countdown --scorer none", "no verifier without a scorer; give one with --scorer"),
        ("verifier countdown --model hf:x", "no verifier without a scorer; give one with --scorer"),
        ("plan --from {folder} --target 0.5 --problems 0", "0 problems cost nothing; give how many"),
        ("doctor localhost:8000", "'localhost:8000' is no URL; write http://localhost:8000/v1"),
        ("doctor 10.0.0.1:80/v1", "is no URL; write http://10.0.0.1:80/v1"),
        ("doctor gguf:12", "no GGUF file at '12'"),
        ("list scorers --probe http://h/v1", "write: itscale list models --probe http://h/v1"),
        ("solve x --model embedded:", "is not of the form embedded"),
        ("solve x --method pruned-majority:calibration={file}", "DecodeError: .{20,120}calibrate success"),
    ],
)
def test_a_mistake_is_one_sentence_before_any_work(tmp_path: Path, words: str, says: str):
    """With exit code 2, no traceback, and nothing run."""
    file, folder, toml = tmp_path / "file", tmp_path / "folder", tmp_path / "empty.toml"
    toml.touch()
    file.write_bytes(b"\xff\xfe" * 900)
    folder.mkdir()
    done = CliRunner().invoke(cli.app, words.format(file=file, folder=folder, toml=toml).split())
    assert done.exit_code == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert re.search(says, line), line


@pytest.mark.parametrize(
    ("model", "method", "says"),
    [("nope", "majority", "unknown model"), ("embedded", "nope", "unknown method")],
)
def test_a_gateway_file_is_refused_whole(tmp_path: Path, model: str, method: str, says: str):
    """A method or a model of no known kind: at the start, not at the first request."""
    file = tmp_path / "gateway.toml"
    file.write_text(GATEWAY.format(model=model, method=method))
    done = CliRunner().invoke(cli.app, ["serve", str(file), "--check"])
    assert (done.exit_code, says in done.stderr) == (2, True)


def test_ctrl_c_is_answered(tmp_path: Path):
    """With a word on standard error and exit code 130, by commands that have nothing to keep too."""
    words = ["verifier", "countdown", "--problems", "500", "--json", str(tmp_path / "made" / "f.json")]
    running = subprocess.Popen(
        [sys.executable, "-m", "itscale.cli", *words], stderr=subprocess.PIPE, env=os.environ, text=True
    )
    while not (tmp_path / "made").exists():  # it has begun
        assert running.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert (running.returncode, said.splitlines()[-1]) == (130, "stopped")
