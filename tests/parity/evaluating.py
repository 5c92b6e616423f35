"""The harness's own training script, which evaluates on some of its rows where it is asked to.

`engine.hf.script=evaluating.py engine.hf.arguments={eval_strategy: steps, eval_steps: 3}`.
"""

from __future__ import annotations

import functools
import runpy
from typing import Any

import transformers

initialise = transformers.Trainer.__init__


@functools.wraps(initialise)
def with_rows_to_evaluate(trainer: Any, *args: Any, **given: Any) -> None:
    """Another dataset than the one that is trained on, of eight of its rows."""
    initialise(trainer, *args, **given, eval_dataset=given["train_dataset"].select(range(8)))


if __name__ == "__main__":
    transformers.Trainer.__init__ = with_rows_to_evaluate
    runpy.run_module("harness.trainers.hf_clm", run_name="__main__")
