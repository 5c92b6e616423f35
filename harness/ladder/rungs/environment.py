"""The rung of the environment: do both runs have the same devices, versions and flags?"""

from __future__ import annotations

from typing import Any

from harness.config.case import ALIGNED, AS_SHIPPED, Case
from harness.devices.device import computes_by_xla
from harness.ladder.beyond_case import computes_beyond, lacking
from harness.ladder.comparison import Comparison
from harness.ladder.result import Finding, RungResult
from harness.ladder.rung import Rung, Stage
from harness.record.evidence import Record
from harness.record.hosts import host_findings

DEVICE_FACTS = {
    "device": "PJRT device",
    "device_kind": "device kind",
    "devices": "number of devices",
    "processes": "number of processes",
    "matmul_precision": "matmul precision",
}
VERSIONS = ("torch", "torch_xla")
"""Packages that every run has, and without whose versions nothing is known of it."""


def _needed(record: Record) -> tuple[str, ...]:
    """Those of `VERSIONS` that a run on this device has."""
    return VERSIONS if computes_by_xla(record.observed) else VERSIONS[:1]


STACK = (*VERSIONS, "libtpu", "XLA_FLAGS", "LIBTPU_INIT_ARGS")
"""What differs between two torch_xla: packages, and the flags that it sets when it is imported."""


def of_stack(finding: Finding) -> bool:
    """Whether a finding of this rung is only about another torch or torch_xla."""
    return finding.text.split(":")[0] in STACK


def environment(c: Comparison) -> RungResult:
    """Devices, versions, matmul precision and XLA flags; and that a run's hosts agree."""
    for name, record in zip(c.names, (c.a, c.b), strict=True):
        unknown = _unobserved(record)
        if unknown is not None:
            return RungResult.invalid("environment", f"{name}: no {unknown} was observed")
    a, b = c.a.observed, c.b.observed
    name_a, name_b = c.names
    pairs: list[tuple[str, Any, Any]] = [
        (text, getattr(a, key), getattr(b, key)) for key, text in DEVICE_FACTS.items()
    ]
    packages = sorted((*VERSIONS, "libtpu"))
    pairs += [(name, a.versions.get(name), b.versions.get(name)) for name in packages]
    names = sorted({*a.flags, *b.flags})
    pairs += [(name, a.flags.get(name), b.flags.get(name)) for name in names]
    hosts = tuple(
        Finding(f"{name}: {text}")
        for name, record in zip(c.names, (c.a, c.b), strict=True)
        for text in host_findings(record)
    )
    findings = (
        _beyond_case(c)
        + _other_precision(c)
        + _other_attention(c)
        + hosts
        + tuple(
            Finding(f"{text}: {name_a} has {x}, {name_b} has {y}", a=x, b=y)
            for text, x, y in pairs
            if x != y
        )
    )
    stack = " ".join(f"{name} {a.versions[name]}" for name in _needed(c.a)[-1:])
    return RungResult.identity(
        "environment", findings, f"{a.devices} {a.device_kind} devices, {stack}, matmul precision "
        f"{a.matmul_precision}, equal flags"
        + "".join(f"; both train with {key}={value}" for key, value in _alike(c).items()),
    )  # fmt: skip


def _beyond_case(c: Comparison) -> tuple[Finding, ...]:
    """What the case does not say and a run trains with: arguments, dropout, autocasting; and where
    it does not do what the case says of these.

    Arguments that both runs of one engine were given are a part of the question.
    """
    findings = []
    alike = _alike(c)
    for name, record in zip(c.names, (c.a, c.b), strict=True):
        for key, value in record.manifest.beyond_case.items():
            if key not in alike:
                text = f"{name} trains with {key}={value}, which the case does not say"
                findings.append(Finding(text, None, None, {key: value}, None))
    for name, record in zip(c.names, (c.a, c.b), strict=True):
        for what in computes_beyond(record):
            findings.append(Finding(f"{name} {what}, which the case does not say"))
        for what in lacking(record):
            findings.append(Finding(f"{name} {what}, which the case asks for"))
    return tuple(findings)


def _alike(c: Comparison) -> dict[str, str]:
    """Arguments beyond the case that both runs have."""
    x, y = c.a.manifest.beyond_case, c.b.manifest.beyond_case
    return dict(sorted(x.items() & y.items())) if c.a.engine == c.b.engine else {}


def _other_precision(c: Comparison) -> tuple[Finding, ...]:
    """A run whose products were not computed as its case asks: the trainer set it otherwise, or
    an operation does not ask for what was set. Where the case leaves it to the trainers, they have
    to ask for the same.
    """
    findings = []
    both = tuple(zip(c.names, (c.a, c.b), strict=True))
    for name, record in both:
        expected, found = _expected_precision(record), record.observed.matmul_precision
        if expected is None:
            continue
        if found != expected:
            text = f"matmul precision of {name} is {found}, but the case asks for {expected}"
            findings.append(Finding(text, a=found, b=expected))
        for operation, asked in record.observed.products.items():
            if asked not in (expected, found):
                text = f"{operation} of {name} asks for precision {asked}, but the case asks for "
                findings.append(Finding(text + expected, a=asked, b=expected))
    asked_a, asked_b = (sorted({*r.observed.products.values()}) for r in (c.a, c.b))
    if not findings and asked_a != asked_b:
        texts = (f"{name}'s ask for precision {_asked(record)}" for name, record in both)
        findings.append(Finding(f"products: {', '.join(texts)}", a=asked_a, b=asked_b))
    return tuple(findings)


def _asked(record: Record) -> str:
    """What a run's products ask for: "default (aten::einsum) and highest (aten::bmm, aten::mm)"."""
    asked: dict[str, list[str]] = {}
    for operation, precision in sorted(record.observed.products.items()):
        asked.setdefault(precision, []).append(operation)
    return " and ".join(f"{p} ({', '.join(names)})" for p, names in sorted(asked.items()))


def _expected_precision(record: Record) -> str | None:
    """The matmul precision that a case sets; None where it is left to the trainer."""
    expected = record.case.matmul_precision if isinstance(record.case, Case) else "default"
    return None if expected == "default" else expected


def _other_attention(c: Comparison) -> tuple[Finding, ...]:
    """A run of an aligned case that does not attend in the way that the case asks for."""
    findings = []
    for name, record in zip(c.names, (c.a, c.b), strict=True):
        expected, found = _expected_attention(record), record.observed.attention
        if expected is not None and found is not None and found != expected:
            text = f"attention of {name} is {found}, but the case asks for {expected}"
            findings.append(Finding(text, a=found, b=expected))
    return tuple(findings)


def _unobserved(record: Record) -> str | None:
    """The first thing about a process that is not known: unknown and unknown are not equal."""
    observed = record.observed
    for key, text in DEVICE_FACTS.items():
        if not getattr(observed, key):
            return text
    for package in _needed(record):
        if not observed.versions.get(package):
            return f"version of {package}"
    if not observed.flags:
        return "flag"
    if computes_by_xla(observed) and not observed.products:
        return "product of matrices"
    # A model that is not transformers' own has one way to attend, and no name for it.
    named = observed.names_attention and _expected_attention(record) is not None
    return "attention implementation" if named and not observed.attention else None


def _expected_attention(record: Record) -> str | None:
    """The attention implementation that an aligned case asks for."""
    case = record.case
    if not isinstance(case, Case) or not case.aligned:
        return None
    return case.model.attention_in_transformers


RUNG = Rung(
    name="environment",
    what="device kind and count, torch, torch_xla, PJRT, matmul precision, XLA flags",
    judge=environment,
    prepared=(ALIGNED, AS_SHIPPED),
    blamed_for=Stage.STARTING,
)
