"""`parity bisect`: the first release or commit that trains otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import GateOverrides, Html, Json, Verbose, overrides_of, progress

if TYPE_CHECKING:
    from harness.gate.bisect import FirstBad, Question
    from harness.gate.refs import Ref
    from harness.report.progress import ConsoleReporter


def bisect(
    good: Annotated[str, typer.Option("--good", metavar="REF", help="a version that trains well")],
    bad: Annotated[str, typer.Option("--bad", metavar="REF", help="one that does not")],
    overrides: GateOverrides = None,
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
            "--releases", metavar="A,B,C",
            help="releases to search (default: those of the package index)", show_default=False,
        ),
    ] = None,
    json_file: Json = None,
    html: Html = None,
    verbose: Verbose = False,
) -> None:  # fmt: skip
    """Find the first release or commit that trains otherwise. Started again, it resumes.

    Examples:

    parity bisect --good transformers@4.45.2 --bad transformers@4.57.6 case.accumulation=2

    parity bisect --good transformers@v4.57.6 --bad transformers@main --rung forward
    """
    import dataclasses

    from harness.cli.output import end
    from harness.gate.bisect import Question
    from harness.gate.refs import parse
    from harness.gate.selection import gate_pairs

    first, last = parse(good), parse(bad)
    pairs = gate_pairs(overrides_of(overrides), last, first, [case])
    pair = next(pair for pair in pairs if not pair.parity)
    # The good end is right by definition: there is nothing to ask float64.
    pair = dataclasses.replace(pair, settings=dataclasses.replace(pair.settings, float64="never"))
    reporter = progress()
    try:
        found = _search(Question(pair, rung), first, last, releases, reporter)
    finally:
        reporter.close()
    skipped = f" ({len(found.skipped)} between them were skipped)" if found.skipped else ""
    verdict = found.outcome.verdict
    note = f"{found.rung} broke in {found.first_bad}; {found.last_good} is still good{skipped}"
    verdict = dataclasses.replace(verdict, notes=(*verdict.notes, note))
    end(dataclasses.replace(found.outcome, verdict=verdict), json_file, html, verbose)


def _search(
    question: Question, good: Ref, bad: Ref, releases: str | None, reporter: ConsoleReporter
) -> FirstBad:
    """Search commits where both ends are of git, else releases."""
    from harness.environments.sources import PypiSource, parse_source
    from harness.gate.bisect import first_bad_release
    from harness.gate.commits import first_bad_commit
    from harness.gate.releases import between, listed

    ends = [parse_source(str(ref.source), ref.trained_with) for ref in (good, bad)]
    if not all(isinstance(end, PypiSource) for end in ends):
        return first_bad_commit(question, good, bad, reporter)
    known = listed(good.package) if releases is None else releases.split(",")
    versions = between(str(good.source), str(bad.source), known)
    reporter.note(f"{len(versions)} releases: {', '.join(versions)}")
    return first_bad_release(question, good, bad, versions, reporter)
