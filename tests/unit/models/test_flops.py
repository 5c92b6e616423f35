"""FLOPs of a dense transformer, against a count of its weights."""

from harness.models.family import dense_flops_per_token

LLAMA_3_8B = {
    "layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
}


def test_flops_of_llama_3_8b() -> None:
    """8.03e9 parameters less the input embeddings and the norms, and attention over 8192 tokens."""
    weights = 8_030_261_248 - 128256 * 4096 - (2 * 32 + 1) * 4096
    flops = dense_flops_per_token(**LLAMA_3_8B, sequence_length=8192)
    assert flops == 6 * weights + 12 * 32 * 4096 * 8192


def test_flops_count_each_part() -> None:
    base = dense_flops_per_token(**LLAMA_3_8B, sequence_length=8192)

    def grown(**change: int) -> float:
        shape = {**LLAMA_3_8B, "sequence_length": 8192, **change}
        return dense_flops_per_token(**shape) - base

    assert grown(sequence_length=8193) == 12 * 32 * 4096
    assert grown(vocab_size=128257) == 6 * 4096
    assert grown(intermediate_size=14337) == 6 * 32 * 3 * 4096
    assert grown(kv_heads=9) == 6 * 32 * 4096 * 2 * 128
    assert grown(heads=33) == 6 * 32 * 4096 * 2 * 128 + 12 * 32 * 128 * 8192
