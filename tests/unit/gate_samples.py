"""Runs to be gated: whole Records as a probe writes them, and Plans that lead to them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import manifests
import record_files
from builders import KNOWN_ANSWERS

from harness.config.compose import load
from harness.config.settings import Settings
from harness.engines.command import Command
from harness.environments.interpreters import Interpreter
from harness.inputs.prepared import Inputs
from harness.probe.spec import Spec
from harness.record.evidence import Record
from harness.record.reader import read_record
from harness.run.plan import Plan

NAMES = ("a.weight", "b.weight")

RATES = (0.0, 2.5e-4, 5e-4, 7.5e-4)
"""Learning rates of the default case's schedule over four steps."""

LOSSES = (6.5078125, 6.25, 6.0, 5.75)

STARTED = itertools.count(1_000_000_000)
"""When each run began: no two are one launch."""
INTERPRETER = Interpreter(Path("python"), (), {}, {}, "key")


def settings(tmp_path: Path, *overrides: str) -> Settings:
    """The default case with four steps, and a workspace of its own."""
    return dataclasses.replace(_loaded(overrides), workspace=str(tmp_path / "workspace"))


@cache
def _loaded(overrides: tuple[str, ...]) -> Settings:
    return load(["engines=[hf,hf]", "case.steps=4", *overrides])


@cache
def case_asked() -> dict[str, Any]:
    """That case as a manifest holds it, of a model of two parameters."""
    case = load(["case.steps=4"]).case
    shapes = {name: [4, 4] for name in NAMES}
    model = dataclasses.replace(case.model, family="toy", options=shapes)
    sharding: dict[str, list[Any]] = {name: ["fsdp", None] for name in NAMES}
    return dataclasses.asdict(dataclasses.replace(case, model=model, sharding=sharding))


def fingerprint(value: float, bits: int) -> dict[str, Any]:
    """A fingerprint whose sketch and norm follow `value`."""
    return {"bits": bits, "sketch": [value * k for k in range(1, 9)], "norm": 10 * abs(value)}


def measured(scale: float) -> float:
    """The norm of both parameters' gradients."""
    return math.sqrt(2) * scale


def parameter(
    name: str, scale: float = 1.0, final_bits: int = 77, initial_bits: int = 11
) -> dict[str, Any]:
    """One parameter; `scale` is that of its gradient."""
    return {
        "name": name,
        "shape": [4, 4],
        "dtype": "float32",
        "sharding": "{devices=[4,1]0,1,2,3}",
        "group": 0,
        "initial": fingerprint(0.5, initial_bits),
        "gradient": fingerprint(0.1 * scale, 22),
        "clipped_norm": scale * min(1.0, 1 / (measured(scale) + 1e-6)),
        "after": [fingerprint(0.5, 11), fingerprint(0.499, 33)],
        "final": fingerprint(0.45, final_bits),
    }


def batch(index: int) -> dict[str, Any]:
    """A batch that is told apart from the others by its index."""
    content = {"tokens": f"t{index}", "labels": f"l{index}", "mask": "", "rows": [f"r{index}"] * 8}
    return {"event": "batch", "index": index, **content, "shape": [8, 128], "targets": 900,
            "first_targets": 0}  # fmt: skip


def run(
    folder: Path,
    label: str = "hf@1.0",
    losses: Sequence[float] = LOSSES,
    *,
    scale: float = 1.0,
    final_bits: int = 77,
    initial_bits: int = 11,
    case: dict[str, Any] | None = None,
    observed: dict[str, Any] | None = None,
    ended: dict[str, Any] | None = None,
    log: str = "",
    **manifest: Any,
) -> Record:
    """A Record of four steps of the default case, as it would be read from `folder`."""
    events: list[dict[str, Any]] = [batch(i) for i in range(len(losses))]
    group = {"hyper": {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}, "parameters": 2}
    events.append({"event": "optimizer", "step": 0, "name": "torch.optim.AdamW", "groups": [group]})
    for step, loss in enumerate(losses):
        given = {name: batch(step)[name] for name in ("tokens", "labels")}
        events += [
            record_files.step_event(step, lr=[RATES[step]], at=1000.0 + step),
            record_files.window_event(step, step, 0.1, compilations=int(step < 2)),
            record_files.values_event(step, [loss], measured(scale), inputs=[given]),
        ]
    record_files.write(
        folder,
        events,
        [parameter(name, scale, final_bits, initial_bits) for name in NAMES],
        log=log,
        manifest=manifests.raw(
            case_asked() | (case or {}),
            **{
                "label": label,
                "started": next(STARTED),
                "key": f"{next(STARTED):012x}",
                "origin": {
                    "version": label.rpartition("@")[2],
                    "description": f"transformers {label}",
                },
                "interpreter": {
                    "python": "/home/me/bin/python",
                    "packages": {"accelerate": "1.15.0"},
                },
                "command": {
                    "argv": ["/home/me/bin/python", "train.py"],
                    "environment": {},
                    "pythonpath": [],
                },
                "ended": ended or {},
                "observed": {
                    "device": "CPU",
                    "devices": 4,
                    "device_kind": "CPU",
                    "matmul_precision": "highest",
                    "products": {"aten::mm": "highest"},
                    "processes": 1,
                    "mesh": {"axes": {"fsdp": 4, "tensor": 1}, "device_order": [0, 1, 2, 3]},
                    "versions": {"torch": "2.9.0", "torch_xla": "2.9.0"},
                    "flags": {"XLA_FLAGS": "--xla_x=1"},
                    "input_sharding": "{devices=[4,1]0,1,2,3}",
                    "attention": "eager",
                    "known_answers": KNOWN_ANSWERS,
                    **(observed or {}),
                },
                **manifest,
            },
        ),
    )
    return read_record(folder)


def plan(label: str, chosen: Settings, **changed: Any) -> Plan:
    """A Plan that is never launched: what it leads to is looked up by its label."""
    fields: dict[str, Any] = {
        "engine": "hf",
        "label": label,
        "case": chosen.case,
        "command": Command((label,), Spec(4, 8)),
        "interpreter": INTERPRETER,
        "inputs": Inputs(Path("inputs")),
        "environment": {},
        "origin": {"description": f"transformers {label}"},
    }
    return Plan(**fields | changed)


class Silent:
    """A Reporter that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def expects(self, runs: int) -> None:
        """Nothing is shown of it."""

    def started(self, label: str, steps: int) -> None:
        raise AssertionError(f"{label} was launched")

    def event(self, label: str, event: Any) -> None:
        raise AssertionError(f"{label} was launched")

    def ended(self, label: str, outcome: Any) -> None:
        raise AssertionError(f"{label} was launched")

    def reused(self, label: str, directory: Path) -> None:
        self.lines.append(f"{label} reused")

    def close(self) -> None:
        """Nothing to take away."""
