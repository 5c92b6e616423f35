"""What a device is to the harness, and where the registered ones are found.

A device is one object in one file, registered under the entry point group `parity.devices`, by the
harness itself (`cpu.py`, `tpu.py`) as by any other package.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.base import registry
from harness.base.conditions import title_of
from harness.devices.chips import Chip
from harness.record.evidence import Observed
from harness.record.termination import Sign

KEY = "launcher.device"
"""The key by which a user names a device."""


@dataclass(frozen=True)
class Device:
    """A kind of accelerator.

    name:             `launcher.device`, and the pytest marker of its tests
    title:            what a person calls some of it, as in "8 TPU chips"
    pjrt:             what `torch_xla.runtime.device_type()` says on it; without XLA what the
                      probe says
    environment:      variables of a run on so many devices, given those of the harness's own
                      environment that a run inherits, and whether compilation is to be cheap
    count:            how many PJRT devices a run on this machine has, over all hosts that run it
                      together: a function that returns None where that is not known beforehand.
                      None where a run gets as many as it asks for
    missing:          why nothing can run on it here and how to get it; None where something can
    busy:             who has it at the moment, and what to do about it; None where nobody does
    undriven:         why an interpreter (its Python, and its packages' versions by normalized name)
                      cannot drive it; None where it can
    of_type:          number of PJRT devices of one slice of an accelerator type ("v6e-8"), None
                      for a type that is not known
    knows_slices:     its devices say which slice they are of; where they do not, the probe makes up
                      the slices that a mesh lies across
    traces:           the steps of a case can be traced on it without values (`stage=true`)
    kernels:          it executes hand-written kernels of a TPU (Pallas)
    shared:           two processes can have it at once, so that two trainers can run their timing
                      windows in turns
    at_once:          how many runs of so many devices each this machine carries at the same time
    matmul_precision: in what float32 matrix products are computed where nobody asks for more
    kind_of:          the device kind of a Record, from the PJRT attributes of one device and the
                      machine's accelerator type, as far as the probe could see them
    step_time:        `tolerance.step_time` where nobody says otherwise; None does not judge
    accelerator_type: what tells a trainer's process the machine's accelerator type, as
                      MODULE:FUNCTION in its interpreter; None where nothing does
    planes:           names of the planes of an XLA profile that are devices; None where a profile
                      does not show the device, and the host's clock tells step times
    plugin:           the PJRT plugin that a run on this machine loads in the place of the device's
                      own; None where it loads that
    is_own:           whether PJRT's attributes of a device are those of this one, and not of
                      another whose plugin is loaded in its place
    deterministic:    device kinds on which equal runs are known to have equal bits
    host_clock:       what has to be known of step times by the host's clock; "" for nothing
    signs:            what a log shows where the device was busy or lost
    chips:            known chips by device kind, in lower case
    only_kind:        the one device kind that it has; None where a run has to tell
    xla:              trainers compute on it through torch_xla, under SPMD; else in one process of
                      eager PyTorch, where nothing is partitioned and nothing compiled
    """

    name: str
    title: str
    pjrt: str
    environment: Callable[[int, bool, Mapping[str, str]], dict[str, str]]
    count: Callable[[], int | None] | None
    missing: Callable[[], str | None]
    shared: bool
    matmul_precision: str
    kind_of: Callable[[Mapping[str, Any], str | None], str]
    step_time: float | None
    accelerator_type: str | None = None
    at_once: Callable[[int], int] = lambda devices: 1
    busy: Callable[[], str | None] = lambda: None
    undriven: Callable[[Path, Mapping[str, str]], str | None] = lambda python, packages: None
    of_type: Callable[[str], int | None] = lambda accelerator_type: None
    planes: re.Pattern[str] | None = None
    knows_slices: bool = True
    traces: bool = False
    kernels: bool = False
    plugin: Callable[[], Path | None] = lambda: None
    is_own: Callable[[Mapping[str, Any]], bool] = lambda attributes: True
    deterministic: frozenset[str] = frozenset()
    host_clock: str = ""
    signs: tuple[Sign, ...] = ()
    chips: Mapping[str, Chip] = field(default_factory=dict)
    only_kind: str | None = None
    xla: bool = True


def device(name: str) -> Device:
    """The device that is registered as `name`. Raises BadInput that names `launcher.device`."""
    found: Device = registry.load(registry.DEVICES, name, KEY)
    return found


def devices() -> tuple[Device, ...]:
    """All registered devices, by name."""
    return tuple(device(name) for name in registry.names(registry.DEVICES))


def device_of(observed: Observed) -> Device | None:
    """The device that a run was on, from what was observed of it; None for one nobody knows."""
    return next((d for d in devices() if d.pjrt == observed.device), None)


def computes_by_xla(observed: Observed) -> bool:
    """Whether a run computed through torch_xla; so does one on a device that nobody knows."""
    found = device_of(observed)
    return found is None or found.xla


def with_kind(observed: Observed) -> Observed:
    """What the probe observed, with the device's kind (`device_kind`) in its device's own words.

    A device that another one was computed like is a kind of its own: "CPU, products in bfloat16".
    """
    found = device_of(observed)
    if found is None:
        return observed
    kind = found.kind_of(observed.attributes, observed.accelerator_type)
    if observed.condition is not None:
        kind = f"{kind}, {title_of(observed.condition)}"
    return dataclasses.replace(observed, device_kind=kind)


def planes_of(observed: Observed) -> re.Pattern[str] | None:
    """The planes of a run's profile that are its devices; None where no profile shows them."""
    used = device_of(observed)
    return used.planes if used is not None and used.is_own(observed.attributes) else None


def deterministic(observed: Observed) -> bool:
    """Whether equal runs on this device are known to have equal bits."""
    found = device_of(observed)
    return found is not None and observed.device_kind in found.deterministic


def profile_planes() -> re.Pattern[str]:
    """The planes of any profile that are devices, where it is not known which device it is of."""
    known = (found.planes.pattern for found in devices() if found.planes is not None)
    return re.compile("|".join(f"(?:{pattern})" for pattern in known))


def chip(kind: str) -> Chip | None:
    """The chip of a device kind ("TPU v5e", in any case), or None where nobody knows it."""
    return next((d.chips[kind.lower()] for d in devices() if kind.lower() in d.chips), None)
