"""Before anything is prepared or launched: is there such a device, and does the mesh fit it?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from harness.base.errors import BadInput, CannotTrain
from harness.config.case import Case, check
from harness.config.settings import LauncherSettings, Settings
from harness.devices.device import KEY, device, devices
from harness.environments.interpreters import Interpreter
from harness.launchers.registry import devices_of
from harness.models.family import KERNELS


def ready(settings: Settings) -> Settings:
    """The settings, with the mesh of their case scaled to the devices where that is asked for.

    Raises BadInput where this machine has no such device, or the mesh is of another number.
    """
    check_device(settings.launcher)
    if settings.stage:
        _check_traces(settings.launcher)
    _check_kernels(settings)
    _check_saves(settings)
    if not device(settings.launcher.device).xla:
        return without_xla(settings)
    found, case = devices_of(settings.launcher), settings.case
    if found is None or found == case.devices:
        return settings
    if not settings.launcher.scale_mesh:
        raise BadInput(
            f"{mesh_does_not_fit(case.mesh, found)}: write {_way_out(case, found)}, or let it be "
            "scaled along fsdp by launcher.scale_mesh=true (pytest: --parity-scale-mesh)"
        )
    return dataclasses.replace(settings, case=scaled(case, found))


def without_xla(settings: Settings) -> Settings:
    """The settings with the mesh of their case as the one process that there is.

    An fsdp axis changes where a parameter lies and nothing that is computed, so that it becomes 1.
    Raises CannotTrain for a case that needs its mesh, BadInput for what only XLA has.
    """
    case, launcher = settings.case, settings.launcher
    here = f"{KEY}={launcher.device}"
    others = {a: n for a, n in case.mesh.items() if a not in ("data", "fsdp") and n > 1}
    if others or case.slices > 1:
        axes = " × ".join(f"{axis} {size}" for axis, size in case.mesh.items())
        raise CannotTrain(
            f"case.mesh ({axes}) is what case={case.name} is about, but {here} is one process, "
            "with nothing to partition; train it on launcher.device=cpu, or name a case that has "
            "only fsdp"
        )
    only_xla = {
        "graph=hlo": settings.graph == "hlo",
        f"target={settings.target}": bool(settings.targets),
        f"launcher.condition={launcher.condition}": launcher.condition is not None,
        f"launcher={launcher.name}": launcher.name != "local",
    }
    for key, asked in only_xla.items():
        if asked:
            raise BadInput(
                f"{key}: {here} is eager PyTorch on this machine: nothing is compiled, nothing is "
                "lowered by XLA; leave one of the two out"
            )
    mesh = dict.fromkeys(case.mesh, 1)
    return dataclasses.replace(settings, case=dataclasses.replace(case, mesh=mesh))


def check_device(launcher: LauncherSettings) -> None:
    """Raises BadInput where a run on this machine wants a device that it has none of."""
    if launcher.name == "xpk":
        return  # the cluster's
    if (reason := device(launcher.device).missing()) is not None:
        raise BadInput(f"{KEY}={launcher.device}: {reason}")


def _check_saves(settings: Settings) -> None:
    """Raises BadInput where one run's checkpoint would not be there for another to resume from."""
    launcher, save_at = settings.launcher, settings.case.save_at
    if save_at is None:
        return
    elsewhere = f"launcher={launcher.name}" if launcher.name != "local" else ""
    elsewhere = elsewhere or (f"launcher.hosts={launcher.hosts}" if launcher.hosts > 1 else "")
    if elsewhere:
        raise BadInput(
            f"case.save_at={save_at}: what one run saves on this machine another resumes, which "
            f"{elsewhere} does not hand on; train it with launcher=local on one host"
        )


def _check_kernels(settings: Settings) -> None:
    """Raises BadInput where a kernel of a TPU would have to be executed on something else."""
    attention, launcher = settings.case.model.attention, settings.launcher
    if attention in KERNELS and not (settings.stage or device(launcher.device).kernels):
        raise BadInput(
            f"case.model.attention={attention}: {KEY}={launcher.device} executes no kernel of a "
            "TPU; it can be compiled without: stage=true target=v6e:2x2"
        )


def _check_traces(launcher: LauncherSettings) -> None:
    """Raises BadInput where steps are to be traced on a device that they are not traced on."""
    if not device(launcher.device).traces:
        able = " or ".join(f"{KEY}={found.name}" for found in devices() if found.traces)
        raise BadInput(
            f"{KEY}={launcher.device}: stage=true executes nothing, and traces on {able}"
        )


def check_library(launcher: LauncherSettings, interpreter: Interpreter) -> None:
    """Raises BadInput where an interpreter of this machine has not what drives the device."""
    if launcher.name != "local":
        return  # what is in the image
    reason = device(launcher.device).undriven(interpreter.python, interpreter.packages)
    if reason is not None:
        raise BadInput(f"{KEY}={launcher.device}: {reason}")


def mesh_does_not_fit(mesh: Mapping[str, int], found: int, key: str = "case.mesh") -> str:
    """What is wrong with a mesh of another number of devices than a run has."""
    axes = " × ".join(f"{axis} {size}" for axis, size in mesh.items())
    wanted = math.prod(mesh.values())
    return f"{key} ({axes}) is of {wanted} devices, but a run with this launcher has {found}"


def scaled(case: Case, devices: int) -> Case:
    """The case with as much fsdp as makes its mesh one of `devices`. Raises BadInput.

    Where its micro-batches are too small for the mesh, they get one row for each device.
    """
    others = case.devices // case.mesh["fsdp"]
    if devices % others:
        raise BadInput(
            f"{mesh_does_not_fit(case.mesh, devices)}, which its other axes ({others} together) do "
            "not divide: no fsdp would do; choose another case.mesh"
        )
    mesh = {**case.mesh, "fsdp": devices // others}
    rows = mesh["fsdp"] * mesh.get("data", 1)
    batch = rows * case.accumulation if case.micro_batch % rows else case.global_batch
    result = dataclasses.replace(case, mesh=mesh, global_batch=batch)
    check(result)
    return result


def _way_out(case: Case, found: int) -> str:
    others = case.devices // case.mesh["fsdp"]
    return f"case.mesh.fsdp={found // others}" if found % others == 0 else "another case.mesh"
