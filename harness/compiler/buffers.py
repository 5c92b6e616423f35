"""What a compiled module holds in main memory, out of XLA's buffer assignment."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.base.errors import BadInput

_ALLOCATION = re.compile(r"^allocation \d+: size (\d+)(.*)$", re.MULTILINE)
_COLOR = re.compile(r", color \d+")
_PARAMETER = re.compile(r", parameter \d+,")
_TOTAL = re.compile(r"^Total bytes used: (\d+)", re.MULTILINE)
_DEFAULT_SPACE = re.compile(r"^Memory Space: default \(color=0\)\nTotal bytes: (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Memory:
    """Bytes of main memory (HBM on a TPU) on one device, for one execution.

    arguments    weights, optimizer state, batch, scalars
    donated      those of them that outputs are written into
    outputs      outputs that need room of their own
    temporaries  the most that values in between hold at once
    constants    constants, and what called computations keep
    """

    arguments: int
    donated: int
    outputs: int
    temporaries: int
    constants: int

    @property
    def peak(self) -> int:
        """All of it."""
        return self.arguments + self.outputs + self.temporaries + self.constants


def read_memory(buffer_assignment: str, usage_report: str | None = None) -> Memory:
    """The memory in a `…buffer-assignment.txt`.

    XLA marks other memories than the main one (a TPU's VMEM and SMEM, the host's) with a colour;
    those do not count. A text that is cut off is `BadInput`: its allocations have to add up to the
    total of all that stands at its end, or, where there is none (libtpu 0.0.52), to that of the
    main memory in the `usage_report` (`…memory-usage-report.txt`).
    """
    sizes = dict.fromkeys(("arguments", "donated", "outputs", "temporaries", "constants"), 0)
    everything = 0
    for found in _ALLOCATION.finditer(buffer_assignment):
        size, notes = int(found[1]), found[2]
        everything += size
        if _COLOR.search(notes):
            continue
        lives_on = "maybe-live-out" in notes
        if _PARAMETER.search(notes):
            sizes["arguments"] += size
            sizes["donated"] += size * lives_on
        elif lives_on:
            sizes["outputs"] += size
        elif "preallocated-temp" in notes:
            sizes["temporaries"] += size
        else:
            sizes["constants"] += size
    memory = Memory(**sizes)
    total = _TOTAL.search(buffer_assignment)
    main = None if usage_report is None else _DEFAULT_SPACE.search(usage_report)
    if total is not None:
        whole = int(total[1]) == everything
    else:
        whole = main is not None and int(main[1]) == memory.peak
    if not whole:
        raise BadInput(
            "The buffer assignment is damaged or cut off: its allocations do not add up to the "
            "total that XLA tells. Make the dump again."
        )
    return memory
