"""A Record's curves as TensorBoard event files, under the same tags whatever the engine.

One `tensorboard --logdir` over several Records overlays their curves. No torch and no TensorFlow
is needed: the events are TensorBoard's own protocol buffers in its own framing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from harness.base.files import replacing
from harness.ladder.verdict import PairVerdict, Verdict
from harness.record.evidence import Record, Step
from harness.record.layout import STEPS, TENSORBOARD
from harness.record.reader import StepEvent, read_events
from harness.report.series import difference, finite, series
from harness.report.text import names

FILE = "events.out.tfevents.0.parity"
"""TensorBoard reads files with "tfevents" in their names. It is fixed: a second write replaces."""

LOSS_TAG = "train/loss"
LEARNING_RATE = "train/learning_rate"
GRADIENT_NORM_TAG = "train/grad_norm"
STEP_SECONDS = "train/step_seconds"


def write_events(record: Record) -> Path:
    """Write what `record` observed into its folder `tensorboard/` and return that folder.

    train/loss:          loss of the optimizer step
    train/learning_rate: what the step really used, of the optimizer's first group
    train/grad_norm:     L2 norm before clipping, as the trainer computed it
    train/step_seconds:  mean of each window in which XLA did not compile, at its last step

    Steps count from 0. What was not observed has no event; a NaN has one, and TensorBoard shows it.
    Values are stored as float32, as TensorBoard has it: the ladder reads the Record instead. The
    same Record always gives the same bytes.
    """
    folder = record.directory / TENSORBOARD
    _write(folder, _scalars(record), _times(record))
    return folder


def write_logdir(folder: Path, verdict: Verdict, records: Mapping[str, Record]) -> None:
    """Write a logdir that overlays the runs of a verdict, and shows what they differ by.

    <case>/<run>:       the curves of `write_events`, for each run that is compared
    <case>/<a> and <b>: parity/loss and parity/grad_norm, the relative difference at every step; and
                        parity/<rung>, the value that the rung judged, and its limit beside it under
                        parity/<rung>_limit
    """
    taken: dict[Path, str] = {}

    def place(case: Path, name: str, of: str) -> Path:
        """A folder of that name, and of another where that is taken by other runs."""
        path = case / _folder(name)
        for number in count(2):
            if taken.setdefault(path, of) == of:
                return path
            path = case / _folder(f"{name} {number}")
        raise AssertionError

    for pair in verdict.pairs:
        a, b = records.get(pair.a_record), records.get(pair.b_record)
        known = a or b
        case = folder / _folder(verdict.case if known is None else known.case.name)
        labels = names(pair)
        for label, record in zip(labels, (a, b), strict=True):
            if record is not None:
                path = place(case, label, str(record.directory))
                _write(path, _scalars(record), _times(record))
        scalars = _judged(pair)
        times = {} if a is None else _times(a)
        if a is not None and b is not None:
            for tag, of in ((LOSS_TAG, _loss), (GRADIENT_NORM_TAG, _norm)):
                gaps = difference(series(a, of), series(b, of))
                for step, gap in finite(gaps).items():
                    scalars.setdefault(step, {})[f"parity/{tag.removeprefix('train/')}"] = gap
        both = place(case, " and ".join(labels), f"{pair.a_record} {pair.b_record}")
        _write(both, scalars, times)


def _loss(step: Step) -> float | None:
    return step.loss


def _norm(step: Step) -> float | None:
    return step.gradient_norm


def _judged(pair: PairVerdict) -> dict[int, dict[str, float]]:
    """What the rungs judged, as scalars of step 0."""
    found: dict[str, float] = {}
    for rung in pair.rungs:
        for tag, number in ((rung.rung, rung.value), (f"{rung.rung}_limit", rung.limit)):
            if number is not None:
                found[f"parity/{tag}"] = number
    return {0: found} if found else {}


def _folder(name: str) -> str:
    """A label as the name of a folder."""
    return re.sub(r"[^\w.@+ -]", "_", name) or "_"


def _write(
    folder: Path, scalars: Mapping[int, Mapping[str, float]], times: Mapping[int, float]
) -> None:
    """One event file, in place of the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    start = next(iter(times.values()), 0.0)
    with replacing(folder / FILE) as stream:
        writer = RecordWriter(stream)
        writer.write(Event(wall_time=start, file_version="brain.Event:2").SerializeToString())
        for step, values in sorted(scalars.items()):
            summary = Summary(
                value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            )
            event = Event(wall_time=times.get(step, start), step=step, summary=summary)
            writer.write(event.SerializeToString())


def _scalars(record: Record) -> dict[int, dict[str, float]]:
    """Tags and values of each step, only those that were observed."""
    scalars: dict[int, dict[str, float]] = {}
    for step in record.steps:
        values = {
            LOSS_TAG: step.loss,
            LEARNING_RATE: step.learning_rates[0] if step.learning_rates else None,
            GRADIENT_NORM_TAG: step.gradient_norm,
        }
        scalars[step.index] = {tag: v for tag, v in values.items() if v is not None}
    for window in record.steady_windows:
        scalars.setdefault(window.last, {})[STEP_SECONDS] = window.seconds / window.steps
    return {step: values for step, values in scalars.items() if values}


def _times(record: Record) -> dict[int, float]:
    """Seconds since 1970 at which each step was taken, never falling.

    A `Step` does not carry them, because nothing is judged by them: they are read from the events.
    """
    events = read_events(record.directory / STEPS)
    at = {event.step: event.at for event in events if isinstance(event, StepEvent)}
    times: dict[int, float] = {}
    latest = 0.0
    for step in record.steps:
        latest = times[step.index] = max(latest, at.get(step.index, latest))
    return times
