"""The rung of sharding."""

from __future__ import annotations

from typing import Any

from harness.config.case import Case
from harness.devices.device import computes_by_xla
from harness.ladder import against_case
from harness.ladder.comparison import Comparison
from harness.ladder.distances import by_name
from harness.ladder.result import Finding, RungResult
from harness.ladder.rung import Rung
from harness.record.evidence import Record


def sharding(c: Comparison) -> RungResult:
    """Mesh, partition, shape and dtype of every parameter, and the input's sharding.

    Both runs against each other, and each against its case: two runs that are both partitioned
    otherwise are not what the first line of the verdict says.
    """
    name_a, name_b = c.names
    for name, record in ((name_a, c.a), (name_b, c.b)):
        if not record.parameters:
            return RungResult.invalid("sharding", f"{name}: no parameter was observed")
        if _mesh(record) is None and not _in_one_process(c):
            return RungResult.invalid("sharding", f"{name}: no mesh was observed")
        if record.observed.input_sharding is None:
            text = f"{name}: the sharding of the input tokens was not observed"
            return RungResult.invalid("sharding", text)
    findings = c.of_each(_against_case)
    mesh_a, mesh_b = _mesh(c.a), _mesh(c.b)
    if _of_two_meshes(c):
        findings += c.of_each(_parameters_against_case)
        text = f"{len(c.a.parameters)} parameters, {name_a}'s on {_show_mesh(mesh_a)} and "
        text += f"{name_b}'s on {_show_mesh(mesh_b)}, as asked of each"
        return RungResult.identity("sharding", tuple(findings), text)
    if mesh_a != mesh_b:
        findings.append(
            Finding(f"mesh: {name_a} has {_show_mesh(mesh_a)}, {name_b} {_show_mesh(mesh_b)}",
                    a=mesh_a, b=mesh_b)
        )  # fmt: skip
    input_a, input_b = c.a.observed.input_sharding, c.b.observed.input_sharding
    if input_a != input_b:
        findings.append(
            Finding(f"input tokens: {name_a} shards them {input_a or 'not at all'}, {name_b} "
                    f"{input_b or 'not at all'}", a=input_a, b=input_b)
        )  # fmt: skip
    left, right = by_name(c.a), by_name(c.b)
    for name in sorted(left.keys() ^ right.keys()):
        has, lacks = (name_a, name_b) if name in left else (name_b, name_a)
        findings.append(Finding(f"{name}: {has} has this parameter, {lacks} does not", None, name))
    for name in (name for name in left if name in right):
        for what in ("shape", "dtype", "sharding"):
            x, y = getattr(left[name], what), getattr(right[name], what)
            if x != y:
                findings.append(
                    Finding(f"{name}: {what} is {x or 'none'} in {name_a}, {y or 'none'} in "
                            f"{name_b}", None, name, x, y)
                )  # fmt: skip
    if not findings:  # alike: then what is left to be asked is whether both are as their case says
        findings = c.of_each(_parameters_against_case)
    if not findings and _in_one_process(c):
        text = f"{len(left)} parameters have equal shape and dtype; without XLA there is one "
        return RungResult.not_exercised("sharding", f"{text}process, and nothing is partitioned")
    return RungResult.identity(
        "sharding",
        tuple(findings),
        f"{len(left)} parameters with equal shape, dtype and partition on {_show_mesh(mesh_a)}",
    )


def _of_two_meshes(c: Comparison) -> bool:
    """Whether the cases ask for one training on two meshes, or by two tables."""
    a, b = c.a.case, c.b.case
    if not (c.configurations and isinstance(a, Case) and isinstance(b, Case)):
        return False
    return (a.mesh, a.dcn, a.sharding) != (b.mesh, b.dcn, b.sharding)


def _in_one_process(c: Comparison) -> bool:
    """Whether both runs had nothing to partition."""
    return not any(computes_by_xla(record.observed) for record in (c.a, c.b))


def _against_case(record: Record) -> list[Finding]:
    """Where a run's mesh or dtype is not the one that its case asks for."""
    name, case, mesh = record.label, record.case, _mesh(record)
    findings = []
    # `parity train` on a TPU does not know the mesh that its trainer will make.
    expected = {axis: size for axis, size in (case.mesh or {}).items() if size > 1}
    if mesh is not None and case.mesh is not None and mesh["axes"] != expected:
        shown = _show_mesh({**mesh, "axes": expected})
        text = f"{name} trains on {_show_mesh(mesh)}, but the case asks for {shown}"
        findings.append(Finding(text, a=mesh["axes"], b=expected, kind="mesh"))
    others = [p for p in record.parameters if p.dtype != case.dtype]
    if others:
        first = others[0]
        text = f"{len(others)} parameters of {name} are not {case.dtype}, as the case asks: "
        text += f"{first.name} is {first.dtype}"
        findings.append(Finding(text, None, first.name, first.dtype, case.dtype, kind="dtype"))
    return findings


def _parameters_against_case(record: Record) -> list[Finding]:
    """Where a run's parameters are not those of its case, or else how they lie on its mesh."""
    return against_case.parameters(record) or against_case.partition(record)


def _mesh(record: Record) -> dict[str, Any] | None:
    """Axes of more than one device, and the order of devices: axes of one change nothing."""
    mesh = record.observed.mesh
    if mesh is None or not mesh.axes or not mesh.device_order:
        return None
    axes = {axis: size for axis, size in mesh.axes.items() if size > 1}
    return {"axes": axes, "device_order": list(mesh.device_order)}


def _show_mesh(mesh: dict[str, Any] | None) -> str:
    if mesh is None:
        return "no mesh"
    axes = " × ".join(f"{axis} {size}" for axis, size in mesh["axes"].items()) or "one device"
    order = mesh["device_order"]
    return f"the mesh {axes}" + ("" if order == sorted(order) else f" in the order {order}")


RUNG = Rung(
    name="sharding",
    what="mesh, partition, shape and dtype of every parameter, input sharding",
    judge=sharding,
)
