"""Estimates against measured times: each test is one way in which they could be mixed up."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from profiles import MS, nested, number, plane, steps, text

from harness.base.errors import BadInput
from harness.compiler.calibration import (
    METADATA,
    Operation,
    agreement,
    by_kind,
    read_operations,
)
from harness.compiler.cycles import UNKNOWN
from harness.devices.tpu import CHIPS, clock_of

PLANES = re.compile(r"/device:TPU:\d+")
MODULE = "train(7)"
KINDS = {1: "hlo_category", 2: "program_id", 3: "device_type_string"}

REAL = Path(__file__).parents[4] / "shared" / "data" / "tpu_profile.xplane.pb.gz"


def stat(name: str, value: str | int) -> bytes:
    """XStat of a name in KINDS."""
    identifier = next(number_ for number_, known in KINDS.items() if known == name)
    return number(1, identifier) + (text(5, value) if isinstance(value, str) else number(3, value))


def device(*operations: tuple[str, str, float, int], chip: str = "TPU v6 Lite") -> bytes:
    """A device's plane: of each operation its name, kind, milliseconds and program."""
    names = [
        nested(5, number(1, n), nested(2, number(1, n), text(2, name))) for n, name in KINDS.items()
    ]
    about = [
        nested(
            4,
            number(1, 100 + n),
            nested(
                2,
                number(1, 100 + n),
                text(2, f"%{name} = f32[8]{{0}} fusion(f32[8]{{0}} %x)"),
                nested(5, stat("hlo_category", kind)),
                nested(5, stat("program_id", program)),
            ),
        )
        for n, (name, kind, _, program) in enumerate(operations)
    ]
    events = [
        nested(4, number(1, 100 + n), number(3, round(milliseconds * MS)))
        for n, (_, _, milliseconds, _) in enumerate(operations)
        for _ in range(2)
    ]
    modules = plane("/device:TPU:0", steps(MODULE, [0, 10, 20]))
    extra = b"".join([
        *names, *about, nested(6, stat("device_type_string", chip)),
        nested(3, text(2, "XLA Ops"), *events),
    ])  # fmt: skip
    # A message that comes twice is merged: the plane of the modules, and this.
    return nested(1, modules[_header(modules) :] + extra)


def _header(message: bytes) -> int:
    """Bytes of a field's key and length."""
    return 1 + next(n for n in range(1, 6) if message[n] < 128)


def kept(cycles: dict[str, int | None], module: str = MODULE) -> bytes:
    """The plane of the modules, with what the compiler estimates for each instruction."""
    instructions = [
        nested(
            2,
            text(1, name),
            text(2, "fusion"),
            nested(43, b"" if n is None else f'{{"x":1,"estimated_cycles":"{n}"}}'.encode()),
        )
        for name, n in cycles.items()
    ]
    proto = nested(1, text(1, "train"), nested(3, text(1, "entry"), *instructions))
    entry = nested(2, number(1, 7), text(2, module), nested(5, number(1, 1), nested(6, proto)))
    return nested(1, text(2, METADATA), nested(4, number(1, 7), entry))


def profile(tmp_path: Path, *planes: bytes) -> Path:
    path = tmp_path / "x.xplane.pb"
    path.write_bytes(b"".join(planes))
    return path


def test_each_operation_with_its_estimate(tmp_path: Path) -> None:
    path = profile(
        tmp_path,
        device(("a.1", "convolution fusion", 2.0, 7), ("b", "loop fusion", 1.0, 7),
               ("c", "custom-call", 4.0, 7)),
        kept({"a.1": 3000, "b": UNKNOWN, "c": None, "never.run": 5}),
    )  # fmt: skip
    found = read_operations(path, PLANES)
    assert (found.module, found.chip) == (MODULE, "TPU v6 Lite")
    seen = [(o.name, o.kind, o.runs, o.cycles) for o in found.operations]
    assert seen == [
        ("c", "custom-call", 2, None), ("a.1", "convolution fusion", 2, 3000),
        ("b", "loop fusion", 2, None),
    ]  # fmt: skip
    assert found.operations[0].mean == pytest.approx(4e-3)


def test_operations_of_another_program_are_not_its_own(tmp_path: Path) -> None:
    path = profile(
        tmp_path, device(("a", "x", 2.0, 7), ("b", "x", 1.0, 8)), kept({"a": 10, "b": 10})
    )
    assert [o.name for o in read_operations(path, PLANES).operations] == ["a"]


@pytest.mark.parametrize(
    ("planes", "problem"),
    [
        ([device(("a", "x", 1.0, 7))], "does not keep the module"),
        ([device(("a", "x", 1.0, 7)), kept({"a": 1}, "other(8)")], "does not keep the module"),
        ([device(("a", "x", 1.0, 7)), kept({"a": UNKNOWN})], "no estimate of any"),
        ([device(), kept({"a": 1})], "no operations"),
        ([plane("/host:CPU")], "no plane of the device"),
    ],
)
def test_what_says_nothing(planes: list[bytes], problem: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=problem):
        read_operations(profile(tmp_path, *planes), PLANES)


def operation(cycles: int | None, seconds: float, runs: int = 1, kind: str = "k") -> Operation:
    return Operation(f"{cycles}", kind, seconds, runs, cycles)


def test_estimates_that_are_right_correlate_and_give_the_clock() -> None:
    operations = [operation(n, n * 2 / 1e9, runs=2) for n in (10, 1000, 50000)]
    found = agreement([*operations, operation(None, 1e-4)], 2e-4)
    assert found.correlation == pytest.approx(1.0)
    assert found.hertz == pytest.approx(1e9)
    assert (found.operations, found.estimated) == (4, 3)
    assert found.estimated_share < found.share < 1.02


def test_estimates_that_are_wrong_do_not() -> None:
    wrong = [operation(10, 3e-3), operation(1000, 2e-3), operation(50000, 1e-3)]
    found = agreement(wrong, 6e-3)
    assert found.correlation is not None
    assert found.correlation < -0.9


@pytest.mark.parametrize(
    "operations",
    [
        [],
        [operation(None, 1.0)],
        [operation(10, 1.0), operation(20, 2.0)],
        [operation(10, 1.0), operation(10, 2.0), operation(10, 3.0)],
    ],
)
def test_too_little_is_no_correlation(operations: list[Operation]) -> None:
    assert agreement(operations, 6.0).correlation is None


def test_the_longest_kind_comes_first_and_short_ones_are_left_out_at_the_end(
    tmp_path: Path,
) -> None:
    path = profile(
        tmp_path,
        device(("a", "small", 1.0, 7), ("b", "large", 3.0, 7), ("c", "tiny", 1e-6, 7)),
        kept({"a": 10, "b": 30, "c": 10}),
    )
    kinds = by_kind(read_operations(path, PLANES))
    assert list(kinds) == ["large", "small", "tiny", "all", "all over 1 µs"]
    assert (kinds["all"].operations, kinds["all over 1 µs"].operations) == (3, 2)


def test_the_clock_of_a_chip_by_its_name_in_a_profile() -> None:
    assert clock_of("TPU v6 Lite") == CHIPS["tpu v6e"].clock
    assert clock_of("TPU v99") is None


@pytest.mark.skipif(not REAL.is_file(), reason="the real profile is not here")
def test_a_real_profile() -> None:
    """A ResNet on one v6e, 12 steps."""
    found = read_operations(REAL, PLANES)
    assert clock_of(found.chip) == CHIPS["tpu v6e"].clock
    kinds = by_kind(found)
    everything, long = kinds["all"], kinds["all over 1 µs"]
    assert (everything.operations, everything.estimated, long.estimated) == (137, 38, 17)
    assert everything.estimated_share == pytest.approx(0.748, abs=1e-3)
    assert long.correlation == pytest.approx(0.978, abs=1e-3)
    # Matrix units run at 1.75 GHz, and that is what fusions with products come to.
    assert kinds["convolution fusion"].hertz == pytest.approx(1.76e9, rel=0.01)
    assert math.isclose(everything.hertz or 0, 2.03e9, rel_tol=0.01)
