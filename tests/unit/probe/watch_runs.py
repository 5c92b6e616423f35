"""Runs `tiny_trainer.py` once for each line of its input, each watched in a process of its own.

`watch_runs.py OUT < LINES`: each line is the trainer's argument, and run i leaves its Record in
OUT/i. Everything is imported before the probe's hooks are there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import early_import  # noqa: F401
import numpy as np
import torch_xla  # noqa: F401

from harness.models.layout import Layout
from harness.models.router import Router
from harness.probe.__main__ import main
from harness.probe.spec import Saving, Spec
from harness.record.layout import STEPS

BOTH = ("embed.weight", "head.weight")
LAYOUTS = {
    "fused": Layout("table", BOTH, sizes=(16, 16)),
    "stacked": Layout("table", BOTH, stacked=True),
    "transposed": Layout("table", BOTH, dim=1, sizes=(16, 16), transposed=True),
}
"""What the trainer's own layouts are."""

TRAINER = str(Path(__file__).with_name("tiny_trainer.py"))


def run(folder: Path, argument: str) -> None:
    """One watched run, in a fork of this process."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    folder.mkdir(parents=True)
    spec = folder / "spec.json"
    wanted = json.loads(argument)
    rows = None
    saving, inject = None, None
    if (before := wanted.pop("of", None)) is not None:  # the run that saved
        wanted["folder"] = str(folder.parent / str(before) / "saved")
        events = (folder.parent / str(before) / STEPS).read_text().splitlines()
        owns = [event.get("own", "") for event in map(json.loads, events)]
        saving = Saving(order=tuple(own for own in owns if own))
    elif "save" in wanted:
        wanted["folder"] = str(folder / "saved")
        saving = Saving(after=wanted["save"], folder=wanted["folder"])
        inject = str(Path(__file__).with_name("loads_tiny.py"))
    if "mask" in wanted:  # an aligned run
        rows = str(folder / "rows.npz")
        tokens = np.arange(192).reshape(32, 6) % 16
        np.savez(rows, input_ids=tokens, labels=tokens)
    eager = "device" not in wanted
    layouts = (LAYOUTS[wanted["layout"]],) if "layout" in wanted else ()
    steps = 4 - wanted.get("resume", 0)
    watched = Spec(
        steps, micro_batch=4, window=2, eager=eager, rows=rows, layouts=layouts, saving=saving,
        inject=inject, router=Router(("gate",), 4, 2) if "route" in wanted else None,
    )  # fmt: skip
    argument = json.dumps(wanted)
    spec.write_text(watched.to_json())
    code = 1
    try:
        code = main(["--record", str(folder), "--spec", str(spec), "--", TRAINER, argument])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    for number, line in enumerate(sys.stdin.read().splitlines()):
        run(Path(sys.argv[1]) / str(number), line)
