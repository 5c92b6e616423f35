"""`parity bless`: store how a version trains, as the baseline of the gate."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.base.errors import BadInput
from harness.cli.options import (
    BASELINES,
    Baselines,
    Cases,
    GateOverrides,
    overrides_of,
    progress,
)


def bless(
    ref: Annotated[str, typer.Argument(metavar="REF", help="transformers@REF or torchprime@REF")],
    overrides: GateOverrides = None,
    cases: Cases = "smoke",
    stored: Baselines = BASELINES,
    show: Annotated[
        bool, typer.Option("--show", help="only print what would change, as a table in Markdown")
    ] = False,
) -> None:
    """Store how a version trains as the baseline of the gate, and print what that changes.

    Example:

    parity bless transformers@4.57.6 --cases all
    """
    from harness.gate import baselines
    from harness.gate.change import BaselineChange, table
    from harness.gate.gate import (
        NotCompared,
        check_executed,
        compiled_of,
        measured,
        plan_candidate,
    )
    from harness.gate.refs import parse
    from harness.gate.selection import gate_pairs
    from harness.run.compiling import plan_compiling

    wanted = parse(ref)
    if wanted.in_environment:
        raise BadInput(f"{ref}: a baseline is of {wanted.trained_with}")
    reporter = progress()
    changes = []
    try:
        for pair in gate_pairs(overrides_of(overrides), wanted, None, cases.split(","), stored):
            if pair.parity:
                continue
            check_executed(pair.settings)
            compiling = plan_compiling(pair.settings, reporter.note)
            try:
                plan = plan_candidate(pair, reporter)
            except NotCompared as error:
                reporter.note(f"no baseline is made: {error}")
                continue
            if not show:
                baselines.check_committed(plan.label, plan.origin.get("dirty"))
            subject, noise = measured(pair, plan, reporter, floor=not show)
            kind = str(subject.observed.device_kind)
            before = baselines.latest(stored, subject.engine, pair.case, kind)
            changes.append(BaselineChange(before, subject))
            if not show:
                steps = compiled_of(pair, plan, subject, compiling, reporter)
                path = baselines.save(stored, subject, noise, baselines.author(), steps)
                reporter.note(f"written: {path}")
    finally:
        reporter.close()
    typer.echo(table(changes))
