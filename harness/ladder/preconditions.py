"""Rungs that have to hold before training starts: environment, sharding, data, init."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from harness.ladder.comparison import Comparison, by_name, relative_distance, worst
from harness.ladder.verdict import Finding, Result, RungResult
from harness.record import Record, Step

EXACT = "equal or not"

DEVICE_FACTS = {
    "device": "PJRT device",
    "device_kind": "device kind",
    "devices": "number of devices",
    "processes": "number of processes",
}
PACKAGES = ("torch", "torch_xla", "libtpu")


def environment(c: Comparison) -> RungResult:
    """Device kind and count, torch, torch_xla, PJRT and XLA flags."""
    a, b = c.a.observed, c.b.observed
    name_a, name_b = c.names
    if not a.get("device") or not b.get("device"):
        missing = name_a if not a.get("device") else name_b
        return RungResult("environment", Result.INVALID, f"{missing}: no device was observed")
    pairs: list[tuple[str, Any, Any]] = [
        (text, a.get(key), b.get(key)) for key, text in DEVICE_FACTS.items()
    ]
    versions_a, versions_b = a.get("versions", {}), b.get("versions", {})
    pairs += [(name, versions_a.get(name), versions_b.get(name)) for name in PACKAGES]
    flags_a, flags_b = a.get("flags", {}), b.get("flags", {})
    pairs += [(f, flags_a.get(f), flags_b.get(f)) for f in sorted({*flags_a, *flags_b})]
    findings = tuple(
        Finding(f"{text}: {name_a} has {x}, {name_b} has {y}", a=x, b=y)
        for text, x, y in pairs
        if x != y
    )
    return _exact("environment", findings, f"{a['devices']} {a['device_kind']} devices, torch_xla "
                  f"{versions_a.get('torch_xla')}, equal flags")  # fmt: skip


def sharding(c: Comparison) -> RungResult:
    """Mesh, partition, shape and dtype of every parameter, and the input's sharding."""
    name_a, name_b = c.names
    for name, record in ((name_a, c.a), (name_b, c.b)):
        if not record.parameters:
            return RungResult("sharding", Result.INVALID, f"{name}: no parameter was observed")
    findings = []
    mesh_a, mesh_b = _mesh(c.a), _mesh(c.b)
    if mesh_a != mesh_b:
        findings.append(
            Finding(f"mesh: {name_a} has {_show_mesh(mesh_a)}, {name_b} {_show_mesh(mesh_b)}",
                    a=mesh_a, b=mesh_b)
        )  # fmt: skip
    input_a, input_b = c.a.observed.get("input_sharding"), c.b.observed.get("input_sharding")
    if input_a != input_b:
        findings.append(
            Finding(f"input tokens: {name_a} shards them {input_a or 'not at all'}, {name_b} "
                    f"{input_b or 'not at all'}", a=input_a, b=input_b)
        )  # fmt: skip
    left, right = by_name(c.a), by_name(c.b)
    for name in left.keys() ^ right.keys():
        has, lacks = (name_a, name_b) if name in left else (name_b, name_a)
        findings.append(Finding(f"{name}: {has} has this parameter, {lacks} does not", None, name))
    for name in left.keys() & right.keys():
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


def _mesh(record: Record) -> dict[str, Any] | None:
    """Axes of more than one device, and the order of devices: axes of one change nothing."""
    mesh = record.observed.get("mesh")
    if mesh is None:
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
    for name, record in ((name_a, c.a), (name_b, c.b)):
        if not any(step.batches for step in record.steps):
            return RungResult("data", Result.INVALID, f"{name}: no batch was observed")
    findings = [
        finding
        for x, y in zip(c.a.steps, c.b.steps, strict=False)
        if (finding := _compare_batches(x, y, name_a, name_b)) is not None
    ]
    findings += [
        Finding(f"step {step.index}: only {name} has it", step.index)
        for name, longer, shorter in ((name_a, c.a, c.b), (name_b, c.b, c.a))
        for step in longer.steps[len(shorter.steps) :]
    ]
    if not findings:
        count = sum(len(step.batches) for step in c.a.steps)
        return _exact("data", (), f"{count} batches with equal tokens, labels and masks")
    return _exact("data", (_overview(c), *findings), "")


def _compare_batches(x: Step, y: Step, name_a: str, name_b: str) -> Finding | None:
    step = x.index
    if len(x.batches) != len(y.batches):
        return Finding(
            f"step {step}: {name_a} consumed {len(x.batches)} micro-batches, {name_b} "
            f"{len(y.batches)}", step, None, len(x.batches), len(y.batches),
        )  # fmt: skip
    if not x.batches:
        return Finding(f"step {step}: no batch was observed in either run", step)
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


def _overview(c: Comparison) -> Finding:
    """What kind of difference it is, over the whole run."""
    name_a, name_b = c.names
    batches_a = [b.tokens for step in c.a.steps for b in step.batches]
    batches_b = [b.tokens for step in c.b.steps for b in step.batches]
    rows_a = Counter(row for step in c.a.steps for b in step.batches for row in b.rows)
    rows_b = Counter(row for step in c.b.steps for b in step.batches for row in b.rows)
    for lag in (1, -1):
        x, y = (
            (batches_a[lag:], batches_b[:-lag]) if lag > 0 else (batches_a[:lag], batches_b[-lag:])
        )
        if x and x == y:
            late, early = (name_b, name_a) if lag > 0 else (name_a, name_b)
            return Finding(f"{late}'s batches lag one step behind {early}'s")
    if Counter(batches_a) == Counter(batches_b):
        moved = [i for i, (x, y) in enumerate(zip(batches_a, batches_b, strict=True)) if x != y]
        if not moved:
            return Finding("equal tokens in equal order, but labels, masks or shapes differ")
        return Finding(f"the same batches in another order (micro-steps {_some(moved)} differ)")
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
        # Sketches may round to equal values where single bits differ.
        distances[name] = distance if x.bits == y.bits else max(distance, 1e-12)
        if x.bits != y.bits:
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
    findings.sort(key=lambda f: -_order(distances[str(f.parameter)]))
    drawn = sum(d > 0.5 for d in distances.values())
    text = f"{len(findings)} of {len(left)} parameters start from other values; most: {name}, "
    text += f"relative distance {value:.2g}"
    if drawn:
        text += f"; {drawn} are unrelated draws"
    return RungResult("init", Result.FAIL, text, value, 0.0, EXACT, "", tuple(findings))


def _order(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _exact(rung: str, findings: tuple[Finding, ...], passed: str) -> RungResult:
    """A rung that is an identity: any finding fails it."""
    if findings:
        text = findings[0].text
        more = len(findings) - 1
        text += f" (and {more} more)" if more else ""
        return RungResult(rung, Result.FAIL, text, len(findings), 0, EXACT, "", findings)
    return RungResult(rung, Result.PASS, passed, 0, 0, EXACT, "any difference")
