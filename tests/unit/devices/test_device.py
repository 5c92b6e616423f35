"""Devices: what each one is, what a Record's device is called, and one from another package."""

import re
from pathlib import Path
from typing import Any

import pytest
from outside import installed

from harness.base.conditions import CONDITIONS
from harness.base.errors import BadInput
from harness.config.compose import load
from harness.devices import cpu, tpu
from harness.devices.device import (
    chip,
    computes_by_xla,
    device,
    device_of,
    devices,
    with_kind,
)
from harness.devices.native import imports_xla
from harness.launchers.local import device_environment
from harness.launchers.registry import devices_of, limits_of
from harness.record import termination
from harness.record.evidence import Observed
from harness.record.termination import Termination, explain


class TestHere:
    def test_what_is_registered(self) -> None:
        assert [d.name for d in devices()] == ["cpu", "cpu-native", "tpu"]
        with pytest.raises(BadInput, match=r"launcher\.device=gpu: .* cpu, cpu-native, tpu"):
            device("gpu")

    def test_one_device_has_no_xla(self) -> None:
        assert [d.name for d in devices() if not d.xla] == ["cpu-native"]
        assert not computes_by_xla(Observed(device="host"))
        assert all(computes_by_xla(Observed(device=name)) for name in ("CPU", "TPU", "CUDA", None))

    def test_a_device_of_one_kind_names_it_beforehand(self) -> None:
        known = {d.name: d.only_kind for d in devices() if d.only_kind is not None}
        assert known == {"cpu": "CPU", "cpu-native": "eager CPU"}
        for name, kind in known.items():
            assert with_kind(Observed(device=device(name).pjrt)).device_kind == kind

    def test_what_tells_libraries_that_there_is_none(self) -> None:
        """The variable that transformers and accelerate read; a mesh's run has it not."""
        found = {name: device_environment(name, 1, True) for name in ("cpu", "cpu-native")}
        assert imports_xla(found["cpu"])
        assert not imports_xla(found["cpu-native"])
        assert not found["cpu-native"].keys() & {"PJRT_DEVICE", "CPU_NUM_DEVICES"}

    def test_only_a_tpu_belongs_to_one_process_and_is_profiled(self) -> None:
        assert (cpu.DEVICE.shared, cpu.DEVICE.planes) == (True, None)
        assert not tpu.DEVICE.shared
        assert tpu.DEVICE.planes is not None
        for name, is_device in (("/device:TPU:3", True), ("/device:TPU:0 SparseCore 0", False)):
            assert bool(tpu.DEVICE.planes.fullmatch(name)) is is_device


PLACE = {"name": "TPU:0", "coords": [0, 0, 0], "core_on_chip": 0}


class TestKinds:
    @pytest.mark.parametrize(
        ("accelerator", "kind"),
        [
            ("v2-8", "TPU v2"), ("v3-32", "TPU v3"), ("v4-8", "TPU v4"),
            ("v5litepod-16", "TPU v5e"), ("v5p-8", "TPU v5p"), ("v6e-256", "TPU v6e"),
            ("tpu7x-8", "TPU7x"),
            ("v9z-8", "TPU v9z"),  # told as it is
            (None, "TPU of unknown type"), ("", "TPU of unknown type"),
        ],
    )  # fmt: skip
    def test_a_tpu_is_named_by_its_machine(self, accelerator: str | None, kind: str) -> None:
        observed = Observed(device="TPU", attributes=PLACE, accelerator_type=accelerator)
        assert with_kind(observed).device_kind == kind

    def test_v5e_and_v5p_are_not_one_kind(self) -> None:
        assert tpu.kind_of(PLACE, "v5litepod-4") != tpu.kind_of(PLACE, "v5p-4")

    def test_a_plugin_that_is_no_tpu_is_never_called_one(self) -> None:
        """PJRT calls whatever TPU_LIBRARY_PATH names a TPU, and the type may be made up."""
        gpu = {"name": "TPU:0", "compute_capability": "9.0", "device_vendor": "NVIDIA Corporation"}
        found = tpu.kind_of(gpu, "v4-8")
        assert found == "PJRT plugin (compute_capability 9.0, device_vendor NVIDIA Corporation)"
        assert tpu.kind_of({"name": "TPU:0"}, "v4-8") == "PJRT plugin (without attributes)"
        assert chip(found) is None

    def test_the_cpu_mesh(self) -> None:
        observed = Observed(device="CPU", attributes={"name": "CPU:0"})
        assert with_kind(observed).device_kind == "CPU"

    @pytest.mark.parametrize("condition", CONDITIONS)
    def test_a_device_that_another_is_computed_like_is_a_kind_of_its_own(
        self, condition: str
    ) -> None:
        observed = Observed(device="CPU", condition=condition)
        assert with_kind(observed).device_kind == f"CPU, {CONDITIONS[condition]}"
        tpu_like = Observed(
            device="TPU", attributes=PLACE, accelerator_type="v6e-8", condition=condition
        )
        kind = with_kind(tpu_like).device_kind
        assert kind == f"TPU v6e, {CONDITIONS[condition]}"
        assert chip(kind) is None

    def test_several_conditions_at_once(self) -> None:
        observed = Observed(device="CPU", condition="tf32_products+random_scatter")
        kind = with_kind(observed).device_kind
        assert kind == "CPU, products in TF32, scatter-adds in random order"

    @pytest.mark.parametrize(
        "fields", [{}, {"device": "CUDA", "device_kind": "CUDA"}, {"device_kind": "eager CPU"}]
    )
    def test_what_no_device_knows_is_left_as_it_is(self, fields: dict[str, Any]) -> None:
        observed = Observed(**fields)
        assert device_of(observed) is None
        assert with_kind(observed) == observed

    def test_every_kind_that_has_a_chip_is_one_that_is_named(self) -> None:
        assert set(tpu.CHIPS) <= {kind.lower() for kind in tpu.KINDS.values()}


def ended(tmp_path: Path, name: str, log: str, code: int = 1) -> Termination:
    path = tmp_path / "trainer.log"
    path.write_text(log)
    return explain(code, path, None, 1.0, device(name).signs)


class TestSigns:
    def test_starved_collectives(self, tmp_path: Path) -> None:
        log = "rendezvous.cc:31 Termination timeout for `x` of 10 seconds exceeded. Exiting\n"
        found = ended(tmp_path, "cpu", log, -6)
        assert found.status == termination.STARVED
        assert "the trainer is not at fault" in found.reason
        assert ended(tmp_path, "cpu", "rendezvous of two\n", -6).status == termination.KILLED
        assert ended(tmp_path, "cpu", "Termination timeout\n", -6).status == termination.KILLED
        assert ended(tmp_path, "tpu", log, -6).status == termination.KILLED

    @pytest.mark.parametrize(
        "line",
        [
            "RuntimeError: ABORTED: The TPU is already in use by process with pid 4711. Not",
            "The TPU is already in use by another process probably owned by another user. Run",
            "Internal error when accessing libtpu multi-process lockfile. Run",
            "TPU initialization failed: RESOURCE_EXHAUSTED: Attempting to reserve 17 GiB",
            "libtpu.so already in use by another process",
            "UNKNOWN: TPU initialization failed: open(/dev/vfio/1): Device or resource busy: De",
            "FAILED_PRECONDITION: open(/dev/accel0): Device or resource busy",
        ],
    )
    def test_a_busy_tpu(self, tmp_path: Path, line: str) -> None:
        log = f"step 1\n{line}\nRuntimeError: Bad StatusOr access\n"
        assert ended(tmp_path, "tpu", log).status == termination.BUSY
        assert ended(tmp_path, "cpu", log).status not in termination.OF_MACHINE

    @pytest.mark.parametrize(
        "line",
        [
            "tpunetd_client.cc:311] Detected failure SLICE_FAILURE_CHIP_DRIVER_ERROR in session e6",
            "Detected failure SLICE_FAILURE_WORKER_UNAVAILABLE",
            "Slice health check failed with error: x",
            "Detected failure SLICE_FAILURE_INIT_ERROR in session e6",
        ],
    )
    def test_a_lost_tpu(self, tmp_path: Path, line: str) -> None:
        assert ended(tmp_path, "tpu", f"step 1\n{line}\n").status == termination.GONE

    @pytest.mark.parametrize(
        "line",
        [
            "UNAVAILABLE: Task 3 heartbeat timeout. This indicates that the remote task has failed",
            "RESOURCE_EXHAUSTED: Attempting to reserve 17 GiB",
            "ValueError: the port is already in use",
        ],
    )
    def test_what_a_trainer_can_do_itself_is_none(self, tmp_path: Path, line: str) -> None:
        assert ended(tmp_path, "tpu", f"{line}\n").status not in termination.OF_MACHINE

    def test_a_run_that_ended_well_was_not_in_trouble(self, tmp_path: Path) -> None:
        log = "The TPU is already in use by process with pid 1\n"
        assert ended(tmp_path, "tpu", log, code=0).status == termination.OK

    def test_a_launcher_knows_its_devices_signs(self) -> None:
        assert limits_of(load(["launcher.device=tpu"]).launcher).signs == tpu.DEVICE.signs


OUTSIDE = """
import re
from harness.devices.chips import Chip
from harness.devices.device import Device
from harness.record.termination import BUSY, Sign

DEVICE = Device(
    name="npu",
    title="NPU boards",
    pjrt="NPU",
    environment=lambda devices, fast, inherited: {"PJRT_DEVICE": "NPU", "NPU_BOARDS": str(devices)},
    count=lambda: 2,
    missing=lambda: None,
    shared=False,
    matmul_precision="float16",
    step_time=0.02,
    kind_of=lambda attributes, accelerator: f"NPU {attributes['board']}",
    planes=re.compile("/device:NPU:.*"),
    signs=(Sign((re.compile("board taken"),), BUSY, "another process has the board"),),
    chips={"npu x1": Chip(1e12, 8e9, 1e11, 1e10, 1e9, "its data sheet")},
)
"""


class TestFromOutside:
    def test_a_device_is_one_file_of_any_package(self, tmp_path: Path) -> None:
        points = {"parity.devices": {"npu": "outside_npu:DEVICE"}}
        with installed(tmp_path / "site", {"outside_npu.py": OUTSIDE}, points):
            settings = load(["launcher.device=npu"])
            assert settings.launcher.device == "npu"
            assert [d.name for d in devices()] == ["cpu", "cpu-native", "npu", "tpu"]
            assert device_environment("npu", 2, True)["NPU_BOARDS"] == "2"
            assert devices_of(settings.launcher) == 2
            observed = with_kind(Observed(device="NPU", attributes={"board": "X1"}))
            assert observed.device_kind == "NPU X1"
            known = chip(observed.device_kind or "")
            assert known is not None
            assert known.peak_flops == 1e12
            assert ended(tmp_path, "npu", "board taken\n").status == termination.BUSY
            assert isinstance(device("npu").planes, re.Pattern)
        with pytest.raises(BadInput, match=r"launcher\.device=npu"):
            load(["launcher.device=npu"])
