"""Whether a verdict can be written, seen before there is one, and what becomes of it if not."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from report_samples import MADE, pair, verdict

from harness.base.errors import BadInput
from harness.ladder.verdict import Verdict
from harness.report import html
from harness.report.files import STDOUT, Reports, check_writable, write_reports
from harness.report.github import SUMMARY_VARIABLE


def test_its_folder_is_made_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "x.json"
    check_writable("--json", file)
    assert list(file.parent.iterdir()) == []


def test_what_it_says_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("before")
    check_writable("--json", file)
    assert file.read_text() == "before"


@pytest.mark.parametrize("exists", [True, False])
def test_without_the_right_to(
    tmp_path: Path, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.json"
    if exists:
        file.write_text("before")
    requested: list[Path] = []
    # Whoever is root may write anything, so that the mode of a file would show nothing.
    monkeypatch.setattr(os, "access", lambda path, mode: requested.append(path))
    with pytest.raises(BadInput, match=r"--json .*x\.json cannot be written"):
        check_writable("--json", file)
    assert requested == [file if exists else tmp_path]


class TestWriting:
    """None of the reports may keep the verdict from whoever waited for it."""

    def test_all_of_them(self, tmp_path: Path) -> None:
        summary = {SUMMARY_VARIABLE: str(tmp_path / "summary.md")}
        files = tmp_path / "a.json", tmp_path / "a.html"
        assert write_reports(verdict(pair()), dict, MADE, *files, summary) == Reports(
            (f"verdict: {files[0]}", f"report: {files[1]}"), ()
        )
        assert Verdict.from_json(json.loads(files[0].read_text())) == verdict(pair())
        assert "<html" in files[1].read_text()
        assert "PASS" in (tmp_path / "summary.md").read_text()

    def test_those_that_cannot_be_written_are_named_and_the_others_are(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        nowhere = tmp_path / "file" / "x.json"
        failures = write_reports(
            verdict(pair()),
            dict,
            MADE,
            nowhere,
            tmp_path / "a.html",
            {SUMMARY_VARIABLE: str(nowhere)},
        ).failures
        assert len(failures) == 2
        assert failures[0].startswith(f"the verdict was not written to {nowhere}: ")
        assert failures[1].startswith("the job summary was not written: ")
        assert (tmp_path / "a.html").is_file()

    def test_nor_by_a_defect_of_ours(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

        def broken(*_: object) -> str:
            raise ZeroDivisionError

        monkeypatch.setattr(html, "render", broken)
        found = write_reports(
            verdict(pair()), dict, MADE, tmp_path / "a.json", tmp_path / "a.html", {}
        )
        assert len(found.failures) == 1
        assert "the report was not written" in found.failures[0]
        assert found.written == (f"verdict: {tmp_path / 'a.json'}",)

    def test_to_the_standard_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        check_writable("--json", STDOUT)
        assert write_reports(verdict(pair()), dict, MADE, STDOUT, None, {}) == Reports((), ())
        assert Verdict.from_json(json.loads(capsys.readouterr().out)) == verdict(pair())

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
    def test_to_a_device_that_is_full(self) -> None:
        check_writable("--json", Path("/dev/full"))
        found = write_reports(verdict(pair()), dict, MADE, Path("/dev/full"), None, {})
        assert "No space left on device" in found.failures[0]
        assert Path("/dev/full").is_char_device()

    def test_a_place_that_is_written_to_is_told_as_it_was_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And not by what it stands for at the moment (/proc/4321/fd/pipe:[633571])."""
        monkeypatch.chdir(tmp_path)
        named = Path("/dev/stdout")
        found = write_reports(verdict(pair()), dict, MADE, named, Path("a.html"), {})
        assert found.written == (f"verdict: {named}", f"report: {tmp_path / 'a.html'}")
