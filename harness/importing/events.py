"""Reads scalars out of TensorBoard's event files, many times as fast as TensorBoard does.

TensorBoard's EventAccumulator makes objects of every event, and computes its two checksums in
Python. Here the file is walked by its framing (TFRecord: 8 bytes of length, 4 of checksum, the
message, 4 of checksum), and a message is parsed once a tag. Checksums are not verified: a length
that leads out of the file, and a message that is none, are BadInput; a last event that is cut short
is a run that was.
"""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput
from harness.importing.numbers import LoggedSource, Point, RunFacts, spacing

_HEADER = 12  # length and its checksum
_FOOTER = 4
LONGEST_EVENT = 1 << 30
"""Bytes of an event: a longer one is none, and the file is damaged."""


@dataclass(frozen=True)
class Tags:
    """The tags under which one trainer writes its scalars; of several, the first that is there.

    One that ends in a slash stands for all below it, where they are equal.

    seconds: what a step took
    means:   a loss is the mean of all steps since the one before
    shared:  the time of the first step is divided by the steps between two logs, as the others' are
    """

    loss: tuple[str, ...]
    learning_rate: tuple[str, ...]
    gradient_norm: tuple[str, ...]
    seconds: tuple[str, ...] = ()
    means: bool = False
    shared: bool = False


TRAINERS: Mapping[str, Tags] = {
    "maxtext": Tags(
        ("learning/loss", "learning/lm_loss"),
        ("learning/current_learning_rate",),
        ("learning/raw_grad_norm", "learning/grad_norm"),  # raw: before clipping
        ("perf/step_time_seconds",),
    ),
    "torchtitan": Tags(
        ("loss_metrics/global_avg_loss",),
        ("lr", "lr/"),  # one an optimizer since 2026
        ("grad_norm",),
        ("time_metrics/end_to_end(s)",),
        shared=True,
    ),
    # transformers' Trainer and torchprime write the same tags, and count differently.
    "torchprime": Tags(("train/loss",), ("train/learning_rate",), ("train/grad_norm",)),
    "hf": Tags(("train/loss",), ("train/learning_rate",), ("train/grad_norm",), means=True),
}
"""By engine; the first whose loss is there is the one."""

Scalars = dict[int, tuple[float, float]]
"""Wall time and value by step; of a step that is there twice, the last."""


def read_scalars(path: Path, wanted: Iterable[str]) -> tuple[dict[str, Scalars], float | None]:
    """The series of the wanted tags in an event file, and when it was begun.

    A wanted tag that ends in a slash is all below it. Raises BadInput where it is no event file.
    """
    names = set(wanted)
    below = tuple(name for name in names if name.endswith("/"))
    found: defaultdict[str, Scalars] = defaultdict(dict)
    began = None
    known: dict[bytes, Scalars | None] = {}
    for message in _messages(path):
        wall, step, at = _head(message)
        if began is None:
            began = wall
        # All events of one tag are alike from the step on but for the number, which comes last. So
        # the message is parsed once a tag; after that, equal bytes mean an equal tag.
        end = len(message) - 4
        key = message[at:end]
        if key not in known:
            scalars = _scalars(path, message)
            if not _is_last(message, scalars):
                for tag, value in scalars:
                    if tag in names or tag.startswith(below):
                        found[tag][step] = (wall, value)
                continue
            tag = scalars[0][0]
            known[key] = found[tag] if tag in names or tag.startswith(below) else None
        series = known[key]
        if series is not None:
            series[step] = (wall, _FLOAT(message, end)[0])
    return dict(found), began


_LENGTH = struct.Struct("<Q").unpack_from
_DOUBLE = struct.Struct("<d").unpack_from
_FLOAT = struct.Struct("<f").unpack_from


def _messages(path: Path) -> Iterator[bytes]:
    """The messages of a file, of which no more is held in memory than one."""
    at, end = 0, path.stat().st_size
    if not end:
        return  # which cannot be mapped
    with path.open("rb") as stream, mmap(stream.fileno(), end, access=ACCESS_READ) as data:
        while at + _HEADER <= end:
            (length,) = _LENGTH(data, at)
            start = at + _HEADER
            if start + length > end:
                if length > LONGEST_EVENT:
                    raise BadInput(f"{path}: no event begins at byte {at}: it is damaged")
                return  # a run that was cut short
            yield data[start : start + length]
            at = start + length + _FOOTER


def _head(message: bytes) -> tuple[float, int, int]:
    """Wall time and step of an Event, its fields 1 and 2, and where they end."""
    wall, step, at, size = 0.0, 0, 0, len(message)
    if size >= 9 and message[0] == 0x09:
        wall, at = _DOUBLE(message, 1)[0], 9
    if at < size and message[at] == 0x10:
        shift, at = 0, at + 1
        while at < size:
            byte = message[at]
            at += 1
            step |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
    return wall, step, at


def _scalars(path: Path, message: bytes) -> list[tuple[str, float]]:
    """Tags and values of an Event, by protobuf."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]

    try:
        event = Event.FromString(message)
    except DecodeError as error:
        raise BadInput(f"{path}: an event cannot be read ({error}): it is damaged") from None
    return [(v.tag, number) for v in event.summary.value if (number := _number(v)) is not None]


def _number(value: Any) -> float | None:
    """A Summary.Value's scalar: TensorFlow 1 and PyTorch keep a float, TensorFlow 2 a tensor."""
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor") or value.tensor.tensor_shape.dim:
        return None
    from tensorboard.util.tensor_util import make_ndarray  # type: ignore[import-untyped]

    return float(make_ndarray(value.tensor))


def _is_last(message: bytes, scalars: list[tuple[str, float]]) -> bool:
    """Whether an Event is one float, and its last field: a tag, 0x15, and four bytes."""
    if len(scalars) != 1 or len(message) < 5 or message[-5] != 0x15:
        return False
    (value,) = _FLOAT(message, len(message) - 4)
    return struct.pack("<f", value) == struct.pack("<f", scalars[0][1])


def read_events(paths: Sequence[Path]) -> LoggedSource | None:
    """The steps in the event files of one run; None where no trainer is known by its tags."""
    wanted = {tag for tags in TRAINERS.values() for group in _groups(tags) for tag in group}
    found: dict[str, Scalars] = {}
    begun = []
    for path in paths:
        series, began = read_scalars(path, wanted)
        for tag, values in series.items():
            found.setdefault(tag, {}).update(values)
        begun += [began] if series and began is not None else []
    for engine, tags in TRAINERS.items():
        if any(tag in found for tag in tags.loss):
            return _source(engine, tags, found, min(begun), paths)
    return None


def _groups(tags: Tags) -> tuple[tuple[str, ...], ...]:
    return tags.loss, tags.learning_rate, tags.gradient_norm, tags.seconds


def _source(
    engine: str, tags: Tags, found: Mapping[str, Scalars], began: float, paths: Sequence[Path]
) -> LoggedSource:
    loss, rate, norm, seconds = (_series(found, group) for group in _groups(tags))
    steps = sorted(loss)
    # A trainer that has a step 0 counts from 0; the others name a step by how many are done.
    first = 0 if steps[0] == 0 else 1
    if first == 1 and tags.loss == TRAINERS["hf"].loss:
        engine = "hf"
    every = spacing(steps)
    if tags.shared and steps[0] == 1 and 1 in seconds and len(steps) > 2:
        wall, shared = seconds[1]
        seconds = {**seconds, 1: (wall, shared * math.gcd(*steps[1:]))}
    points = tuple(
        Point(
            step - first,
            loss[step][1],
            _value(rate, step),
            _value(norm, step),
            loss[step][0],
            _value(seconds, step),
        )
        for step in steps
    )
    where = paths[0] if len(paths) == 1 else f"{len(paths)} files in {paths[0].parent}"
    return LoggedSource(
        f"TensorBoard scalars of {engine} in {where}",
        points,
        every=every if TRAINERS[engine].means else 1,
        began=began,
        facts=RunFacts(engine=engine),
    )


def _series(found: Mapping[str, Scalars], group: tuple[str, ...]) -> Scalars:
    """The first series of a group that is there; of several below one tag, what all of them say."""
    for tag in group:
        if tag in found:
            return found[tag]
        if tag.endswith("/"):
            values = [found[name] for name in sorted(found) if name.startswith(tag)]
            if values and all(_numbers(v) == _numbers(values[0]) for v in values):
                return values[0]
    return {}


def _numbers(series: Scalars) -> dict[int, float]:
    return {step: value for step, (_, value) in series.items()}


def _value(series: Scalars, step: int) -> float | None:
    return series[step][1] if step in series else None
