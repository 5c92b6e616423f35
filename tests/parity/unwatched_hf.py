"""hf_clm.py by itself, writing the Trainer's own running sum of losses after every step.

`unwatched_hf.py SUMS.json HF_CLM.py ARGS…`; what the Trainer logs is rounded, its sum is not.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

from transformers import Trainer

sums: list[float] = []
original = Trainer.log


def log(self: Any, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
    """Keep the sum of losses as it is whenever the Trainer logs a loss."""
    if "loss" in logs:
        sums.append(float(self._total_loss_scalar))
    original(self, logs, *args, **kwargs)


Trainer.log = log
target = sys.argv[1]
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
Path(target).write_text(json.dumps(sums))
