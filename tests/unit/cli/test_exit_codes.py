"""How `parity` itself ends where it cannot say what it has to: never by the code of a FAIL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from builders import Trainer

from harness.base.crash import CRASHED

UNIT = Path(__file__).parents[1]
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The folders of two Records of one run."""
    root = tmp_path_factory.mktemp("records")
    return str(Trainer().write(root / "a")), str(Trainer().write(root / "b"))


def parity(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli.main", *arguments],
        env={**os.environ, "PYTHONPATH": str(UNIT)},
        text=True,
        timeout=60,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        | options,
    )


@pytest.fixture(scope="module")
def usual(alike: tuple[str, str]) -> int:
    """How the comparison ends where all can be written."""
    done = parity("compare", *alike)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    return done.returncode


@needs_full
@pytest.mark.parametrize("command", [("compare",), ("cases",), ("--help",), ("--version",)])
def test_an_output_that_is_full(command: tuple[str, ...], alike: tuple[str, str]) -> None:
    arguments = (*command, *alike) if command == ("compare",) else command
    with FULL.open("wb") as full:
        done = parity(*arguments, stdout=full)
    assert done.returncode == CRASHED
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("command", [("compare",), ("cases",), ("run", "--help"), ("--version",)])
def test_an_output_that_nobody_reads(command: tuple[str, ...], alike: tuple[str, str]) -> None:
    arguments = (*command, *alike) if command == ("compare",) else command
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = parity(*arguments, stdout=writing)
    finally:
        os.close(writing)
    assert done.returncode == CRASHED
    assert "Broken pipe" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("cases",), CRASHED), (("compare", "nowhere", "nowhere"), 2), (("nothing",), 2)],
)
def test_both_outputs_are_one_pipe_that_nobody_reads(arguments: tuple[str, ...], code: int) -> None:
    """As in `parity cases 2>&1 | head -1`: 1 would be FAIL."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert parity(*arguments, stdout=writing, stderr=writing).returncode == code
    finally:
        os.close(writing)


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_files_are_utf8_whatever_the_locale_is(
    locale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    done = parity("cases")
    assert done.returncode == 0, done.stderr


@needs_full
@pytest.mark.parametrize(
    ("arguments", "code"), [(("compare", "nowhere", "nowhere"), 2), (("nothing",), 2)]
)
def test_a_sentence_that_cannot_be_told_leaves_the_code(
    arguments: tuple[str, ...], code: int
) -> None:
    with FULL.open("wb") as full:
        assert parity(*arguments, stderr=full).returncode == code


def test_the_json_alone_on_the_standard_output(alike: tuple[str, str], usual: int) -> None:
    done = parity("compare", *alike, "--json", "-")
    assert done.returncode == usual
    assert json.loads(done.stdout)["compared"] in " ".join(done.stderr.split())


@needs_full
def test_a_report_that_cannot_be_written_leaves_the_verdict_on_the_screen(
    alike: tuple[str, str], usual: int, tmp_path: Path
) -> None:
    expected = parity("compare", *alike)
    done = parity("compare", *alike, "--json", str(FULL), "--html", str(tmp_path / "a.html"))
    assert set(expected.stdout.splitlines()) <= set(done.stdout.splitlines())
    assert done.returncode == (usual or CRASHED)
    assert "the verdict was not written to /dev/full" in done.stderr
    assert (tmp_path / "a.html").is_file()
    assert FULL.is_char_device()


def test_a_second_name_for_the_standard_output_is_refused() -> None:
    done = parity("compare", "a", "b", "--json", "-", "--html", "-")
    assert done.returncode == 2
    assert "both" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_session_says_so(number: signal.Signals, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")  # reading it takes as long as nobody writes
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, "
         "signal.default_int_handler); from harness.cli.main import main; main()",
         "compare", str(tmp_path), str(tmp_path)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    writer = None
    while writer is None and time.monotonic() < deadline:
        try:  # it can be opened once somebody reads
            writer = os.open(tmp_path / "manifest.json", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.05)
    assert writer is not None
    process.send_signal(number)
    _, printed = process.communicate(timeout=120)
    os.close(writer)
    assert process.returncode == 130
    assert printed == "interrupted; nothing was left running\n"
