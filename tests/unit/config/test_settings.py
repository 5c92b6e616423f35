"""Settings: what the command line asks for is what is done, or is refused by name."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest

from harness.base.errors import BadInput
from harness.config.compose import case_names, load
from harness.config.folders import config_directory
from harness.config.settings import BY_DEVICE, Settings, check_settings
from harness.run.session import with_device_tolerance


@pytest.fixture(scope="module")
def ours() -> Settings:
    return load([])


def changed(settings: Settings, key: str, value: Any) -> Settings:
    """Settings with one key, such as `tolerance.margin`, changed."""
    outer, _, inner = key.partition(".")
    if inner:
        value = dataclasses.replace(getattr(settings, outer), **{inner: value})
    fields: dict[str, Any] = {outer: value}
    return dataclasses.replace(settings, **fields)


class TestDefaults:
    def test_what_ships(self) -> None:
        settings = load([])
        assert settings.case.name == "llama-tiny"
        assert settings.engines == ["hf", "torchprime"]
        assert set(settings.engine) == {"hf", "torchprime", "reference"}
        assert settings.tolerance.noise_floor == "ulp"
        assert settings.tolerance.step_time == BY_DEVICE
        assert settings.tolerance.judged_step_time is None
        assert settings.timing.launches >= 3
        assert settings.tolerance.floor == {}  # the documented ones stand beside the rungs

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
            ("case=llama-tny", r"case=llama-tny: it is not one of .*; did you mean llama-tiny\?"),
            ("case=zzz", r"case=zzz: it is not one of .*llama-tiny, .*[^?]$"),
            ("launcher=dokcer", r"launcher=dokcer: .*did you mean docker\?"),
            ("mesh@case.mesh=fsdp5", r"mesh=fsdp5: .*did you mean fsdp4\?"),
            ("=3", "`=3` is no override"),
            ("csae=llama-tiny", r"csae: there is no such key; did you mean case\?"),
            ("case.stepps=3", r"case\.stepps: there is no such key; did you mean case\.steps\?"),
            ("+case.stepps=3", r"case\.stepps: there is no .*did you mean case\.steps\?"),
            ("steps=3", r"steps: there is no such key; did you mean case\.steps\?"),
            ("stpes=3", r"did you mean case\.steps\?"),
            ("case.windows=3", r"did you mean timing\.windows\?"),
            ("case.optimizer.bates=[1]", r"did you mean case\.optimizer\.betas\?"),
            ("case.optimizer={bates: 1}", r"did you mean case\.optimizer\.betas\?"),
            ("case.steps=many", r"case\.steps='many'"),
            ("case.steps=2.5", r"case\.steps=2\.5"),
            ("case.model.layers=[1]", r"case\.model\.layers"),
            ("case.sharding=[fsdp]", r"case\.sharding"),
            ("~tolerance.margin", r"^~tolerance\.margin: tolerance\.margin cannot be left out"),
            ("~case.steps", r"^~case\.steps: case\.steps cannot be left out"),
            ("case.sharding={}", r"^case\.sharding=\{\}: .* changes nothing"),
            ("case=null", r"^case=null: case is one of the files of configs/case"),
            ("tolerance=3", r"^tolerance=3: "),
            ("case=[a,b]", r"^case=\[a,b\]: "),
            ("engine=3", r"^engine=3: "),
            ("workspace=", r"^workspace= is empty"),
            ("engine.hf.python=", r"^engine\.hf\.python= is empty"),
            ("engines=[hf@,hf]", r"^engines: hf@ names no source"),
            ("case.steps=[1", r"^case\.steps='\[1'"),
            ("ä=1", r"`ä='1'`: 'ä' cannot be the name of a key"),
            ("case.model.layers=100001", r"^case\.model\.layers=100001: it has to be at most"),
            ("+case.other=1", "case.other: there is no such key"),
            (
                "+engine.hf.sorce=x",
                r"engine\.hf\.sorce: there is no such key; did you mean engine\.hf\.source\?",
            ),
            ("case.steps=0", r"case\.steps=0"),
            ("+engine.maxtext.python=x", "engine=maxtext: it is not one of hf, reference"),
            ("+engine.reference.arguments.a=1", r"engine\.reference\.arguments: there is no such"),
            (
                "+engine.torchprime.einsum_linear=true",
                r"torchprime\.einsum_linear: there is no",
            ),
            ("engine.hf.einsum_liner=true", r"did you mean engine\.hf\.einsum_linear\?"),
            ("engine.hf.faults=[{nam: hang}]", r"did you mean engine\.hf\.faults\.0\.name\?"),
            (
                "engine.hf.faults=[{name: hang, argument: {}}]",
                r"did you mean engine\.hf\.faults\.0\.arguments\?",
            ),
            ("engine.hff.python=x", r"engine=hff: it is not one of .*did you mean hf\?"),
            ("launcher=kubernetes", "launcher=kubernetes: it is not one of docker, local, xpk$"),
        ],
    )
    def test_one_that_is_wrong_is_named(self, override: str, text: str) -> None:
        with pytest.raises(BadInput, match=text) as caught:
            load([override])
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("key", "value", "text"),
        [
            (
                "engines",
                ["hf", "maxtext"],
                "engines=maxtext: it is not one of hf, ref",
            ),
            ("engines", ["hf", "torchprim"], "did you mean torchprime"),
            ("engines", ["hf"], "a comparison takes two"),
            ("engines", [], "a comparison takes two"),
            ("tolerance.noise_floor", "none", r"tolerance\.noise_floor=none: it is ulp or table"),
            ("float64", "always", "float64=always: it is auto or never"),
            ("launcher.device", "gpu", r"launcher\.device=gpu: .* cpu, cpu-native, tpu"),
            ("graph", "all", "graph=all: it is counters"),
            ("timing.windows", 0, r"timing\.windows=0"),
            ("timing.steps_per_window", 0, r"timing\.steps_per_window=0"),
            ("timing.launches", 0, r"timing\.launches=0"),
            ("timing.rounds", 0, r"timing\.rounds=0"),
            ("case.max_norm", -1.0, r"case\.max_norm=-1"),
        ],
    )
    def test_a_value_that_is_not_known(
        self, ours: Settings, key: str, value: Any, text: str
    ) -> None:
        with pytest.raises(BadInput, match=text):
            check_settings(changed(ours, key, value))

    def test_a_mapping_takes_any_key_without_a_sign(self) -> None:
        settings = load(["engine.hf.arguments.logging_steps=1", "tolerance.floor.float32.loss=1"])
        assert settings.engine["hf"].arguments == {"logging_steps": 1}  # type: ignore[attr-defined]
        assert settings.tolerance.floor == {"float32": {"loss": 1}}

    def test_an_engine_may_be_compared_with_itself(self) -> None:
        assert load(["engines=[hf,hf]"]).engines == ["hf", "hf"]


class TestLimitsThatAreNone:
    """Nothing is ever beyond NaN or infinity: with such a limit every run would pass."""

    @pytest.mark.parametrize(
        "key",
        ["tolerance.margin", "tolerance.step_time", "launcher.time_limit", "launcher.silence"],
    )
    @pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
    def test_refused(self, ours: Settings, key: str, value: float) -> None:
        with pytest.raises(BadInput, match=rf"{key}={value}: it has to be positive and finite"):
            check_settings(changed(ours, key, value))

    def test_as_it_is_written(self) -> None:
        with pytest.raises(BadInput, match=r"tolerance\.margin=nan: it has to be positive"):
            load(["tolerance.margin=nan"])

    @pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
    def test_a_floor_is_positive_and_finite(self, ours: Settings, value: float) -> None:
        floors = {"bfloat16": {"loss": value}}
        with pytest.raises(BadInput, match=rf"tolerance\.floor\.bfloat16\.loss={value}"):
            check_settings(changed(ours, "tolerance.floor", floors))

    def test_a_floor_as_it_is_written(self) -> None:
        floors = load(["tolerance.floor.float32.loss=1e-3"]).tolerance.floor
        assert floors == {"float32": {"loss": 1e-3}}
        with pytest.raises(BadInput, match=r"tolerance\.floor\.float32\.loss='x'"):
            load(["tolerance.floor.float32.loss=x"])

    def test_a_floor_of_a_dtype_that_no_case_has(self, ours: Settings) -> None:
        with pytest.raises(BadInput, match=r"tolerance\.floor\.float16: the dtypes are float32"):
            check_settings(changed(ours, "tolerance.floor", {"float16": {"loss": 1.0}}))

    def test_without_a_tolerance_of_step_times_they_are_not_judged(self) -> None:
        assert load(["tolerance.step_time=null"]).tolerance.judged_step_time is None

    @pytest.mark.parametrize("value", ["auto", "by-device", "off"])
    def test_a_word_that_is_none(self, value: str) -> None:
        with pytest.raises(BadInput, match=rf"tolerance\.step_time={value}: .*by_device"):
            load([f"tolerance.step_time={value}"])

    @pytest.mark.parametrize(("device", "limit"), [("cpu", None), ("tpu", 0.03)])
    def test_the_devices_own(self, device: str, limit: float | None) -> None:
        settings = with_device_tolerance(load([f"launcher.device={device}"]))
        assert settings.tolerance.judged_step_time == limit
        for word, requested in (("0.5", 0.5), ("null", None)):
            words = [f"launcher.device={device}", f"tolerance.step_time={word}"]
            assert with_device_tolerance(load(words)).tolerance.judged_step_time == requested


def test_settings_cannot_be_changed() -> None:
    settings = load([])
    assert isinstance(settings, Settings)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.tolerance.margin = math.inf  # type: ignore[misc]


class TestStaged:
    def test_two_steps_are_traced(self) -> None:
        assert load(["stage=true", "target=v6e:2x2"]).case.steps == 2
        assert load(["target=v6e:2x2"]).case.steps == 20

    @pytest.mark.parametrize(
        ("words", "named"),
        [
            ([], "target=v6e:2x2"),
            (["target=v6e:2x2", "graph=hlo"], "graph=hlo"),
            (["target=v6e:2x2", "tolerance.step_time=0.1"], "tolerance.step_time=0.1"),
        ],
    )
    def test_what_has_to_be_executed_is_refused(self, words: list[str], named: str) -> None:
        with pytest.raises(BadInput, match=re.escape(named)):
            load(["stage=true", *words])
