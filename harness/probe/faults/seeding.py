"""Seeds the faults of a Spec into this process."""

from __future__ import annotations

import importlib
from typing import Any

from harness.probe.faults.catalogue import FAULTS, Kind, Required
from harness.probe.spec import Fault, Spec


def before_observing(spec: Spec) -> None:
    """Seed what the observer's hooks must come after."""
    _seed(spec, around=False)


def after_observing(spec: Spec) -> None:
    """Seed what has to come around the observer's hooks."""
    _seed(spec, around=True)


def _seed(spec: Spec, around: bool) -> None:
    for fault in spec.faults:
        kind = FAULTS[fault.name]
        if kind.around == around:
            print(f"seeding the fault {fault.name} {fault.arguments}", flush=True)
            module = importlib.import_module(f"harness.probe.faults.{kind.module}")
            getattr(module, fault.name)(**_arguments(kind, fault, spec))


def _arguments(kind: Kind, fault: Fault, spec: Spec) -> dict[str, Any]:
    defaults = {k: v for k, v in kind.arguments.items() if not isinstance(v, Required)}
    watched = {"clipping": spec.watch.clipping} if kind.clipping else {}
    return {**defaults, **fault.arguments, **watched}
