"""The file of a matrix: what it says, and what is refused in it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from harness.base.errors import BadInput, CannotTrain
from harness.base.users import CONFIGS_VARIABLE
from harness.config.compose import load
from harness.config.matrix import Matrix, read_matrix


def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Matrix:
    """The matrix in a folder of a user's own."""
    (tmp_path / "matrix").mkdir()
    (tmp_path / "matrix" / "mine.yaml").write_text(text)
    monkeypatch.setenv(CONFIGS_VARIABLE, str(tmp_path))
    return read_matrix("mine")


TWO = """
pairs: [[hf, reference]]
groups:
  First:
    - {title: one, case: llama-tiny}
  Second:
    - title: two
      case: llama-tiny-2d
      overrides: [case.steps=5]
      pairs: [[hf, hf], [hf, torchprime]]
"""


def test_a_cell_has_the_pairs_of_its_matrix_or_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = written(tmp_path, monkeypatch, TWO)
    one, two = matrix.cells
    assert matrix.pairs_of(one) == [("hf", "reference")]
    assert matrix.pairs_of(two) == [("hf", "hf"), ("hf", "torchprime")]


@pytest.mark.parametrize(
    ("pattern", "titles"),
    [(None, ["one", "two"]), ("first", ["one"]), ("TW", ["two"]), ("tiny-2*", ["two"]),
     ("o", ["one", "two"])],
)  # fmt: skip
def test_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str | None, titles: list[str]
) -> None:
    matrix = written(tmp_path, monkeypatch, TWO)
    assert [cell.title for cell in matrix.only(pattern).cells] == titles


def test_only_what_there_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"--only three: no cell is called so.*one; two"):
        written(tmp_path, monkeypatch, TWO).only("three")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: two", "title: one", "two cells are called 'one'"),
        ("[hf, hf]", "[hf]", r"two: \['hf'\] is no pair"),
        ("title: two", "titel: two", r"titel: there is no such key; did you mean .*title"),
        ("pairs: [[hf, reference]]", "pairs: [", "mine.yaml: while parsing"),
        (TWO, "pairs: []\ngroups: {}", "it has no cells"),
    ],
)
def test_what_is_no_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        written(tmp_path, monkeypatch, TWO.replace(old, new))


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(BadInput, match=r"--matrix shiped: it is not one of .*did you mean shipped"):
        read_matrix("shiped")


def test_every_cell_of_the_shipped_one_composes() -> None:
    """Or says that no engine honours one of its axes."""
    cells = [cell for cell in read_matrix("shipped").cells if not cell.refused]
    asked = []
    for cell in cells:
        with contextlib.suppress(CannotTrain):
            found = load([f"case={cell.case}", *cell.overrides])
            asked.append(repr((found.case, found.launcher.device)))
    assert len(asked) > len(cells) - 5
    assert len(set(asked)) == len(asked), "two cells train the same"
