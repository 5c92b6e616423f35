"""Imports: start-up loads little, and an import within a function has a reason (CONTRIBUTING)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STARTS = ("harness.cli.main", "harness.plugins.ladder", "harness.plugins.gate")
"""What is loaded before anybody has asked for anything."""
IN_THE_TRAINER = {"probe", "trainers", "models", "inject.py", "libtpu_worker.py"}
"""Rooms and files that run in another interpreter than the harness, or in both."""


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_name(path): path for path in (ROOT / "harness").rglob("*.py")}


def targets(node: ast.stmt) -> Iterator[str]:
    """The modules that an import statement names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module is not None:
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in FILES else node.module


def at_the_top(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """What a module imports as it is imported, but for annotations."""
    for node in statements:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.If | ast.Try | ast.ClassDef):
            yield from at_the_top(node.body)
        yield from targets(node)


@cache
def loaded(*modules: str) -> frozenset[str]:
    """Everything that is imported with these modules, as far as it is ours or they name it."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        if (module := waiting.pop()) in found:
            continue
        found.add(module)
        if module in FILES:
            waiting += [module.rpartition(".")[0] or module]
            waiting += at_the_top(ast.parse(FILES[module].read_text()).body)
    return frozenset(found)


def packages(modules: Iterable[str]) -> set[str]:
    """The packages among some modules that are neither Python's nor ours."""
    return {m.partition(".")[0] for m in modules} - {*sys.stdlib_module_names, "harness"}


def within_functions(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of every import within a function."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.stmt):
                    yield from ((node.lineno, module) for module in targets(node))


def saves_something(importer: str, module: str) -> bool:
    """Whether it keeps start-up short, or a package out of its file."""
    starts = (loaded(start) for start in STARTS)
    at_start = any(importer in start and module not in start for start in starts)
    return at_start or bool(packages(loaded(module)) - packages(loaded(importer)))


def test_an_import_within_a_function_has_a_reason() -> None:
    needless = {
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for name, path in FILES.items()
        if not IN_THE_TRAINER.intersection(path.relative_to(ROOT / "harness").parts)
        for line, module in within_functions(path)
        if not saves_something(name, module)
    }
    assert not needless, "import it at the top"


def test_one_that_has_none_is_found() -> None:
    assert not saves_something("harness.run.session", "harness.record.reader")
    assert not saves_something("harness.cli.main", "harness.base.errors")
    assert saves_something("harness.cli.main", "harness.config.compose")


HEAVY = {"torch", "numpy", "hydra", "omegaconf", "pydantic", "uv", "tensorboard", "jinja2"}


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("harness.plugins.ladder", {*HEAVY, "harness.engines", "harness.run"}),
        ("harness.ladder.ladder", {*HEAVY, "harness.engines", "harness.launchers"}),
        ("harness.run.session", {"torch", "tensorboard", "jinja2", "plotly", "fsspec"}),
    ],
)
def test_what_is_never_loaded_at_the_start(module: str, never: set[str]) -> None:
    """In an interpreter of its own, where nothing was imported before."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not never.intersection(done.stdout.split())
