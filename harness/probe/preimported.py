"""What of a forked trainer was imported before the probe's hooks were there, and makes up for it.

In a process of its own, the trainer's libraries are imported after the probe has replaced some of
torch's functions: `from torch.nn.utils import clip_grad_norm_` gives them the probe's. In a forked
one they have torch's, and get the probe's when its hooks are installed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

_libraries: dict[str, Any] = {}
_absent: set[str] = set()
_functions: list[tuple[dict[str, Any], str, Callable[..., Any]]] = []


def forked() -> bool:
    """Whether this process has forked from a server."""
    return bool(_functions)


def remember(before: set[str]) -> None:
    """Remember what has been imported since there were the modules `before`, and their functions.

    A trainer that forks from here would import the former after the probe's hooks are installed,
    and has the latter ahead of them.
    """
    _libraries.clear()
    _functions.clear()
    for module, found in list(sys.modules.items()):
        if module not in before:
            _libraries[module] = found
            continue
        names = getattr(found, "__dict__", {})
        _functions.extend((names, n, f) for n, f in names.items() if type(f) is FunctionType)


def hooks_installed() -> None:
    """Put what the probe has replaced where the libraries hold what it has replaced.

    Nothing is to be done in a process that has forked from no server.
    """
    replaced = {id(old): (old, names[n]) for names, n, old in _functions if names.get(n) is not old}
    for module in _libraries.values():
        names = getattr(module, "__dict__", {})
        for name, value in list(names.items()):
            if id(value) in replaced and value is replaced[id(value)][0]:
                names[name] = replaced[id(value)][1]


@contextlib.contextmanager
def missing() -> Iterator[None]:
    """Remember the packages that are looked for within, and not found."""

    class Last:
        @staticmethod
        def find_spec(name: str, path: Any, target: Any = None) -> None:
            if path is None:
                _absent.add(name)

    finder: Any = Last()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def shadowed(folders: Iterable[str]) -> Path | None:
    """What in `folders`, which come first on a run's path, would have been imported instead."""
    for entry in (entry for folder in folders for entry in Path(folder).glob("*")):
        name = entry.name.split(".")[0]
        loaded = sys.modules.get(name)
        if loaded is None:
            module = entry.is_dir() or entry.suffix in (".py", ".so")
            found = module and name in _absent
        else:
            # A folder without an __init__ would only come after whatever has one.
            file = entry / "__init__.py" if entry.is_dir() else entry
            own = getattr(loaded, "__file__", None)
            found = file.is_file() and file.suffix in (".py", ".so")
            found = found and not (own is not None and file.samefile(own))
        if found:
            return entry
    return None


def reseed() -> None:
    """Random numbers that nobody seeds differ from process to process, forked or not.

    Python's own `random` sees to that itself; torch's generator starts from a constant.
    """
    if "numpy" in sys.modules:
        import numpy as np

        np.random.seed()
