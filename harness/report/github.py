"""The verdict as a job summary of GitHub Actions, in GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.base.errors import BadInput
from harness.ladder.result import Result, RungResult
from harness.ladder.verdict import PairVerdict, Verdict
from harness.record.evidence import Record
from harness.report.made import Made, source, versions
from harness.report.markdown import escaped
from harness.report.text import MISSING, headline, judged, plain, title

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
FINDINGS_SHOWN = 20  # of one rung
LARGEST = 1_000_000  # bytes: GitHub takes a summary of at most 1 MiB a step

SYMBOLS = {
    Result.PASS: "✅",
    Result.FAIL: "❌",
    Result.INVALID: "🚫",
    Result.INCONCLUSIVE: "❔",
    Result.NOT_EXERCISED: "➖",
}


def append_job_summary(
    verdict: Verdict, records: Mapping[str, Record], made: Made, environ: Mapping[str, str]
) -> None:
    """Append the verdict to the file that $GITHUB_STEP_SUMMARY names; without it do nothing.

    Raises BadInput where that file cannot be written.
    """
    if not (name := environ.get(SUMMARY_VARIABLE)):
        return
    try:
        with Path(name).open("a", encoding="utf-8") as stream:
            stream.write(job_summary(verdict, records, made))
    except OSError as error:
        raise BadInput(
            f"{SUMMARY_VARIABLE} names {name}, which cannot be written ({error.strerror}). "
            f"Unset {SUMMARY_VARIABLE} to go without a job summary, or name a file in a folder "
            "that can be written."
        ) from error


def job_summary(verdict: Verdict, records: Mapping[str, Record], made: Made) -> str:
    """The verdict as Markdown: headline, what was compared, each pair's ladder, and the runs.

    Evidence is left out of a summary that GitHub would not take for its size.
    """
    whole = _summary(verdict, records, made, evidence=True)
    if len(whole.encode()) <= LARGEST:
        return whole
    return _summary(verdict, records, made, evidence=False)


def _summary(verdict: Verdict, records: Mapping[str, Record], made: Made, evidence: bool) -> str:
    lines = [
        f"## {SYMBOLS[verdict.result]} {escaped(verdict.result.value)} "
        f"{escaped(headline(verdict))}",
        "",
        f"Case {escaped(verdict.case)}: {escaped(verdict.compared)}",
        "",
    ]
    for pair in verdict.pairs:
        lines += _pair(pair, evidence)
    return "\n".join([*lines, *_notes(verdict.notes), *_made(records, made)]) + "\n"


def _pair(pair: PairVerdict, evidence: bool) -> Iterator[str]:
    yield f"### {SYMBOLS[pair.result]} {escaped(title(pair))}"
    yield ""
    yield f"**{escaped(pair.headline)}**"
    yield ""
    passed = pair.result is Result.PASS  # its numbers are for those who ask
    if passed:
        yield from ("<details><summary>the ladder</summary>", "")
    yield "| rung | result | value | limit | explanation |"
    yield "| --- | --- | ---: | ---: | --- |"
    for rung in pair.rungs:
        result = f"{SYMBOLS[rung.result]} {rung.result.value}"
        cells = (rung.rung, result, *judged(rung), rung.explanation)
        yield f"| {' | '.join(escaped(cell) for cell in cells)} |"
    yield ""
    if passed:
        yield from ("</details>", "")
    yield from _notes(pair.notes)
    lines = [line for rung in pair.rungs for line in _evidence(rung)] if evidence else []
    if lines:
        yield from ("<details><summary>evidence</summary>", "", *lines, "", "</details>", "")


def _made(records: Mapping[str, Record], made: Made) -> Iterator[str]:
    """The command, the date, and what each run was made of."""
    yield from ("<details><summary>how this was made</summary>", "")
    yield f"- {escaped(made.command)}"
    yield f"- {escaped(made.date)}, parity-harness {escaped(made.harness)}"
    for record in records.values():
        listed = ", ".join(f"{name} {version}" for name, version in versions(record).items())
        where = f"{record.observed.devices or MISSING} × {record.observed.device_kind or MISSING}"
        facts = (record.label, source(record), where, listed)
        yield f"- {'; '.join(escaped(fact) for fact in facts if fact)}"
    yield from ("", "</details>", "")


def _evidence(rung: RungResult) -> Iterator[str]:
    lines = [
        f"{finding.text} ({plain(finding.a)} against {plain(finding.b)})"
        if finding.a is not None or finding.b is not None
        else finding.text
        for finding in rung.findings[:FINDINGS_SHOWN]
    ]
    if (more := len(rung.findings) - FINDINGS_SHOWN) > 0:
        lines.append(f"and {more} more")
    if rung.limit_source:
        lines.append(f"limit {judged(rung)[1]}: {rung.limit_source}")
    if rung.result is Result.PASS and rung.detects:
        lines.append(f"would have caught {rung.detects}")
    if lines:
        yield f"- **{escaped(rung.rung)}** {escaped(rung.result.value)}"
        yield from (f"  - {escaped(line)}" for line in lines)


def _notes(notes: tuple[str, ...]) -> Iterator[str]:
    for note in notes:
        yield f"> {escaped(note)}"
        yield ""
