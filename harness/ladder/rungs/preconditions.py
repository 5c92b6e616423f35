"""Rungs that have to hold before training starts: environment, sharding, data, init."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from harness.config.case import ALIGNED
from harness.ladder.comparison import (
    Comparison,
    by_name,
    exceeds,
    nan_last,
    relative_distance,
    worst,
)
from harness.ladder.verdict import Finding, Result, RungResult
from harness.record.files import Record, Step
from harness.record.hosts import host_findings

EXACT = "equal or not"

DEVICE_FACTS = {
    "device": "PJRT device",
    "device_kind": "device kind",
    "devices": "number of devices",
    "processes": "number of processes",
}
VERSIONS = ("torch", "torch_xla")
"""Packages that every run has, and without whose versions nothing is known of it."""

COLLISION = 1e-3
"""Tensors with equal bits are taken for equal, unless their sketches are further apart than sums
in another order can be."""


def environment(c: Comparison) -> RungResult:
    """Device kind and count, torch, torch_xla, PJRT and XLA flags; and that a run's hosts agree."""
    for name, record in zip(c.names, (c.a, c.b), strict=True):
        unknown = _unobserved(record)
        if unknown is not None:
            return RungResult("environment", Result.INVALID, f"{name}: no {unknown} was observed")
    a, b = c.a.observed, c.b.observed
    name_a, name_b = c.names
    pairs: list[tuple[str, Any, Any]] = [
        (text, a[key], b[key]) for key, text in DEVICE_FACTS.items()
    ]
    for what, names in (("versions", (*VERSIONS, "libtpu")), ("flags", {*a["flags"], *b["flags"]})):
        pairs += [(name, a[what].get(name), b[what].get(name)) for name in sorted(names)]
    hosts = tuple(
        Finding(f"{name}: {text}")
        for name, record in zip(c.names, (c.a, c.b), strict=True)
        for text in host_findings(record)
    )
    findings = (
        _other_attention(c)
        + hosts
        + tuple(
            Finding(f"{text}: {name_a} has {x}, {name_b} has {y}", a=x, b=y)
            for text, x, y in pairs
            if x != y
        )
    )
    return _exact("environment", findings, f"{a['devices']} {a['device_kind']} devices, torch_xla "
                  f"{a['versions']['torch_xla']}, equal flags")  # fmt: skip


def _other_attention(c: Comparison) -> tuple[Finding, ...]:
    """A run of an aligned case that does not attend in the way that the case asks for."""
    findings = []
    for name, record in zip(c.names, (c.a, c.b), strict=True):
        asked, found = _asked_attention(record), record.observed.get("attention")
        if asked is not None and found is not None and found != asked:
            text = f"attention of {name} is {found}, but the case asks for {asked}"
            findings.append(Finding(text, a=found, b=asked))
    return tuple(findings)


def _unobserved(record: Record) -> str | None:
    """The first thing about a process that is not known: unknown and unknown are not equal."""
    observed = record.observed
    for key, text in DEVICE_FACTS.items():
        if not observed.get(key):
            return text
    for package in VERSIONS:
        if not observed.get("versions", {}).get(package):
            return f"version of {package}"
    if not observed.get("flags"):
        return "flag"
    # The models of the other engines have one way to attend, and no name for it.
    named = record.manifest["engine"] == "hf" and _asked_attention(record) is not None
    return "attention implementation" if named and not observed.get("attention") else None


def _asked_attention(record: Record) -> str | None:
    """The attention implementation that an aligned case asks for."""
    case = record.manifest["case"]
    asked = case["model"].get("attention") if case["kind"] == ALIGNED else None
    return None if asked is None else str(asked)


def sharding(c: Comparison) -> RungResult:
    """Mesh, partition, shape and dtype of every parameter, and the input's sharding.

    Both runs against each other, and mesh and dtype against the case: two runs that both train
    something else are not what the first line of the verdict says.
    """
    name_a, name_b = c.names
    findings = []
    for name, record in ((name_a, c.a), (name_b, c.b)):
        if not record.parameters:
            return RungResult("sharding", Result.INVALID, f"{name}: no parameter was observed")
        if _mesh(record) is None:
            return RungResult("sharding", Result.INVALID, f"{name}: no mesh was observed")
        if record.observed.get("input_sharding") is None:
            text = f"{name}: the sharding of the input tokens was not observed"
            return RungResult("sharding", Result.INVALID, text)
        findings += _against_case(name, record)
    mesh_a, mesh_b = _mesh(c.a), _mesh(c.b)
    if mesh_a != mesh_b:
        findings.append(
            Finding(f"mesh: {name_a} has {_show_mesh(mesh_a)}, {name_b} {_show_mesh(mesh_b)}",
                    a=mesh_a, b=mesh_b)
        )  # fmt: skip
    input_a, input_b = c.a.observed["input_sharding"], c.b.observed["input_sharding"]
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
    return _exact(
        "sharding",
        tuple(findings),
        f"{len(left)} parameters with equal shape, dtype and partition on {_show_mesh(mesh_a)}",
    )


def _against_case(name: str, record: Record) -> list[Finding]:
    """Where a run's mesh or dtype is not the one that its case asks for."""
    case, mesh = record.manifest["case"], _mesh(record)
    findings = []
    # `parity train` on a TPU does not know the mesh that its trainer will make.
    asked = {axis: size for axis, size in (case["mesh"] or {}).items() if size > 1}
    if mesh is not None and case["mesh"] is not None and mesh["axes"] != asked:
        shown = _show_mesh({**mesh, "axes": asked})
        text = f"{name} trains on {_show_mesh(mesh)}, but the case asks for {shown}"
        findings.append(Finding(text, a=mesh["axes"], b=asked))
    others = [p for p in record.parameters if p.dtype != case["dtype"]]
    if others:
        text = f"{len(others)} parameters of {name} are not {case['dtype']}, as the case asks: "
        text += f"{others[0].name} is {others[0].dtype}"
        findings.append(Finding(text, None, others[0].name, others[0].dtype, case["dtype"]))
    return findings


def _mesh(record: Record) -> dict[str, Any] | None:
    """Axes of more than one device, and the order of devices: axes of one change nothing."""
    mesh = record.observed.get("mesh") or {}
    if not mesh.get("axes") or not mesh.get("device_order"):
        return None
    axes = {axis: size for axis, size in mesh["axes"].items() if size > 1}
    return {"axes": axes, "device_order": mesh["device_order"]}


def _show_mesh(mesh: dict[str, Any] | None) -> str:
    if mesh is None:
        return "no mesh"
    axes = " × ".join(f"{axis} {size}" for axis, size in mesh["axes"].items()) or "one device"
    order = mesh["device_order"]
    return f"the mesh {axes}" + ("" if order == sorted(order) else f" in the order {order}")


def data(c: Comparison) -> RungResult:
    """Tokens, labels and masks of every batch, in the same order."""
    name_a, name_b = c.names
    finished = [
        {step.index: step for step in record.steps if step.finished} for record in (c.a, c.b)
    ]
    for name, steps in zip(c.names, finished, strict=True):
        if not any(step.batches for step in steps.values()):
            return RungResult("data", Result.INVALID, f"{name}: no batch was observed")
    left, right = finished
    common = [(left[index], right[index]) for index in sorted(left.keys() & right.keys())]
    for pair in common:
        for name, step in zip(c.names, pair, strict=True):
            if unknown := _unobserved_batches(name, step):
                return RungResult("data", Result.INVALID, unknown)
    findings = [
        finding
        for x, y in common
        if (finding := _compare_batches(x, y, name_a, name_b)) is not None
    ]
    if findings:
        findings.insert(0, _overview(c, *zip(*common, strict=True)))
    for name, record in zip(c.names, (c.a, c.b), strict=True):
        findings += _other_batches_than_asked(name, record)
    for name, record in zip(c.names, (c.a, c.b), strict=True):
        if missing := record.missing_steps:
            asked = record.asked_steps
            text = f"{name} trained {asked - len(missing)} of {asked} steps, not step {missing[0]}"
            findings.append(Finding(text, missing[0]))
    for index in sorted(left.keys() ^ right.keys()):
        has, lacks = (name_a, name_b) if index in left else (name_b, name_a)
        findings.append(Finding(f"step {index}: {has} has it, {lacks} does not", index))
    count = sum(len(step.batches) for step in left.values())
    return _exact("data", tuple(findings), f"{count} batches with equal tokens, labels and masks")


def _unobserved_batches(name: str, step: Step) -> str | None:
    """What is not known of a step's batches: unknown and unknown are not equal."""
    if not step.batches or len(step.batches) != len(step.micro_losses):
        return (
            f"step {step.index}: {len(step.batches)} of {name}'s {len(step.micro_losses)} "
            "micro-batches were observed"
        )
    if not all(batch.tokens and batch.labels for batch in step.batches):
        return f"step {step.index}: tokens or labels of {name} were not observed"
    return None


def _other_batches_than_asked(name: str, record: Record) -> list[Finding]:
    """Where a run of an aligned case was served in other portions than the case asks for.

    Two runs that both train on half a batch agree, on something else than their name says.
    """
    case = record.manifest["case"]
    if case["kind"] != ALIGNED:
        return []
    micro, length = case["global_batch"] // case["accumulation"], case["data"]["sequence_length"]
    asked = [[micro, length]] * case["accumulation"]
    for step in record.steps:
        shapes = [list(batch.shape) for batch in step.batches]
        if step.finished and shapes != asked:
            text = f"step {step.index}: {name} was served {shapes}, but the case asks for {asked}"
            return [Finding(text, step.index, None, shapes, asked)]
    return []


def _compare_batches(x: Step, y: Step, name_a: str, name_b: str) -> Finding | None:
    step = x.index
    if len(x.batches) != len(y.batches):
        return Finding(
            f"step {step}: {name_a} consumed {len(x.batches)} micro-batches, {name_b} "
            f"{len(y.batches)}", step, None, len(x.batches), len(y.batches),
        )  # fmt: skip
    for i, (p, q) in enumerate(zip(x.batches, y.batches, strict=True)):
        where = f"step {step}" + (f", micro-batch {i}" if len(x.batches) > 1 else "")
        if p.shape != q.shape:
            text = f"{where}: {name_a} has a batch of {list(p.shape)}, {name_b} of {list(q.shape)}"
            return Finding(text, step, None, list(p.shape), list(q.shape))
        if p.tokens != q.tokens and Counter(p.rows) == Counter(q.rows):
            text = f"{where}: the same rows in another order within the batch"
            return Finding(text, step, None, list(p.rows), list(q.rows))
        if p.tokens != q.tokens:
            return Finding(f"{where}: other tokens", step, None, p.tokens, q.tokens)
        if p.labels != q.labels:
            text = f"{where}: equal tokens, but other labels ({p.targets} and {q.targets} count)"
            return Finding(text, step, None, p.targets, q.targets)
        if p.mask != q.mask:
            return Finding(f"{where}: another attention mask", step, None, p.mask, q.mask)
    return None


def _overview(c: Comparison, left: Sequence[Step], right: Sequence[Step]) -> Finding:
    """What kind of difference it is, over all steps that both runs have."""
    batches_a, batches_b = ([b.tokens for s in steps for b in s.batches] for steps in (left, right))
    if batches_a == batches_b:
        return Finding("equal tokens in equal order, but labels, masks or shapes differ")
    for late, early, x, y in (
        (*c.names, batches_a, batches_b),
        (*c.names[::-1], batches_b, batches_a),
    ):
        if len(x) > 3 and len(x) == len(y) and x[1:] == y[:-1]:
            return Finding(f"{late}'s batches lag one step behind {early}'s")
    if Counter(batches_a) == Counter(batches_b):
        moved = [i for i, (x, y) in enumerate(zip(batches_a, batches_b, strict=True)) if x != y]
        return Finding(f"the same batches in another order (micro-steps {_some(moved)} differ)")
    in_order = [
        [row for s in steps for b in s.batches for row in b.rows] for steps in (left, right)
    ]
    if in_order[0] == in_order[1]:
        return Finding("the same rows in the same order, cut into other micro-batches")
    rows_a, rows_b = map(Counter, in_order)
    if rows_a == rows_b:
        return Finding("the same rows over the whole run, in another order")
    common = sum((rows_a & rows_b).values())
    total = max(sum(rows_a.values()), sum(rows_b.values()))
    return Finding(f"{common} of {total} rows are in both runs: another text, cut or order of data")


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:6])) + (" …" if len(numbers) > 6 else "")


def init(c: Comparison) -> RungResult:
    """The value of every parameter before the first step, bit by bit."""
    name_a, name_b = c.names
    left, right = by_name(c.a), by_name(c.b)
    if not left or not right or left.keys() != right.keys():
        return RungResult("init", Result.INVALID, "the runs do not have the same parameters")
    distances, findings = {}, []
    for name in left:
        x, y = left[name].initial, right[name].initial
        if x is None or y is None:
            missing = name_a if x is None else name_b
            return RungResult("init", Result.INVALID, f"{missing}: {name} was not observed")
        if not (math.isfinite(x.norm) and math.isfinite(y.norm)):
            findings.append(Finding(f"{name}: not finite", None, name, x.norm, y.norm))
            distances[name] = math.nan
            continue
        distance = relative_distance(x, y)
        # Sketches may round to equal values where single bits differ, and bits may collide.
        distances[name] = distance if x.bits == y.bits else max(distance, 1e-12)
        if x.bits != y.bits or exceeds(distance, COLLISION):
            findings.append(
                Finding(
                    f"{name}: relative distance {distance:.2g} (norms {x.norm:.6g} and "
                    f"{y.norm:.6g})", None, name, x.norm, y.norm,
                )
            )  # fmt: skip
    if not findings:
        return RungResult(
            "init", Result.PASS, f"{len(left)} parameters are bitwise equal", 0.0, 0.0, EXACT,
            "one bit of one weight",
        )  # fmt: skip
    name, value = worst(distances)
    findings.sort(key=lambda f: -nan_last(distances[str(f.parameter)]))
    drawn = sum(d > 0.5 for d in distances.values())
    text = f"{len(findings)} of {len(left)} parameters start from other values; most: {name}, "
    text += f"relative distance {value:.2g}"
    if drawn:
        text += f"; {drawn} are unrelated draws"
    return RungResult("init", Result.FAIL, text, value, 0.0, EXACT, "", tuple(findings))


def _exact(rung: str, findings: tuple[Finding, ...], passed: str) -> RungResult:
    """A rung that is an identity: any finding fails it."""
    if findings:
        text = findings[0].text
        more = len(findings) - 1
        text += f" (and {more} more)" if more else ""
        return RungResult(rung, Result.FAIL, text, len(findings), 0, EXACT, "", findings)
    return RungResult(rung, Result.PASS, passed, 0, 0, EXACT, "any difference")
