"""Damage to a Record's files, bit by bit."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from builders import Trainer

from harness.base.errors import BadInput
from harness.record.checksums import CHECKSUMS, changed, check, write_checksums
from harness.record.layout import LOG, MANIFEST, PARAMETERS, STEPS
from harness.record.reader import READ


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = Trainer(steps=3).write(tmp_path / "record")
    (found / "modules").mkdir()
    (found / "modules" / "0.hlo.pb").write_bytes(bytes(range(256)))
    write_checksums(found)
    return found


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.parametrize("name", [MANIFEST, STEPS, PARAMETERS])
def test_any_bit_of_what_is_read(folder: Path, name: str) -> None:
    """Also one in a number, which would be another number."""
    chance, size = random.Random(0), 8 * (folder / name).stat().st_size
    check(folder, *READ)
    for bit in chance.sample(range(size), 50):
        flip(folder / name, bit)
        with pytest.raises(BadInput, match=rf"{name} is damaged.*Run the case again"):
            check(folder, *READ)
        flip(folder / name, bit)
    check(folder, *READ)


def test_a_bit_of_the_checksums(folder: Path) -> None:
    line = (folder / CHECKSUMS).read_bytes().index(MANIFEST.encode())
    for byte in (line - 1, line - 2, line - 40, line + 3):  # the space between, the sum, the name
        flip(folder / CHECKSUMS, 8 * byte)
        with pytest.raises(BadInput, match="Run the case again"):
            check(folder, *READ)
        flip(folder / CHECKSUMS, 8 * byte)
    check(folder, *READ)


def test_each_file_is_named(folder: Path) -> None:
    flip(folder / "modules" / "0.hlo.pb", 77)
    check(folder, *READ)  # which it is none of
    with pytest.raises(BadInput, match=r"0\.hlo\.pb is damaged, or was changed after its run"):
        check(folder, "modules/0.hlo.pb")
    (folder / "modules" / "0.hlo.pb").unlink()
    with pytest.raises(BadInput, match=r"0\.hlo\.pb is missing"):
        check(folder, "modules/0.hlo.pb")


def test_what_was_put_there_later_is_no_evidence(folder: Path) -> None:
    (folder / "graph.json").write_text("{}")
    with pytest.raises(BadInput, match=r"graph\.json is damaged, or was changed"):
        check(folder, *READ)


@pytest.mark.parametrize("text", ["", "0123  manifest.json\n", "\xff"])
def test_checksums_that_are_none(folder: Path, text: str) -> None:
    (folder / CHECKSUMS).write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match="Run the case again"):
        check(folder, *READ)


def test_a_record_of_an_earlier_version_is_read(folder: Path) -> None:
    (folder / CHECKSUMS).unlink()
    assert not [*changed(folder, *READ)]


def test_coreutils_read_them(folder: Path) -> None:
    def wrong() -> list[str]:
        done = subprocess.run(
            ["sha256sum", "--check", "--quiet", CHECKSUMS], cwd=folder, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        return done.stdout.splitlines()

    assert wrong() == []
    flip(folder / LOG, 3)
    assert wrong() == [f"{LOG}: FAILED"]
