"""The least time that a step could take: what it computes and moves, at the chip's peak.

It needs no machine code but that of hand-written kernels: a product takes the time of its FLOPs or
of its bytes, whichever is longer, any other operation that of its bytes, a kernel the cycles of its
bundles, and a collective the time of its bytes on the wire. A real chip takes longer, by shares
that a few measured steps tell (docs/predictions.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from harness.compiler.cycles import signature
from harness.compiler.executions import Executions
from harness.compiler.flops import product_flops
from harness.compiler.hlo_text import Module
from harness.compiler.origins import UNNAMED, module_path, origin
from harness.compiler.predicted import (
    Predicted,
    by_path,
    communication,
    in_turn,
    no_estimate,
    part_of,
)
from harness.compiler.schedule import KERNEL, moved
from harness.compiler.target import Target
from harness.devices.chips import Chip
from harness.record.graph import Collective


def least_time(
    module: Module,
    runs: Executions,
    collectives: Sequence[Collective],
    cycles: Mapping[str, int | None],
    chip: Chip | None,
    target: Target,
    devices: int,
) -> Predicted:
    """The least time of one execution, part by part; of hand-written kernels, their own time.

    module:      the optimized, scheduled one
    collectives: of it
    cycles:      of kernels by signature; None, or no entry, for what is not known
    chip:        of the target; None where its numbers are not known
    devices:     of the target
    """
    if chip is None:
        return Predicted({}, (f"the peak of {target.chip} is not known",))
    peak, bandwidth = chip.peak_flops / chip.devices, chip.hbm_bandwidth / chip.devices
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    untimed = 0
    for computation, instruction, n in in_turn(module, runs):
        path = module_path(origin(instruction)) or UNNAMED
        if instruction.target == KERNEL:
            taken = cycles.get(signature(module, computation, instruction))
            if taken is None or chip.clock is None:
                untimed += n
            else:
                seconds[path, "kernels"] += n * taken / chip.clock
            continue
        read_and_written = moved(module, computation, instruction) / bandwidth
        multiplied = product_flops(module, computation, instruction) / peak
        seconds[path, part_of(module, instruction)] += n * max(multiplied, read_and_written)
    for path, part, time in communication(module, runs, collectives, chip, target, devices):
        seconds[path, part] += time
    return Predicted(by_path(seconds), no_estimate(untimed))
