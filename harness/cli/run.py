"""`parity run`: train a case in every engine, and judge the runs."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import Html, Json, Overrides, Torchprime, Verbose, overrides_of, progress


def run(
    overrides: Overrides = None,
    torchprime: Torchprime = None,
    json_file: Json = None,
    html: Html = None,
    verbose: Verbose = False,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against", metavar="KEY=VALUE", show_default=False,
            help="an override of the second run alone: the same training in another configuration",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Train a case in every engine, and print the ladder.

    An unchanged run is read from the workspace and not launched again.

    Examples:

    parity run case=llama-tiny

    parity run engines=[hf,reference] case.dtype=bfloat16 case.steps=40

    parity run --torchprime ~/torchprime case=llama-tiny-as-shipped

    parity run engines=[hf,hf] --against case.accumulation=2
    """
    from harness.cli.output import end
    from harness.config.compose import load
    from harness.report.phases import phase_lines, session_line
    from harness.run import session
    from harness.run.clock import since_start
    from harness.run.preflight import ready

    words, others = overrides_of(overrides, torchprime), list(against or [])
    settings = ready(load(words))
    other = ready(load([*words, *others])) if others else None
    reporter = progress()
    try:
        planned = session.plan(settings, reporter, against=other, called=" ".join(others))
        reporter.note(planned.compared)
        planning = since_start()
        outcome = session.run(planned, reporter)
    finally:
        reporter.close()
    if verbose:
        for line in phase_lines(outcome.runs):
            print(line)
        print(session_line({"planning": planning, **outcome.seconds}))
    end(outcome, json_file, html, verbose)
