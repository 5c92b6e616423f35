"""`parity gate`: does a version still train as its baseline does?"""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import (
    BASELINES,
    Baselines,
    Cases,
    GateOverrides,
    Html,
    Json,
    Junit,
    Torchprime,
    Verbose,
    overrides_of,
    progress,
)


def gate(
    candidate: Annotated[
        str,
        typer.Option(
            "--candidate",
            metavar="REF",
            help="transformers@, torchprime@ or accelerate@REF; torch_xla@, torch@ or jax@ with a "
            "release or a wheel; libtpu@RELEASE; or several, separated by commas",
        ),
    ],
    overrides: GateOverrides = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", metavar="REF", help="what it has to train like (default: the stored one)",
            show_default=False,
        ),
    ] = None,
    cases: Cases = "smoke",
    torchprime: Torchprime = None,
    stored: Baselines = BASELINES,
    json_file: Json = None,
    html: Html = None,
    junit: Junit = None,
    verbose: Verbose = False,
) -> None:  # fmt: skip
    """Does this branch still train as before? The last line says so, or which rung broke.

    Examples:

    parity gate --candidate transformers@pr/41234 --baseline transformers@main

    parity gate --candidate transformers@./transformers --cases all

    parity gate --candidate transformers@main,accelerate@1.12.0

    parity gate --candidate libtpu@0.0.52 --baseline libtpu@0.0.21 target=v5p:2x2x1
    """
    from harness.cli.output import end
    from harness.gate.gate import run_gate
    from harness.gate.libtpu import gate_libtpu, is_libtpu
    from harness.gate.refs import parse
    from harness.gate.selection import gate_pairs

    if is_libtpu(candidate):
        words = overrides_of(overrides, torchprime)
        reporter = progress()
        try:
            outcome = gate_libtpu(words, candidate, baseline, cases.split(","), reporter)
        finally:
            reporter.close()
        end(outcome, json_file, html, verbose, junit)
    before = None if baseline is None else parse(baseline)
    words = overrides_of(overrides, torchprime)
    pairs = gate_pairs(words, parse(candidate), before, cases.split(","), stored)
    reporter = progress()
    try:
        outcome = run_gate(pairs, reporter)
    finally:
        reporter.close()
    end(outcome, json_file, html, verbose, junit)
