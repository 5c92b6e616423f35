"""Engines: each translates a Case into the Command that makes its trainer train that Case.

An engine only translates; it does not run, watch or judge. A new engine is one module with a
`translate` function here, entered in `ENGINES`.
"""

from __future__ import annotations

from harness.engines import reference, torchprime
from harness.engines.command import Command, Job
from harness.engines.hf import engine as hf

ENGINES = {"hf": hf.translate, "torchprime": torchprime.translate, "reference": reference.translate}
"""Engine name to its translation, a pure function of a Job."""

__all__ = ["ENGINES", "Command", "Job"]
