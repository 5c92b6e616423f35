"""What products ask for, where torch itself sets the limits."""

from __future__ import annotations

import subprocess
from pathlib import Path

SCRIPT = """
import torch
vars(torch.library).pop("get_kernel", None)  # as before torch 2.9
from harness.probe.products import carry_into_einsum, leave_einsum_alone
carry_into_einsum("highest")
try:
    leave_einsum_alone()
except RuntimeError as error:
    print(error)
"""


def test_a_torch_that_calls_no_replaced_kernel_trains_with_einsum_as_it_is(
    engine_python: Path,
) -> None:
    done = subprocess.run(
        [engine_python, "-c", SCRIPT], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "or torch is older than 2.9" in done.stdout
