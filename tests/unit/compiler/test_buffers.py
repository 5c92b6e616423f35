"""The memory of a compiled module: each test is one way in which a report could be misread."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.base.errors import BadInput
from harness.compiler.buffers import Memory, read_memory

DATA = Path(__file__).parent / "data" / "hlo"
RELEASES = ("0.0.21", "0.0.52")


def reports(release: str) -> tuple[str, str]:
    folder = DATA / f"libtpu-{release}"
    (buffers,) = folder.glob("*buffer-assignment.txt")
    (usage,) = folder.glob("*memory-usage-report.txt")
    return buffers.read_text(), usage.read_text()


@pytest.mark.parametrize("release", RELEASES)
def test_real_reports_add_up(release: str) -> None:
    memory = read_memory(*reports(release))
    assert memory.donated <= memory.arguments
    assert memory.peak == sum(
        (memory.arguments, memory.outputs, memory.temporaries, memory.constants)
    )


def test_what_the_two_releases_hold() -> None:
    """A quarter of the weight and of its momentum (4 × 8 floats each) is donated, in tiles."""
    old, new = (read_memory(*reports(release)) for release in RELEASES)
    assert old.arguments == new.arguments
    assert old.donated == new.donated > 0
    assert old != new  # the compilers plan their temporaries differently


def test_other_memories_do_not_count() -> None:
    text = (
        "allocation 0: size 8, parameter 0, shape |f32[2]| at ShapeIndex {}:\n"
        "allocation 1: size 100, color 1, preallocated-temp:\n"
        "Total bytes used: 108 (108B)\n"
    )
    assert read_memory(text) == Memory(8, 0, 0, 0, 0)


def test_each_kind_is_told_apart() -> None:
    text = (
        "allocation 0: size 1, parameter 0, shape |f32[2]| at ShapeIndex {}:\n"
        "allocation 1: size 2, page 0, parameter 1, shape |f32[2]| at ShapeIndex {}, "
        "maybe-live-out:\n"
        "allocation 2: size 4, maybe-live-out:\n"
        "allocation 3: size 8, preallocated-temp:\n"
        "allocation 4: size 16, constant:\n"
        "allocation 5: size 32, thread-local:\n"
        "Total bytes used: 63 (63B)\n"
    )
    memory = read_memory(text)
    assert memory == Memory(arguments=3, donated=2, outputs=4, temporaries=8, constants=48)
    assert memory.peak == 63


@pytest.mark.parametrize("release", RELEASES)
def test_every_truncation(release: str) -> None:
    buffers, usage = reports(release)
    lines = buffers.splitlines(keepends=True)
    last = len(lines) if release == "0.0.52" else len(lines) - 1
    # The allocation that libtpu 0.0.52 writes last may be of another memory.
    for n in range(last - 6):
        with pytest.raises(BadInput, match="cut off"):
            read_memory("".join(lines[:n]), usage)


def test_without_a_total_nothing_is_believed() -> None:
    buffers, _ = reports("0.0.52")
    with pytest.raises(BadInput):
        read_memory(buffers)


def test_a_total_of_another_module() -> None:
    buffers, usage = reports("0.0.52")
    with pytest.raises(BadInput):
        read_memory(buffers, usage.replace("Total bytes: 2", "Total bytes: 3", 1))
