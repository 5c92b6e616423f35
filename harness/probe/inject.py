"""Makes identical what an engine cannot be asked for: runs the injection that its spec names.

Everything that is injected is observed again, and judged, like anything else.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from harness.probe.spec import Spec


def inject(spec: Spec) -> ModuleType | None:
    """Call the `inject` of the file that `spec` names, before the trainer's script runs.

    Returns the file as a module; None where none is named.

    Raises ImportError for a file that is not Python, and whatever the injection raises.
    """
    if spec.inject is None:
        return None
    found = importlib.util.spec_from_file_location("parity_injection", spec.inject)
    if found is None or found.loader is None:
        raise ImportError(f"{spec.inject} is no Python file")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    module.inject(**spec.injected)
    return module


def when_imported(name: str, action: Callable[[ModuleType], None]) -> None:
    """Run `action` on module `name` right after its own code, whenever it is imported."""
    if name in sys.modules:
        action(sys.modules[name])
        return

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
            if fullname != name:
                return None
            sys.meta_path.remove(self)
            found = importlib.util.find_spec(fullname)
            if found is None or found.loader is None:
                return found
            execute = found.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                action(module)

            found.loader.exec_module = exec_module  # type: ignore[method-assign]
            return found

    sys.meta_path.insert(0, Finder())
