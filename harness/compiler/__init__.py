"""The compiled graph: an HLO dump of XLA, read into facts that two runs are compared by."""

from harness.compiler.compare import describe_difference
from harness.compiler.dump import read_dump, steady_state_module
from harness.compiler.facts import Collective, ModuleGraph, from_json, to_json
from harness.compiler.hlo import parse_module

__all__ = [
    "Collective",
    "ModuleGraph",
    "describe_difference",
    "from_json",
    "parse_module",
    "read_dump",
    "steady_state_module",
    "to_json",
]
