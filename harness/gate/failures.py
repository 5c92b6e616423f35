"""What to say of a run that did not train: the root of its traceback, and whose fault it is."""

from __future__ import annotations

import signal

from harness.base.tracebacks import root_of
from harness.ladder.ladder import blamed_for
from harness.ladder.rung import Stage
from harness.record.evidence import Record
from harness.record.layout import LOG, STEPS
from harness.record.reader import BatchEvent, read_events
from harness.record.termination import KILLED, OF_MACHINE, OK, TIMED_OUT

LOG_BYTES = 400_000
"""Of the end of a log that are searched for a traceback."""


def did_not_train(record: Record) -> bool:
    """Whether a run failed by what it was made of.

    A collective that starved, a device that was busy or lost, or a SIGKILL, is the machine's doing
    and says nothing of the trainer.
    """
    ended = record.ended
    if ended.status == OK:
        return False
    machine = ended.status in OF_MACHINE or (
        ended.status == KILLED and ended.code == -signal.SIGKILL
    )
    return not machine


def why(record: Record) -> str:
    """The root of a failed run's traceback, else how it ended."""
    path = record.directory / LOG
    if record.ended.status != TIMED_OUT and path.is_file():
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - LOG_BYTES))
            root = root_of(stream.read().decode(errors="replace").splitlines())
        if root is not None:
            return root
    return record.ended.reason


def broken_rung(record: Record | None) -> str:
    """The rung to blame a failed run on: the first that it gave no evidence for."""
    return blamed_for(Stage.STARTING if record is None else _stage(record)).name


def _stage(record: Record) -> Stage:
    if record.trained_steps:
        return Stage.TRAINING
    # Batches are loaded right before the first step: without one, training was never begun.
    events = read_events(record.directory / STEPS)
    began = any(isinstance(event, BatchEvent) for event in events)
    return Stage.FIRST_STEP if began else Stage.STARTING
