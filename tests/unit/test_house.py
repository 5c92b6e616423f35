"""The rooms: tests/unit and the documents mirror them, and each fact stays in its own."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.base import registry

UNIT = Path(__file__).parent
HARNESS = UNIT.parents[1] / "harness"
OF_THE_REPOSITORY = {
    "test_docs.py", "test_extending.py", "test_house.py", "test_imports.py", "test_workflows.py",
}  # fmt: skip
FILES = sorted(UNIT.glob("*/**/test_*.py"))


def test_only_tests_of_the_repository_lie_outside_of_a_room() -> None:
    assert {path.name for path in UNIT.glob("test_*.py")} == OF_THE_REPOSITORY


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(UNIT)))
def test_a_test_lies_in_the_room_that_it_tests(path: Path) -> None:
    room = path.relative_to(UNIT).parts[0]
    assert (HARNESS / room).is_dir()
    assert re.search(rf"\bharness\.{room}\b", path.read_text()), f"imports nothing of {room}"


def rooms() -> set[str]:
    return {path.parent.name for path in HARNESS.glob("*/__init__.py")} | {"trainers"}


def test_the_map_of_the_readme_is_that_of_the_folders() -> None:
    text = (HARNESS.parent / "README.md").read_text()
    shown = text.split("\nharness/\n")[1].split("\nconfigs/")[0]
    assert set(re.findall(r"^  (\w+)/", shown, re.MULTILINE)) == rooms()


def test_the_picture_of_the_architecture_is_that_of_the_layers() -> None:
    text = (HARNESS.parent / "docs" / "ARCHITECTURE.md").read_text()
    rows = [re.findall(r"─ (\w+) ─", line) for line in text.splitlines()]
    drawn = [sorted(row) for row in rows if row]
    project = tomllib.loads((HARNESS.parent / "pyproject.toml").read_text())
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    assert drawn == [sorted(re.findall(r"\w+", layer)) for layer in layers]
    assert {room for row in drawn for room in row} == rooms() - {"trainers"}


OWN_ROOMS = {"engines", "importing", "models"}
"""Rooms that name engines: their own files, the trainers whose logs are read (`importing`, which
knows more of them than there are engines), and families, of what each is called in an engine."""


def compared(path: Path) -> Iterator[str]:
    """The texts that a file compares something with."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            for operand in (node.left, *node.comparators):
                elements = operand.elts if isinstance(operand, ast.Tuple | ast.List) else [operand]
                for e in elements:
                    if isinstance(e, ast.Constant) and isinstance(e.value, str):
                        yield e.value


def test_no_engine_device_or_family_is_compared_by_name() -> None:
    """Who has to know something of one asks its EngineSpec, Device or Family."""
    devices = registry.names(registry.DEVICES)
    names = {*registry.names(registry.ENGINES), *registry.names(registry.MODELS), *devices}
    names |= {name.upper() for name in devices}
    files = {path.relative_to(HARNESS): path for path in HARNESS.rglob("*.py")}
    found = {
        (str(name), text)
        for name, path in files.items()
        for text in names.intersection(compared(path))
        if name.parts[0] not in OWN_ROOMS
    }
    assert not found


def test_a_user_s_path_is_expanded_by_the_one_that_knows_no_error() -> None:
    """`Path.expanduser` raises for a user that there is not: a crash, to whoever typed it."""
    raising = [path for path in HARNESS.rglob("*.py") if ".expanduser()" in path.read_text()]
    assert not raising, "call harness.base.files.expanded"
