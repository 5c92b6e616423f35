"""The graph rung: what a run's own counters tell of its compiled steps, window by window."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

from harness.devices.device import computes_by_xla
from harness.ladder import against_case
from harness.ladder.comparison import Comparison
from harness.ladder.compiled_step import compiled_step
from harness.ladder.result import EQUAL, Finding, Result, RungResult
from harness.ladder.rung import Rung
from harness.ladder.same_work import other_work
from harness.record.evidence import Record, Window
from harness.record.steady import COMPILING_STEPS

EXTRA_EXECUTIONS = 3
"""Executions a step that two engines may be apart, and one for each further micro-batch. A step may
be one graph, as torchprime's is. The Hugging Face Trainer's is four on a TPU, however many its
micro-batches (transformers 4.57.6 with accelerate 1.15.0): accelerate sends what is pending to the
device after the number of labels was gathered, and twice as `GradientState.sync_gradients` becomes
true, before the last forward pass and after its backward pass; the loader does so after the update.
On the CPU it is two: there accelerate leaves `sync_gradients` alone. A cut within a pass is a
finding by itself, so that these three hide none."""


def unobserved_steps(record: Record) -> str | None:
    """Where the windows do not tell of every step that was asked for just once; None if they do."""
    expected = 0
    for window in record.windows:
        if window.first != expected or window.last < window.first:
            return f"no window begins at step {expected}"
        expected = window.last + 1
    of_case = record.requested_steps
    return None if expected == of_case else f"windows tell of {expected} of {of_case} steps"


def recompilations(record: Record) -> dict[str, Window]:
    """Windows after the compiling steps in which graphs were compiled, by their steps."""
    return {steps_of(w): w for w in record.windows if w.first >= COMPILING_STEPS and w.compilations}


def steps_of(window: Window) -> str:
    """The steps of a window, in words."""
    if window.steps == 1:
        return f"step {window.first}"
    return f"steps {window.first}-{window.last}"


def fallbacks_per_step(record: Record) -> dict[str, float]:
    """Calls per steady step of operations that ran on the host, by name."""
    windows = record.steady_windows
    total: Counter[str] = Counter()
    for window in windows:
        total.update(window.fallbacks)
    steps = sum(window.steps for window in windows)
    return {name: count / steps for name, count in sorted(total.items())}


def per_step(record: Record, counter: str) -> float:
    """A counter's mean per steady step."""
    windows = record.steady_windows
    return float(sum(getattr(w, counter) for w in windows) / sum(w.steps for w in windows))


def cuts_within_passes(record: Record) -> float | None:
    """Graphs sent to the device within a pass, per steady step; None where any was not counted."""
    counted = all(window.inner_graphs is not None for window in record.steady_windows)
    return per_step(record, "inner_graphs") if counted else None


def graph(c: Comparison) -> RungResult:
    """Recompilations after warm-up, operations that fall back to the host, and what is executed.

    Recompilations, operations on the host and transfers to it have no place in a steady state,
    whether one run has them or both, and layers are recomputed as the case asks. Executions a step
    are judged between runs of one engine; two engines may cut their work differently between passes
    and be at parity, by `EXTRA_EXECUTIONS`. No pass is cut: activations would have to be stored.
    Two configurations of one training may differ in what they execute: each is judged by itself.
    From the first step in which they have other batches on they do other work: what begins there
    follows from that.
    """
    result, other = _judged(c), None if c.configurations else other_work(c.a, c.b)
    if result.result is not Result.FAIL or other is None or result.since < other:
        return result
    text = f"says nothing of steps of other batches, from step {other} on ({result.explanation})"
    return RungResult.invalid("graph", text, result.findings)


def _judged(c: Comparison) -> RungResult:
    name_a, name_b = c.names
    for name, record in ((name_a, c.a), (name_b, c.b)):
        if gap := unobserved_steps(record):
            return RungResult.invalid("graph", f"{name}: {gap}")
    findings = c.of_each(against_case.checkpointing)
    if c.graphs is not None:
        dumped = dataclasses.replace(c, a=c.graphs[0], b=c.graphs[1])
        # What both of a side's runs show is told once.
        findings = [*dict.fromkeys([*dumped.of_each(against_case.checkpointing), *findings])]
    if not findings and not c.configurations:
        findings += _other_recomputation(c)
    if not any(computes_by_xla(record.observed) for record in (c.a, c.b)):
        return _nothing_compiled(findings)
    again = recompilations(c.a), recompilations(c.b)
    if again[0] and again[0].keys() == again[1].keys():
        text = f"both compile again at {', '.join(again[0])}, after warm-up"
        first, second = (sum(w.compilations for w in windows.values()) for windows in again)
        last = min(w.last for w in again[0].values())
        findings.append(Finding(text, last, None, first, second))
    else:
        findings += c.of_each(_recompiled)
    for name, record in ((name_a, c.a), (name_b, c.b)):
        if not record.steady_windows:
            if not findings:
                return RungResult.invalid("graph", f"{name}: no steady window was observed")
            # One that compiles in every window has no steady state: that is the finding.
            text = f"{findings[0].text}; {name} has no steady window"
            return RungResult.failed("graph", text, len(findings), EQUAL, tuple(findings))
        if not per_step(record, "executions"):
            return RungResult.invalid("graph", f"{name}: no execution of a graph was counted")
    falls_a, falls_b = fallbacks_per_step(c.a), fallbacks_per_step(c.b)
    for operation in sorted({*falls_a, *falls_b}):
        x, y = falls_a.get(operation, 0.0), falls_b.get(operation, 0.0)
        text = f"{operation} runs on the host {x:g} times a step in {name_a}, {y:g} in {name_b}"
        findings.append(Finding(text, None, None, x, y))
    findings += _other_work(c)
    shown = "; ".join(
        f"{record.label}: {per_step(record, 'executions'):.2g} executions and "
        f"{per_step(record, 'transfers'):.2g} transfers a step"
        for record in (c.a, c.b)
    )
    if findings:
        text = f"{findings[0].text} ({shown})"
        return RungResult.failed("graph", text, len(findings), EQUAL, tuple(findings))
    if c.graphs is not None:
        executions = [per_step(r, "executions") for r in (c.a, c.b)]
        return compiled_step("graph", c, c.graphs, shown, executions)
    detects = "one recompilation after warm-up, one operation on the host or transfer to it"
    text = f"no recompilation, no operation on the host; {shown}"
    pair = zip(c.names, (c.a, c.b), strict=True)
    uncounted = [name for name, record in pair if cuts_within_passes(record) is None]
    if uncounted:
        text += f"; cuts within a pass were not counted in {' and '.join(uncounted)}"
    else:
        detects += ", one cut within a pass"
    return RungResult.passed("graph", text, 0, EQUAL, detects=detects)


def _recompiled(record: Record) -> list[Finding]:
    """Windows after warm-up in which a run compiled."""
    return [
        Finding(
            f"{record.label} compiled {window.compilations} more graphs at {steps}, after warm-up",
            window.last, a=window.compilations, b=0, kind=f"compilation at {steps}",
        )
        for steps, window in recompilations(record).items()
    ]  # fmt: skip


def _nothing_compiled(findings: list[Finding]) -> RungResult:
    """Of two runs without XLA: what was seen of checkpointing, and that there are no graphs."""
    if findings:
        text = findings[0].text
        return RungResult.failed("graph", text, len(findings), EQUAL, tuple(findings))
    text = "without XLA nothing is compiled: operations are executed one by one"
    return RungResult.not_exercised("graph", text)


def _other_recomputation(c: Comparison) -> list[Finding]:
    """Layers that one run recomputes and the other does not, where no case says which is right."""
    x, y = c.a.observed.recomputed, c.b.observed.recomputed
    if x is None or y is None or sum(x.values()) == sum(y.values()):
        return []
    text = f"layers recomputed in the backward pass: {sum(x.values())} in {c.names[0]}, "
    return [Finding(f"{text}{sum(y.values())} in {c.names[1]}", 0, None, x, y)]


def _other_work(c: Comparison) -> list[Finding]:
    """Transfers to the host and cuts within a pass, on either side, and executions a step that
    differ by too many."""
    findings = []
    x, y = (per_step(record, "transfers") for record in (c.a, c.b))
    cuts = [cuts_within_passes(record) for record in (c.a, c.b)]
    if any(cuts):
        text = ", ".join(
            f"{'an unknown number' if n is None else format(n, 'g')} in {name}"
            for n, name in zip(cuts, c.names, strict=True)
        )
        text = f"graphs sent to the device within a forward or backward pass, a step: {text}"
        since = _since(c, lambda x, y: bool(x.inner_graphs or y.inner_graphs))
        findings.append(Finding(text, since, None, cuts[0], cuts[1]))
    if x or y:
        text = f"transfers to the host a step: {x:g} in {c.names[0]}, {y:g} in {c.names[1]}"
        findings.append(
            Finding(text, _since(c, lambda x, y: bool(x.transfers or y.transfers)), None, x, y)
        )
    x, y = (per_step(record, "executions") for record in (c.a, c.b))
    alike = c.a.engine == c.b.engine
    micro = max(c.a.case.accumulation, c.b.case.accumulation)
    allowed = 0 if alike else EXTRA_EXECUTIONS + micro - 1

    def too_many(x: Window, y: Window) -> bool:
        return abs(x.executions - y.executions) > allowed * x.steps

    if abs(x - y) > allowed and not c.configurations:
        text = f"executions a step: {x:g} in {c.names[0]}, {y:g} in {c.names[1]}"
        findings.append(Finding(text, _since(c, too_many), None, x, y))
    return findings


def _since(c: Comparison, seen: Callable[[Window, Window], bool]) -> int | None:
    """The first steady window of which it is true, by its last step."""
    others = {(w.first, w.last): w for w in c.b.steady_windows}
    for window in c.a.steady_windows:
        other = others.get((window.first, window.last))
        if other is None:
            return None
        if seen(window, other):
            return window.last
    return None


RUNG = Rung(
    name="graph",
    what="recompilations and host fallbacks; FLOPs, collectives and memory of the compiled step",
    judge=graph,
    follows=(
        "environment", "sharding", "forward", "backward", "clip", "optimizer", "schedule",
        "loss_curve", "grad_norm_curve",
    ),
)  # fmt: skip
