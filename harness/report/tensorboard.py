"""A Record's curves as TensorBoard event files, under the same tags whatever the engine.

One `tensorboard --logdir` over several Records overlays their curves. No torch and no TensorFlow
is needed: the events are TensorBoard's own protocol buffers in its own framing.
"""

from __future__ import annotations

from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from harness.base.files import replacing
from harness.record.evidence import Record
from harness.record.layout import STEPS, TENSORBOARD
from harness.record.reader import StepEvent, read_events

FILE = "events.out.tfevents.0.parity"
"""TensorBoard reads files with "tfevents" in their names. It is fixed: a second write replaces."""

LOSS = "train/loss"
LEARNING_RATE = "train/learning_rate"
GRADIENT_NORM = "train/grad_norm"
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
    folder.mkdir(exist_ok=True)
    times = _times(record)
    start = next(iter(times.values()), 0.0)
    with replacing(folder / FILE) as stream:
        writer = RecordWriter(stream)
        writer.write(Event(wall_time=start, file_version="brain.Event:2").SerializeToString())
        for step, values in sorted(_scalars(record).items()):
            summary = Summary(
                value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            )
            event = Event(wall_time=times.get(step, start), step=step, summary=summary)
            writer.write(event.SerializeToString())
    return folder


def _scalars(record: Record) -> dict[int, dict[str, float]]:
    """Tags and values of each step, only those that were observed."""
    scalars: dict[int, dict[str, float]] = {}
    for step in record.steps:
        values = {
            LOSS: step.loss,
            LEARNING_RATE: step.learning_rates[0] if step.learning_rates else None,
            GRADIENT_NORM: step.gradient_norm,
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
