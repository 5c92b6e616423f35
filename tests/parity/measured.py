"""Runs a module or a script by itself, and writes what it took.

`measured.py OUT.json [-m] NAME ARGS…`: peak resident memory of the process in bytes, number and
seconds of XLA's compilations, and the seconds between the ends of successive optimizer steps.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import resource
import runpy
import sys
import time
from pathlib import Path

import torch_xla.debug.metrics as metrics
from torch.optim.optimizer import register_optimizer_step_post_hook

ends: list[float] = []


def write(out: Path) -> None:
    """What this process took until now."""
    compiled = metrics.metric_data("CompileTime")
    measured = {
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "compilations": compiled[0] if compiled else 0,
        "compile_seconds": compiled[1] / 1e9 if compiled else 0.0,
        "steps": [after - before for before, after in itertools.pairwise(ends)],
    }
    out.write_text(json.dumps(measured))


def main(out: Path, argv: list[str]) -> None:
    """Run what `argv` names as the main program, and write `out` when it ends."""
    register_optimizer_step_post_hook(lambda *_: ends.append(time.perf_counter()))
    atexit.register(write, out)
    module = argv[0] == "-m"
    sys.argv = argv[module:]
    if module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
