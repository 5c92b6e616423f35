"""The documentation: its links, commands, options and paths are those that exist."""

from __future__ import annotations

import pkgutil
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from harness.cli.main import app
from harness.config.compose import load
from harness.plugins import gate, ladder

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?\n(.*?)```|`([^`\n]+)`", re.S)
SHELL = re.compile(r"^(?:\.venv/bin/)?(parity|pytest|nox)(?: +(.*))?$")
FOLDERS = "harness|tests|configs|docs|benchmarks|baselines|\\.github|\\.ci"
COMPOSING = {"run", "compare", "gate", "bless", "bisect", "command"}
OVERRIDE = re.compile(r"\+?(?:case|engines?|launcher|tolerance|timing|graph)\b[\w.]*=[^…\s]+")
PATH = re.compile(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./-]*\w")
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def code(page: Path) -> Iterator[str]:
    """Every line of code of a page, inline code included; a line that goes on is joined."""
    for block, inline in CODE.findall(page.read_text()):
        yield from (block or inline).replace("\\\n", " ").splitlines()


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Every invocation of parity, pytest or nox on a page, with its words."""
    for line in code(page):
        for part in re.split(r"\s*(?:;|&&|\|)\s*", line.split(" #")[0].strip()):
            if found := SHELL.match(part):
                yield found[1], shlex.split((found[2] or "").replace("…", ""))


@cache
def parity_commands() -> dict[str, Any]:
    root = typer.main.get_command(app)
    found: dict[str, Any] = dict(root.commands)  # type: ignore[attr-defined]
    for name, side in found.pop("train").commands.items():
        found[f"train {name}"] = side
    return found


@cache
def pytest_options() -> set[str]:
    """What the plugins add to pytest."""
    added: set[str] = set()

    class Group:
        def addoption(self, name: str, **_: Any) -> None:
            added.add(name)

    class Parser:
        def getgroup(self, *_: str) -> Group:
            return Group()

    parser: Any = Parser()
    ladder.pytest_addoption(parser)
    gate.pytest_addoption(parser)
    return added


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


@pages
def test_commands_and_options_exist(page: Path) -> None:
    for program, words in commands(page):
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        if program == "parity":
            if not words or words[0].startswith("-") or words == ["train"]:
                continue
            name = " ".join(words[:2]) if words[0] == "train" else words[0]
            assert name in parity_commands(), f"parity {shlex.join(words)}"
            params = parity_commands()[name].params
            known = {opt for param in params for opt in param.opts} | {"--help"}
            assert options <= known, f"parity {shlex.join(words)}"
        elif program == "pytest":
            ours = {option for option in options if option.startswith("--parity")}
            assert ours <= pytest_options(), f"pytest {shlex.join(words)}"
        else:
            sessions = re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.M)
            named = words[words.index("-s") + 1 :] if "-s" in words else []
            named = named[: named.index("--")] if "--" in named else named
            assert set(named) <= set(sessions), f"nox {shlex.join(words)}"


@pages
def test_overrides_compose(page: Path) -> None:
    """Keys and values of the configuration that a page names, alone or in a command."""
    if page.name == "extending.md":
        return  # its names come from the packages that it shows
    found = [
        [word for word in words[1:] if re.fullmatch(r"[^-][^=]*=.+", word)]
        for program, words in commands(page)
        if program == "parity" and words and words[0] in COMPOSING
    ]
    found += [[line] for line in code(page) if OVERRIDE.fullmatch(line)]
    for overrides in filter(None, found):
        of_docker = overrides[0].startswith("launcher.options")  # `local` has no options
        load(["launcher=docker", *overrides] if of_docker else overrides)


@pages
def test_options_of_pytest_are_named_as_they_are(page: Path) -> None:
    named = set(re.findall(r"(?<![\w-])--parity-[a-z-]+[a-z]", page.read_text()))
    assert named <= pytest_options()


@pages
def test_paths_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # tells of what was
    for line in code(page):
        for path in PATH.findall(line):
            assert (ROOT / path).exists(), path


@pages
def test_modules_exist(page: Path) -> None:
    for name in re.findall(r"`(harness(?:\.\w+)+)`", page.read_text()):
        pkgutil.resolve_name(name)


def test_the_map_of_the_readme_is_the_folders() -> None:
    text = (ROOT / "README.md").read_text()
    block = re.search(r"^## Where things are\n+```\n(.*?)```", text, re.M | re.S)
    assert block is not None
    top = re.findall(r"^(\w+)/", block[1], re.M)
    rooms = re.findall(r"^  (\w+)/", block[1], re.M)
    packages = {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")}
    assert sorted(rooms) == sorted(packages)
    hidden = {"workspace", "outputs", "dist", "build", "torchprime"}  # made by a run; git ignores
    folders = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith((".", "_")) and path.name not in hidden
    }
    assert set(top) == {
        name for name in folders if not name.endswith((".egg-info", "transformers"))
    }


def test_the_map_lists_the_layers_from_top_to_bottom() -> None:
    """What README promises of the list: an import goes down."""
    readme, project = ((ROOT / name).read_text() for name in ("README.md", "pyproject.toml"))
    layers = re.search(r"^layers = \[\n(.*?)^\]", project, re.M | re.S)
    assert layers is not None
    order = re.findall(r"\w+", layers[1])
    rooms = [room for room in re.findall(r"^  (\w+)/", readme, re.M) if room in order]
    assert rooms == order


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    missing = [
        name
        for page in (ROOT / "docs").rglob("*.md")
        if (name := str(page.relative_to(ROOT / "docs"))) != "README.md"
        and f"({name})" not in index
    ]
    assert missing == []
