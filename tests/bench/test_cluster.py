"""What the cluster runner refuses; that it spreads a sweep is tests/servers/test_ray.py's affair."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from itscale import cli
from tests.bench.worlds import play_coins


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--runner", "rai"], "did you mean 'ray'"),
        (["--workers", "2"], "add --runner ray"),
        (["--runner", "ray", "--workers", "0"], "at least 1"),
    ],
)
def test_a_runner_that_is_not_there_is_refused(options: list[str], says: str, tmp_path: Path):
    """Before anything is written."""
    done = CliRunner().invoke(cli.app, ["bench", "countdown", "--out", str(tmp_path / "run"), *options])
    assert done.exit_code == 2
    assert says in done.stderr
    assert not (tmp_path / "run").exists()


def test_without_ray_the_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And the folder can be resumed when it is there."""
    play_coins(monkeypatch.setattr)
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["bench", "coins", "--problems", "2", "--budgets", "1", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(cli.app, [*words, "--runner", "ray"])
    assert done.exit_code == 2
    assert 'pip install "itscale[ray]"' in done.stderr
    assert CliRunner().invoke(cli.app, [*words, "--resume"]).exit_code == 0


def test_a_cluster_that_does_not_let_us_in_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With what it may want: the address, or the token that `ray start` asks for."""

    def refused(**options: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 127.0.0.1:1")

    play_coins(monkeypatch.setattr)
    ray = SimpleNamespace(is_initialized=lambda: False, init=refused)
    monkeypatch.setitem(sys.modules, "ray", ray)
    words = ["bench", "coins", "--problems", "2", "--budgets", "1", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(cli.app, [*words, "--runner", "ray"])
    assert done.exit_code == 2
    assert "Failed to connect to Ray cluster at 127.0.0.1:1); see RAY_ADDRESS" in done.stderr
    assert done.stderr.rstrip().endswith("set RAY_AUTH_MODE=token for a cluster that asks for a token")
