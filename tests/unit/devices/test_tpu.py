"""TPUs of this machine: what there is, who has it, and what drives it, without a chip."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from harness.devices import tpu

V6E, V5E, V3, V7 = "0x006f", "0x0063", "0x0027", "0x0076"
GKE = {
    "TPU_HOST_BOUNDS": "4,4,1", "TPU_CHIPS_PER_HOST_BOUNDS": "2,2,1", "TPU_SKIP_MDS_QUERY": "true",
}  # fmt: skip

ONE_PROCESS = {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,2,1"}


def machine(pci: Path, *kinds: str, vendor: str = tpu.GOOGLE) -> Path:
    """PCI devices in `pci`, as sysfs has them."""
    for kind in kinds:
        path = pci / f"{len(list(pci.glob('*')))}"
        path.mkdir(parents=True)
        (path / "vendor").write_text(f"{vendor}\n")
        (path / "device").write_text(f"{kind}\n")
    return pci


def nothing() -> Mapping[str, str]:
    return {}


class TestHowMany:
    def test_chips_are_pci_devices_of_google(self, tmp_path: Path) -> None:
        machine(tmp_path, V6E, V5E, "0x001f")  # the last is a network card of a Google VM
        machine(tmp_path, V6E, vendor="0x10de")
        (tmp_path / "empty").mkdir()
        assert sorted(tpu.attached(tmp_path)) == [V5E, V6E]
        assert tpu.tpu_devices(tmp_path, {}, nothing) == 2
        assert tpu.why_no_tpu(tmp_path, {}) is None

    @pytest.mark.parametrize(
        ("chips", "environ", "devices"),
        [
            ([V6E] * 8, {}, 8),
            ([V3] * 4, {}, 8),  # two cores a chip, each a PJRT device
            ([V7] * 4, {}, 8),
            ([V6E] * 8, {"TPU_VISIBLE_CHIPS": "0,1"}, 2),
            ([V6E] * 8, {"TPU_VISIBLE_DEVICES": "3"}, 1),
            ([V6E] * 4, GKE, 64),
            ([V6E] * 4, {**GKE, "MEGASCALE_NUM_SLICES": "2"}, 128),
            ([V6E] * 8, ONE_PROCESS, 2),
            ([], GKE, 0),
        ],
    )  # fmt: skip
    def test_devices_of_a_run(
        self, chips: list[str], environ: dict[str, str], devices: int, tmp_path: Path
    ) -> None:
        assert tpu.tpu_devices(machine(tmp_path, *chips), environ, nothing) == devices

    def test_a_pod_slice_is_told_by_the_vm_s_metadata(
        self, tmp_path: Path, metadata_server: str
    ) -> None:
        machine(tmp_path, *[V5E] * 4)
        metadata = tpu.tpu_env(metadata_server)
        assert metadata["ACCELERATOR_TYPE"] == "v5litepod-16"
        assert tpu.tpu_devices(tmp_path, {}, lambda: metadata) == 16
        # What the user says of this process goes before it.
        environ = {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": "2,2,1"}
        assert tpu.tpu_devices(tmp_path, environ, lambda: metadata) == 4
        skipped = {"TPU_SKIP_MDS_QUERY": "1"}
        assert tpu.tpu_devices(tmp_path, skipped, lambda: metadata) == 4

    def test_no_metadata_server(self) -> None:
        assert tpu.tpu_env("http://127.0.0.1:9/tpu-env") == {}

    @pytest.mark.parametrize(
        ("accelerator", "devices"),
        [
            ("v6e-256", 256), ("v5litepod-16", 16), ("v5p-16", 8), ("v4-8", 4), ("v3-32", 32),
            ("v9z-8", None), ("v6e", None), ("", None),
        ],
    )  # fmt: skip
    def test_devices_of_an_accelerator_type(self, accelerator: str, devices: int | None) -> None:
        assert tpu.devices_of_type(accelerator) == devices


@pytest.fixture
def metadata_server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = (
                "ACCELERATOR_TYPE: 'v5litepod-16'\nTPU_PROCESS_BOUNDS: '2,2,1'\n"
                "TPU_CHIPS_PER_PROCESS_BOUNDS: '2,2,1'\nWORKER_ID: '0'\n"
            )
            self.send_response(200 if self.headers["Metadata-Flavor"] == "Google" else 403)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            return None

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/tpu-env"
        server.shutdown()
        thread.join()


class TestMissing:
    def test_no_chip(self, tmp_path: Path) -> None:
        reason = tpu.why_no_tpu(tmp_path, {})
        assert reason is not None
        assert str(tmp_path) in reason

    def test_another_plugin_needs_no_chip_of_google(self, tmp_path: Path) -> None:
        """Any PJRT plugin will do, and nothing is known of its devices beforehand."""
        (library := tmp_path / "libpjrt_shim.so").touch()
        environ = {"TPU_LIBRARY_PATH": str(library)}
        assert tpu.why_no_tpu(tmp_path, environ) is None
        assert tpu.tpu_devices(tmp_path, environ, nothing) is None
        assert tpu.why_busy(tmp_path, tmp_path, environ) is None
        assert tpu.why_undriven(Path(sys.executable), {}, environ) is None

    def test_libtpu_elsewhere_needs_a_chip(self, tmp_path: Path) -> None:
        (library := tmp_path / "libtpu.so").touch()
        environ = {"TPU_LIBRARY_PATH": str(library)}
        assert "has no TPU" in str(tpu.why_no_tpu(tmp_path / "pci", environ))
        machine(tmp_path / "pci", V6E)
        assert tpu.why_no_tpu(tmp_path / "pci", environ) is None

    def test_a_library_that_is_not_there(self, tmp_path: Path) -> None:
        machine(tmp_path / "pci", V6E)
        reason = tpu.why_no_tpu(tmp_path / "pci", {"TPU_LIBRARY_PATH": "/no/such.so"})
        assert reason is not None
        assert reason.startswith("TPU_LIBRARY_PATH=/no/such.so is not a file")


class TestLibtpu:
    @pytest.fixture
    def python(self, tmp_path: Path) -> Path:
        """An interpreter whose torch_xla 2.9.0 is released with libtpu 0.0.21."""
        info = tmp_path / "lib/python3.11/site-packages/torch_xla-2.9.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            'Name: torch_xla\nRequires-Dist: libtpu==0.0.21; extra == "tpu"\n'
        )
        return tmp_path / "bin" / "python"

    @pytest.mark.parametrize(
        ("packages", "text"),
        [
            ({"torch-xla": "2.9.0"}, "has no libtpu, and its torch_xla 2.9.0 needs libtpu 0.0.21"),
            (
                {"torch-xla": "2.9.0", "libtpu": "0.0.17"},
                "has libtpu 0.0.17, and its torch_xla 2.9.0 needs libtpu 0.0.21: install "
                "libtpu==0.0.21",
            ),
            ({"torch-xla": "2.8.0"}, "has no libtpu"),
        ],
    )
    def test_missing_or_another_one(
        self, packages: dict[str, str], text: str, python: Path
    ) -> None:
        assert text in str(tpu.why_undriven(python, packages, {}))

    def test_the_one_that_is_needed(self, python: Path) -> None:
        assert tpu.why_undriven(python, {"torch-xla": "2.9.0", "libtpu": "0.0.21"}, {}) is None
        # Nobody says which one another torch_xla needs.
        assert tpu.why_undriven(python, {"torch-xla": "2.8.0", "libtpu": "0.0.17"}, {}) is None


HOLD = """
import fcntl, sys
stream = open(sys.argv[1], "r+")
fcntl.lockf(stream, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


class TestBusy:
    def test_nobody_has_it(self, tmp_path: Path) -> None:
        lock = tmp_path / "libtpu_lockfile"
        assert tpu.why_busy(lock, tmp_path / "proc", {}) is None
        lock.touch()  # left over by a process that has ended
        assert tpu.why_busy(lock, tmp_path / "proc", {}) is None

    def test_a_taken_lock_file(self, tmp_path: Path) -> None:
        (lock := tmp_path / "libtpu_lockfile").touch()
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, str(lock)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as holder:  # fmt: skip
            assert holder.stdout is not None
            assert holder.stdout.readline() == "locked\n"
            assert str(tpu.why_busy(lock, tmp_path, {})).startswith(f"{lock} is taken")
            # A process that is given some of the chips does without the lock.
            some = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1"}
            assert tpu.why_busy(lock, tmp_path, some) is None
            assert holder.stdin is not None
            holder.stdin.close()
        assert tpu.why_busy(lock, tmp_path, {}) is None

    def test_another_user_s_lock_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (lock := tmp_path / "libtpu_lockfile").touch()

        def refused(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(fcntl, "lockf", refused)
        assert f"sudo rm {lock}" in str(tpu.why_busy(lock, tmp_path, {}))

    @pytest.mark.parametrize("file", ["/dev/accel0", "/dev/vfio/3"])
    def test_a_process_that_has_a_chip_open(self, file: str, tmp_path: Path) -> None:
        (folder := tmp_path / "proc/4321/fd").mkdir(parents=True)
        os.symlink("/dev/null", folder / "0")
        os.symlink(file, folder / "7")
        reason = tpu.why_busy(tmp_path / "lock", tmp_path / "proc", {})
        assert reason is not None
        assert reason.startswith(f"process 4321 has {file} open")

    def test_other_files_are_no_chips(self, tmp_path: Path) -> None:
        (folder := tmp_path / "proc/4321/fd").mkdir(parents=True)
        for number, file in enumerate(("/dev/null", "/dev/vfio/vfio", "/dev/accelerometer")):
            os.symlink(file, folder / str(number))
        assert tpu.why_busy(tmp_path / "lock", tmp_path / "proc", {}) is None
