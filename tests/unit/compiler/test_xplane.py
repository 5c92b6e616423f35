"""Step times out of TPU profiles: synthetic ones for every way to go wrong, and a real one.

The synthetic profiles are those of tests/unit/profiles.py.
"""

import gzip
from pathlib import Path

import pytest
from profiles import plane, steps, text

from harness.base.errors import BadInput
from harness.compiler.xplane import DeviceStepTimes, step_seconds
from harness.devices.tpu import DEVICE

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "tpu_profile.xplane.pb.gz"
assert DEVICE.planes is not None
PLANES = DEVICE.planes


def read(tmp_path: Path, *parts: bytes, module: str | None = None) -> DeviceStepTimes:
    path = tmp_path / "host.xplane.pb"
    path.write_bytes(b"".join(parts))
    return step_seconds(path, PLANES, module)


HOST = plane("/host:CPU", steps("python", [0, 1, 2]), line_name="python")
TPU = plane("/device:TPU:0", steps("step(11)", [0, 10, 20, 32]))


def test_gaps_between_starts_in_seconds(tmp_path: Path) -> None:
    times = read(tmp_path, HOST, TPU, text(4, "hostname"))
    assert times.module == "step(11)"
    assert times.seconds == {"/device:TPU:0": pytest.approx((0.010, 0.010, 0.012))}
    assert times.median == pytest.approx(0.010)
    assert times.other_modules == ()
    assert times.idle_devices == ()
    assert times.complaints == ()


def test_compressed_is_the_same(tmp_path: Path) -> None:
    packed = tmp_path / "host.xplane.pb.gz"
    packed.write_bytes(gzip.compress(HOST + TPU))
    assert step_seconds(packed, PLANES) == read(tmp_path, HOST, TPU)


def test_executions_are_put_in_order(tmp_path: Path) -> None:
    times = read(tmp_path, plane("/device:TPU:0", steps("step(11)", [20, 0, 32, 10])))
    assert times == read(tmp_path, TPU)


def test_pieces_of_a_line_have_times_of_their_own(tmp_path: Path) -> None:
    """Offsets count from each piece's own timestamp: 20 ms and 32 ms after the first."""
    pieces = plane(
        "/device:TPU:0",
        steps("step(11)", [0, 10]),
        later=(15_000_000, steps("step(11)", [5, 17])),
    )
    assert read(tmp_path, pieces) == read(tmp_path, TPU)


def test_the_module_with_most_device_time_is_the_step(tmp_path: Path) -> None:
    """Not the one that runs most often."""
    small = steps("transfer(3)", [1, 2, 3, 4, 5, 6], duration=0.1)
    times = read(tmp_path, plane("/device:TPU:0", [*small, *steps("step(11)", [0, 10, 20])]))
    assert times.module == "step(11)"
    assert times.seconds["/device:TPU:0"] == pytest.approx((0.010, 0.010))
    assert dict(times.other_modules) == {"transfer(3)": pytest.approx(0.0006)}


@pytest.mark.parametrize("name", ["transfer", "transfer(3)"])
def test_a_named_module(tmp_path: Path, name: str) -> None:
    runs = [*steps("transfer(3)", [1, 4], duration=0.1), *steps("step(11)", [0, 10, 20])]
    times = read(tmp_path, plane("/device:TPU:0", runs), module=name)
    assert times.module == "transfer(3)"
    assert times.seconds == {"/device:TPU:0": pytest.approx((0.003,))}
    assert [other for other, _ in times.other_modules] == ["step(11)"]


def test_a_recompilation_of_the_same_name_is_another_module(tmp_path: Path) -> None:
    runs = [*steps("step(11)", [0, 10]), *steps("step(12)", [500, 520, 540, 560])]
    for name in (None, "step"):
        times = read(tmp_path, plane("/device:TPU:0", runs), module=name)
        assert times.module == "step(12)"
        assert times.seconds["/device:TPU:0"] == pytest.approx((0.020, 0.020, 0.020))
    assert read(tmp_path, plane("/device:TPU:0", runs), module="step(11)").median == pytest.approx(
        0.010
    )


@pytest.mark.parametrize("name", ["stepp", "ste", "", "step(1)", "step.*"])
def test_an_unknown_module_is_an_error_that_lists_what_is_there(tmp_path: Path, name: str) -> None:
    runs = [*steps("transfer(3)", [1]), *steps("step(11)", [0, 10])]
    with pytest.raises(BadInput, match=r"step\(11\) \(0.018 s\), transfer\(3\)") as error:
        read(tmp_path, plane("/device:TPU:0", runs), module=name)
    assert repr(name) in str(error.value)


def test_several_devices(tmp_path: Path) -> None:
    """Each has gaps of its own, the median is over all; SparseCores and idle chips do not count."""
    times = read(
        tmp_path,
        TPU,
        plane("/device:TPU:1", steps("step(11)", [0, 11, 22])),
        plane("/device:TPU:2"),
        plane("/device:TPU:3", steps("other(1)", [0, 100], duration=1)),
        plane("/device:TPU:0 SparseCore 0", steps("step(11)", [0, 1, 2], duration=500)),
    )
    assert times.seconds == {
        "/device:TPU:0": pytest.approx((0.010, 0.010, 0.012)),
        "/device:TPU:1": pytest.approx((0.011, 0.011)),
    }
    assert times.median == pytest.approx(0.011)
    assert times.idle_devices == ("/device:TPU:2", "/device:TPU:3")


def test_device_time_is_summed_over_devices(tmp_path: Path) -> None:
    """A module of one device alone does not outweigh the one that all run."""
    times = read(
        tmp_path,
        plane("/device:TPU:0", [*steps("step(11)", [0, 50]), ("check(5)", 10, 30.0)]),
        plane("/device:TPU:1", steps("step(11)", [0, 50])),
    )
    assert times.module == "step(11)"


def test_two_hosts_merged_into_one_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="two planes /device:TPU:0"):
        read(tmp_path, TPU, TPU)


def test_what_the_profiler_complained_of_is_kept(tmp_path: Path) -> None:
    times = read(tmp_path, TPU, text(2, "buffer overflow"), text(3, "events dropped"))
    assert times.complaints == ("buffer overflow", "events dropped")


def test_no_tpu_plane(tmp_path: Path) -> None:
    gpu = plane("/device:GPU:0", steps("step(11)", [0, 10]))
    with pytest.raises(BadInput, match=r"no plane of the device.*/host:CPU, /device:GPU:0"):
        read(tmp_path, HOST, gpu)


@pytest.mark.parametrize(
    "tpu",
    [plane("/device:TPU:0"), plane("/device:TPU:0", steps("fusion", [0, 1]), line_name="XLA Ops")],
    ids=["no lines", "only another line"],
)
def test_no_execution(tmp_path: Path, tpu: bytes) -> None:
    with pytest.raises(BadInput, match="no execution of an XLA module on /device:TPU:0"):
        read(tmp_path, HOST, tpu)


def test_one_execution_is_no_gap(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"only one execution of step\(11\) on /device:TPU:0"):
        read(tmp_path, plane("/device:TPU:0", steps("step(11)", [0])))


def test_one_execution_on_one_of_the_devices(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"only one execution of .* on /device:TPU:1"):
        read(tmp_path, TPU, plane("/device:TPU:1", steps("step(11)", [0])))


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"host.xplane.pb is empty"):
        read(tmp_path)


def test_an_empty_file_in_gzip(tmp_path: Path) -> None:
    path = tmp_path / "host.xplane.pb.gz"
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(BadInput, match="is empty"):
        step_seconds(path, PLANES)


def test_truncated_anywhere(tmp_path: Path) -> None:
    """Cut after any byte, a profile is an error; never fewer or other gaps."""
    for size in range(len(TPU)):
        with pytest.raises(BadInput, match=r"empty|truncated"):
            read(tmp_path, TPU[:size])


def test_truncated_between_planes(tmp_path: Path) -> None:
    """This is a valid profile of what is left: one device is whole, the other is missing."""
    both = TPU + plane("/device:TPU:1", steps("step(11)", [0, 10, 20]))
    times = read(tmp_path, both[: len(TPU)])
    assert list(times.seconds) == ["/device:TPU:0"]
    with pytest.raises(BadInput, match="truncated"):
        read(tmp_path, both[: len(TPU) + 1])


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "host.xplane.pb.gz"
    packed = gzip.compress(TPU)
    for size in range(1, len(packed), 7):
        path.write_bytes(packed[:size])
        with pytest.raises(BadInput, match="truncated or is no gzip file"):
            step_seconds(path, PLANES)


@pytest.mark.parametrize("content", [b"PK\x03\x04 not gzip", b"\x1f\x8b\x08\x00broken stream here"])
def test_not_gzip(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "host.xplane.pb.gz"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="no gzip file"):
        step_seconds(path, PLANES)


def test_not_a_profile(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no xplane profile"):
        read(tmp_path, b"loss: 3.14\nloss: 2.71\n")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"missing.xplane.pb cannot be read: No such file"):
        step_seconds(tmp_path / "missing.xplane.pb", PLANES)
    with pytest.raises(BadInput, match="cannot be read: Is a directory"):
        step_seconds(tmp_path, PLANES)


@pytest.mark.skipif(not REAL.exists(), reason="shared/data/tpu_profile.xplane.pb.gz is missing")
def test_a_real_tpu_profile(tmp_path: Path) -> None:
    times = step_seconds(REAL, PLANES)
    assert times.median == pytest.approx(0.0206, abs=1e-4)
    assert times.module == "train_step.312(15545438734835972065)"
    assert {device: len(gaps) for device, gaps in times.seconds.items()} == {"/device:TPU:0": 11}
    assert (times.other_modules, times.idle_devices, times.complaints) == ((), (), ())
    assert step_seconds(REAL, PLANES, "train_step.312") == times


@pytest.mark.skipif(not REAL.exists(), reason="shared/data/tpu_profile.xplane.pb.gz is missing")
def test_a_real_tpu_profile_truncated(tmp_path: Path) -> None:
    data = gzip.decompress(REAL.read_bytes())
    path = tmp_path / "cut.xplane.pb"
    for size in range(1, len(data), len(data) // 23):
        path.write_bytes(data[:size])
        with pytest.raises(BadInput, match="truncated"):
            step_seconds(path, PLANES)
    path.write_bytes(data)
    assert step_seconds(path, PLANES) == step_seconds(REAL, PLANES)
