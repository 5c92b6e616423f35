"""Where the seconds of a run go: imports, what the probe itself takes, and when what began.

`harness.record.phases` makes a table of it, with the windows of the same Record.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FIRST_WINDOW = "first_window"
RETURNED = "returned"


class Phases:
    """The clock of one run. It begins when it is made."""

    def __init__(self) -> None:
        self.began = time.time()
        self.seconds = {"imports": 0.0, "probe": 0.0}
        self.marks: dict[str, dict[str, float]] = {}
        self._within: set[str] = set()

    def mark(self, name: str) -> None:
        """Remember when that was, and what imports and the probe had taken by then."""
        self.marks[name] = {"at": time.time(), **self.seconds}

    @contextmanager
    def spending(self, what: str) -> Iterator[None]:
        """Count the time within as `what`, and what is nested in it only once."""
        if what in self._within:
            yield
            return
        self._within.add(what)
        start = time.perf_counter()
        try:
            yield
        finally:
            self._within.remove(what)
            self.seconds[what] += time.perf_counter() - start

    def watch_imports(self) -> None:
        """Count what this thread imports from now on.

        Python asks for this function only for modules that are not there yet: an import statement
        within a step costs nothing more.
        """
        bootstrap: Any = importlib._bootstrap  # type: ignore[attr-defined]
        find_and_load, thread = bootstrap._find_and_load, threading.get_ident()

        def timed(name: str, import_: Any) -> Any:
            if threading.get_ident() != thread:
                return find_and_load(name, import_)
            with self.spending("imports"):
                return find_and_load(name, import_)

        bootstrap._find_and_load = timed

    def to_json(self) -> dict[str, Any]:
        """Plain values, for observed.json."""
        return {"began": self.began, "seconds": dict(self.seconds), "marks": dict(self.marks)}
