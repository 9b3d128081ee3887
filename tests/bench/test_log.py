from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from itscale import cli
from itscale.bench.log import AppendLog, read_log, write_whole
from itscale.errors import OptionError, StoreError
from tests.bench.worlds import play_coins
from tests.disk import no_file_beyond

ROOT = Path(__file__).parents[2]


def lines(file: Path) -> list[dict[str, object]]:
    return [value for _, value in read_log(file, "a line")]


@settings(max_examples=25)
@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), max_size=5), st.data())
def test_what_was_appended_survives_any_tear(values: list[dict[str, object]], data: st.DataObject):
    """Cut off at any byte, the log holds a prefix of what was appended, and goes on from there."""
    file = Path("torn.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        folder = Path(f"/tmp/itscale-log-{os.getpid()}")
        folder.mkdir(exist_ok=True)
        patch.chdir(folder)
        file.unlink(missing_ok=True)
        with AppendLog(file) as log:
            for value in values:
                log.append(value)
        os.truncate(file, data.draw(st.integers(0, file.stat().st_size)))
        kept = lines(file)
        assert kept == values[: len(kept)]
        with AppendLog(file) as log:
            log.append({"after": 1})
        assert lines(file) == [*kept, {"after": 1}]
        file.unlink()
        folder.rmdir()


def test_a_full_disk_takes_nothing_back_but_the_line_that_did_not_fit(tmp_path: Path):
    """The error says what to do; lines before are whole, and with room again it goes on."""
    file = tmp_path / "log.jsonl"
    with AppendLog(file) as log:
        log.append({"text": "x" * 700})
        with no_file_beyond(1000):
            with pytest.raises(StoreError, match=r"make room, then go on with --resume"):
                log.append({"text": "y" * 700})
            log.append({"small": 1})
        log.append({"text": "y" * 700})
    assert [list(value) for value in lines(file)] == [["text"], ["small"], ["text"]]


def test_a_page_that_does_not_fit_leaves_the_old_one(tmp_path: Path):
    """Whole, and nothing half-written beside it; the sentence says what to do."""
    file = tmp_path / "table.md"
    write_whole(file, "old")
    with no_file_beyond(1000), pytest.raises(StoreError, match=r"cannot write .*table\.md .*make room"):
        write_whole(file, "new " * 1000)
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.md"]
    assert file.read_text() == "old"


@pytest.mark.parametrize("what", ["table.md", "accuracy.png", "results.parquet", "report.html"])
def test_every_file_of_a_run_says_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
):
    """Not only the rows: each file made of them is named in a sentence that ends with the fix."""
    play_coins(monkeypatch.setattr)
    words = ["bench", "coins", "--problems", "2", "--budgets", "1,2", "--out", str(tmp_path / "run")]
    assert CliRunner().invoke(cli.app, words).exit_code == 0

    def full(file: Path, *_: object) -> None:
        if file.name == what or file.name == f"{what}.tmp":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(file, *_)

    replace = Path.replace
    monkeypatch.setattr(Path, "replace", full)
    done = CliRunner().invoke(cli.app, ["report", str(tmp_path / "run")])
    assert done.exit_code != 0
    assert "No space left on device" in done.stderr
    assert "make room, then go on with --resume" in done.stderr


@pytest.mark.parametrize("line", ["not json", "[]", "null", '{"a": ', "\x00"])
def test_a_broken_line_is_named(tmp_path: Path, line: str):
    """By its number, blank or not; nothing is skipped."""
    file = tmp_path / "log.jsonl"
    file.write_text(f'{{"a": 1}}\n{{"b": 2}}\n{line}\n{{"c": 3}}\n')
    with pytest.raises(OptionError, match=r"log\.jsonl line 3 is not a line"):
        lines(file)


def test_a_reader_does_not_wait_for_the_writer(tmp_path: Path):
    """What is there while another process still writes is read, and left as it is."""
    file = tmp_path / "log.jsonl"
    file.write_bytes(b'{"a": 1}\n{"b"')
    assert lines(file) == [{"a": 1}]
    assert file.read_bytes() == b'{"a": 1}\n{"b"'


WRITER = """
import sys
from pathlib import Path
from itscale.bench.log import AppendLog
log = AppendLog(Path(sys.argv[1]))
for i in range(10**6):
    log.append({"i": i, "text": "x" * (i % 5000)})
    print(i, flush=True)
"""


def test_a_kill_at_any_moment_loses_no_line_that_was_acknowledged(tmp_path: Path):
    """SIGKILL in the middle of writing: everything reported as written is there, in order."""
    file = tmp_path / "log.jsonl"
    for _ in range(3):
        file.unlink(missing_ok=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(file)], env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(300):
                acknowledged = int(process.stdout.readline())
            process.kill()
        found = [value["i"] for value in lines(file)]
        assert found == list(range(len(found)))
        assert len(found) > acknowledged
        assert all(json.loads(line) for line in file.read_bytes().splitlines()[: len(found)])
