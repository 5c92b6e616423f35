"""How long scalars of a TensorBoard event file take to be read, here and by TensorBoard itself.

    python benchmarks/import_events.py [STEPS]

Writes four scalars for each of 250,000 steps: a million points by default.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from harness.importing.events import read_scalars

TAGS = ("train/loss", "train/learning_rate", "train/grad_norm", "train/epoch")


def write(path: Path, steps: int) -> None:
    """Scalars as PyTorch's SummaryWriter writes them."""
    with path.open("wb") as stream:
        writer = RecordWriter(stream)
        writer.write(Event(wall_time=1e9, file_version="brain.Event:2").SerializeToString())
        for step in range(steps):
            for number, tag in enumerate(TAGS):
                summary = Summary(value=[Summary.Value(tag=tag, simple_value=step / 7 + number)])
                event = Event(wall_time=1e9 + step, step=step, summary=summary)
                writer.write(event.SerializeToString())


def main() -> None:
    """Measure both, and see that they read the same."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 250_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.out.tfevents.1"
        write(path, steps)
        began = time.perf_counter()
        ours, _ = read_scalars(path, TAGS)
        read = time.perf_counter()
        accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0})
        accumulator.Reload()
        theirs = {tag: accumulator.Scalars(tag) for tag in TAGS}
        done = time.perf_counter()
    for tag in TAGS:
        assert [value for _, value in ours[tag].values()] == [e.value for e in theirs[tag]]
    here, there = read - began, done - read
    print(f"{steps * len(TAGS):,} points: here {here:.2f} s, EventAccumulator {there:.2f} s")
    print(f"{there / here:.1f} times as fast")


if __name__ == "__main__":
    main()
