"""`parity compare`: two Records, by what they were asked first, and then by all that they hold."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from builders import TOLERANCE, Trainer, as_training, compiled_step
from typer.testing import CliRunner

from harness.base.errors import BadInput
from harness.cli.main import app
from harness.ladder.result import Result
from harness.ladder.verdict import Verdict
from harness.record.checksums import write_checksums
from harness.record.evidence import Record
from harness.record.layout import GRAPH, SCHEMA, STEPS
from harness.record.reader import read_record
from harness.record.writer import write_json
from harness.run.session import check_apart, compare


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    a = Trainer().write(tmp_path / "a")
    return a, Trainer(label="b", groups=2, sums=-1).write(tmp_path / "b")


def with_graph(folder: Path, **fields: Any) -> Record:
    step = dataclasses.asdict(compiled_step(**fields))
    write_json(folder / GRAPH, {"schema": SCHEMA, "step": step})
    return read_record(folder)


def test_a_file_that_is_another_than_it_was_is_named_and_judged(
    folders: tuple[Path, Path],
) -> None:
    for folder in folders:
        write_checksums(folder)

    def judged() -> Verdict:
        a, b = map(read_record, folders)
        return compare(a, b, TOLERANCE).verdict

    assert not judged().notes
    with (folders[1] / STEPS).open("a") as stream:
        stream.write("\n")
    verdict = judged()
    assert verdict.result is Result.PASS
    (note,) = verdict.notes
    assert note.startswith(f"{folders[1] / STEPS} is damaged, or was changed")


class TestCompiledSteps:
    """graph.json of both was not looked at."""

    @pytest.mark.parametrize(
        ("flops", "expected"), [(1000, Result.PASS), (1200, Result.FAIL)], ids=["equal", "more"]
    )
    def test_of_both_are_judged(
        self, folders: tuple[Path, Path], flops: int, expected: Result
    ) -> None:
        a, b = with_graph(folders[0]), with_graph(folders[1], flops=flops)
        verdict = compare(a, b, TOLERANCE).verdict
        assert verdict.pairs[0].rung("graph").result is expected
        assert "more FLOPs" in verdict.pairs[0].rung("graph").detects or expected is Result.FAIL

    def test_of_one_are_said_to_be_left_out(self, folders: tuple[Path, Path]) -> None:
        a, b = read_record(folders[0]), with_graph(folders[1])
        for pair in ((a, b), (b, a)):
            verdict = compare(*pair, TOLERANCE).verdict
            assert verdict.result is Result.PASS
            assert str(folders[1]) in verdict.notes[0]


class TestTwoCases:
    def test_are_named_before_any_rung_and_never_pass(self, folders: tuple[Path, Path]) -> None:
        other = Trainer(label="b", max_norm=0.3).write(folders[1].with_name("c"))
        verdict = compare(read_record(folders[0]), read_record(other), TOLERANCE).verdict
        assert "the cases differ: max_norm is 0.2 in hf and 0.3 in b" in verdict.compared
        assert verdict.exit_code == 3

    def test_what_two_trainers_were_given_is_judged(self, folders: tuple[Path, Path]) -> None:
        a = as_training(read_record(folders[0]))
        other = Trainer(label="b", max_norm=0.3).write(folders[1].with_name("c"))
        verdict = compare(a, as_training(read_record(other)), TOLERANCE).verdict
        assert "max_norm is 0.2 in hf and 0.3 in b" in verdict.compared
        assert verdict.pairs[0].headline_rung is verdict.pairs[0].rung("clip")


class TestItself:
    """A Record against itself passed with exit code 0."""

    def test_shows_nothing(self, folders: tuple[Path, Path]) -> None:
        copy = shutil.copytree(folders[0], folders[0].with_name("copy"))
        link = folders[0].with_name("link")
        link.symlink_to(folders[0])
        for other in (folders[0], copy, link):
            done = CliRunner().invoke(app, ["compare", str(folders[0]), str(other)])
            assert isinstance(done.exception, BadInput)
            assert "with itself shows nothing" in str(done.exception)

    def test_another_launch_is_another_run(self, folders: tuple[Path, Path]) -> None:
        again = Trainer().write(folders[0].with_name("again"))
        check_apart(read_record(folders[0]), read_record(again))
