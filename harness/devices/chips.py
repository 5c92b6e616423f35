"""Peak FLOPs of TPU chips, FLOPs of a dense transformer, and the utilization that follows."""

import math

# Dense bf16 FLOP/s of one chip, from "Peak compute per chip (bf16)" in Google's system architecture
# pages: cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e.
_PEAK_BF16 = {"v4": 275e12, "v5e": 197e12, "v5p": 459e12, "v6e": 918e12}

# PJRT's names of the same chips, as jax/_src/pallas/mosaic/tpu_info.py lists them. "lite" is the
# letter e. A v5p calls itself "TPU v5". "TPU v4 lite" (v4i) is another chip, and is not here.
_PJRT_NAMES = {"v5lite": "v5e", "v5litepod": "v5e", "v5": "v5p", "v6lite": "v6e"}


def peak_flops(device_kind: str) -> float | None:
    """Peak dense bf16 FLOP/s of one chip, or None if the chip is not known.

    device_kind: as PJRT reports it ("TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite") or for short
    ("v4", "v5e", "v5p", "v6e"), in any case and spacing. On all of these one PJRT device is one
    chip (v4 and v5p join their two cores).
    """
    name = "".join(device_kind.lower().split()).removeprefix("tpu")
    return _PEAK_BF16.get(_PJRT_NAMES.get(name, name))


def dense_transformer_flops_per_token(
    *,
    layers: int,
    hidden_size: int,
    intermediate_size: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab_size: int,
    sequence_length: int,
) -> float:
    """Model FLOPs of training a dense decoder-only transformer on one token, forward and backward.

        6 · N + 12 · layers · heads · head_dim · sequence_length

    as in PaLM (Chowdhery et al. 2022, arXiv:2204.02311, appendix B), where N counts the weights
    that multiply: q, k, v, o, a gated MLP of three matrices, and the output head. The table of
    input embeddings is only looked up, and norms are left out. The second term is attention itself;
    as in PaLM, the half that a causal mask saves is not subtracted. Recomputation (remat) is not
    counted: these are the model's FLOPs, not the hardware's.
    """
    attention = hidden_size * head_dim * (2 * heads + 2 * kv_heads)
    mlp = 3 * hidden_size * intermediate_size
    weights = layers * (attention + mlp) + hidden_size * vocab_size
    return float(6 * weights + 12 * layers * heads * head_dim * sequence_length)


def model_flops_utilization(
    tokens_per_second: float, flops_per_token: float, device_kind: str, devices: int
) -> float | None:
    """The share of the devices' peak FLOP/s that the model used (0 to 1), or None if the chip is
    not known. Model FLOPs utilization as PaLM defines it (appendix B).

    tokens_per_second: of all `devices` together. Raises ValueError unless all numbers are finite
    and positive.
    """
    for name, value in (
        ("tokens_per_second", tokens_per_second),
        ("flops_per_token", flops_per_token),
        ("devices", devices),
    ):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and positive, not {value}")
    peak = peak_flops(device_kind)
    return None if peak is None else tokens_per_second * flops_per_token / (peak * devices)
