"""Preflight: a device that is not there, and a mesh that does not fit, are refused beforehand."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from gate_samples import Silent

from harness.base.errors import BadInput
from harness.config.compose import load
from harness.devices import tpu
from harness.devices.device import Device
from harness.environments.interpreters import Interpreter
from harness.gate.refs import parse
from harness.gate.selection import gate_pairs
from harness.launchers import registry
from harness.models.family import KERNELS
from harness.run import device_lock, preflight
from harness.run.device_lock import DeviceLock
from harness.run.preflight import check_library, ready


@pytest.fixture
def vm(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this machine a TPU VM with so many chips."""

    def make(chips: int | None, **fields: Any) -> None:
        fields = {"busy": lambda: None, **fields}
        if chips != 0:
            fields["missing"] = lambda: None
        found = dataclasses.replace(tpu.DEVICE, count=lambda: chips, **fields)

        def device(name: str) -> Device:
            assert name == "tpu"
            return found

        for module in (preflight, registry, device_lock):
            monkeypatch.setattr(module, "device", device)

    return make


TPU = "launcher.device=tpu"


def test_steps_are_traced_on_the_device_that_can(vm: Callable[..., None]) -> None:
    staged = ["stage=true", "target=v6e:2x2"]
    assert ready(load(staged)).stage
    vm(4)
    with pytest.raises(BadInput, match=r"launcher\.device=tpu: .*launcher\.device=cpu"):
        ready(load([*staged, TPU]))
    vm(4, traces=True)
    assert ready(load([*staged, TPU])).stage


@pytest.mark.parametrize("attention", KERNELS)
def test_a_kernel_of_a_tpu_is_executed_on_one_or_compiled(
    attention: str, vm: Callable[..., None]
) -> None:
    words = [f"case.model.attention={attention}"]
    with pytest.raises(BadInput, match=r"launcher\.device=cpu executes no kernel .*stage=true"):
        ready(load(words))
    ready(load([*words, "stage=true", "target=v6e:2x2"]))
    vm(4)
    ready(load([*words, TPU]))


class TestMesh:
    def test_one_that_fits_is_left_as_it_is(self, vm: Callable[..., None]) -> None:
        vm(4)
        settings = load([TPU])
        assert ready(settings) == settings

    @pytest.mark.parametrize("chips", [1, 2, 8])
    def test_another_number_of_chips_is_refused_in_one_sentence(
        self, chips: int, vm: Callable[..., None]
    ) -> None:
        vm(chips)
        with pytest.raises(BadInput) as error:
            ready(load([TPU]))
        assert str(error.value) == (
            f"case.mesh (fsdp 4) is of 4 devices, but a run with this launcher has {chips}: write "
            f"case.mesh.fsdp={chips}, or let it be scaled along fsdp by launcher.scale_mesh=true "
            "(pytest: --parity-scale-mesh)"
        )

    @pytest.mark.parametrize(
        ("case", "chips", "mesh"),
        [
            ("llama-tiny", 8, {"fsdp": 8}),
            ("llama-tiny", 1, {"fsdp": 1}),
            ("llama-tiny-2d", 8, {"fsdp": 4, "tensor": 2}),
            ("llama-tiny-2d", 2, {"fsdp": 1, "tensor": 2}),
        ],
    )
    def test_it_is_scaled_along_fsdp_where_that_is_asked_for(
        self, case: str, chips: int, mesh: dict[str, int], vm: Callable[..., None]
    ) -> None:
        vm(chips)
        settings = ready(load([TPU, f"case={case}", "launcher.scale_mesh=true"]))
        assert settings.case.mesh == mesh
        assert settings.case.devices == chips

    def test_other_axes_that_do_not_divide(self, vm: Callable[..., None]) -> None:
        vm(1)
        with pytest.raises(BadInput, match=r"its other axes \(2 together\) do not divide"):
            ready(load([TPU, "case=llama-tiny-2d", "launcher.scale_mesh=true"]))
        with pytest.raises(BadInput, match=r"write another case\.mesh"):
            ready(load([TPU, "case=llama-tiny-2d"]))

    def test_a_scaled_mesh_is_checked_again(self, vm: Callable[..., None]) -> None:
        vm(16)
        assert ready(load([TPU, "launcher.scale_mesh=true"])).case.global_batch == 16
        vm(128)
        with pytest.raises(BadInput, match=r"case\.sharding .* does not come out even"):
            ready(load([TPU, "launcher.scale_mesh=true"]))

    def test_a_plugin_alone_knows_its_devices(self, vm: Callable[..., None]) -> None:
        vm(None)
        settings = load([TPU, "case.mesh.fsdp=1"])
        assert ready(settings) == settings

    def test_the_cpu_mesh_is_as_large_as_it_is_asked_for(self) -> None:
        settings = load(["case.mesh.fsdp=8"])
        assert ready(settings) == settings

    @pytest.mark.parametrize(
        ("options", "devices"), [(["tpu_type=v5p-8"], 4), (["tpu_type=v6e-4", "num_slices=2"], 8)]
    )
    def test_a_cluster_s_slices(
        self, options: list[str], devices: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(registry, "saved", dict)
        named = ["cluster=c", "project=p", "zone=z", "artifact_dir=gs://b/f", *options]
        words = ["launcher=xpk", *(f"launcher.options.{word}" for word in named)]
        if devices == 4:
            assert ready(load(words)).case.devices == 4
        with pytest.raises(BadInput, match=f"this launcher has {devices}"):
            ready(load([*words, "case.mesh.fsdp=2"]))


@pytest.mark.parametrize("word", ["launcher.hosts=2", "launcher=docker"])
def test_a_checkpoint_stays_on_its_machine(word: str) -> None:
    ready(load(["case=llama-tiny-resumed"]))
    with pytest.raises(BadInput, match=r"case\.save_at=6: .*launcher=local on one host"):
        ready(load(["case=llama-tiny-resumed", word]))


class TestWithoutXla:
    NATIVE = "launcher.device=cpu-native"

    def test_fsdp_is_the_one_process(self) -> None:
        before, after = load([self.NATIVE]).case, ready(load([self.NATIVE])).case
        assert (dict(before.mesh), dict(after.mesh)) == ({"fsdp": 4}, {"fsdp": 1})
        assert dataclasses.replace(after, mesh=before.mesh) == before

    @pytest.mark.parametrize("word", ["mesh@case.mesh=fsdp2-tensor2", "+case.dcn.fsdp=2"])
    def test_a_case_that_is_about_its_mesh(self, word: str) -> None:
        with pytest.raises(BadInput, match=r"is what case=llama-tiny is about"):
            ready(load([self.NATIVE, word]))

    @pytest.mark.parametrize(
        "word",
        [
            "graph=hlo", "target=v6e:2x2", "launcher.condition=tf32_products", "launcher=docker",
        ],
    )  # fmt: skip
    def test_what_only_xla_has(self, word: str) -> None:
        with pytest.raises(BadInput, match=f"{word}: launcher.device=cpu-native is eager PyTorch"):
            ready(load([word, self.NATIVE]))


class TestMissing:
    def test_a_machine_without_the_device(
        self, vm: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
        vm(0)
        with pytest.raises(BadInput, match=r"launcher\.device=tpu: this machine has no TPU"):
            ready(load([TPU]))

    def test_the_gate_too(self, vm: Callable[..., None]) -> None:
        vm(8)
        with pytest.raises(BadInput, match=r"case\.mesh \(fsdp 4\) is of 4 devices"):
            gate_pairs([TPU], parse("transformers@4.57.6"), None, ["smoke"])
        words = [TPU, "launcher.scale_mesh=true"]
        for pair in gate_pairs(words, parse("transformers@4.57.6"), None, ["smoke"]):
            assert pair.settings.case.mesh == {"fsdp": 8}
            assert pair.settings.case.micro_batch == 8

    def test_an_interpreter_without_libtpu(self, vm: Callable[..., None]) -> None:
        def undriven(python: Path, packages: Mapping[str, str]) -> str | None:
            return tpu.why_undriven(python, packages, {})

        vm(8, undriven=undriven)
        without = Interpreter(Path("/venv/bin/python"), (), {"torch-xla": "2.9.0"}, {}, "key")
        with pytest.raises(BadInput, match="/venv/bin/python has no libtpu"):
            check_library(load([TPU]).launcher, without)
        docker = load(["launcher=docker", TPU]).launcher
        check_library(docker, without)  # the image has its own


class TestBusy:
    def test_a_device_that_another_process_has(
        self, vm: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PARITY_CACHE", str(tmp_path))
        taken = ["process 4321 has /dev/accel0 open", None]
        vm(4, busy=lambda: taken.pop(0))
        devices = DeviceLock("tpu", Silent())
        with pytest.raises(BadInput, match=r"launcher\.device=tpu: process 4321"), devices:
            raise AssertionError("it was launched all the same")
        with devices:  # the lock was let go
            assert os.listdir(tmp_path)
