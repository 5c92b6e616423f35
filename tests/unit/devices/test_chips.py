"""Peak FLOPs, model FLOPs and utilization, against published numbers."""

import math

import pytest

from harness.devices.chips import (
    dense_transformer_flops_per_token,
    model_flops_utilization,
    peak_flops,
)

LLAMA_3_8B = {
    "layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
}


@pytest.mark.parametrize(
    ("kinds", "tera"),
    [
        (["TPU v4", "v4", "tpu V4", "TPUv4"], 275),
        (["TPU v5 lite", "TPU v5e", "v5e", "v5litepod", "TPU v5lite"], 197),
        (["TPU v5", "TPU v5p", "v5p"], 459),
        (["TPU v6 lite", "TPU v6e", "v6e"], 918),
    ],
)
def test_known_chips(kinds: list[str], tera: int) -> None:
    assert {kind: peak_flops(kind) for kind in kinds} == dict.fromkeys(kinds, tera * 1e12)


@pytest.mark.parametrize(
    "kind", ["", "cpu", "TPU", "TPU v2", "TPU v4 lite", "TPU v6", "TPU7x", "NVIDIA H100", "v5x"]
)
def test_unknown_chips_have_no_peak(kind: str) -> None:
    assert peak_flops(kind) is None
    assert model_flops_utilization(1e3, 1e10, kind, 4) is None


def test_flops_of_llama_3_8b() -> None:
    """8.03e9 parameters less the input embeddings and the norms, and attention over 8192 tokens."""
    weights = 8_030_261_248 - 128256 * 4096 - (2 * 32 + 1) * 4096
    flops = dense_transformer_flops_per_token(**LLAMA_3_8B, sequence_length=8192)
    assert flops == 6 * weights + 12 * 32 * 4096 * 8192


def test_flops_count_each_part() -> None:
    base = dense_transformer_flops_per_token(**LLAMA_3_8B, sequence_length=8192)

    def grown(**change: int) -> float:
        shape = {**LLAMA_3_8B, "sequence_length": 8192, **change}
        return dense_transformer_flops_per_token(**shape) - base

    assert grown(sequence_length=8193) == 12 * 32 * 4096
    assert grown(vocab_size=128257) == 6 * 4096
    assert grown(intermediate_size=14337) == 6 * 32 * 3 * 4096
    assert grown(kv_heads=9) == 6 * 32 * 4096 * 2 * 128
    assert grown(heads=33) == 6 * 32 * 4096 * 2 * 128 + 12 * 32 * 128 * 8192


def test_utilization() -> None:
    flops = dense_transformer_flops_per_token(**LLAMA_3_8B, sequence_length=8192)
    tokens = 0.4 * 256 * 918e12 / flops
    assert model_flops_utilization(tokens, flops, "TPU v6 lite", 256) == pytest.approx(0.4)
    assert model_flops_utilization(tokens, flops, "v6e", 512) == pytest.approx(0.2)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_utilization_of_nonsense_is_an_error(bad: float) -> None:
    """Also on a chip that is not known: there None must not hide it."""
    for kind in ("v4", "cpu"):
        with pytest.raises(ValueError, match="tokens_per_second"):
            model_flops_utilization(bad, 1e10, kind, 4)
        with pytest.raises(ValueError, match="flops_per_token"):
            model_flops_utilization(1e3, bad, kind, 4)
    with pytest.raises(ValueError, match="devices"):
        model_flops_utilization(1e3, 1e10, "v4", 0)
