"""What a model family is to the harness."""

from __future__ import annotations


def dense_flops_per_token(
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
