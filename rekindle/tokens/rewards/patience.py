"""A reward function that does not come back: told while it is waited for, since nothing may interrupt it safely."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(eq=False)
class Patience:
    """Tells of a function that has run for `seconds`, and again at each doubling. tell: takes the sentence, or None.

    A function may hold locks, wait for a network or set alarms of its own: it is never interrupted, the user decides.
    """

    seconds: float = 120.0
    tell: Callable[[str], object] | None = None

    @contextmanager
    def waiting(self, name: str, rows: int) -> Iterator[None]:
        """Inside, the function `name` judges `rows` rows."""
        if self.tell is None:
            yield
            return
        done = threading.Event()
        thread = threading.Thread(target=self._watch, args=(name, rows, done), name="patience", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _watch(self, name: str, rows: int, done: threading.Event) -> None:
        spent, pause = 0.0, self.seconds
        while not done.wait(pause) and self.tell is not None:
            spent, pause = spent + pause, spent + pause
            self.tell(
                f"warning: reward '{name}' has not come back for {spent:g} s ({rows} rows): the run waits for it; if "
                "it hangs, Ctrl-C, give it a time limit of its own, in a new run (--model CHECKPOINT)"
            )
