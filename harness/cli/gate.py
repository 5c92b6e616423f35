"""`parity gate`, `parity bless` and `parity bisect`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from harness.base.errors import BadInput
from harness.cli.options import Html, Json

if TYPE_CHECKING:
    from harness.gate.bisect import Found, Question
    from harness.gate.refs import Ref
    from harness.report.progress import ConsoleReporter

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Hydra overrides for every case, such as case.steps=40 or workspace=DIR",
        show_default=False,
    ),
]
Cases = Annotated[
    str,
    typer.Option(
        "--cases", metavar="NAMES", help="cases, separated by commas; smoke, or all aligned ones"
    ),
]
Torchprime = Annotated[
    str | None,
    typer.Option(
        "--torchprime", metavar="SOURCE", help="judge parity with this torchprime too",
        show_default=False,
    ),
]  # fmt: skip
Stored = Annotated[
    Path, typer.Option("--baselines", metavar="DIR", help="folder of the stored baselines")
]

BASELINES = Path("baselines")


def register(app: typer.Typer) -> None:
    """Add the commands to `parity`."""
    app.command()(gate)
    app.command()(bless)
    app.command()(bisect)


def gate(
    candidate: Annotated[
        str,
        typer.Option(
            "--candidate", metavar="REF", help="transformers@REF, torchprime@REF or torch_xla@REF"
        ),
    ],
    overrides: Overrides = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", metavar="REF", help="what it has to train like (default: the stored one)",
            show_default=False,
        ),
    ] = None,
    cases: Cases = "smoke",
    torchprime: Torchprime = None,
    stored: Stored = BASELINES,
    json_file: Json = None,
    html: Html = None,
) -> None:  # fmt: skip
    """Does this branch still train as before? One line says so, or which rung broke.

    Examples:

    parity gate --candidate transformers@pr/41234 --baseline transformers@main

    parity gate --candidate transformers@./transformers --cases all
    """
    from harness.cli.output import end
    from harness.gate.gate import gate_pairs, run_gate
    from harness.gate.refs import parse

    before = None if baseline is None else parse(baseline)
    words = _words(overrides, torchprime)
    gated = gate_pairs(words, parse(candidate), before, cases.split(","), stored)
    reporter = _reporter()
    try:
        outcome = run_gate(gated, reporter)
    finally:
        reporter.close()
    end(outcome, json_file, html)


def bless(
    ref: Annotated[str, typer.Argument(metavar="REF", help="transformers@REF or torchprime@REF")],
    overrides: Overrides = None,
    cases: Cases = "smoke",
    stored: Stored = BASELINES,
    show: Annotated[
        bool, typer.Option("--show", help="only print what would change, as a table in Markdown")
    ] = False,
) -> None:
    """Store how a version trains as the baseline of the gate, and print what that changes.

    Example:

    parity bless transformers@4.57.6 --cases all
    """
    from harness.gate import baselines
    from harness.gate.change import Change, table
    from harness.gate.gate import NotCompared, gate_pairs, measured, plan_of
    from harness.gate.refs import parse

    wanted = parse(ref)
    if wanted.package == "torch_xla":
        raise BadInput(f"{ref}: a baseline is of transformers or of torchprime")
    reporter = _reporter()
    changes = []
    try:
        for pair in gate_pairs(_words(overrides, None), wanted, None, cases.split(","), stored):
            if pair.parity:
                continue
            try:
                plan = plan_of(pair, reporter)
            except NotCompared as error:
                reporter.note(f"no baseline is made: {error}")
                continue
            subject, control = measured(pair, plan, reporter, floor=not show)
            kind = str(subject.observed.get("device_kind"))
            before = baselines.latest(stored, subject.engine, pair.case, kind)
            changes.append(Change(before, subject))
            if not show:
                path = baselines.save(stored, subject, control, baselines.author())
                reporter.note(f"written: {path}")
    finally:
        reporter.close()
    typer.echo(table(changes))


def bisect(
    good: Annotated[str, typer.Option("--good", metavar="REF", help="a version that trains well")],
    bad: Annotated[str, typer.Option("--bad", metavar="REF", help="one that does not")],
    overrides: Overrides = None,
    case: Annotated[str, typer.Option("--case", metavar="NAME", help="case")] = "llama-tiny",
    rung: Annotated[
        str | None,
        typer.Option(
            "--rung", metavar="NAME", help="rung to search by (default: the first that breaks)",
            show_default=False,
        ),
    ] = None,
    releases: Annotated[
        str | None,
        typer.Option(
            "--releases", metavar="A,B,C", help="releases to choose from (default: the index's)",
            show_default=False,
        ),
    ] = None,
    json_file: Json = None,
    html: Html = None,
) -> None:  # fmt: skip
    """Find the first release or commit that trains otherwise. Interrupted, it goes on by itself.

    Examples:

    parity bisect --good transformers@4.45.2 --bad transformers@4.57.6 case.accumulation=2

    parity bisect --good transformers@v4.57.6 --bad transformers@main --rung forward
    """
    from harness.cli.output import end
    from harness.gate.bisect import Question
    from harness.gate.gate import gate_pairs
    from harness.gate.refs import parse

    first, last = parse(good), parse(bad)
    pair = next(p for p in gate_pairs(_words(overrides, None), last, first, [case]) if not p.parity)
    # Who deviates is no question here: the good end is right.
    pair = dataclasses.replace(pair, settings=dataclasses.replace(pair.settings, arbiter="never"))
    reporter = _reporter()
    try:
        found = _search(Question(pair, rung), first, last, releases, reporter)
    finally:
        reporter.close()
    skipped = f" ({len(found.skipped)} between them were skipped)" if found.skipped else ""
    verdict = found.outcome.verdict
    note = f"{found.rung} broke in {found.first_bad}; {found.last_good} is still good{skipped}"
    verdict = dataclasses.replace(verdict, notes=(*verdict.notes, note))
    end(dataclasses.replace(found.outcome, verdict=verdict), json_file, html)


def _search(
    question: Question, good: Ref, bad: Ref, releases: str | None, reporter: ConsoleReporter
) -> Found:
    from harness.environments.sources import PypiSource, parse_source
    from harness.gate.bisect import first_bad_release
    from harness.gate.commits import first_bad_commit
    from harness.gate.releases import between, listed

    package = "transformers" if good.package == "torch_xla" else good.package
    ends = [parse_source(str(ref.source), package) for ref in (good, bad)]
    if not all(isinstance(end, PypiSource) for end in ends):
        return first_bad_commit(question, good, bad, reporter)
    known = listed(good.package) if releases is None else releases.split(",")
    versions = between(str(good.source), str(bad.source), known)
    reporter.note(f"{len(versions)} releases: {', '.join(versions)}")
    return first_bad_release(question, good, bad, versions, reporter)


def _words(overrides: list[str] | None, torchprime: str | None) -> list[str]:
    words = list(overrides or [])
    if torchprime is not None:
        words.append(f"engine.torchprime.source='{torchprime}'")
    return words


def _reporter() -> ConsoleReporter:
    from harness.report.progress import ConsoleReporter

    return ConsoleReporter(Console(stderr=True))
