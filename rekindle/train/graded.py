"""What grades a run's or an evaluation's responses: the options `grading`, or the task itself."""

from __future__ import annotations

from rekindle.errors import InputError
from rekindle.tokens.grading.base import GradesRows
from rekindle.tokens.grading.grader import Grader
from rekindle.tokens.grading.programs import OWN, Programs
from rekindle.tokens.tasks.base import Task
from rekindle.tokens.tasks.files import FileTask
from rekindle.train import options
from rekindle.train.sections import Grading
from rekindle.train.settings import RunConfig


def task_grader(how: Grading, task: Task) -> Grader | None:
    """The grader of `how`, None where the task's own way is meant; InputError where the task has no other.

    Close it when done: it holds worker processes. InputError too where it would run programs that nothing cuts off.
    """
    programs = Programs(how.sandbox or "", how.unsafe_sandbox)
    if (how.by, how.extract, programs) == ("exact", "boxed", OWN):
        return None
    if isinstance(task, GradesRows) or not isinstance(task, FileTask):
        raise InputError(f"grading.by={how.by}, grading.extract={how.extract}: task {task.name} grades itself: drop it")
    grader = Grader(how.by, how.extract, how.deadline, how.workers, how.cache, programs)
    grader.refuse_unsafe()
    return grader


def profile_grading(task: Task, by: str | None = None, extract: str | None = None, programs: Programs = OWN) -> Grading:
    """How a task's responses are graded where no run says so: by what is given, else by the task's profile.

    InputError for a way that there is not.
    """
    asked = {
        "grading.by": by or task.profile.get("grading.by"),
        "grading.extract": extract or task.profile.get("grading.extract"),
        "grading.sandbox": programs.sandbox or None,
        "grading.unsafe_sandbox": programs.unsafe or None,
    }
    config = RunConfig(method="")
    for path, value in asked.items():
        config = config if value is None else options.override(config, path, value)
    return config.grading
