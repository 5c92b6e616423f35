"""Save and resume: which trainers resume to the last bit, and what is lost where it is seeded."""

from __future__ import annotations

import pytest

from harness.ladder.result import Result, RungResult
from harness.plugins.ladder import EnginePair, pair_outcome

CASE = "llama-tiny-resumed"
DROPPED = "case.model.options={attention_dropout: 0.1}"
TABLE = ("float64=never", "tolerance.noise_floor=table")


def checkpoint(pair: EnginePair, config: pytest.Config, *words: str) -> RungResult:
    return pair_outcome(config, pair, *TABLE, *words).verdict.pairs[0].rung("checkpoint")


def kinds(result: RungResult, run: str) -> list[str]:
    """What is found of one side, each kind once, in order."""
    return list(dict.fromkeys(f.kind for f in result.findings if f.run == run))


@pytest.mark.cpu
@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), "cpu-native"])
def test_the_reference_resumes_to_the_last_bit(device: str, request: pytest.FixtureRequest) -> None:
    pair = EnginePair(CASE, "reference", "reference", device)
    assert checkpoint(pair, request.config, DROPPED).result is Result.PASS


@pytest.mark.cpu
def test_so_does_the_trainer_without_xla(request: pytest.FixtureRequest) -> None:
    pair = EnginePair(CASE, "hf", "reference", "cpu-native")
    assert checkpoint(pair, request.config).result is Result.PASS


@pytest.mark.cpu
def test_what_the_trainer_loses_under_fsdpv2(request: pytest.FixtureRequest) -> None:
    """docs/findings/save-and-resume.md: its moments come back, its weights do not."""
    result = checkpoint(EnginePair(CASE, "hf", "reference", "cpu"), request.config)
    assert result.result is Result.FAIL
    assert kinds(result, "b") == []
    assert kinds(result, "a")[:6] == [
        "keys", "refused", "weights", "input_sharding", "generator_device", "disturbed_device",
    ]  # fmt: skip
    assert not {"exp_avg", "exp_avg_sq", "counted", "batch", "learning_rate"} & {
        *kinds(result, "a")
    }


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("engine", "device"),
    [("hf", "cpu-native"), pytest.param("reference", "cpu", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    ("fault", "first"),
    [
        ("lost_moments", ["exp_avg", "exp_avg_sq", "counted", "loss"]),
        ("lost_generators", ["loss"]),
    ],
)
def test_a_fault_of_a_resume(
    engine: str, device: str, fault: str, first: list[str], request: pytest.FixtureRequest
) -> None:
    words = (DROPPED, f"engine.{engine}.faults=[{{name: {fault}}}]")
    result = checkpoint(EnginePair(CASE, engine, engine, device), request.config, *words)
    found = kinds(result, "a")
    # Dropout is drawn by the device's generator on the mesh, and by torch's without it.
    generators = [kind for kind in found if kind.startswith("generator")]
    assert [kind for kind in found if kind not in generators][: len(first)] == first
    if fault == "lost_generators":
        assert found.index(generators[0]) < found.index("loss")
