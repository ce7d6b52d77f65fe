"""The kinds of questions by name: a sample's `task`."""

from taro.command_line import did_you_mean
from taro.errors import TaroError
from taro.tasks.actions import Actions
from taro.tasks.dense import Dense
from taro.tasks.grounded_qa import GroundedQA
from taro.tasks.grounding import Grounding
from taro.tasks.highlights import Highlights
from taro.tasks.multi_span import MultiSpan
from taro.tasks.multiple_choice import MultipleChoice
from taro.tasks.task import NO_ANSWER, Answer, Task

__all__ = ["DEFAULT", "NO_ANSWER", "TASKS", "Answer", "Task", "TaskError", "find_task"]

_ALL = (Grounding(), MultiSpan(), Dense(), Highlights(), GroundedQA(), Actions(), MultipleChoice())
TASKS: dict[str, Task] = {task.name: task for task in _ALL}
DEFAULT = Grounding.name


class TaskError(TaroError, ValueError):
    """There is no such task; the message lists those that there are."""


def find_task(name: str) -> Task:
    """The task of this name. Raises TaskError where there is none."""
    if name not in TASKS:
        raise TaskError(f"there is no task {name!r}{did_you_mean(name, TASKS)}; there are {', '.join(TASKS)}")
    return TASKS[name]
