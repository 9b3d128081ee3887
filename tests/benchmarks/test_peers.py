"""The parts of the comparison with peers that need neither a peer nor vLLM."""

from __future__ import annotations

import json
from pathlib import Path as FilePath

import pytest

from benchmarks.peers.pages import accuracy_table, between, speed_table
from benchmarks.peers.relay import plain
from benchmarks.peers.running import Cell, Measured, judged, sweep_of
from benchmarks.peers.scoring import path_of
from benchmarks.peers.served import Counts, Server
from itscale.tasks import Countdown
from itscale.types import End

OURS = Cell("itscale", "particle-filter", 16, 4)
HUB = Cell("its_hub", "particle-filter", 16, 4)
COUNTS = Counts(4000, 1000, 800, 80, 8)


def measured(cell: Cell, seconds: float) -> Measured:
    return Measured(cell, [True, True, True, False], 0, seconds, COUNTS)


def test_the_tables_show_what_was_counted():
    """Accuracy with its interval and means a problem; wall times with the ratio to the other's."""
    *_, line = accuracy_table([measured(OURS, 2.0)])
    assert "| itscale | particle-filter | 16 | 75.0% of 4 | 30.1% to 95.4% | 0 | 200 | 1,000 | 20 |" in line
    *_, first, second = speed_table([measured(OURS, 2.0), measured(HUB, 7.0)])
    assert "| 2.0 | 3.5 | 800 | 4,000 | 3,000 | 80 | 8 |" in first
    assert "| 7.0 | 1.0 |" in second


def test_a_cell_survives_its_file():
    """What an interrupted run finds again is what it wrote."""
    one = measured(HUB, 1.5)
    assert Measured.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_texts_are_judged_by_the_task_and_failures_are_wrong():
    """A problem without a text stays in the denominator."""
    problems = sweep_of(HUB).problems
    task = Countdown()
    said = {p.id: {"text": None, "error": "TimeoutError"} for p in problems}
    assert judged(HUB, problems, said, 1.0, COUNTS).correct == [False] * 4
    assert judged(HUB, problems, said, 1.0, COUNTS).failed == 4
    solved = next(e for e in iter_solutions() if e[0] == problems[0].prompt.question)
    said[problems[0].id] = {"text": solved[1], "error": None}
    assert task.check(problems[0], solved[1])
    assert judged(HUB, problems, said, 1.0, COUNTS).correct == [True, False, False, False]


def iter_solutions() -> list[tuple[str, str]]:
    """A right text for the first problem, found by trying every legal play."""
    [first, *_] = sweep_of(HUB).problems
    return [(first.prompt.question, text) for text in plays(first.prompt.question)][:1]


def plays(question: str) -> list[str]:
    target, numbers = question.removeprefix("Make ").removesuffix(".").split(" from ")
    found: list[str] = []

    def go(left: list[int], lines: list[str]) -> None:
        if found:
            return
        if len(left) == 1:
            if left[0] == int(target):
                found.append("".join(lines) + f"Answer: {target}")
            return
        for i in range(len(left)):
            for j in range(len(left)):
                if i == j or left[i] < left[j]:
                    continue
                a, b = left[i], left[j]
                rest = [x for k, x in enumerate(left) if k not in (i, j)]
                results = [("+", a + b), ("-", a - b), *([("*", a * b)] if b > 1 else [])]
                results += [("/", a // b)] if b > 1 and a % b == 0 else []
                for sign, value in results:
                    if value <= 99:
                        now = [*rest, value]
                        says = f"{a} {sign} {b} = {value} leaves {' '.join(map(str, now))}\n"
                        go(now, [*lines, says])

    go([int(n) for n in numbers.split(", ")], [])
    return found


def test_a_section_is_replaced_and_nothing_else(tmp_path: FilePath):
    """Between its markers; a page without them is refused."""
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n")
    between(page, "x", ["new", "lines"])
    assert page.read_text() == "a\n<!-- x:begin -->\n\nnew\nlines\n\n<!-- x:end -->\nb\n"
    with pytest.raises(ValueError, match="put both markers"):
        between(page, "y", [])


def test_the_relay_leaves_what_the_reasoner_can_read():
    """No system message, no `User: `, no more tokens than the context holds; the rest as it was."""
    said = [{"role": "system", "content": ""}, {"role": "user", "content": "User: Make 2 from 1, 1."}]
    asked = {"model": "m", "n": 4, "max_tokens": 4096, "messages": said}
    assert plain(asked) == {
        "model": "m",
        "n": 4,
        "max_tokens": 128,
        "messages": [{"role": "user", "content": "Make 2 from 1, 1."}],
    }


def test_the_scorer_reads_an_answer_as_its_steps():
    """A line ends on its newline, the last of a whole answer at the end."""
    path = path_of("Make 2 from 1, 1.", ["1 + 1 = 2 leaves 2\n", "Answer: 2"])
    assert [(step.text, step.end) for step in path.steps] == [
        ("1 + 1 = 2 leaves 2\n", End.BOUNDARY),
        ("Answer: 2", End.EOS),
    ]


def test_connections_and_requests_are_read_from_the_servers_log(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
):
    """A port is a connection, a line a request; what does not generate is neither."""
    log = tmp_path / "log"
    log.write_text(
        'INFO: 127.0.0.1:40000 - "POST /v1/completions HTTP/1.1" 200 OK\n'
        'INFO: 127.0.0.1:40000 - "POST /v1/completions HTTP/1.1" 200 OK\n'
        'INFO: 127.0.0.1:40001 - "POST /v1/chat/completions HTTP/1.1" 200 OK\n'
        'INFO: 127.0.0.1:40002 - "GET /metrics HTTP/1.1" 200 OK\n'
    )
    metrics = (
        'vllm:prompt_tokens_total{engine="0"} 70.0\nvllm:prefix_cache_hits_total{engine="0"} 32.0\n'
        'vllm:generation_tokens_total{engine="0"} 9.0\n'
    )

    class Answer:
        text = metrics

    monkeypatch.setattr("benchmarks.peers.served.httpx.get", lambda url, timeout: Answer)
    assert Server("http://127.0.0.1:1/v1", log).counts() == Counts(70, 32, 9, 3, 2)
