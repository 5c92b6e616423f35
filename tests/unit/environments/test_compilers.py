"""The compilers' environments, without installing one."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from harness.base.errors import BadInput
from harness.environments import compilers, venv
from harness.environments.compilers import (
    DRIVER_LOCK,
    PASSING,
    forget,
    locked,
    passing_releases,
    tpu_compiler,
)


@pytest.fixture
def uv_calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that uv is given; each makes what it would have made."""
    calls: list[list[str]] = []

    def run(*arguments: Any, **_: Any) -> str:
        line = list(map(str, arguments))
        calls.append(line)
        if line[0] == "venv":
            (Path(line[-1]) / "bin").mkdir(parents=True)
            (Path(line[-1]) / "bin" / "python").touch()
        if "-r" in line:
            calls[-1].append(Path(line[line.index("-r") + 1]).read_text())
            (Path(line[line.index("--target") + 1])).mkdir(parents=True)
        return ""

    for module in (compilers, venv):
        monkeypatch.setattr(module, "run_uv", run)
    return calls


def ignore(text: str) -> None:
    return None


def test_made_once_and_found_again(uv_calls: list[list[str]], tmp_path: Path) -> None:
    first = tpu_compiler("0.0.52", tmp_path, ignore)
    made = len(uv_calls)
    assert tpu_compiler("0.0.52", tmp_path, ignore) == first
    assert len(uv_calls) == made == 3  # the driver's environment, its packages, and libtpu
    other = tpu_compiler("0.0.21", tmp_path, ignore)
    assert other.python == first.python
    assert other.library != first.library
    assert len(uv_calls) == made + 1


def test_a_locked_release_is_checked(uv_calls: list[list[str]], tmp_path: Path) -> None:
    tpu_compiler("0.0.52", tmp_path, ignore)
    *_, install = uv_calls
    assert "--require-hashes" in install
    assert "--hash=sha256:" in install[-1]
    tpu_compiler("0.0.47.1", tmp_path, ignore)
    *_, install = uv_calls
    assert "--require-hashes" not in install
    assert install[-1] == "libtpu==0.0.47.1\n"


def test_what_is_locked() -> None:
    assert locked("0.0.5") is None  # though 0.0.52 begins with it
    for release in ("0.0.21", "0.0.52"):
        text = locked(release)
        assert text is not None
        assert text.count("libtpu==") == 1
        assert "--hash" in text
    assert "libtpu" not in DRIVER_LOCK.read_text()


@pytest.mark.parametrize("release", ["latest", "", "0", "0.0.52; x", "../0.0.52"])
def test_what_is_no_release(release: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"compiler\.libtpu="):
        tpu_compiler(release, tmp_path, ignore)


@pytest.mark.parametrize(("system", "machine"), [("darwin", "x86_64"), ("linux", "aarch64")])
def test_another_machine(
    system: str, machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(BadInput, match=machine):
        tpu_compiler("0.0.52", tmp_path, ignore)


def test_a_passing_release_is_in_no_others_way(uv_calls: list[list[str]], tmp_path: Path) -> None:
    there = tpu_compiler("0.0.21", tmp_path, ignore)
    with passing_releases(tmp_path) as passing:
        assert tpu_compiler("0.0.21", tmp_path, ignore, passing) == there
        lent = tpu_compiler("0.0.52", tmp_path, ignore, passing)
        assert lent.library.parents[1] == passing / "0.0.52"
        stays = tpu_compiler("0.0.52", tmp_path, ignore)
        assert stays.library != lent.library
        forget("0.0.52", passing)
        assert not (passing / "0.0.52").exists()
    assert there.library.parents[1].is_dir()
    assert stays.library.parents[1].is_dir()
    assert not list((tmp_path / PASSING).iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    alive, dead = (tmp_path / PASSING / name for name in ("alive", "dead"))
    for folder in (alive, dead):
        folder.mkdir(parents=True)
        folder.with_name(f"{folder.name}.lock").touch()
    with FileLock(alive.with_name("alive.lock")), passing_releases(tmp_path) as passing:
        assert passing.is_dir()
        assert alive.is_dir()
        assert not dead.exists()
    assert sorted(p.name for p in (tmp_path / PASSING).iterdir()) == ["alive", "alive.lock"]
