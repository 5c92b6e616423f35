"""What the harness is extended by: engines, rungs, devices, model families and configurations.

Each is an entry point of an installed package, the harness's own among them, so that a package
outside of this tree adds one in the same way. In a package's pyproject.toml:

    [project.entry-points."parity.engines"]
    mine = "my_package.my_engine:ENGINE"

Or it is a module in the user's own folder (`harness.base.users`), which needs no package:

    engine/mine.py, or engine/mine/__init__.py with more files beside it
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.base.errors import BadInput
from harness.base.nearest import did_you_mean
from harness.base.users import users_folder

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENGINES = "parity.engines"
RUNGS = "parity.rungs"
DEVICES = "parity.devices"
MODELS = "parity.models"
CONFIGS = "parity.configs"


@dataclass(frozen=True)
class Plain:
    """Where modules of the user's own folder are found that need no package.

    folder: within the user's: no key of the settings, as Hydra takes a folder for a group
    holds:  name of the object in each of them
    """

    folder: str
    holds: str


PLAIN = {
    ENGINES: Plain("engine", "ENGINE"),
    RUNGS: Plain("rung", "RUNG"),
    DEVICES: Plain("device", "DEVICE"),
    MODELS: Plain("family", "FAMILY"),
}
"""By group. Configurations need no module: `harness.config.folders`."""


def names(group: str) -> tuple[str, ...]:
    """Names that are registered under `group`, sorted. Nothing of them is imported."""
    return tuple(sorted({*_registered(group), *modules(group)}))


def check(group: str, name: str, key: str) -> None:
    """Raise BadInput, which names `key` and the nearest name, where `group` has no `name`."""
    there = names(group)
    if name not in there:
        raise BadInput(
            f"{key}={name}: it is not one of {', '.join(there)}{did_you_mean(name, there)}"
        )


def load(group: str, name: str, key: str) -> Any:
    """The object that is registered under `group` as `name`.

    Raises BadInput as `check` does, where the package or the module that has it cannot be imported,
    and where both have one: which is meant would depend on what is installed.
    """
    check(group, name, key)
    found, module = _registered(group).get(name), modules(group).get(name)
    if found is None and module is not None:
        return _of_module(module.resolve(), f"parity_{PLAIN[group].folder}_{name}", group)
    assert found is not None
    if module is not None:
        raise BadInput(
            f"{module}: there is a {name} already in {group} ({found.value}); give it another name"
        )
    try:
        return found.load()
    except (ImportError, AttributeError) as error:
        raise BadInput(f"{key}: {name} ({found.value}) cannot be imported: {error}") from error


@cache
def _registered(group: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # it takes 0.05 s to import

    # A package that is installed twice, as an editable one may be, is told once.
    return {point.name: point for point in entry_points(group=group)}


def modules(group: str) -> dict[str, Path]:
    """The file of each module that the user's folder has for `group`, by its name."""
    users = users_folder()
    if group not in PLAIN or users is None:
        return {}
    folder = users / PLAIN[group].folder
    found = {path.parent.name: path for path in folder.glob("*/__init__.py")}
    found |= {path.stem: path for path in folder.glob("*.py")}
    return {name: path for name, path in found.items() if not name.startswith("_")}


@cache
def _of_module(path: Path, name: str, group: str) -> Any:
    """The object of a module in the user's folder, which is executed once.

    Raises BadInput that names file and line where that fails, and where it has no such object.
    """
    holds = PLAIN[group].holds
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and imports of its own files look it up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadInput(f"{_where(error, path)}: {type(error).__name__}: {error}") from error
    if not hasattr(module, holds):
        raise BadInput(f"{path}: it has no {holds}, which docs/extending.md describes")
    return getattr(module, holds)


def _where(error: Exception, path: Path) -> str:
    """The file, and the line of it that failed."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines = [error.lineno]
    return f"{path}, line {lines[-1]}" if lines else str(path)
