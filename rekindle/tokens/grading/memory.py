"""Grades that are remembered: a bounded table, the least recently used goes first. Safe from any thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from rekindle.tokens.grading.base import SETTLED, Grade


class Memory:
    """At most `size` grades by key.

    What depends on the texts alone is kept. A time-out may have been the machine's: it is kept until `fresh`, and for
    good when it has happened twice.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._grades: OrderedDict[Hashable, Grade] = OrderedDict()
        self._passing: OrderedDict[Hashable, Grade] = OrderedDict()
        self._late: OrderedDict[Hashable, None] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Grade | None:
        """The grade of a key, None where it is not known."""
        with self._lock:
            if key in self._grades:
                self._grades.move_to_end(key)
                return self._grades[key]
            return self._passing.get(key)

    def put(self, key: Hashable, grade: Grade) -> None:
        """Remember a grade, unless the grader failed."""
        with self._lock:
            if grade.status in SETTLED or (grade.status == "timeout" and key in self._late):
                self._keep(self._grades, key, grade)
            elif grade.status == "timeout":
                self._keep(self._passing, key, grade)
                self._keep(self._late, key, None)

    def fresh(self) -> None:
        """Forget the time-outs that have happened once: what they stand for may be tried again."""
        with self._lock:
            self._passing.clear()

    def __len__(self) -> int:
        return len(self._grades)

    def _keep(self, table: OrderedDict[Hashable, Any], key: Hashable, value: Any) -> None:
        table[key] = value
        table.move_to_end(key)
        while len(table) > self.size:
            table.popitem(last=False)
