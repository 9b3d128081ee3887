"""Problems with exact checkers: generated ones, and those of files (yours, or the field's data sets)."""

from itscale.tasks.base import Exercise, GeneratedTask, Task
from itscale.tasks.chain import Chain
from itscale.tasks.code import CodeTask
from itscale.tasks.countdown import Countdown
from itscale.tasks.data import DataTask, from_jsonl
from itscale.tasks.sandbox import Sandbox

__all__ = [
    "Chain",
    "CodeTask",
    "Countdown",
    "DataTask",
    "Exercise",
    "GeneratedTask",
    "Sandbox",
    "Task",
    "from_jsonl",
]
