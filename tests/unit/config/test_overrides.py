"""Whatever is written as key=value does what it says, or is refused in a sentence."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harness.base.errors import BadInput
from harness.config.compose import load
from harness.config.overrides import parsed, quoted
from harness.config.settings import Settings

KEYS = (
    "case", "tolerance", "launcher", "engine", "engines", "workspace", "target", "timing", "data",
    "case.steps", "case.seed", "case.mesh", "case.mesh.fsdp", "case.dcn", "case.sharding",
    "case.model", "case.model.layers", "case.model.vocab_size", "case.data.text", "case.optimizer",
    "case.optimizer.betas", "case.max_norm", "case.name", "case.nothing", "engine.hf",
    "engine.hf.env", "engine.hf.faults", "engine.hf.source", "engine.nothing", "launcher.device",
    "launcher.time_limit", "launcher.options", "tolerance.margin", "tolerance.floor",
    "tolerance.floor.float32", "timing.windows", "compiler", "hydra", "hydra.run", "é", "",
)  # fmt: skip
VALUES = (
    "", "null", "3", "-1", "1.5", "1e400", "nan", "true", "abc", "a b", "[]", "[1,2]", "[hf,hf]",
    "{}", "{a: 1}", "{fsdp: 4}", "[", "{", "'", '"', "ü/x", "${case.steps}", "${nothing}", "${",
    "a,b", "choice(1,2)", "range(3)", "\x00", "\n", "=", "1=2", "${oc.env:NOTHING}", str(2**70),
)  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(["", "+", "++", "~"]), st.sampled_from(KEYS), st.sampled_from(VALUES))
def test_it_is_taken_or_refused(prefix: str, key: str, value: str) -> None:
    """Nothing else is raised, whatever the type of the value."""
    with contextlib.suppress(BadInput):
        assert isinstance(load([f"{prefix}{key}={value}"]), Settings)


@pytest.mark.parametrize("word", ["hydra.run.dir=x", "+hydra/launcher=joblib", "~hydra.job"])
def test_hydras_own_settings_are_none_of_ours(word: str) -> None:
    with pytest.raises(BadInput, match="nothing would change by it"):
        load([word])


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_quoted_text_is_that_text(length: int) -> None:
    for signs in itertools.product("a'\\\"${},ü =", repeat=length):
        text = "".join(signs)
        value = parsed(f"k={quoted(text)}").value()
        made = OmegaConf.to_container(OmegaConf.create({"k": str(value)}), resolve=True)
        assert made == {"k": text}


@pytest.mark.parametrize("name", ["tëxt.txt", "a b.txt", "it's.txt", "日本.txt", "a=b"])
def test_a_path_may_have_any_letters(name: str, tmp_path: Path) -> None:
    """As a person writes it, without quotes of Hydra's around it."""
    path = str(tmp_path / name)
    assert load([f"case.data.text={path}"]).case.data.text == path
    assert load([f"workspace={quoted(path)}"]).workspace == path
