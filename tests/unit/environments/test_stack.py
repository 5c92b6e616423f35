"""The engine environment with another release of something in it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.base.errors import BadInput
from harness.environments import stack, venv
from harness.environments.install import InstallFailed
from harness.environments.stack import Pin, check_exists, interpreter_with, pin, requirements


def pins(**sources: str) -> dict[str, Pin]:
    return {name: pin(name, source, Path("cache"), print) for name, source in sources.items()}


def names(lines: list[str]) -> list[str]:
    return [re.split(r"[\[=<>~ ]", line)[0] for line in lines]


def test_a_torch_xla_decides_its_torch_libtpu_and_numpy() -> None:
    found = requirements(pins(torch_xla="2.8.1"))
    assert found[:2] == ["torch_xla[pallas]==2.8.1", "torch~=2.8.0"]
    assert {"transformers", "accelerate"} <= {*names(found)}
    assert names(found).count("torch") == 1
    assert not {"libtpu", "numpy", "jax"} & {*names(found)}
    assert not any("#" in line for line in found)


def test_whatever_else_is_replaced_alone() -> None:
    locked = requirements({})
    found = requirements(pins(accelerate="1.10.0"))
    assert {*found} - {*locked} == {"accelerate==1.10.0"}
    assert {*names(locked)} == {*names(found)}


def test_what_belongs_to_one_release_goes_with_it() -> None:
    found = requirements(pins(torch="2.9.1"))
    assert "torch==2.9.1" in found
    assert "torch-xla==2.9.0" in found
    assert not any(name.startswith(("nvidia", "triton")) for name in names(found))
    found = requirements(pins(jax="0.7.2"))
    assert [line for line in found if line.startswith("jax")] == ["jax==0.7.2", "jaxlib==0.7.2"]


def test_both_torch_and_torch_xla() -> None:
    found = requirements(pins(torch="2.8.1", torch_xla="2.8.0"))
    assert [line for line in found if line.startswith("torch")] == [
        "torch==2.8.1",
        "torch_xla[pallas]==2.8.0",
    ]


def test_a_wheel_is_what_it_contains(tmp_path: Path) -> None:
    wheel = tmp_path / "dist" / "torch_xla-2.10.0.dev1-cp311-cp311-linux_x86_64.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(b"one")
    by_file, by_folder = (pin("torch_xla", str(p), tmp_path, print) for p in (wheel, wheel.parent))
    assert by_file == by_folder
    assert by_file.version == "2.10.0.dev1"
    assert by_file.requirement == f" @ {wheel.as_uri()}"
    wheel.write_bytes(b"two")
    assert pin("torch_xla", str(wheel), tmp_path, print).content != by_file.content
    assert f"torch_xla[pallas] @ {wheel.as_uri()}" in requirements({"torch_xla": by_file})


def test_a_wheel_by_its_address() -> None:
    address = "https://user:TOK@example.com/a/torch_xla-2.10.0%2Bcpu-cp311-cp311-linux_x86_64.whl"
    found = pin("torch_xla", address, Path("cache"), print)
    assert found.version == "2.10.0+cpu"
    assert "TOK" not in found.content
    assert found.requirement == f" @ {address}"


def test_refused(tmp_path: Path) -> None:
    other = tmp_path / "torch-2.9.0-cp311-cp311-linux_x86_64.whl"
    for name in (other.name, "torch_xla-1-py3-none-any.whl", "torch_xla-2-py3-none-any.whl"):
        (tmp_path / name).touch()
    for package, source in (
        ("torch_xla", str(other)),  # of another package
        ("torch_xla", str(tmp_path)),  # two wheels of it
        ("torch_xla", str(tmp_path / "no.whl")),
        ("torch_xla", "master"),
        ("jax", "https://github.com/jax-ml/jax@main"),
    ):
        with pytest.raises(BadInput):
            pin(package, source, tmp_path, print)


def test_its_environment_is_of_what_is_asked_for_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run_uv(*words: object, **_: object) -> None:
        if words[0] == "venv":
            python = Path(str(words[-1])) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.touch()
        else:
            asked.append([str(word) for word in words])

    def made(content: str = "") -> Path:
        wanted = Pin("torch_xla", "==2.8.0", "2.8.0", content)
        return interpreter_with([wanted], tmp_path / "cache", lambda _: None)

    base = tmp_path / "base.txt"
    monkeypatch.setattr(venv, "run_uv", run_uv)
    monkeypatch.setattr(stack, "REQUIREMENTS", base)
    base.write_text("accelerate==1.0\n")
    before = made()
    base.write_text("# a comment asks for nothing\naccelerate==1.0\n")
    assert made() == before
    assert len(asked) == 1
    assert made("another wheel") != before
    base.write_text("accelerate==1.1\n")
    assert made() != before
    assert asked[2][-1] == "accelerate==1.1"
    monkeypatch.setattr(sys, "version_info", SimpleNamespace(major=3, minor=99))
    assert made() != before
    assert len(asked) == 4


NO_VERSION = "uv says: Because there is no version of {}==99 and you require it, we can conclude"


@pytest.mark.parametrize("name", ["accelerate", "transformers[torch]", "torch-xla"])
def test_a_release_that_does_not_exist_is_bad_input(name: str) -> None:
    with pytest.raises(BadInput) as error:
        check_exists(
            InstallFailed(NO_VERSION.format(name)), ["accelerate", "transformers", "torch_xla"]
        )
    assert not isinstance(error.value, InstallFailed)


def test_what_a_release_asks_for_and_does_not_exist_is_its_own_fault() -> None:
    check_exists(InstallFailed(NO_VERSION.format("tokenizers")), ["transformers"])
