"""Problems with exact checkers."""

from itscale.tasks.base import Exercise, GeneratedTask, Task
from itscale.tasks.chain import Chain
from itscale.tasks.countdown import Countdown

__all__ = ["Chain", "Countdown", "Exercise", "GeneratedTask", "Task"]
