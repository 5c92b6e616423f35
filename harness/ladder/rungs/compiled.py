"""The compiled rung: the step as the TPU's own compiler makes it for a slice that need not be
there.

Two versions of one engine ought to compile to the same step: there everything is exact. Two engines
may compile differently and still be at parity, within the tolerances of the graph rung.
"""

from __future__ import annotations

import re

from harness.compiler.compiled import NOT_WAITED_FOR, CompiledStep
from harness.compiler.explain import (
    BETWEEN,
    COMMUNICATED,
    HELD,
    MOVED,
    PRODUCTS,
    explain,
    quantity,
)
from harness.devices.tpu import chip
from harness.ladder.comparison import Comparison
from harness.ladder.compiled_step import BYTES, FIXED, FLOPS, IDENTICAL
from harness.ladder.distances import relative_difference
from harness.ladder.result import Finding, Limit, Result, RungResult
from harness.ladder.rung import Rung

NAME = "compiled"

CompiledPair = tuple[CompiledStep, CompiledStep]


def compiled(c: Comparison) -> RungResult:
    """Every target: both compile, fit, and do the same work. The worst of them is the result."""
    if not c.compiled:
        text = "no target was named (target=v6e:2x2 compiles both steps for such a slice)"
        return RungResult.not_exercised(NAME, text)
    one_engine = c.a.engine == c.b.engine
    results = [judge_pair(c.names, pair, one_engine) for pair in c.compiled]
    for worst in (Result.FAIL, Result.INVALID, Result.INCONCLUSIVE):
        found = [result for result in results if result.result is worst]
        if found:
            return found[0]
    furthest = max(results, key=lambda result: (result.value or 0.0) / (result.limit or 1))
    return RungResult.passed(
        NAME, "; ".join(result.explanation for result in results), furthest.value,
        Limit(furthest.limit or 0, furthest.limit_source), detects=furthest.detects,
        findings=tuple(finding for result in results for finding in result.findings),
    )  # fmt: skip


def judge_pair(names: tuple[str, str], pair: CompiledPair, one_engine: bool) -> RungResult:
    """One target, by two compiled steps alone.

    one_engine: whether both are versions of one engine, which ought to compile to one step
    """
    a, b = pair
    if wrong := incomparable(names, pair):
        return RungResult.invalid(NAME, wrong)
    where = f"for {a.target} with libtpu {a.libtpu}"
    failed = [(name, step) for name, step in zip(names, pair, strict=True) if step.error]
    if failed:
        findings = tuple(Finding(does_not_compile(name, step)) for name, step in failed)
        also = "" if len(failed) == 2 else f"; {names[failed[0][0] == names[0]]} does"
        text = f"{findings[0].text.splitlines()[0]}{also}"
        return RungResult.failed(NAME, text, len(failed), Limit(0, "both compile"), findings)
    sizes = [does_not_fit(name, step) for name, step in zip(names, pair, strict=True)]
    too_large = [text for text in sizes if text is not None]
    if too_large:
        findings = tuple(map(Finding, too_large))
        return RungResult.failed(NAME, too_large[0], len(findings), Limit(0, "both fit"), findings)
    if one_engine and a.fingerprint == b.fingerprint:
        text = f"{where} the steps are identical ({_shown(a)})"
        return RungResult.passed(
            NAME, text, 0, IDENTICAL, detects=f"any other instruction{_scope(pair)}"
        )
    if one_engine:
        causes = (*_other_flags(names, pair), *explain(names[0], a, names[1], b))
        findings = tuple(map(Finding, causes))
        first = causes[0] if causes else "the same work in another order or layout"
        return RungResult.failed(
            NAME, f"{where} the steps differ: {first}", len(causes) or 1, IDENTICAL, findings
        )
    return _alike(names, pair, where)


def judge_compilers(names: tuple[str, str], pair: CompiledPair) -> RungResult:
    """One step by two compilers: the second has to compile it, and to make as good a step of it.

    Where the first does not compile it either, nothing can be said of the second.
    """
    a, b = pair
    if wrong := incomparable(names, pair, one_compiler=False):
        return RungResult.invalid(NAME, wrong)
    if a.error and b.error:
        text = f"neither compiles: {does_not_compile(names[0], a).splitlines()[0]}"
        return RungResult.invalid(NAME, text, tuple(map(Finding, (a.error, b.error))))
    if a.error:
        text = f"{names[1]} compiles the step for {b.target}, {names[0]} does not: {a.error}"
        return RungResult.passed(
            NAME, text.splitlines()[0], 0, Limit(0, "the second compiles"), detects="an error"
        )
    if b.error:
        found = Finding(does_not_compile(names[1], b))
        text = f"{found.text.splitlines()[0]}; {names[0]} does"
        return RungResult.failed(NAME, text, 1, Limit(0, "the second compiles"), (found,))
    if too_large := does_not_fit(names[1], b):
        return RungResult.failed(NAME, too_large, 1, Limit(0, "it fits"), (Finding(too_large),))
    return _alike(names, pair, f"for {a.target}", only_more=True)


def _alike(
    names: tuple[str, str], pair: CompiledPair, where: str, only_more: bool = False
) -> RungResult:
    """Whether two steps that compile do about the same work.

    only_more: the second may do less than the first
    """
    a, b = pair

    def apart(x: int, y: int) -> float:
        return 0.0 if only_more and y <= x else relative_difference(x, y)

    measured = {
        PRODUCTS: (apart(a.flops, b.flops), FLOPS),
        MOVED: (apart(a.bytes_accessed, b.bytes_accessed), BYTES),
        COMMUNICATED: (apart(_moved(a), _moved(b)), BYTES),
        HELD: (apart(a.peak_bytes, b.peak_bytes), BYTES),
    }
    also = (BETWEEN,) if a.slices > 1 else ()
    if also:
        measured[BETWEEN] = (apart(a.exchanged_bytes or 0, b.exchanged_bytes or 0), BYTES)
    if unseen := a.kernels != b.kernels:
        # What a hand-written kernel multiplies, on one side alone, is not seen.
        del measured[PRODUCTS], measured[MOVED]
    what, (difference, limit) = max(measured.items(), key=lambda item: item[1][0] / item[1][1])
    causes = explain(names[0], a, names[1], b, first=what)
    flags = _other_flags(names, pair)
    findings = tuple(map(Finding, (*flags, *causes)))
    if not difference <= limit:
        text = f"{where} {what} a step differ by {difference:.1%}"
        text += f": {causes[0]}" if causes else ""
        text += "; the two are compiled with different flags" if flags else ""
        return RungResult.failed(NAME, text, difference, Limit(limit, FIXED), findings)
    shown = f"{names[0]} {_shown(a)}, {names[1]} {_shown(b)}"
    if unseen:
        text = f"{where} FLOPs are not comparable: {_kernels(names, pair)}, and what kernels "
        text += f"multiply is not counted; {_alike_in('collectives', 'HBM', *also)} ({shown})"
        return RungResult.inconclusive(NAME, text, difference, Limit(limit, FIXED), findings)
    text = f"{where} {_alike_in('FLOPs', 'bytes', 'collectives', 'HBM', *also)} "
    text += f"(furthest apart: {what}, {difference:.2%}; {shown})"
    return RungResult.passed(
        NAME, text, difference, Limit(limit, FIXED),
        detects=f"{FLOPS:.0%} more FLOPs, {BYTES:.0%} more bytes moved or held{_scope(pair)}",
        findings=findings,
    )  # fmt: skip


def _other_flags(names: tuple[str, str], pair: CompiledPair) -> tuple[str, ...]:
    """The compiler flags that one side's trainer sets and the other's does not."""
    given = [set(f"{step.flags} {step.xla_flags}".split()) for step in pair]
    return tuple(
        f"{name} alone is compiled with {' '.join(sorted(own - other))}"
        for name, own, other in zip(names, given, reversed(given), strict=True)
        if own - other
    )


def _kernels(names: tuple[str, str], pair: CompiledPair) -> str:
    """The hand-written kernels that each side executes in a step."""
    parts = (
        f"{name} executes {', '.join(f'{k} {n} times' for k, n in step.kernels.items()) or 'none'}"
        for name, step in zip(names, pair, strict=True)
    )
    return ", ".join(parts)


def incomparable(
    names: tuple[str, str], pair: CompiledPair, one_compiler: bool = True
) -> str | None:
    """Why two compiled steps say nothing of each other; None where they do."""
    a, b = pair
    for name, step in zip(names, pair, strict=True):
        if step.unknown is not None:
            return f"{name} was not compiled for {step.target}: {step.unknown}"
        if step.error is None and not step.modules:
            return f"{name} has no module that was compiled for {step.target}"
        if step.error is None and not step.flops:
            return f"{name}'s step for {step.target} multiplies no matrices"
    for what in ("target", "libtpu") if one_compiler else ("target", "digest"):
        x, y = getattr(a, what), getattr(b, what)
        if x != y:
            return f"{names[0]} was compiled with {what} {x}, {names[1]} with {y}"
    return _nothing_between(names, pair, one_compiler)


def _nothing_between(names: tuple[str, str], pair: CompiledPair, one_compiler: bool) -> str | None:
    """Why what two steps exchange between slices cannot be compared; None where it can.

    A trainer may forget one exchange or all of them, and differs then. That neither has any, or
    that one compiler makes none of what another one does, is a form that was not recognized.
    """
    compiled_by = [(n, s) for n, s in zip(names, pair, strict=True) if s.slices > 1 and s.compiles]
    for name, step in compiled_by:
        if step.exchanges is None:
            return (
                f"what {name} exchanges between the slices of {step.target} was not kept when it "
                "was compiled: compile it again"
            )
    idle = [(name, step) for name, step in compiled_by if not step.exchanges]
    if len(idle) > one_compiler:
        name, step = idle[0]
        return (
            f"nothing was found that {name}'s step exchanges between the slices of {step.target} "
            f"with libtpu {step.libtpu}"
        )
    return None


def does_not_compile(name: str, step: CompiledStep) -> str:
    """The compiler's error word for word, with the flag that it names."""
    flags = re.findall(r"--(\w+)(?:=\S*)?", f"{step.flags} {step.xla_flags}")
    rejected = [flag for flag in flags if re.search(rf"\b{flag}\b", step.error or "")]
    because = f" because of the flag --{rejected[0]}" if rejected else ""
    return (
        f"{name} does not compile for {step.target} with libtpu {step.libtpu}{because}: "
        f"{step.error}"
    )


def does_not_fit(name: str, step: CompiledStep) -> str | None:
    """Where a step needs more HBM than a device of its target has; None where it fits.

    The compiler itself fails before that, as it keeps some of the memory for itself.
    """
    found = chip(step.chip)
    if found is None or step.peak_bytes <= found.hbm_bytes / found.devices:
        return None
    gib = 2**30
    return (
        f"{name} needs {step.peak_bytes / gib:.2f} GiB of HBM on {step.target}, which has "
        f"{found.hbm_bytes / found.devices / gib:.0f}"
    )


def _moved(step: CompiledStep) -> int:
    return sum(collective.total_bytes for collective in step.collectives)


def _alike_in(*what: str) -> str:
    return f"{', '.join(what[:-1])} and {what[-1]} are alike"


def _shown(step: CompiledStep) -> str:
    counted = ", ".join(f"{n} {kind}" for kind, n in step.counts().items()) or "no collectives"
    text = f"{step.flops:.4g} FLOPs, {step.peak_bytes / 2**20:,.4g} MiB of HBM, {counted}"
    if step.slices > 1:
        text += f", {quantity(step.exchanged_bytes or 0, 'B')} between slices"
    return text


def _scope(pair: CompiledPair) -> str:
    """What a PASS cannot tell, where no machine code was waited for."""
    codes = [module.code for step in pair for module in step.modules]
    return "; machine code was not waited for" if NOT_WAITED_FOR in codes else ""


RUNG = Rung(
    NAME,
    "what the TPU's own compiler makes of the step for a slice: HBM, FLOPs, bytes, collectives",
    compiled,
    traced=True,
)
