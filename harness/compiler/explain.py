"""Why two compiled steps differ: the operations that make it, by module of the model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from harness.compiler.compiled import CompiledStep
from harness.compiler.origins import module_path
from harness.compiler.slices import Exchange
from harness.record.graph import Collective

CAUSES_SHOWN = 10
"""Causes that are told."""

PRODUCTS, MOVED = "matrix-product FLOPs", "bytes read and written"
COMMUNICATED, HELD = "bytes of collectives", "HBM"
BETWEEN = "bytes between slices"
MODULES = "compiled modules"
"""What is measured of a step."""

_PATHS = 2
"""Modules of the model that one cause names."""


@dataclass(frozen=True)
class Cause:
    """One difference.

    measure: what it is a part of
    share:   of its side's total
    """

    text: str
    measure: str
    share: float


def explain(
    a_name: str, a: CompiledStep, b_name: str, b: CompiledStep, first: str | None = None
) -> tuple[str, ...]:
    """The causes of the difference, the `CAUSES_SHOWN` largest, the largest first; () if none.

    first: the measure whose causes come before all others
    """
    causes = [
        *_modules(a_name, a, b_name, b),
        *_executed_again(a_name, a, b_name, b),
        *_collectives(a_name, a, b_name, b),
        *_work(a_name, a, b_name, b),
        *_memory(a_name, a, b_name, b),
        *_kernels(a_name, a, b_name, b),
    ]
    causes.sort(key=lambda cause: (cause.measure != first, -cause.share))
    left = len(causes) - CAUSES_SHOWN
    texts = [cause.text for cause in causes[:CAUSES_SHOWN]]
    smaller = (f"and {left} smaller differences",) if left > 0 else ()
    return (*_precisions(a_name, a, b_name, b), *texts, *smaller)


def _precisions(a_name: str, a: CompiledStep, b_name: str, b: CompiledStep) -> tuple[str, ...]:
    """Where one side's products are computed from fewer bits: it explains what else differs."""
    x, y = a.precisions, b.precisions
    if x is None or y is None or _shares(x) == _shares(y):
        return ()
    sides = (
        f"{name}'s ask for "
        + ", ".join(f"precision {kind} ({number})" for kind, number in sorted(asked.items()))
        for name, asked in ((a_name, x), (b_name, y))
    )
    return (f"of the float32 matrix products {'; '.join(sides)}: a TPU computes them otherwise",)


def _shares(asked: Counter[str]) -> dict[str, float]:
    """Of all products, to the hundredth: two engines need not make equally many."""
    return {kind: round(number / asked.total(), 2) for kind, number in asked.items()}


def _modules(a_name: str, a: CompiledStep, b_name: str, b: CompiledStep) -> list[Cause]:
    """Where one side's step is cut into more modules, as by a read of what it has computed."""
    x, y = (sum(module.executions for module in step.modules) for step in (a, b))
    text = f"{a_name} executes {x} compiled modules a step, {b_name} {y}"
    return [Cause(text, MODULES, share=1.0)] if x != y else []


def _executed_again(a_name: str, a: CompiledStep, b_name: str, b: CompiledStep) -> list[Cause]:
    """Matrix products that the compiler, not the trainer, makes more of on one side.

    It executes a product again in each of several fusions where keeping the result costs more.
    """
    traced, extra = a.traced_flops, abs(a.flops - b.flops)
    if not traced or traced != b.traced_flops or not extra:
        return []
    name, step = (a_name, a) if a.flops > b.flops else (b_name, b)
    text = (
        f"both trace the same matrix products ({quantity(traced, 'FLOP')} on all devices): the "
        f"compiler makes {quantity(extra, 'FLOP')} more of {name}'s on each, by executing some "
        "of them again"
    )
    return [Cause(text, PRODUCTS, 1.0)] if step.flops * step.devices > traced else []


def _collectives(a_name: str, a: CompiledStep, b_name: str, b: CompiledStep) -> list[Cause]:
    """Collectives, and exchanges between slices, that one side has more of.

    By kind and shape; paths say where to look for them. Two engines need not call their modules
    alike: a gather of one shape that one side does under another name is no difference.
    """
    within, between = (a.collectives, b.collectives), (a.exchanges or (), b.exchanges or ())
    return [
        *_more_of(a_name, within[0], b_name, within[1], COMMUNICATED, ""),
        *_more_of(a_name, between[0], b_name, between[1], BETWEEN, " between slices"),
    ]


_Communication = Sequence[Collective] | Sequence[Exchange]


def _more_of(
    a_name: str, a: _Communication, b_name: str, b: _Communication, measure: str, where: str
) -> list[Cause]:
    causes = []
    counted = _counted(a), _counted(b)
    sizes = {(c.kind, c.shape): c.bytes for c in (*b, *a)}
    total = max(sum(c.total_bytes for c in side) for side in (a, b)) or 1
    for kind, shape in sorted({*counted[0], *counted[1]}):
        paths = Counter(counted[0].get((kind, shape), {}))
        paths.subtract(counted[1].get((kind, shape), {}))
        more = sum(paths.values())
        if not more:
            continue
        name, sign = (a_name, 1) if more > 0 else (b_name, -1)
        found = [path for path, n in paths.items() if n * sign > 0]
        number, size = abs(more), abs(more) * sizes[kind, shape]
        text = (
            f"{name}: {number} more {kind}{'s' * (number > 1)} of {shape}{where} a step, "
            f"{quantity(size, 'B')}, in {_listed(found)}"
        )
        causes.append(Cause(text, measure, size / total))
    return causes


def _counted(communication: _Communication) -> dict[tuple[str, str], Counter[str]]:
    """How often a step does it by kind and shape, and then by path."""
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for one in communication:
        path = _without_file(module_path(one.op_name)) or "an unnamed operation"
        found[one.kind, one.shape][path] += one.count
    return found


def _work(a_name: str, a: CompiledStep, b_name: str, b: CompiledStep) -> list[Cause]:
    """Work that one side does more of, by module of the model."""
    causes = []
    for measure, unit, field, total in (
        (PRODUCTS, "FLOP", "flops", max(a.flops, b.flops)),
        (MOVED, "B", "bytes", max(a.bytes_accessed, b.bytes_accessed)),
    ):
        of_a, of_b = on_common_paths(
            {path: getattr(work, field) for path, work in a.work.items()},
            {path: getattr(work, field) for path, work in b.work.items()},
        )
        for path in sorted({*of_a, *of_b}):
            more = of_a.get(path, 0) - of_b.get(path, 0)
            if more:
                name = a_name if more > 0 else b_name
                what = "read and written" if unit == "B" else "of matrix products"
                text = f"{name}: {quantity(abs(more), unit)} more {what} a step in {path}"
                causes.append(Cause(text, measure, abs(more) / total))
    return causes


def on_common_paths(a: dict[str, int], b: dict[str, int]) -> tuple[Counter[str], Counter[str]]:
    """Both, with what one side cuts into finer modules added up in the nearest that both have."""
    common = _prefixes(a) & _prefixes(b)
    found: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for side, sums in zip((a, b), found, strict=True):
        for path, number in side.items():
            parts = _without_file(path).split("/")
            ends = range(len(parts), 0, -1)
            nearest = next((p for n in ends if (p := "/".join(parts[:n])) in common), parts[0])
            sums[nearest] += number
    return found


def _prefixes(paths: dict[str, int]) -> set[str]:
    split = [_without_file(path).split("/") for path in paths]
    return {"/".join(parts[:n]) for parts in split for n in range(1, len(parts) + 1)}


def _without_file(path: str) -> str:
    """Newer releases of libtpu do not tell the source file of an operation."""
    return path.partition(" (")[0]


def _memory(a_name: str, a: CompiledStep, b_name: str, b: CompiledStep) -> list[Cause]:
    """What one side holds more of in its largest module."""
    causes = []
    held = [max((m.memory for m in s.modules), key=lambda m: m.peak, default=None) for s in (a, b)]
    x, y = held
    if x is None or y is None:
        return []
    total = max(x.peak, y.peak) or 1
    for what in ("arguments", "outputs", "temporaries", "constants"):
        more = getattr(x, what) - getattr(y, what)
        if more:
            name = a_name if more > 0 else b_name
            text = f"{name}: {quantity(abs(more), 'B')} more HBM for {what}"
            causes.append(Cause(text, HELD, abs(more) / total))
    return causes


def _kernels(a_name: str, a: CompiledStep, b_name: str, b: CompiledStep) -> list[Cause]:
    """Hand-written kernels of which one side executes more."""
    x, y = a.kernels, b.kernels
    return [
        Cause(
            f"kernel {k}: {a_name} {x.get(k, 0)} times a step, {b_name} {y.get(k, 0)}",
            PRODUCTS,
            share=1.0,
        )
        for k in sorted({*x, *y})
        if x.get(k) != y.get(k)
    ]


def _listed(paths: list[str]) -> str:
    more = len(paths) - _PATHS
    return " or ".join(paths[:_PATHS]) + (f" or {more} others" if more > 0 else "")


def quantity(number: float, unit: str) -> str:
    """A number with three digits and a decimal prefix.

    >>> quantity(1_234_567, "B")
    '1.23 MB'
    """
    for prefix in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g} {prefix}{unit}"
        number /= 1000
    return f"{number:,.3g} T{unit}"
