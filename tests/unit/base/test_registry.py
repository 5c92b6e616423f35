"""What the user's own folder extends the harness by, as plain files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.base import registry
from harness.base.errors import BadInput
from harness.base.registry import DEVICES, ENGINES, MODELS, PLAIN, RUNGS
from harness.base.users import CONFIGS_VARIABLE, USERS


@pytest.fixture(autouse=True)
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's folder, in the current one."""
    monkeypatch.delenv(CONFIGS_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path / USERS
    for name in set(sys.modules) - before:
        if name.startswith("parity_"):
            del sys.modules[name]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("group", [ENGINES, RUNGS, DEVICES, MODELS])
def test_a_module_of_each_kind(users: Path, group: str) -> None:
    kind = PLAIN[group]
    before = registry.names(group)
    write(users / kind.folder / "mine.py", f"{kind.holds} = [1]\n")
    assert registry.names(group) == tuple(sorted((*before, "mine")))
    found = registry.load(group, "mine", "key")
    assert found == [1]
    assert registry.load(group, "mine", "key") is found, "it is executed once"


def test_one_of_several_files(users: Path) -> None:
    folder = users / "engine" / "mine"
    write(folder / "__init__.py", "from .parts import PART\nENGINE = (PART, __file__)\n")
    write(folder / "parts.py", "PART = 7\n")
    write(users / "engine" / "_draft.py", "1 / 0\n")
    part, file = registry.load(ENGINES, "mine", "engines")
    assert (part, Path(file).parent) == (7, folder)
    assert "_draft" not in registry.names(ENGINES)


def test_a_dataclass_in_it_is_one_as_any_other(users: Path) -> None:
    write(
        users / "engine" / "mine.py",
        "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\n"
        "class Options:\n    width: int = 3\nENGINE = dataclasses.asdict(Options())\n",
    )
    assert registry.load(ENGINES, "mine", "engines") == {"width": 3}


def test_a_folder_that_is_named(
    users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "named" / "rung" / "other.py", "RUNG = 1\n")
    write(users / "rung" / "mine.py", "RUNG = 1\n")
    monkeypatch.setenv(CONFIGS_VARIABLE, str(tmp_path / "named"))
    assert set(registry.modules(RUNGS)) == {"other"}
    monkeypatch.setenv(CONFIGS_VARIABLE, "nowhere")  # which harness.config.folders refuses
    assert registry.modules(RUNGS) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n\nENGINE = 1 / 0\n", r"mine\.py, line 3: ZeroDivisionError"),
        ("x = 1\nENGINE = (\n", r"mine\.py, line 2: SyntaxError"),
        ("import nothing_of_this_name\n", r"mine\.py, line 1: ModuleNotFoundError.*of_this_name"),
        ("SPEC = 1\n", r"mine\.py: it has no ENGINE, which docs/extending\.md describes"),
    ],
)
def test_one_that_cannot_be_used(users: Path, text: str, said: str) -> None:
    write(users / "engine" / "mine.py", text)
    with pytest.raises(BadInput, match=said):
        registry.load(ENGINES, "mine", "engines")


def test_a_name_that_is_taken(users: Path) -> None:
    write(users / "engine" / "hf.py", "ENGINE = 1\n")
    with pytest.raises(BadInput, match=r"engine/hf\.py: there is a hf already in parity\.engines"):
        registry.load(ENGINES, "hf", "engines")


def test_a_misspelt_one(users: Path) -> None:
    write(users / "engine" / "mine.py", "ENGINE = 1\n")
    with pytest.raises(BadInput, match=r"engines=mime: .*did you mean mine\?"):
        registry.load(ENGINES, "mime", "engines")
