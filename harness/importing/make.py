"""Makes a Record of what a trainer left: numbers of its steps, or a device's profile."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import __version__
from harness.base.errors import BadInput
from harness.base.secrets import redact
from harness.config.training import TrainingData, TrainingRequest
from harness.devices.device import profile_planes
from harness.importing.folders import read_sources
from harness.importing.noticed import durations, meant_steps, notice
from harness.importing.numbers import QUANTITIES, LoggedSource, Point, first_of, joined
from harness.record import layout
from harness.record.evidence import (
    DeviceTimes,
    Imported,
    Manifest,
    Observed,
    Origin,
    Python,
    Record,
    Reported,
)
from harness.record.termination import OK, STOPPED_EARLY, Termination
from harness.record.writer import encode, write_json
from harness.run.collect import device_times_of
from harness.run.workspace import Slot, slot

UNKNOWN = "unknown"
"""A dtype that nothing tells. No noise floor is documented for it."""


@dataclass(frozen=True)
class Stated:
    """What a person says of the evidence that is imported.

    label, case, dtype, steps: None for what the evidence itself says
    assumed:                   rungs that are to be taken to hold, though nothing shows it
    """

    label: str | None = None
    case: str = "imported"
    dtype: str | None = None
    steps: int | None = None
    assumed: tuple[str, ...] = ()


def make_record(path: Path, named: str, workspace: Path, stated: Stated) -> Record:
    """The Record of what lies at `path`, in the workspace; what is there already is replaced.

    named: what a person calls the place, such as a URL

    Raises BadInput where no step and no profile is found.
    """
    named = redact(named)
    profiles = [path] if path.is_file() else sorted(path.rglob("*.xplane.pb*"))
    if path.is_file() and ".xplane." in path.name:
        return _of_profile(path, named, workspace, stated)
    try:
        sources = read_sources(path)
    except BadInput:
        if not path.is_file() and profiles:
            return _of_profile(profiles[-1], named, workspace, stated)
        raise
    # A copy of what lies elsewhere is called by where that is.
    sources = [
        dataclasses.replace(source, what=source.what.replace(str(path), named))
        for source in sources
    ]
    beside = [] if path.is_file() else profiles
    return _of_steps(sources, named, workspace, stated, beside)


def _of_steps(
    sources: Sequence[LoggedSource],
    named: str,
    workspace: Path,
    stated: Stated,
    profiles: Sequence[Path],
) -> Record:
    points = joined(sources)
    facts = first_of(*(source.facts for source in sources))
    every = next(source.every for source in sources if source.points)
    requested = stated.steps or facts.steps or meant_steps(points)
    began = next((source.began for source in sources if source.began is not None), None)
    took = durations(points, began)
    findings = [note for source in sources for note in source.notes]
    findings += notice(points, requested, every, began)
    if every > 1:
        findings.append(f"a loss is the mean of {every} steps: single steps are not shown")
    findings += [
        f"{profile.name} is left out, as it has no step numbers: import it by itself"
        for profile in profiles
    ]
    request = TrainingRequest(
        dtype=stated.dtype or facts.dtype or UNKNOWN,
        steps=requested,
        global_batch=facts.global_batch,
        accumulation=facts.accumulation or 1,
        max_norm=facts.max_norm,
        mesh=None,
        model=None,
        data=TrainingData(facts.sequence_length),
        arguments=dict(facts.arguments),
        name=stated.case,
    )
    trained = len([point for point in points if point.step < requested])
    whole = trained == requested or every > 1
    imported = Imported(
        tuple(source.what for source in sources),
        {name: _rounding(sources, name) for name in QUANTITIES},
        stated.assumed,
        tuple(findings),
    )
    manifest = _manifest(
        facts.engine or "imported", stated, request, imported, named,
        started=next((p.at for p in points if p.at is not None), began or 0.0),
        ended=Termination(
            OK if whole else STOPPED_EARLY,
            f"its numbers show {trained} of {requested} steps",
            None,
            sum(t.seconds for t in took),
        ),
        reported=_means(points, every) if every > 1 else (),
    )  # fmt: skip
    windows = [_window(t.step, t.step, t.seconds) for t in took]
    return _write(manifest, workspace, [*_events(points, every), *windows])


def _rounding(sources: Sequence[LoggedSource], name: str) -> float:
    """That of the source which is believed: the first that has the quantity."""
    for source in sources:
        if any(getattr(point, name) is not None for point in source.points):
            return source.rounding.get(name, 0.0)
    return 0.0


def _means(points: Sequence[Point], every: int) -> tuple[Reported, ...]:
    return tuple(
        Reported(max(0, point.step - every + 1), point.step, point.loss, point.gradient_norm)
        for point in points
        if point.loss is not None
    )


def _events(points: Sequence[Point], every: int) -> list[dict[str, Any]]:
    """steps.jsonl as the probe writes it; a mean of several steps is the loss of none."""
    events: list[dict[str, Any]] = []
    for point in points:
        losses = [] if point.loss is None or every > 1 else [point.loss]
        rates = [] if point.learning_rate is None else [point.learning_rate]
        events += [
            {"event": "step", "step": point.step, "micro": len(losses), "lr": rates,
             "max_norm": None, "at": point.at or 0.0},
            {"event": "values", "step": point.step, "losses": losses,
             "gradient_norm": point.gradient_norm},
        ]  # fmt: skip
    return events


def _window(first: int, last: int, seconds: float, profiled: bool = False) -> dict[str, Any]:
    """A timing window. What is counted in one, an imported run does not show: the rungs that rest
    on it are not judged (`harness.ladder.imported`)."""
    window = {
        "first": first, "last": last, "seconds": seconds, "cpu_seconds": 0.0, "compilations": 0,
        "executions": 0, "transfers": 0, "fallbacks": {}, "profiled": profiled,
        "compile_seconds": 0.0,
    }  # fmt: skip
    return {"event": "window", "window": window}


def _of_profile(path: Path, named: str, workspace: Path, stated: Stated) -> Record:
    """A Record of the step times in a device's profile: of nothing else."""
    times = device_times_of(path, profile_planes())
    steps = 1 + max(len(gaps) for gaps in times.seconds.values())
    request = TrainingRequest(
        stated.dtype or UNKNOWN,
        steps,
        None,
        1,
        None,
        None,
        None,
        TrainingData(None),
        {},
        stated.case,
    )
    what = f"profile {path}: {steps} executions of {times.module} on {len(times.seconds)} devices"
    imported = Imported((what,), {}, stated.assumed, times.complaints)
    whole = max(sum(gaps) for gaps in times.seconds.values())
    manifest = _manifest(
        "imported", stated, request, imported, named, 0.0, Termination(OK, "profile", None, whole)
    )
    observed = Observed(devices=len(times.seconds), processes=1, process=0)
    events = [*_events([Point(step) for step in range(steps)], 1)]
    events.append(_window(0, steps - 1, whole, profiled=True))
    return _write(
        dataclasses.replace(manifest, observed=observed),
        workspace,
        events,
        profile=path,
        times=times,
    )


def _manifest(
    engine: str, stated: Stated, request: TrainingRequest, imported: Imported, named: str,
    started: float, ended: Termination, reported: tuple[Reported, ...] = (),
) -> Manifest:  # fmt: skip
    return Manifest(
        schema=layout.SCHEMA,
        harness=__version__,
        engine=engine,
        label=stated.label or engine,
        role="subject",
        repeat=0,
        key="",
        case=request,
        inputs="",
        origin=Origin(description=f"imported from {named}"),
        interpreter=Python({}),
        started=started,
        observed=Observed(),
        ended=ended,
        reported=reported,
        imported=imported,
    )


def _write(
    manifest: Manifest,
    workspace: Path,
    events: Sequence[Mapping[str, Any]],
    profile: Path | None = None,
    times: DeviceTimes | None = None,
) -> Record:
    """Put it where a run of that case would be; the key is the hash of all that is in it."""
    lines = "".join(json.dumps(encode(event), allow_nan=False) + "\n" for event in events)
    content = json.dumps(encode(dataclasses.asdict(manifest)), sort_keys=True) + lines
    key = hashlib.sha256(content.encode()).hexdigest()[:12]
    place: Slot = slot(workspace, manifest.case.name, manifest.engine, key)
    with place.locked():
        place.begin()
        (place.running / layout.STEPS).write_text(lines)
        write_json(place.running / layout.PARAMETERS, {"schema": layout.SCHEMA, "parameters": []})
        (place.running / layout.LOG).write_text("")
        if profile is not None and times is not None:
            (place.running / layout.PROFILE).mkdir()
            shutil.copyfile(profile, place.running / layout.PROFILE / profile.name)
            write_json(place.running / layout.DEVICE_TIMES, dataclasses.asdict(times))
        return place.finish(dataclasses.replace(manifest, key=key))
