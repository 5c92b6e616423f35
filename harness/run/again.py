"""Judges again, from Records alone, whatever a workspace holds."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import BadInput
from harness.config.settings import Tolerance
from harness.ladder.comparison import Comparison, RecordPair, Resumption
from harness.ladder.judge import judge
from harness.ladder.ladder import check_floors
from harness.ladder.verdict import PairVerdict, Verdict
from harness.record.checksums import changed
from harness.record.evidence import Record
from harness.record.layout import MANIFEST
from harness.record.reader import READ, read_record
from harness.record.writer import encode
from harness.run.compiling import kept_pairs
from harness.run.session import Outcome


@dataclass(frozen=True)
class Found:
    """What lies in some folders: Records, and why others could not be read."""

    records: tuple[Record, ...]
    unreadable: tuple[str, ...]


def find_records(folders: Sequence[Path]) -> Found:
    """Every Record in these folders or below. Runs in progress, in hidden folders, and what single
    hosts left of a run are left out.

    Raises BadInput where a folder does not exist, and where there is no Record at all.
    """
    found = find_any(folders)
    if not found.records:
        more = f" ({found.unreadable[0]})" if found.unreadable else ""
        raise BadInput(f"there is no Record in {', '.join(map(str, folders))}{more}")
    return found


def find_any(folders: Sequence[Path]) -> Found:
    """The same, where there need not be any. Raises BadInput where a folder does not exist."""
    records: dict[Path, Record] = {}
    unreadable = []
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"{folder} is no folder: name a workspace, or the folder of a Record")
        for path in sorted(folder.rglob(MANIFEST)):
            inside = path.parent.relative_to(folder).parts
            if any(part.startswith(".") for part in inside):
                continue
            if (path.parent.parent / MANIFEST).is_file():
                continue  # a host's part of the Record that it lies in
            try:
                records[path.parent.resolve()] = read_record(path.parent)
            except BadInput as error:
                unreadable.append(str(error))
    return Found(tuple(records.values()), tuple(unreadable))


def judge_again(found: Found, tolerance: Tolerance) -> Outcome:
    """Every pair of engines that trained one case on one kind of device, the newest run of each.

    With what lies beside them: the perturbed run and the repeat of the first, compiled steps, and
    launches that were timed in turns. Raises BadInput where there is no pair.
    """
    check_floors(tolerance)
    groups: defaultdict[tuple[object, ...], list[Record]] = defaultdict(list)
    for record in found.records:
        if record.manifest.role == "subject":
            groups[_question(record)].append(record)
    pairs: list[PairVerdict] = []
    used: dict[str, Record] = {}
    for runs in groups.values():
        first, *others = _newest(runs, found.records)
        beside = _beside(first, found.records)
        for other in others:
            pairs.append(judge(_comparison(first, other, beside, found.records, tolerance)))
            used |= {str(r.directory): r for r in (first, other, *beside.values())}
    cases = sorted({used[pair.a_record].case.name for pair in pairs})
    if not pairs:
        raise BadInput(
            f"no two of the {len(found.records)} Records trained one case from the same inputs in "
            "two engines: there is nothing to compare"
        )
    text = f"{len(found.records)} Records, judged again: {', '.join(cases)}"
    notes = tuple(text for record in used.values() for text in changed(record.directory, *READ))
    if found.unreadable:
        count, first_of_them = len(found.unreadable), found.unreadable[0]
        notes += (f"{count} Records could not be read, the first: {first_of_them}",)
    return Outcome(Verdict(text, ", ".join(cases), tuple(pairs), notes), used)


def _question(record: Record) -> tuple[object, ...]:
    """Runs of which this is equal were asked the same: case, inputs and device."""
    case = json.dumps(encode(dataclasses.asdict(record.case)), sort_keys=True, default=str)
    if record.manifest.imported is not None:
        case = record.case.name  # what was asked is only partly known
    return case, record.manifest.inputs, record.observed.device_kind, record.observed.devices


def _newest(runs: Iterable[Record], every: Sequence[Record]) -> list[Record]:
    """The newest run of each label; of one label twice, as two runs of a session, both.

    First the engine whose noise was measured: it is the one that all others are compared with.
    """
    newest: dict[tuple[str, int], Record] = {}
    for record in sorted(runs, key=lambda r: r.manifest.started):
        newest[record.label, record.manifest.repeat] = record
    return sorted(newest.values(), key=lambda r: (not _beside(r, every), r.manifest.started))


def _beside(first: Record, every: Sequence[Record]) -> dict[str, Record]:
    """Runs that measure the noise of the first one's case, by role."""
    return {
        record.manifest.role: record
        for record in sorted(every, key=lambda r: r.manifest.started)
        if record.manifest.role in ("perturbed", "repeat")
        and record.engine == first.engine
        and record.case == first.case
        and record.observed.device_kind == first.observed.device_kind
        and record.manifest.origin == first.manifest.origin
        and record.complete
    }


def _comparison(
    a: Record, b: Record, beside: dict[str, Record], every: Sequence[Record], tolerance: Tolerance
) -> Comparison:
    perturbed, repeat = beside.get("perturbed"), beside.get("repeat")
    return Comparison(
        a,
        b,
        tolerance,
        noise_floor=None if perturbed is None else (a, perturbed),
        repeat=None if repeat is None else (a, repeat),
        graphs=_graphs(a, b, every),
        compiled=kept_pairs(a, b),
        timing=_timing(a, b, every),
        resumptions=(_resumption(a, every), _resumption(b, every)),
    )


def _resumption(straight: Record, every: Sequence[Record]) -> Resumption | None:
    """The newest runs of this very training that saved and resumed on its way.

    Another of the same engine and case is not meant: of other options, or with a seeded fault.
    """
    beside = [
        record
        for record in sorted(every, key=lambda r: r.manifest.started)
        if record.manifest.training == straight.manifest.training
        and record.observed.device_kind == straight.observed.device_kind
    ]
    newest = {record.manifest.role: record for record in beside}
    if "saving" not in newest:
        return None
    return Resumption(straight, newest["saving"], newest.get("resumed"))


def _graphs(a: Record, b: Record, every: Sequence[Record]) -> RecordPair | None:
    """The newest run of each side that dumped its compiled step."""
    found = []
    for side in (a, b):
        dumps = [
            record
            for record in every
            if record.manifest.role == "graph"
            and record.engine == side.engine
            and record.case.name == side.case.name
            and record.manifest.origin == side.manifest.origin
        ]
        found.append(max(dumps, key=lambda r: r.manifest.started, default=None))
    left, right = found
    return None if left is None or right is None else (left, right)


def _timing(a: Record, b: Record, every: Sequence[Record]) -> tuple[RecordPair, ...]:
    """Launches in which both sides took turns."""
    turns: defaultdict[str, dict[str, Record]] = defaultdict(dict)
    for record in every:
        if record.manifest.turns is not None and record.case.name == a.case.name:
            turns[record.manifest.turns][record.label] = record
    both = [sides for sides in turns.values() if sides.keys() == {a.label, b.label}]
    both.sort(key=lambda sides: sides[a.label].manifest.started)
    return tuple((sides[a.label], sides[b.label]) for sides in both)
