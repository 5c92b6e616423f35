"""What products ask for, where torch itself sets the limits."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]

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
        cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "or torch is older than 2.9" in done.stdout


def test_the_documentation_names_each_operation_that_is_looked_at() -> None:
    tree = ast.parse((ROOT / "harness/probe/products.py").read_text())
    (listed,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "OPERATIONS"
    )
    assert isinstance(listed, ast.Dict)
    names = [f"`{ast.literal_eval(key)}`" for key in listed.keys if key is not None]
    sentence = f"Looked at are {', '.join(names[:-1])} and {names[-1]}, and no others"
    assert sentence in " ".join((ROOT / "docs/cases.md").read_text().split())
