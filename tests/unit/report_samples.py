"""Records and verdicts to report on. Records are written as a probe writes them, then read back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import manifests
import record_files

from harness.config.case import Case
from harness.ladder.ladder import names
from harness.ladder.result import Finding, Result, RungResult
from harness.ladder.verdict import PairVerdict, Verdict
from harness.record.evidence import Record
from harness.record.reader import read_record
from harness.report.made import Made

HOSTILE = "</script><img src=x onerror=alert(1)>&lt;[red]| `x` {{ 7*7 }} \x1b[31m"

MADE = Made("parity run case=llama-tiny", "2025-07-02T10:00:00Z", "0.1.0")


def record(
    folder: Path,
    label: str = "hf 4.57.6",
    losses: Sequence[float] = (6.5, 6.4, 6.3),
    *,
    events: Sequence[dict[str, Any]] = (),
    steps: Sequence[int] | None = None,
    rates: Sequence[Sequence[float]] | None = None,
    norm: float | None = 1.5,
    max_norm: float | None = 1.0,
    at: float = 1000.0,
    manifest: dict[str, Any] | None = None,
) -> Record:
    """A run of so many losses, at `steps` (0, 1, 2 … by default), with further `events`."""
    trained: list[record_files.Event] = []
    for position, (step, loss) in enumerate(zip(steps or range(len(losses)), losses, strict=True)):
        lr = rates[position] if rates else [1e-3]
        trained += [
            record_files.step_event(step, lr=lr, max_norm=max_norm, at=at + position),
            record_files.values_event(step, [loss], norm),
        ]
    record_files.write(
        folder,
        [*trained, *events],
        manifest=manifests.raw(
            Case("llama-tiny", steps=len(losses) or 3),
            **{
                "engine": label.split()[0],
                "label": label,
                "observed": {
                    "devices": 4,
                    "device_kind": "CPU",
                    "mesh": {"axes": {"fsdp": 4, "tensor": 1}, "device_order": [0, 1, 2, 3]},
                    "versions": {"torch": "2.9.0"},
                    "flags": {"XLA_FLAGS": "--xla_x=1"},
                },
                **(manifest or {}),
            },
        ),
    )
    return read_record(folder)


def rung(name: str, result: Result = Result.PASS, **fields: Any) -> RungResult:
    """One rung, with an explanation that names it."""
    return RungResult(name, result, **{"explanation": f"what {name} says", **fields})


def pair(
    *changed: RungResult,
    a: str = "hf",
    b: str = "torchprime",
    a_record: str = "/records/a",
    b_record: str = "/records/b",
    notes: tuple[str, ...] = (),
) -> PairVerdict:
    """A pair whose every rung passes, but for those that are `changed`."""
    by_name = {r.rung: r for r in changed}
    rungs = tuple(by_name.get(name, rung(name)) for name in names())
    return PairVerdict(a, b, a_record, b_record, rungs, notes)


def of(a: Record, b: Record, *rungs: RungResult) -> PairVerdict:
    """The pair of two Records."""
    return pair(*rungs, a=a.label, b=b.label, a_record=str(a.directory), b_record=str(b.directory))


def verdict(*pairs: PairVerdict, compared: str = "hf against torchprime, llama-tiny") -> Verdict:
    """A session of `pairs`."""
    return Verdict(compared, "llama-tiny", pairs)


CLIP = rung(
    "clip",
    Result.FAIL,
    explanation="step 0: hf scaled its gradients by 0.36, torchprime by 1",
    value=0.64,
    limit=1e-5,
    limit_source="float32 table",
    findings=(
        Finding("step 0: hf scaled its gradients by 0.36, torchprime by 1", 0, None, 0.36, 1.0),
        *(Finding(f"step {n}: scaled by 0.5 against 1", n, None, 0.5, 1.0) for n in range(1, 14)),
    ),
)
"""A rung that fails, with 13 findings beyond its explanation."""
