"""A composition is found again where it would come out the same, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.config import remembered as room
from harness.config.compose import load
from harness.config.remembered import remembered


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of compositions, in a cache of this test's own."""
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "configurations"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("steps: 20\n")
    return path


class Composer:
    """Composes something else each time."""

    def __init__(self, **more: Any) -> None:
        self.times, self.more = 0, more

    def __call__(self) -> dict[str, Any]:
        self.times += 1
        return {"time": self.times, **self.more}


def test_the_same_is_composed_once(file: Path) -> None:
    compose = Composer(nested={"a": [1, 2.5, None, "x"]})
    first = remembered([file], ["a=1"], {}, compose)
    assert remembered([file], ["a=1"], {}, compose) == first
    assert compose.times == 1


def test_another_file_override_or_default_is_composed(file: Path, tmp_path: Path) -> None:
    compose = Composer()
    remembered([file], ["a=1"], {"hf": {"env": {}}}, compose)
    remembered([file], ["a=2"], {"hf": {"env": {}}}, compose)
    remembered([file], ["a=1"], {"hf": {"env": {"A": "1"}}}, compose)
    file.write_text("steps: 40\n")
    remembered([file], ["a=1"], {"hf": {"env": {}}}, compose)
    moved = file.rename(tmp_path / "other.yaml")
    remembered([moved], ["a=1"], {"hf": {"env": {}}}, compose)
    assert compose.times == 5


@pytest.mark.parametrize(
    ("text", "word"),
    [("path: ${oc.env:HOME}", "a=1"), ("steps: 20", "path=${oc.env:HOME}"), ("a: ${now:%H}", "")],
)
def test_what_asks_for_anything_else_is_composed_each_time(
    file: Path, cache: Path, text: str, word: str
) -> None:
    file.write_text(text)
    compose = Composer()
    for _ in range(2):
        remembered([file], [word], {}, compose)
    assert compose.times == 2
    assert not cache.exists()


def test_a_copy_of_another_key_asks_for_nothing_else(file: Path) -> None:
    file.write_text("steps: 20\nwindow: ${steps}\nnote: 'a:b'\n")
    compose = Composer()
    for _ in range(2):
        remembered([file], [], {}, compose)
    assert compose.times == 1


@pytest.mark.parametrize("value", [{1: "a"}, float("nan"), (1, 2)])
def test_what_json_does_not_hold_is_composed_each_time(file: Path, value: Any) -> None:
    compose = Composer(value=value)
    for _ in range(2):
        remembered([file], [], {}, compose)
    assert compose.times == 2


def test_a_damaged_memory_is_composed_anew(file: Path, cache: Path) -> None:
    compose = Composer()
    remembered([file], [], {}, compose)
    (memory,) = cache.glob("*.json")
    memory.write_text('{"time": ')
    assert remembered([file], [], {}, compose) == {"time": 2}
    assert remembered([file], [], {}, compose) == {"time": 2}


def test_a_cache_that_cannot_be_written_is_none(file: Path, cache: Path) -> None:
    cache.parent.write_text("a file")
    assert remembered([file], [], {}, Composer()) == {"time": 1}


def test_the_oldest_are_forgotten(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "KEPT", 2)
    compose = Composer()
    for number in range(3):
        remembered([file], [f"a={number}"], {}, compose)
        for memory in cache.glob("*.json"):
            os.utime(memory, (memory.stat().st_mtime - 10,) * 2)
    assert len(list(cache.glob("*.json"))) == 2
    remembered([file], ["a=2"], {}, compose)
    assert compose.times == 3


def test_settings_are_the_same_and_hydra_is_not_imported(cache: Path) -> None:
    words = ["case=llama-tiny-bf16", "case.steps=7", "+engine.hf.env.A=b"]
    first = load(words)
    assert list(cache.glob("*.json"))
    script = (
        f"import sys\nfrom harness.config.compose import load\nprint(load({words!r}))\n"
        "assert 'hydra' not in sys.modules and 'omegaconf' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(first)
