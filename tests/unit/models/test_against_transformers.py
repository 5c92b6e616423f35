"""Each family's reference computes what transformers' model computes.

against_transformers.py runs both, in the engine's interpreter.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.config.case import Case
from harness.config.compose import load
from harness.models.family import family

ROOT = Path(__file__).parents[3]

CHUNKED = "llama4-tiny case.model.options.attention_chunk=48"

CASES: dict[str, tuple[str, list[Any] | None, str]] = {
    "llama": ("llama-tiny", None, ""),
    "llama-3.1": ("llama-3.1-tiny", None, ""),
    "qwen3": ("qwen3-tiny", None, ""),
    "mixtral": ("mixtral-tiny", None, ""),
    "mixtral of documents": ("mixtral-tiny", None, "positions"),
    "mixtral with padding": ("mixtral-tiny", None, "padding"),
    "llama with padding": ("llama-tiny", None, "padding"),
    "llama of documents": ("llama-tiny", None, "positions"),
    "llama with smoothing": ("llama-tiny", None, "smoothing"),
    "qwen3 of documents": ("qwen3-tiny", None, "positions"),
    "qwen3 with another epsilon": ("qwen3-tiny", ["rms_norm_eps", {"eps": 1e-3}], ""),
    "llama-3.1 unscaled": ("llama-3.1-tiny", ["rope_unscaled", {"theta": 10000.0}], ""),
    "mixtral of exchanged experts": ("mixtral-tiny", ["expert_order", {}], ""),
    "mixtral that drops tokens": ("mixtral-tiny", ["dropped_tokens", {"capacity_factor": 1.0}], ""),
    "mixtral that drops none": ("mixtral-tiny", ["dropped_tokens", {"capacity_factor": 4.0}], ""),
    "llama4": ("llama4-tiny", None, ""),
    "llama4 of documents": ("llama4-tiny", None, "positions"),
    "llama4 with padding": ("llama4-tiny", None, "padding"),
    "llama4 in chunks": (CHUNKED, None, ""),
    "llama4 in chunks, of documents": (CHUNKED, None, "positions"),
    "deepseek3": ("deepseek3-tiny", None, ""),
    "deepseek3 of documents": ("deepseek3-tiny", None, "positions"),
    "deepseek3 with padding": ("deepseek3-tiny", None, "padding"),
    "deepseek3 unscaled": ("deepseek3-tiny ~case.model.options.rope_scaling", None, ""),
    "deepseek3 of one group": ("deepseek3-tiny case.model.options.chosen_groups=1", None, ""),
    "deepseek3 of exchanged experts": ("deepseek3-tiny", ["expert_order", {}], ""),
    "deepseek3 that drops tokens": (
        "deepseek3-tiny", ["dropped_tokens", {"capacity_factor": 1.0}], "",
    ),
    "deepseek3 that drops none": (
        "deepseek3-tiny", ["dropped_tokens", {"capacity_factor": 8.0}], "",
    ),
    "llama4 turned": ("llama4-tiny case.model.options.nope_every=3", None, ""),
    "llama4 warm": ("llama4-tiny case.model.options.temperature_scale=0.0", None, ""),
    "llama4 unscaled": ("llama4-tiny ~case.model.options.rope_scaling", None, ""),
    "llama4 bare": ("llama4-tiny case.model.options.qk_norm=false", None, ""),
    "llama4 interleaved": ("llama4-tiny-interleaved", None, ""),
    "llama4 of another epsilon": ("llama4-tiny", ["rms_norm_eps", {"eps": 1e-3}], ""),
    "llama4 of exchanged experts": ("llama4-tiny", ["expert_order", {}], ""),
    "llama4 that drops tokens": ("llama4-tiny", ["dropped_tokens", {"capacity_factor": 1.0}], ""),
    "llama4 that drops none": ("llama4-tiny", ["dropped_tokens", {"capacity_factor": 4.0}], ""),
    # The last ones: a function is put in the place of torch's own, for good, and on both sides.
    "mixtral of other experts": ("mixtral-tiny", ["other_experts", {}], ""),
}  # fmt: skip
"""By what is compared: a case, a fault to seed into transformers' model, and what both are given
beside tokens and labels."""


def case_of(words: str) -> Case:
    """A case, and overrides of it."""
    name, *overrides = words.split()
    return load([f"case={name}", *overrides]).case


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, engine_python: Path) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("against")
    asked = []
    for name, fault, given in CASES.values():
        model = case_of(name).model
        known = family(model.family)
        asked.append(
            {
                "family": known.check.__module__,
                "model": dataclasses.asdict(model),
                "config": known.config(model),
                "fault": fault,
                "given": given,
            }
        )
    (folder / "cases.json").write_text(json.dumps(asked))
    script = Path(__file__).with_name("against_transformers.py")
    done = subprocess.run(
        [engine_python, script, folder / "cases.json", folder / "out.json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PJRT_DEVICE": "CPU"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((folder / "out.json").read_text())
    return dict(zip(CASES, told, strict=True))


# transformers computes its rotary frequencies in float32, and its softmax: hence not to 1e-15.
EQUAL = 2e-6


@pytest.mark.parametrize("name", [name for name, (_, fault, _) in CASES.items() if fault is None])
def test_the_same_loss_and_gradients(found: dict[str, Any], name: str) -> None:
    theirs, ours = found[name]["transformers"], found[name]["reference"]
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=EQUAL)
    assert ours["gradients"] == pytest.approx(theirs["gradients"], rel=EQUAL)
    case = case_of(CASES[name][0])
    shapes = case.parameter_shapes()
    assert list(ours["gradients"]) == list(theirs["gradients"]) == list(shapes)
    assert found[name]["constants"] == list(family(case.model.family).constants(case.model))


@pytest.mark.parametrize("name", ["padding", "smoothing"])
def test_what_is_given_beside_shows(found: dict[str, Any], name: str) -> None:
    plain, other = (found[f"llama{what}"]["reference"]["loss"] for what in ("", f" with {name}"))
    assert abs(plain - other) > 100 * EQUAL * plain


def test_documents_show(found: dict[str, Any]) -> None:
    plain, packed = (found[f"llama{what}"]["reference"]["loss"] for what in ("", " of documents"))
    assert abs(plain - packed) > 100 * EQUAL * plain


def test_the_norms_of_heads_show(found: dict[str, Any]) -> None:
    """A wrong epsilon moves the first loss, and the gradients of the norms that it is in."""
    wrong = found["qwen3 with another epsilon"]
    theirs, ours = wrong["transformers"], wrong["reference"]
    assert abs(theirs["loss"] - ours["loss"]) > 10 * EQUAL * ours["loss"]
    name = "model.layers.0.self_attn.q_norm.weight"
    assert theirs["gradients"][name] != pytest.approx(ours["gradients"][name], rel=10 * EQUAL)


def test_the_choice_of_experts_shows(found: dict[str, Any]) -> None:
    """Both sides choose by one function: only its wrong choice moves them, and moves them alike."""
    right, wrong = found["mixtral"], found["mixtral of other experts"]
    assert abs(wrong["reference"]["loss"] - right["reference"]["loss"]) > 100 * EQUAL
    assert wrong["reference"]["loss"] == pytest.approx(wrong["transformers"]["loss"], rel=EQUAL)


@pytest.mark.parametrize("family", ["mixtral", "llama4", "deepseek3"])
@pytest.mark.parametrize("fault", ["of exchanged experts", "that drops tokens"])
def test_what_becomes_of_a_token_at_its_experts_shows(
    found: dict[str, Any], fault: str, family: str
) -> None:
    right, wrong = found[family], found[f"{family} {fault}"]
    assert wrong["reference"] == right["reference"]
    assert abs(wrong["transformers"]["loss"] - right["transformers"]["loss"]) > 100 * EQUAL


@pytest.mark.parametrize("family", ["mixtral", "llama4", "deepseek3"])
def test_an_expert_with_a_place_for_every_token_drops_none(
    found: dict[str, Any], family: str
) -> None:
    kept = found[f"{family} that drops none"]["transformers"]
    assert kept["loss"] == pytest.approx(found[family]["transformers"]["loss"], rel=1e-12)


def test_each_part_of_a_llama_4_shows(found: dict[str, Any]) -> None:
    """Each changes what both sides compute: an agreement is one of models that have it."""
    plain = found["llama4"]["reference"]["loss"]
    for without in ("turned", "warm", "unscaled", "bare"):
        other = found[f"llama4 {without}"]
        assert abs(other["reference"]["loss"] - plain) > 10 * EQUAL, without
    chunked = found["llama4 in chunks"]["reference"]["loss"]
    assert abs(chunked - plain) > 100 * EQUAL


@pytest.mark.parametrize("other", ["unscaled", "of one group"])
def test_each_part_of_a_deepseek_3_shows(found: dict[str, Any], other: str) -> None:
    plain = found["deepseek3"]["reference"]["loss"]
    assert abs(found[f"deepseek3 {other}"]["reference"]["loss"] - plain) > 100 * EQUAL


def test_the_norms_of_a_llama_4_show(found: dict[str, Any]) -> None:
    wrong = found["llama4 of another epsilon"]
    assert abs(wrong["transformers"]["loss"] - wrong["reference"]["loss"]) > 100 * EQUAL


def test_scaled_rotary_embeddings_show(found: dict[str, Any]) -> None:
    """Without them a Llama 3.1 is a Llama 3, and the first loss says so."""
    plain, scaled = found["llama"]["reference"]["loss"], found["llama-3.1"]["reference"]["loss"]
    assert abs(scaled - plain) > 100 * EQUAL * plain
    unscaled = found["llama-3.1 unscaled"]
    assert unscaled["transformers"]["loss"] == pytest.approx(plain, rel=EQUAL)
    assert unscaled["reference"]["loss"] == pytest.approx(scaled, rel=1e-12)
