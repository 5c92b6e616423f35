"""Canonical parameters in an engine's own layout, there and back; in the engine's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SCRIPT = """
import json, torch
from harness.models.layout import Layout
from harness.probe.fingerprint import fingerprints
from harness.probe.layouts import put_together, sharding, stored, take_apart

q, k, v = torch.randn(6, 4), torch.randn(2, 4), torch.randn(2, 4)
named = {"q": q, "k": k, "v": v, "norm": torch.randn(4)}
CASES = {
    "fused": (Layout("own", ("q", "k", "v"), sizes=(6, 2, 2)), (10, 4)),
    "fused along the last": (
        Layout("own", ("q", "k", "v"), dim=1, sizes=(6, 2, 2), transposed=True), (4, 10)),
    "stacked": (Layout("own", ("k", "v"), stacked=True), (2, 2, 4)),
    "stacked last": (Layout("own", ("k", "v"), dim=2, stacked=True), (2, 4, 2)),
    "transposed": (Layout("own", ("q",), transposed=True), (4, 6)),
}
found = {}
for name, (layout, shape) in CASES.items():
    assert Layout.of(json.loads(json.dumps(vars(layout)))) == layout
    parts = [named[held] for held in layout.holds]
    weights = stored(named, (layout,))
    assert weights.keys() == named.keys() - set(layout.holds) | {"own"}
    own = weights["own"]
    back = take_apart(layout, own)
    values = fingerprints([*parts, *back], lambda tensors: None)
    bits = [value["bits"] for value in values]
    found[name] = {
        "shape": tuple(own.shape) == shape,
        "back": all(torch.equal(x, y) for x, y in zip(parts, back, strict=True)),
        "again": torch.equal(put_together(layout, back), own),
        "fingerprints": bits[:len(parts)] == bits[len(parts):],
    }
print(json.dumps([found, [
    sharding(layout, "{devices=[2,2]0,1,2,3}") for layout, _ in CASES.values()
    if not layout.stacked
] + [
    sharding(CASES["transposed"][0], "{devices=[4,1,2]0,1,2,3,4,5,6,7 last_tile_dim_replicate}"),
    sharding(CASES["transposed"][0], "{replicated}"),
    sharding(CASES["stacked"][0], "{devices=[1,4,1]0,1,2,3}"),
    sharding(CASES["stacked"][0], "{devices=[2,1,1]0,1}"),
]]))
"""


@pytest.fixture(scope="module")
def answers(engine_python: Path) -> list[object]:
    done = subprocess.run(
        [engine_python, "-c", SCRIPT], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


def test_there_and_back(answers: list[dict[str, dict[str, bool]]]) -> None:
    """Values, shapes and the bits of fingerprints, through each layout and its undoing."""
    wrong = [(n, what) for n, held in answers[0].items() for what, good in held.items() if not good]
    assert not wrong
    assert len(answers[0]) == 5


def test_shardings(answers: list[object]) -> None:
    assert answers[1] == [
        "{devices=[2,2]0,1,2,3}",
        "{devices=[2,2]0,2,1,3}",
        "{devices=[2,2]0,2,1,3}",
        "{devices=[1,4,2]0,1,2,3,4,5,6,7 last_tile_dim_replicate}",
        "{replicated}",
        "{devices=[4,1]0,1,2,3}",
        "{devices=[2,1,1]0,1}",  # of three dimensions: no partition of parameters that have two
    ]
