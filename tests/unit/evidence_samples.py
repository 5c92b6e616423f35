"""What trainers leave behind, written as they write it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

START = datetime(2025, 6, 16, 22, 0, tzinfo=UTC).timestamp()


def rates(steps: int, warmup: int = 3, peak: float = 1e-5) -> list[float]:
    """A linear warm-up from zero, then a linear decay to zero after the last step."""
    return [
        peak * step / warmup if step < warmup else peak * (steps - step) / (steps - warmup)
        for step in range(steps)
    ]


def losses(steps: int) -> list[float]:
    """A curve with all of its digits."""
    return [2.0 + 1.0 / (step + 1.7) for step in range(steps)]


def trainer_log(path: Path, steps: int, texts: bool = False) -> Path:
    """What transformers' Trainer prints; from version 5 on its numbers are texts."""
    lines = []
    for step, (loss, rate) in enumerate(zip(losses(steps), rates(steps), strict=True)):
        entry: dict[str, Any] = {
            "loss": round(loss, 4), "grad_norm": 3.0 / (step + 1), "learning_rate": rate,
            "epoch": round(step / steps, 2),
        }  # fmt: skip
        lines.append(repr({k: str(v) for k, v in entry.items()} if texts else entry))
    summary = repr({"train_runtime": 12.5, "train_loss": 2.1, "epoch": 1.0})
    path.write_text("\r  0%|  | 0/3\r" + "\n\n".join(lines) + f"\n{summary}\n")
    return path


def torchprime_log(
    path: Path, steps: int, total: int | None = None, slow: Mapping[int, tuple[float, float]] = {}
) -> Path:
    """What torchprime prints: the rate of the next step, and no more digits than these.

    total: steps that the schedule is made for
    slow:  what a step takes, and how much of it is tracing, in seconds
    """
    following = [*rates(total or steps)[1:], 0.0]
    at, lines = START, []
    for step, loss in enumerate(losses(steps)):
        seconds, tracing = slow.get(step, (0.5, 0.4))
        at += seconds
        when = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]
        lines.append(
            f"[{when}][torchprime.torch_xla_models.trainer.base_trainer][INFO] - "
            f"Epoch: {step / steps:.4f}, step: {step}, loss: {loss:.4f}, "
            f"grad_norm: {3.0 / (step + 1):.4f}, lr: {following[step]:.2e}, "
            f"trace time: {tracing * 1000:.2f} ms"
        )
    path.write_text("\n".join(["a line of something else", *lines]) + "\n")
    return path


def trainer_state(path: Path, steps: int, every: int = 1) -> Path:
    """What transformers' Trainer saves with a checkpoint."""
    history: list[dict[str, Any]] = []
    for done in range(every, steps + 1, every):
        window = losses(steps)[done - every : done]
        history.append(
            {"epoch": done / steps, "grad_norm": 3.0 / done,
             "learning_rate": rates(steps)[done - 1],
             "loss": round(sum(window) / every, 4), "step": done}
        )  # fmt: skip
    history.append({"step": steps, "train_runtime": 12.5, "train_loss": 2.1})
    history.append({"step": steps, "eval_loss": 2.2})
    state = {"global_step": steps, "max_steps": steps, "log_history": history}
    path.write_text(json.dumps(state))
    return path


def event_file(
    path: Path, scalars: Iterable[tuple[str, int, float]], tensors: bool = False
) -> Path:
    """An event file of PyTorch's SummaryWriter, an event a scalar, a second apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        writer = RecordWriter(stream)
        writer.write(Event(wall_time=START, file_version="brain.Event:2").SerializeToString())
        for tag, step, value in scalars:
            one = Summary.Value(tag=tag, simple_value=value)
            if tensors:
                one = Summary.Value(tag=tag)
                one.tensor.dtype = 1
                one.tensor.float_val.append(value)
            event = Event(wall_time=START + 1 + step, step=step, summary=Summary(value=[one]))
            writer.write(event.SerializeToString())
    return path


def curve(tag: str, values: Sequence[float], first: int = 0) -> list[tuple[str, int, float]]:
    """A series for `event_file`."""
    return [(tag, first + index, value) for index, value in enumerate(values)]
