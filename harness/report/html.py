"""The verdict as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from harness.base.errors import BadInput
from harness.base.files import write_text
from harness.ladder.result import Finding, Result, RungResult
from harness.ladder.verdict import PairVerdict, Verdict
from harness.record.evidence import Record
from harness.report import provenance
from harness.report.charts import charts
from harness.report.text import headline, judged, names, plain, printable, title

TEMPLATES = Path(__file__).with_name("templates")
FINDINGS_SHOWN = 200
"""Findings shown of one rung; the verdict's JSON holds them all."""


def write_html(path: Path, verdict: Verdict, records: Mapping[str, Record]) -> None:
    """Write the report of `verdict` to `path`, whose folder is made where it is missing.

    records: by folder, as `PairVerdict.a_record` and `b_record` name them. A pair whose Record is
             not among them is shown without its curves, and says so.

    Raises BadInput where `path` cannot be written.
    """
    text = render(verdict, records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise BadInput(
            f"The report {path} cannot be written ({error.strerror}). Name a file in a folder "
            "that you may write to."
        ) from error


def render(verdict: Verdict, records: Mapping[str, Record]) -> str:
    """The whole page."""
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
    return environment.get_template("report.html.j2").render(
        verdict=verdict,
        headline=headline(verdict),
        pairs=[_pair(pair, records) for pair in verdict.pairs],
        plotly=get_plotlyjs(),
    )


def _pair(pair: PairVerdict, records: Mapping[str, Record]) -> dict[str, Any]:
    a, b = records.get(pair.a_record), records.get(pair.b_record)
    labels = names(pair)
    limits = [rung.limit for rung in pair.rungs if rung.rung == "loss_curve"]
    differ, same = provenance.side_by_side(a, b)
    return {
        "title": title(pair),
        "names": labels,
        "verdict": pair,
        "rungs": [_rung(rung, labels, rung is pair.headline_rung) for rung in pair.rungs],
        "charts": charts(labels, a, b, limits[0] if limits else None),
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
