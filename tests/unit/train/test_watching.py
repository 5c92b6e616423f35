"""`--interactive`: an edit of the code is seen, and what a run writes is none."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from harness.train import watching
from harness.train.watching import Watched


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLL", 0.05)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkout with a file that git ignores."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / ".gitignore").write_text("*.log\n")
    (folder / "train.py").write_text("print(1)")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


def test_an_edit_and_nothing_else(source: Path, tmp_path: Path) -> None:
    watched = Watched.of(source, source / "outputs")
    (source / "outputs").mkdir()
    (source / "outputs" / "weights").write_text("x")
    (source / "noise.log").write_text("x")
    found: list[Path] = []
    thread = threading.Thread(target=lambda: found.append(watched.edited()))
    thread.start()
    thread.join(0.3)
    assert not found
    (source / "train.py").write_text("print(12)")
    thread.join(10)
    assert found == [source / "train.py"]


def test_one_that_was_made_while_it_trained_counts(source: Path) -> None:
    watched = Watched.of(source, source / "outputs")
    (source / "new.py").write_text("")
    assert watched.edited() == source / "new.py"


def test_without_a_checkout_it_is_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    watched = Watched.of(None, tmp_path / "outputs")
    (tmp_path / "x.py").write_text("")
    assert watched.edited() == tmp_path / "x.py"


def test_a_script_that_lies_elsewhere_is_watched_too(source: Path, tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text("")
    watched = Watched.of(source, source / "outputs", script)
    script.write_text("print(1)")
    assert watched.edited() == script
    assert watched.now().stamps[script] != watched.stamps[script]
