"""`parity bisect`: the first release or commit that trains otherwise."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from harness.base.errors import BadInput
from harness.cli.options import GateOverrides, Html, Json, Verbose, overrides_of, progress

if TYPE_CHECKING:
    from harness.gate.bisect import FirstBad
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

    parity bisect --good libtpu@0.0.21 --bad libtpu@0.0.52 target=v5p:2x2x1
    """
    from harness.cli.output import end
    from harness.gate.libtpu import is_libtpu

    words, known = overrides_of(overrides), None if releases is None else releases.split(",")
    search = _search_compilers if is_libtpu(good) or is_libtpu(bad) else _search_trainers
    reporter = progress()
    try:
        found = search(words, good, bad, case, rung, known, reporter)
    finally:
        reporter.close()
    skipped = f" ({len(found.skipped)} between them were skipped)" if found.skipped else ""
    verdict = found.outcome.verdict
    note = f"{found.rung} broke in {found.first_bad}; {found.last_good} is still good{skipped}"
    verdict = dataclasses.replace(verdict, notes=(*verdict.notes, note))
    end(dataclasses.replace(found.outcome, verdict=verdict), json_file, html, verbose)


def _search_compilers(
    overrides: list[str],
    good: str,
    bad: str,
    case: str,
    rung: str | None,
    releases: list[str] | None,
    reporter: ConsoleReporter,
) -> FirstBad:
    """Search releases of libtpu: only the rung `compiled` can break in one."""
    from harness.gate.libtpu import bisect_libtpu
    from harness.ladder.rungs.compiled import NAME

    if rung not in (None, NAME):
        raise BadInput(f"--rung {rung}: of a release of libtpu, {NAME} alone is judged")
    return bisect_libtpu(overrides, good, bad, case, releases, reporter)


def _search_trainers(
    overrides: list[str],
    good: str,
    bad: str,
    case: str,
    rung: str | None,
    releases: list[str] | None,
    reporter: ConsoleReporter,
) -> FirstBad:
    """Search commits where both ends are of git, else releases."""
    from harness.environments.sources import PypiSource
    from harness.environments.wheels import WheelSource
    from harness.gate.bisect import Question, first_bad_release
    from harness.gate.commits import first_bad_commit
    from harness.gate.refs import parse
    from harness.gate.releases import between, listed, of_one_list
    from harness.gate.selection import gate_pairs

    first, last = parse(good), parse(bad)
    pairs = gate_pairs(overrides, last, first, [case])
    pair = next(pair for pair in pairs if not pair.parity)
    # The good end is right by definition: there is nothing to ask float64.
    pair = dataclasses.replace(pair, settings=dataclasses.replace(pair.settings, float64="never"))
    question = Question(pair, rung)
    low, high = first.parsed, last.parsed
    if isinstance(low, WheelSource) and isinstance(high, WheelSource):
        versions = [str(source) for source in of_one_list(low, high)]
    elif isinstance(low, PypiSource) and isinstance(high, PypiSource):
        known = listed(first.package) if releases is None else releases
        versions = between(str(first.source), str(last.source), known)
    else:
        return first_bad_commit(question, first, last, reporter)
    reporter.note(f"{len(versions)} releases: {', '.join(versions)}")
    return first_bad_release(question, first, last, versions, reporter)
