"""Programs as answers: HumanEval and MBPP, checked by running their tests in a sandbox.

Chen et al. 2021, arXiv 2107.03374 (HumanEval) and Austin et al. 2021, arXiv 2108.07732 (MBPP).
Law 9: what a model wrote runs in `sandbox.py` and nowhere else; where that is not possible the task
refuses to start. A program is right when all tests ran to their end: leaving early is not.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from itscale.tasks.data import DataTask, level_of
from itscale.tasks.sandbox import Sandbox
from itscale.types import Problem, Prompt

__all__ = ["CodeTask", "extract_code", "humaneval_problem", "mbpp_problem"]

_BLOCK = re.compile(r"```[ \t]*(?:python|py|Python)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_INSTRUCTION = "Answer with the whole program in one ```python block."


class CodeTask(DataTask):
    """Problems whose reference is a program that tests what was written."""

    def __init__(self, name: str, problems: Iterable[Problem], sandbox: Sandbox | None = None) -> None:
        """Make the task.

        Raises:
            OptionError: programs cannot be confined on this machine.
        """
        super().__init__(name, problems)
        self.sandbox = sandbox or Sandbox()
        self.sandbox.check()

    @property
    def checks_are_slow(self) -> bool:
        return True

    def check(self, problem: Problem, text: str) -> bool:
        """Whether the tests of `problem` pass on the program in `text`."""
        tests = json.loads(problem.reference)
        code = extract_code(text)
        head = tests["head"]
        if head and not re.search(rf"^def\s+{re.escape(tests['entry'])}\b", code, re.MULTILINE):
            code = head + code  # a bare continuation of the prompt
        # The word is printed only if every test before it has passed; a program that exits does not know it.
        word = secrets.token_hex(16)
        program = f"{tests['before']}\n{code}\n\n{tests['after']}\nprint({word!r})\n"
        ran = self.sandbox.run(program)
        return ran.exit_code == 0 and ran.output.rstrip().endswith(word)


def extract_code(text: str) -> str:
    r"""The last fenced block of Python, or the whole text where there is none.

    >>> extract_code("Here it is:\\n```python\ndef f():\n    return 1\n```\nDone.")
    'def f():\n    return 1\n'
    """
    blocks = _BLOCK.findall(text)
    return blocks[-1] if blocks else text


def humaneval_problem(record: Mapping[str, Any], number: int) -> Problem:
    """One record of HumanEval's format."""
    entry = str(record["entry_point"])
    after = f"{record['test']}\ncheck({entry})"
    tests = {"head": record["prompt"], "entry": entry, "before": "", "after": after}
    question = f"Complete this function.\n\n```python\n{record['prompt']}```\n\n{_INSTRUCTION}"
    return Problem(
        id=f"humaneval-{str(record.get('task_id', number)).rpartition('/')[2]}",
        prompt=Prompt.user(question),
        reference=json.dumps(tests),
        level=level_of(record),
    )


def mbpp_problem(record: Mapping[str, Any], number: int) -> Problem:
    """One record of MBPP's format (`text` or `prompt`)."""
    asked = record["text"] if "text" in record else record["prompt"]
    listed = list(record["test_list"])
    setup = record.get("test_setup_code") or "\n".join(record.get("test_imports") or ())
    tests = {"head": "", "entry": "", "before": setup, "after": "\n".join(listed)}
    question = (
        f"{asked}\n\nYour code should pass these tests:\n\n" + "\n".join(listed) + f"\n\n{_INSTRUCTION}"
    )
    return Problem(
        id=f"mbpp-{record.get('task_id', number)}",
        prompt=Prompt.user(question),
        reference=json.dumps(tests),
        level=level_of(record),
    )
