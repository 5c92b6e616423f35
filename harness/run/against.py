"""The same training in another configuration: which settings may differ, and which run has them."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.base.errors import BadInput
from harness.config.case import Case
from harness.config.settings import Settings

OF_CASE = ("accumulation", "mesh", "dcn", "sharding", "window")
"""Keys of a case that say how it is trained, and not what."""
OF_MODEL = ("attention", "remat")
"""The same of its model."""


def configured(settings: Settings, other: Settings) -> Settings:
    """`settings` in the configuration of `other`: its part of the case, its engines' options."""
    model = dataclasses.replace(settings.case.model, **_picked(other.case.model, OF_MODEL))
    case = dataclasses.replace(settings.case, model=model, **_picked(other.case, OF_CASE))
    return dataclasses.replace(settings, case=case, engine=other.engine)


def _picked(value: object, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def check_same_training(settings: Settings, other: Settings) -> None:
    """Raise BadInput where `other` is another training, or the engines are not one twice."""
    first, *others = settings.engines
    if others != [first]:
        raise BadInput(
            f"--against: engines={settings.engines}: it compares two configurations of one engine, "
            f"such as engines=[{first},{first}]"
        )
    if configured(settings, other) != other:
        keys = [*(f"case.{key}" for key in OF_CASE), *(f"case.model.{key}" for key in OF_MODEL)]
        raise BadInput(
            f"--against: {_difference(settings.case, other.case)} is another training; what may "
            f"differ is {', '.join(keys)} and engine.*"
        )
    here, there = settings.case.devices, other.case.devices
    if here != there:
        raise BadInput(
            f"--against: case.mesh has {there} devices there and {here} here, and runs on other "
            f"numbers of devices are not comparable; name a mesh of {here}"
        )
    if other == settings:
        raise BadInput("--against: both runs would be of one configuration; name another")


def _difference(a: Case, b: Case) -> str:
    """The first key in which two cases are other trainings."""
    for key in (field.name for field in dataclasses.fields(Case)):
        x, y = getattr(a, key), getattr(b, key)
        if key == "model":
            for inner in (field.name for field in dataclasses.fields(x)):
                if inner not in OF_MODEL and getattr(x, inner) != getattr(y, inner):
                    return f"case.model.{inner}"
        elif key not in OF_CASE and x != y:
            return f"case.{key}"
    return "what is no part of the case"
