"""What packages add to the harness: engines, rungs, devices, model families and configurations.

Each is an entry point of an installed package, the harness's own among them, so that a package
outside of this tree adds one in the same way. In a package's pyproject.toml:

    [project.entry-points."parity.engines"]
    mine = "my_package.my_engine:ENGINE"
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from harness.base.errors import BadInput
from harness.base.nearest import did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENGINES = "parity.engines"
RUNGS = "parity.rungs"
DEVICES = "parity.devices"
MODELS = "parity.models"
CONFIGS = "parity.configs"


def names(group: str) -> tuple[str, ...]:
    """Names that are registered under `group`, sorted. Nothing of them is imported."""
    return tuple(sorted(_registered(group)))


def check(group: str, name: str, key: str) -> None:
    """Raise BadInput, which names `key` and the nearest name, where `group` has no `name`."""
    if name not in _registered(group):
        hint = did_you_mean(name, names(group))
        raise BadInput(f"{key}={name}: it is not one of {', '.join(names(group))}{hint}")


def load(group: str, name: str, key: str) -> Any:
    """The object that is registered under `group` as `name`.

    Raises BadInput as `check` does, and where the package that registered it cannot be imported.
    """
    check(group, name, key)
    found = _registered(group)[name]
    try:
        return found.load()
    except (ImportError, AttributeError) as error:
        raise BadInput(f"{key}: {name} ({found.value}) cannot be imported: {error}") from error


@cache
def _registered(group: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # it takes 0.05 s to import

    # A package that is installed twice, as an editable one may be, is told once.
    return {point.name: point for point in entry_points(group=group)}
