"""Settings: what the command line asks for is what is done, or is refused by name."""

from __future__ import annotations

import dataclasses
import math

import pytest

from harness.errors import BadInput
from harness.settings import METRICS, Settings, case_names, config_directory, load


class TestDefaults:
    def test_what_ships(self) -> None:
        settings = load([])
        assert settings.case.name == "llama-tiny"
        assert settings.engines == ["hf", "torchprime"]
        assert set(settings.engine) == {"hf", "torchprime", "reference"}
        assert settings.tolerance.control == "ulp"
        assert settings.tolerance.step_time is None
        for dtype in ("float32", "bfloat16"):
            assert set(settings.tolerance.floor[dtype]) == set(METRICS)

    def test_cases(self) -> None:
        assert "llama-tiny" in case_names()
        assert (config_directory() / "case" / "llama-tiny.yaml").is_file()

    def test_the_second_load_knows_nothing_of_the_first(self) -> None:
        assert load(["case.steps=40"]).case.steps == 40
        assert load([]).case.steps == 20


class TestOverrides:
    def test_they_are_taken(self) -> None:
        settings = load(
            [
                "case=llama-tiny-bf16", "case.steps=40", "engines=[hf@4.57.6,reference]",
                "tolerance.step_time=0.015", "case.optimizer.learning_rate=1e-4",
            ]
        )  # fmt: skip
        assert settings.case.dtype == "bfloat16"
        assert settings.case.steps == 40
        assert settings.engines == ["hf@4.57.6", "reference"]
        assert settings.tolerance.step_time == 0.015
        assert settings.case.optimizer.learning_rate == 1e-4

    @pytest.mark.parametrize(
        ("override", "text"),
        [
            ("llama-tiny", "`llama-tiny` is no override: write key=value"),
            ("case=llama-tny", r"case=llama-tny: there is no such case\. Did you mean llama-tiny"),
            ("case=zzz", r"there is no such case\. The cases are"),
            ("case.stepps=3", "stepps"),
            ("stepps=3", "stepps"),
            ("case.steps=many", r"case\.steps='many'"),
            ("case.steps=2.5", r"case\.steps=2\.5"),
            ("case.steps=", r"case\.steps"),
            ("case.model.layers=[1]", r"case\.model\.layers"),
            ("case.sharding=[fsdp]", r"case\.sharding"),
            ("+case.other=1", "case.other: there is no such key"),
            ("+engine.hf.sorce=x", r"engine\.hf\.sorce: there is no such key; did you mean source"),
            ("+engine.maxtext.source=x", r"engine\.maxtext: the engines are hf, torchprime, ref"),
            ("case.steps=0", r"case\.steps=0"),
            ("launcher=kubernetes", "kubernetes"),
        ],
    )
    def test_one_that_is_wrong_is_named(self, override: str, text: str) -> None:
        with pytest.raises(BadInput, match=text) as caught:
            load([override])
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("override", "text"),
        [
            ("engines=[hf,maxtext]", "engines: `maxtext` is not one of hf, torchprime, reference"),
            ("engines=[hf,torchprim]", "did you mean torchprime"),
            ("engines=[hf]", "a comparison takes two"),
            ("engines=[]", "a comparison takes two"),
            ("tolerance.control=none", r"tolerance\.control=none: it is ulp or table"),
            ("arbiter=always", "arbiter=always: it is auto or never"),
            ("launcher.device=gpu", r"launcher\.device=gpu: it is cpu or tpu"),
            ("graph=all", "graph=all: it is counters"),
            ("timing.windows=0", r"timing\.windows=0"),
            ("timing.looks=0", r"timing\.looks=0"),
        ],
    )
    def test_a_value_that_is_not_known(self, override: str, text: str) -> None:
        with pytest.raises(BadInput, match=text):
            load([override])

    def test_an_engine_may_be_compared_with_itself(self) -> None:
        assert load(["engines=[hf,hf]"]).engines == ["hf", "hf"]


class TestLimitsThatAreNone:
    """Nothing is ever beyond NaN or infinity: with such a limit every run would pass."""

    @pytest.mark.parametrize(
        "key",
        [
            "tolerance.margin", "tolerance.step_time", "launcher.time_limit", "launcher.silence",
            "tolerance.floor.float32.loss", "tolerance.floor.bfloat16.update",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("value", ["nan", "inf", "0", "-1"])
    def test_refused(self, key: str, value: str) -> None:
        with pytest.raises(BadInput, match=rf"{key}=.*positive and finite"):
            load([f"{key}={value}"])

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_every_metric_has_a_floor(self, dtype: str, metric: str) -> None:
        key = f"tolerance.floor.{dtype}.{metric}"
        with pytest.raises(BadInput, match=f"{key} is missing"):
            load([f"~{key}"])

    @pytest.mark.parametrize(
        "override", ["+tolerance.floor.float32.los=1", "+tolerance.floor.float16.loss=1"]
    )
    def test_a_floor_that_nothing_reads(self, override: str) -> None:
        with pytest.raises(BadInput, match=r"tolerance\.floor\.float(32|16): floors are by dtype"):
            load([override])

    def test_without_a_tolerance_of_step_times_they_are_not_judged(self) -> None:
        assert load(["tolerance.step_time=null"]).tolerance.step_time is None


def test_settings_cannot_be_changed() -> None:
    settings = load([])
    assert isinstance(settings, Settings)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.tolerance.margin = math.inf  # type: ignore[misc]
