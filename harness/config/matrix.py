"""The matrix: which cases, under which overrides, are trained by which pairs of engines.

A matrix is a YAML file `matrix/NAME.yaml` of a configuration folder, as docs/cases.md describes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from harness.base.errors import BadInput
from harness.base.nearest import did_you_mean
from harness.base.typed import STRICT, typed
from harness.config.folders import config_folders

GROUP = "matrix"
"""Folder of the matrices within a folder of configuration."""


@dataclass(frozen=True)
class Cell:
    """One training, and who trains it.

    title:     in a few words; no two cells of a matrix have the same
    case:      the case that it is a variant of
    overrides: what it has otherwise, as on the command line
    pairs:     the pairs of engines that are compared; those of the matrix where it has none
    see:       page of the documentation that says why it is refused, or what a FAIL of it is about
    refused:   why nobody can train it as it is; such a cell is told, and not launched
    """

    __pydantic_config__ = STRICT

    title: str
    case: str
    overrides: list[str] = field(default_factory=list)
    pairs: list[list[str]] = field(default_factory=list)
    see: str = ""
    refused: str = ""


@dataclass(frozen=True)
class Matrix:
    """Cells by the heading that they stand under, in order.

    pairs: the pairs of engines that each cell is trained by, where it does not say others
    """

    __pydantic_config__ = STRICT

    pairs: list[list[str]]
    groups: dict[str, list[Cell]]

    @property
    def cells(self) -> list[Cell]:
        """All of them, in order."""
        return [cell for cells in self.groups.values() for cell in cells]

    def pairs_of(self, cell: Cell) -> list[tuple[str, str]]:
        """The pairs of engines that train `cell`."""
        return [(a, b) for a, b in cell.pairs or self.pairs]

    def only(self, pattern: str | None) -> Matrix:
        """The cells whose heading, title or case contains `pattern`, in which `*` is anything.

        Raises BadInput where there is none.
        """
        if pattern is None:
            return self
        groups = {
            heading: [c for c in cells if _matches(pattern, (heading, c.title, c.case))]
            for heading, cells in self.groups.items()
        }
        found = {heading: cells for heading, cells in groups.items() if cells}
        if not found:
            titles = [cell.title for cell in self.cells]
            hint = did_you_mean(pattern, titles)
            raise BadInput(f"--only {pattern}: no cell is called so{hint}: {'; '.join(titles)}")
        return Matrix(self.pairs, found)


def _matches(pattern: str, texts: Sequence[str]) -> bool:
    return any(fnmatch(text.lower(), f"*{pattern.lower()}*") for text in texts)


def matrix_names() -> dict[str, Path]:
    """The file of each matrix by its name."""
    return {
        name.removeprefix(f"{GROUP}/"): path
        for folder in config_folders()
        for name, path in folder.files.items()
        if name.startswith(f"{GROUP}/")
    }


def read_matrix(name: str) -> Matrix:
    """The matrix of that name. Raises BadInput where it is not there, or not a matrix."""
    import yaml

    files = matrix_names()
    if name not in files:
        hint = did_you_mean(name, files)
        raise BadInput(f"--matrix {name}: it is not one of {', '.join(sorted(files))}{hint}")
    try:
        raw = yaml.safe_load(files[name].read_text())
        matrix = typed(Matrix, raw)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{files[name]}: {' '.join(str(error).split())}") from None
    except BadInput as error:
        raise BadInput(f"{files[name]}: {error}") from None
    _check(matrix, files[name])
    return matrix


def _check(matrix: Matrix, file: Path) -> None:
    seen: set[str] = set()
    for cell in matrix.cells:
        if cell.title in seen:
            raise BadInput(f"{file}: two cells are called {cell.title!r}; give one another title")
        seen.add(cell.title)
        for pair in cell.pairs or matrix.pairs:
            if len(pair) != 2:
                raise BadInput(f"{file}: {cell.title}: {pair} is no pair of engines")
    if not seen:
        raise BadInput(f"{file}: it has no cells")
