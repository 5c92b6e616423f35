"""The differences between two compiled steps, in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from harness.compiler.origins import module_path
from harness.record.graph import Collective, ModuleGraph

_SHOWN = 3
# They connect instructions and do no work of their own.
_PLUMBING = {"bitcast", "constant", "get-tuple-element", "parameter", "tuple"}
# Shape and dtype of a collective's output
_Output = tuple[str, str]


@dataclass(frozen=True)
class _Group:
    """Collectives that a person would call the same: alike in all layers."""

    kind: str
    shape: str
    dtype: str
    path: str

    @classmethod
    def of(cls, collective: Collective) -> _Group:
        return cls(
            collective.kind, collective.shape, collective.dtype, module_path(collective.op_name)
        )


def describe_difference(a_name: str, a: ModuleGraph, b_name: str, b: ModuleGraph) -> list[str]:
    """One sentence for each thing that differs, the largest matters first; [] if nothing does.

    Percentages are of the other side's total. Collectives are matched by kind, shape, dtype and
    the path of the module they belong to, with layers taken together; what is left over by kind,
    shape and dtype alone, since two engines need not name their modules alike. So what is listed
    as an excess is an excess, and the path says where to look for it.
    """
    lines = []
    for kind in sorted({c.kind for c in (*a.collectives, *b.collectives)}):
        lines += _collective_lines(kind, a_name, a, b_name, b)
    quantities = [
        ("matrix-product FLOPs a step", a.flops, b.flops),
        ("peak memory", a.peak_memory_bytes, b.peak_memory_bytes),
        ("bytes of weights, state and other arguments", a.parameters_bytes, b.parameters_bytes),
    ]
    for what, of_a, of_b in quantities:
        lines += _quantity_line(what, a_name, of_a, b_name, of_b)
    counts = [
        ("blocks recomputed at the trainer's request (optimization barriers)", a.remat, b.remat),
        ("instructions recomputed by XLA to save memory", a.xla_remat, b.xla_remat),
        ("loops of unknown length, counted once", a.unbounded_loops, b.unbounded_loops),
    ]
    for what, of_a, of_b in counts:
        if of_a != of_b:
            lines.append(f"{what}: {a_name} {_known(of_a)}, {b_name} {_known(of_b)}")
    lines += _count_lines("custom calls", a_name, a.custom_calls, b_name, b.custom_calls)
    lines += _count_lines("other instructions", a_name, _local(a), b_name, _local(b))
    if not lines and a.fingerprint != b.fingerprint:
        lines.append(
            f"{a_name} and {b_name} do the same number of everything, but their graphs are not the "
            "same: other shapes, layouts, order or connections"
        )
    return lines


def _collective_lines(
    kind: str, a_name: str, a: ModuleGraph, b_name: str, b: ModuleGraph
) -> list[str]:
    bytes_a, bytes_b = (
        sum(c.total_bytes for c in module.collectives if c.kind == kind) for module in (a, b)
    )
    excess = _excess(kind, a, b), _excess(kind, b, a)
    lines = []
    for (name, groups), other in zip(
        ((a_name, excess[0]), (b_name, excess[1])), (b_name, a_name), strict=True
    ):
        n = sum(count for count, _ in groups.values())
        if not n:
            continue
        noun = kind if n == 1 else f"{kind}s"
        if all(any(side.values()) for side in excess):
            what = f"{n} {noun} a step that {other} does not do"
        else:
            mine, theirs = (bytes_a, bytes_b) if name == a_name else (bytes_b, bytes_a)
            share = f"{_change(theirs, mine)} bytes" if theirs else f"{other} does none"
            what = f"{n} more {noun} a step ({share})"
        lines.append(f"{name}: {what}, from {_sources(groups)}")
    if len(lines) == 2:
        share = "the same" if bytes_a == bytes_b else _change(bytes_a, bytes_b)
        lines.append(f"{b_name}: {share} bytes in all {kind}s of a step")
    return lines


def _excess(kind: str, of: ModuleGraph, over: ModuleGraph) -> dict[_Output, tuple[int, list[str]]]:
    """By output: how many more `of` does than `over`, and the paths that they may come from"""
    mine, theirs = _groups(kind, of), _groups(kind, over)
    surplus = Counter(mine)
    surplus.subtract(theirs)
    result = {}
    for output in dict.fromkeys((group.shape, group.dtype) for group in mine):
        balance = {g: n for g, n in surplus.items() if (g.shape, g.dtype) == output}
        if (n := sum(balance.values())) > 0:
            result[output] = n, [group.path for group, count in balance.items() if count > 0]
    return result


def _groups(kind: str, module: ModuleGraph) -> Counter[_Group]:
    groups: Counter[_Group] = Counter()
    for collective in module.collectives:
        if collective.kind == kind:
            groups[_Group.of(collective)] += collective.count
    return groups


def _sources(groups: Mapping[_Output, tuple[int, list[str]]]) -> str:
    texts = []
    for (shape, _), (n, paths) in groups.items():
        names = [path.split("/")[-1] or "an unnamed operation" for path in paths]
        where = " or ".join(dict.fromkeys(names[:_SHOWN])) + (" or others" * (len(names) > _SHOWN))
        texts.append(f"{where} ({shape}{f', {n} times' if n > 1 else ''})")
    left = len(texts) - _SHOWN
    return "; ".join(texts[:_SHOWN]) + (f"; and {left} more" if left > 0 else "")


def _local(module: ModuleGraph) -> dict[str, int]:
    """Instructions that do work on one device and are told nowhere else"""
    listed = {c.kind for c in module.collectives} | _PLUMBING | {"custom-call"}
    return {
        opcode: n
        for opcode, n in module.opcodes.items()
        if re.sub("-(start|done)$", "", opcode) not in listed
    }


def _count_lines(
    what: str, a_name: str, a: Mapping[str, int], b_name: str, b: Mapping[str, int]
) -> list[str]:
    differ = [key for key in sorted({*a, *b}) if a.get(key, 0) != b.get(key, 0)]
    if not differ:
        return []
    differ.sort(key=lambda key: -abs(a.get(key, 0) - b.get(key, 0)))
    texts = [f"{key} {a.get(key, 0)} → {b.get(key, 0)}" for key in differ[: 2 * _SHOWN]]
    left = len(differ) - len(texts)
    more = f" and {left} more" if left else ""
    return [f"{what}, {a_name} → {b_name}: {', '.join(texts)}{more}"]


def _quantity_line(what: str, a_name: str, a: int | None, b_name: str, b: int | None) -> list[str]:
    if a == b:
        return []
    if a is None or b is None or a == 0:
        return [f"{what}: {a_name} {_known(a)}, {b_name} {_known(b)}"]
    return [f"{b_name}: {_change(a, b)} {what} ({b:,} against {a:,})"]


def _known(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _change(base: int, value: int) -> str:
    """Such as "+18 %". A difference is never rounded to none."""
    percent = 100 * (value - base) / base
    if 0 < abs(percent) < 0.1:
        return "+<0.1 %" if percent > 0 else "-<0.1 %"
    return f"{percent:+,.{0 if abs(percent) >= 10 else 1}f} %"
