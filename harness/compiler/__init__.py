"""The compiled graph: an HLO dump of XLA, read into facts that two runs are compared by."""

from harness.compiler.compare import describe_difference
from harness.compiler.dump import read_dump, steady_state_module
from harness.compiler.hlo import parse_module
from harness.record.graph import Collective, ModuleGraph

__all__ = [
    "Collective",
    "ModuleGraph",
    "describe_difference",
    "parse_module",
    "read_dump",
    "steady_state_module",
]
