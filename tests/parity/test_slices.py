"""Two slices, for which a CPU mesh of eight devices stands: one device order in every engine."""

from __future__ import annotations

import pytest

from harness.ladder.result import Result
from harness.plugins.ladder import EnginePair, pair_outcome

pytestmark = pytest.mark.cpu


@pytest.mark.parametrize(
    ("other", "overrides", "order"),
    [
        ("torchprime", (), list(range(8))),
        ("reference", (), list(range(8))),
        # Neighbours along tensor are in other slices: no engine may go by the devices' numbers.
        # torchprime's loader takes this mesh for one of fsdp alone, and fails.
        pytest.param(
            "reference",
            (
                "case.mesh.fsdp=4", "+case.mesh.tensor=2", "case.dcn.fsdp=1", "+case.dcn.tensor=2",
                "sharding@case.sharding=llama-fsdp-tensor",
            ),
            [0, 4, 1, 5, 2, 6, 3, 7],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["torchprime", "reference", "tensor across"],
)  # fmt: skip
def test_every_engine_has_the_devices_in_one_order(
    other: str, overrides: tuple[str, ...], order: list[int], request: pytest.FixtureRequest
) -> None:
    pair = EnginePair("llama-tiny-two-slices", "hf", other, "cpu")
    words = ("case.steps=6", "tolerance.noise_floor=table", "float64=never")
    outcome = pair_outcome(request.config, pair, *words, *overrides)
    verdict = outcome.verdict.pairs[0]
    for record in outcome.records.values():
        assert record.observed.devices == 8
        assert record.observed.mesh is not None
        assert list(record.observed.mesh.device_order) == order
    assert verdict.rung("sharding").result is Result.PASS
    assert verdict.rung("forward").result is Result.PASS
