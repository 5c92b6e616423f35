"""What chips can do, against published numbers, and the utilization that follows."""

import math

import pytest

from harness.devices.chips import model_flops_utilization
from harness.devices.device import chip, devices
from harness.devices.tpu import CHIPS


@pytest.mark.parametrize(
    ("kinds", "tera"),
    [
        (["TPU v4", "tpu V4"], 275), (["TPU v5e"], 197), (["TPU v5p"], 459), (["TPU v6e"], 918),
        (["TPU7x", "TPU7X"], 2307),
    ],
)  # fmt: skip
def test_known_chips(kinds: list[str], tera: int) -> None:
    for kind in kinds:
        found = chip(kind)
        assert found is not None
        assert found.peak_flops == tera * 1e12


@pytest.mark.parametrize(
    "kind", ["", "CPU", "TPU", "TPU v2", "TPU v4 lite", "TPU v5", "TPU v6", "NVIDIA H100", "v5x"]
)
def test_unknown_chips(kind: str) -> None:
    """Among them what older Records call v5e and v5p alike."""
    assert chip(kind) is None


def test_every_number_is_one_of_a_chip() -> None:
    for found in (c for d in devices() for c in d.chips.values()):
        assert 1e14 < found.peak_flops < 1e16
        assert 1e10 < found.hbm_bytes < 1e12
        assert 5e11 < found.hbm_bandwidth < 1e13
        assert 1e11 < found.ici_bandwidth < found.hbm_bandwidth
        assert found.clock is None or 1e9 <= found.clock < 2e9
        assert found.source


@pytest.mark.parametrize(
    ("kind", "units", "side"),
    [("tpu v4", 8, 128), ("tpu v5e", 4, 128), ("tpu v5p", 8, 128), ("tpu v6e", 4, 256)],
)
def test_the_clock_reaches_the_peak(kind: str, units: int, side: int) -> None:
    """A matrix unit of side × side multiplies and adds as often in every cycle."""
    found = CHIPS[kind]
    assert found.clock is not None
    assert units * side**2 * 2 * found.clock == pytest.approx(found.peak_flops, rel=0.01)


def test_utilization() -> None:
    """A TPU7x is two PJRT devices, which have half of its peak each."""
    tokens, flops = 1e6, 4e10
    for kind, devices_, share in (
        ("tpu v6e", 256, 4e16 / (256 * 918e12)),
        ("tpu v6e", 512, 4e16 / (512 * 918e12)),
        ("tpu7x", 8, 4e16 / (4 * 2307e12)),
    ):
        found = model_flops_utilization(tokens, flops, CHIPS[kind], devices_)
        assert found == pytest.approx(share)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_utilization_of_nonsense_is_an_error(bad: float) -> None:
    with pytest.raises(ValueError, match="tokens_per_second"):
        model_flops_utilization(bad, 1e10, CHIPS["tpu v4"], 4)
    with pytest.raises(ValueError, match="flops_per_token"):
        model_flops_utilization(1e3, bad, CHIPS["tpu v4"], 4)
    with pytest.raises(ValueError, match="devices"):
        model_flops_utilization(1e3, 1e10, CHIPS["tpu v4"], 0)
