from __future__ import annotations

import json
from pathlib import Path

import pytest

from itscale.errors import TaskError
from itscale.registry import load_task
from itscale.tasks import DataTask, from_jsonl
from itscale.types import Problem

DATA = Path(__file__).parents[3] / "shared" / "data"


def written(folder: Path, *records: object) -> Path:
    file = folder / "mine.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def test_a_file_of_ones_own_is_a_task_in_one_line(tmp_path: Path):
    """Questions are asked, references are private to the check, answers are compared by kind."""
    file = written(tmp_path, {"question": "2 + 2?", "answer": 4}, {"question": "1 / 2?", "answer": "0.5"})
    task = from_jsonl(file, answers="number", instruction="End with Answer: NUMBER")
    half, four = sorted(task.problems(2), key=lambda p: p.reference)
    assert half.prompt.question == "1 / 2?\nEnd with Answer: NUMBER"
    assert task.check(four, "so\nAnswer: 4.0")
    assert task.check(half, "Answer: 1/2")
    assert not task.check(half, "Answer: 2")
    assert not task.check(half, "I do not know")


def test_a_larger_count_begins_with_the_smaller_one(tmp_path: Path):
    """And another seed draws others; asking for more than there are is refused."""
    file = written(tmp_path, *({"question": str(i), "answer": str(i), "level": i % 2} for i in range(20)))
    task = load_task(f"jsonl:{file}")
    assert task.problems(5) == task.problems(9)[:5]
    assert task.problems(9) != task.problems(9, seed=1)
    assert {problem.level for problem in task.problems(5, level=1)} == {1}
    with pytest.raises(TaskError, match="give --problems from 1 to 20"):
        task.problems(21)
    with pytest.raises(TaskError, match="no level 7; levels: 0, 1"):
        task.problems(1, level=7)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"question": "a", "answer": "b"}\n{"question": ', "line 2 is not JSON"),
        ('{"question": "a", "answer": "b"}\n\n[1]', "line 3 is not a JSON object"),
        ('{"question": "a"}', "line 1 has none of the fields answer"),
        ("", "has no problems"),
        ("[1, 2", "is not JSON"),
        (
            '{"id": 1, "question": "a", "answer": "b"}\n{"id": 1, "question": "a", "answer": "b"}',
            "make ids differ",
        ),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str, says: str):
    """Nothing is skipped."""
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(TaskError, match=says):
        from_jsonl(tmp_path / "bad.jsonl")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("gsm8k", "read from a file; write gsm8k:FILE"),
        ("gsm8k:", "names no file"),
        ("gsm8:x", "did you mean"),
        ("gsm8k:/nowhere.jsonl", "cannot read"),
        ("jsonl:x#answer=a&kind=b", "unknown 'kind'"),
        ("aime:hf://a/b?config=c", "unknown 'config'"),
    ],
)
def test_a_spec_that_cannot_be_honoured_is_refused(spec: str, says: str):
    """One sentence each."""
    with pytest.raises(TaskError, match=says):
        load_task(spec)


def test_choices_are_lettered_and_read_by_letter_or_place(tmp_path: Path):
    """Lists, objects and the form with text and label; the answer is a letter or a place from 0."""
    records = [
        {"question": "q", "choices": ["x", "y"], "answer": 1},
        {"question": "q", "options": {"A": "x", "B": "y"}, "answer": "b"},
        {"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"},
    ]
    task = load_task(f"choice:{written(tmp_path, *records)}")
    for problem in task.problems(3):
        assert "A. x\nB. y" in problem.prompt.question
        assert task.check(problem, "Answer: (B)")
        assert not task.check(problem, "Answer: A")


def test_a_hub_without_the_package_or_the_net_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    """Rows come from `datasets` where it is there; its failures become one sentence."""
    import sys
    import types

    asked: list[object] = []

    def load(identity: str, name: str | None, *, split: str, revision: str | None) -> list[dict[str, str]]:
        asked.append((identity, name, split, revision))
        if identity == "gone/away":
            raise ConnectionError("offline")
        return [{"question": "q", "answer": "#### 4"}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))
    [problem] = load_task("gsm8k:hf://some/set?name=main&split=train").problems(1)
    assert (problem.reference, asked) == ("4", [("some/set", "main", "train", None)])
    with pytest.raises(TaskError, match="when offline, give a local file"):
        load_task("gsm8k:hf://gone/away")


def real(name: str) -> Path:
    file = DATA / name
    if not file.exists():
        pytest.skip(f"the data folder with {name} is not beside the repository")
    return file


def test_gsm8k_as_published_is_read():
    """1,319 problems, each reference a number that its own solution reaches."""
    task = load_task(f"gsm8k:{real('gsm8k_test.jsonl')}")
    assert isinstance(task, DataTask)
    assert len(task.all_problems) == 1319
    rows = [json.loads(line) for line in real("gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()]
    for problem, row in zip(task.all_problems, rows, strict=True):
        assert task.check(problem, row["answer"])


def test_aime_as_published_is_read():
    """30 problems with answers from 0 to 999."""
    task = load_task(f"aime:{real('aime2024.jsonl')}")
    references = [int(problem.reference) for problem in task.problems(30)]
    assert all(0 <= reference <= 999 for reference in references)
    assert task.check(task.problems(1)[0], f"Answer: {task.problems(1)[0].reference}")


def test_math_as_published_is_read():
    """500 problems on five levels; an answer in another dress is right."""
    pytest.importorskip("math_verify")
    task = load_task(f"math:{real('math500.jsonl')}")
    assert isinstance(task, DataTask)
    assert (len(task.all_problems), task.levels, task.checks_are_slow) == (500, (1, 2, 3, 4, 5), True)
    problem = Problem(id="x", prompt=task.all_problems[0].prompt, reference=r"\frac{1}{2}")
    assert task.check(problem, r"It is \boxed{0.5}.")
