"""The verdict as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from harness.base.text import printable
from harness.ladder.result import Finding, Result, RungResult
from harness.ladder.rungs import loss_curve
from harness.ladder.verdict import PairVerdict, Verdict
from harness.record.evidence import Record
from harness.report import provenance
from harness.report.charts import charts
from harness.report.history import HistoryLine
from harness.report.history_view import history_view
from harness.report.made import Made, iso, source, versions
from harness.report.tables import tables
from harness.report.text import MISSING, headline, judged, names, plain, title

TEMPLATES = Path(__file__).with_name("templates")
PERTURBED = "perturbed"
"""Role of the run that measures noise."""
FINDINGS_SHOWN = 200
"""Findings shown of one rung; the verdict's JSON holds them all."""


def render(
    verdict: Verdict, records: Mapping[str, Record], made: Made, lines: Sequence[HistoryLine] = ()
) -> str:
    """The whole page.

    records: by folder, as `PairVerdict.a_record` and `b_record` name them, and runs that measure
             noise. A pair whose Record is not among them is shown without its curves, and says so.
    made:    how the verdict was made
    lines:   how cases did over time (`harness.report.history`)
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A NaN would not be JSON: figures hold gaps instead, and a slip here must be loud.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    environment.filters["printable"] = printable
    pairs = [_pair(pair, records) for pair in verdict.pairs]
    return environment.get_template("report.html.j2").render(
        verdict=verdict,
        headline=headline(verdict),
        made=made,
        runs=[_run(record) for record in _compared(verdict, records)],
        overview=_overview(verdict, pairs) if len(pairs) > 1 else None,
        pairs=pairs,
        lines=[history_view(line) for line in lines],
        plotly=_plotly(),
    )


@cache
def _plotly() -> str:
    """Plotly's library, once a page and compressed: 2 MB in place of 5; the browser unpacks it."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def _compared(verdict: Verdict, records: Mapping[str, Record]) -> list[Record]:
    folders = dict.fromkeys(f for pair in verdict.pairs for f in (pair.a_record, pair.b_record))
    return [records[folder] for folder in folders if folder in records]


def _run(record: Record) -> tuple[str, str, str, str, str]:
    """One run in the list at the top: label, source, when, device, versions."""
    listed = ", ".join(f"{name} {version}" for name, version in versions(record).items())
    seen = record.observed
    device = f"{seen.devices or MISSING} × {seen.device_kind or MISSING}"
    when = iso(record.manifest.started) if record.manifest.started else MISSING
    return record.label, source(record) or MISSING, when, device, listed or MISSING


def _overview(verdict: Verdict, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pairs against rungs: what a session or a workspace came to, at a glance."""
    rungs = list(dict.fromkeys(rung.rung for pair in verdict.pairs for rung in pair.rungs))
    rows = []
    for number, (pair, view) in enumerate(zip(verdict.pairs, pairs, strict=True), 1):
        results = {rung.rung: rung.result.value for rung in pair.rungs}
        cells = [(rung, results.get(rung)) for rung in rungs]
        rows.append({"number": number, "title": view["title"], "case": view["case"],
                     "result": pair.result.value, "cells": cells})  # fmt: skip
    return {"rungs": rungs, "rows": rows}


def _pair(pair: PairVerdict, records: Mapping[str, Record]) -> dict[str, Any]:
    a, b = records.get(pair.a_record), records.get(pair.b_record)
    labels = names(pair)
    limits = [rung.limit for rung in pair.rungs if rung.rung == loss_curve.RUNG.name]
    differ, same = provenance.side_by_side(a, b)
    perturbed = None if a is None else _perturbed(a, records)
    known = a or b
    return {
        "title": title(pair),
        "case": "" if known is None else known.case.name,
        "names": labels,
        "verdict": pair,
        "rungs": [_rung(rung, labels, rung is pair.headline_rung) for rung in pair.rungs],
        "charts": charts(labels, a, b, limits[0] if limits else None, perturbed),
        "tables": tables(labels, a, b),
        "runs": [
            {
                "name": name,
                "folder": folder,
                "facts": provenance.facts(record) if record else None,
                "log": provenance.log_tail(record) if record else "",
            }
            for name, folder, record in (
                (labels[0], pair.a_record, a),
                (labels[1], pair.b_record, b),
            )
        ],
        "differ": differ,
        "same": same,
    }


def _perturbed(a: Record, records: Mapping[str, Record]) -> Record | None:
    """The run of `a` from perturbed weights, where it is among the Records."""
    return next(
        (
            record
            for record in records.values()
            if record.manifest.role == PERTURBED
            and record.engine == a.engine
            and record.case == a.case
            and record.complete
        ),
        None,
    )


def _rung(rung: RungResult, labels: tuple[str, str], opened: bool) -> dict[str, Any]:
    value, limit = judged(rung)
    columns, findings = _evidence(rung.findings[:FINDINGS_SHOWN], labels)
    return {
        "name": rung.rung,
        "result": rung.result.value,
        "explanation": rung.explanation,
        "value": value,
        "limit": limit,
        "limit_source": rung.limit_source,
        "detects": rung.detects if rung.result is Result.PASS else "",
        "columns": columns,
        "findings": findings,
        "more": len(rung.findings) - len(findings),
        "open": opened,
    }


def _evidence(
    findings: tuple[Finding, ...], labels: tuple[str, str]
) -> tuple[list[str], list[list[str]]]:
    """Column names and cells, without the columns in which no finding has anything."""
    table: list[tuple[str, list[Any]]] = [
        ("finding", [finding.text for finding in findings]),
        ("step", [finding.step for finding in findings]),
        ("parameter", [finding.parameter for finding in findings]),
        (labels[0], [finding.a for finding in findings]),
        (labels[1], [finding.b for finding in findings]),
    ]
    used = [(name, cells) for name, cells in table if any(cell is not None for cell in cells)]
    rows = zip(*(cells for _, cells in used), strict=True)
    return [name for name, _ in used], [[plain(cell) for cell in row] for row in rows]
