"""The flags that the TPU's compiler is given: the trainer's, and those that torch_xla adds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from harness.devices.tpu import init_args

LIBTPU, XLA = "LIBTPU_INIT_ARGS", "XLA_FLAGS"
"""The variables by which libtpu and XLA are given flags."""


@dataclass(frozen=True)
class CompilerFlags:
    """Values of the two variables, flags separated by blanks."""

    libtpu: str = ""
    xla: str = ""

    def on(self, chip: str) -> CompilerFlags:
        """With those that torch_xla sets by itself on such a chip ("v6e"), where nobody set them.

        >>> CompilerFlags("--xla_latency_hiding_scheduler_rerun=5").on("v6e").libtpu.split()[:1]
        ['--xla_latency_hiding_scheduler_rerun=5']
        """
        words = self.libtpu.split()
        given = {word.removeprefix("--").partition("=")[0] for word in words}
        words += [f"--{name}={value}" for name, value in init_args(chip) if name not in given]
        return dataclasses.replace(self, libtpu=" ".join(words))
