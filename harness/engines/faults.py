"""The faults that a user asks for, checked before anything is launched."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from harness.base.errors import BadInput
from harness.base.nearest import did_you_mean
from harness.config.settings import SeededFault
from harness.engines.command import Course
from harness.probe.faults.catalogue import FAULTS, SHARDING, Kind, Required
from harness.probe.spec import Fault, Spec


def seeded(
    spec: Spec, faults: Sequence[SeededFault], key: str, course: Course = Course.STRAIGHT
) -> Spec:
    """`spec` with `faults`, which stand under `key`; those of a resume only where it is one.

    Raises BadInput for a fault that there is not, and for an argument that it does not take, that
    is missing or that is of another type.
    """
    for fault in faults:
        if fault.name == SHARDING:
            spec = _with_faulty_sharding(spec, fault.arguments, key)
        elif fault.name in FAULTS:
            _check(fault, FAULTS[fault.name], key)
            if FAULTS[fault.name].resumed and spec.saving is None:
                raise BadInput(
                    f"{key}: the fault `{fault.name}` is in a resume, and this case has none: set "
                    "case.save_at"
                )
        else:
            known = sorted({*FAULTS, SHARDING})
            raise BadInput(f"{key}: there is no fault `{fault.name}`{_hint(fault.name, known)}")
    own = tuple(
        Fault(f.name, dict(f.arguments))
        for f in faults
        if f.name != SHARDING and (course is Course.RESUMED or not FAULTS[f.name].resumed)
    )
    return dataclasses.replace(spec, faults=own)


def _check(fault: SeededFault, kind: Kind, key: str) -> None:
    for name, value in fault.arguments.items():
        if name not in kind.arguments:
            hint = _hint(name, kind.arguments)
            raise BadInput(f"{key}: the fault `{fault.name}` takes no argument `{name}`{hint}")
        stated = kind.arguments[name]
        wanted = stated.kind if isinstance(stated, Required) else type(stated)
        if not _is(value, wanted):
            raise BadInput(
                f"{key}: {name}={value!r} of the fault `{fault.name}` is no {wanted.__name__}"
            )
    for name, stated in kind.arguments.items():
        if isinstance(stated, Required) and name not in fault.arguments:
            raise BadInput(f"{key}: the fault `{fault.name}` needs the argument `{name}`")


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind in (bool, object)
    return isinstance(value, (int, float) if kind is float else kind)


def _hint(name: str, known: Collection[str]) -> str:
    there_are = f"; there are {', '.join(known)}" if known else "; it takes none"
    return did_you_mean(name, known) or there_are


def _with_faulty_sharding(spec: Spec, replaced: dict[str, Any], key: str) -> Spec:
    """The spec with entries of the sharding table that is injected replaced by those of a fault."""
    table = spec.injected.get("sharding")
    if table is None:
        raise BadInput(
            f"{key}: the fault `{SHARDING}` needs an engine whose sharding is injected, "
            "such as hf in an aligned case"
        )
    for pattern, axes in replaced.items():
        if pattern not in table:
            raise BadInput(
                f"{key}: the fault `{SHARDING}` finds no `{pattern}` in the case's "
                f"table{_hint(pattern, table)}"
            )
        if not isinstance(axes, list):
            raise BadInput(
                f"{key}: {pattern}={axes!r} of the fault `{SHARDING}` is no partition "
                "spec: write a list, such as [fsdp, null]"
            )
    return dataclasses.replace(spec, injected={**spec.injected, "sharding": {**table, **replaced}})
