"""A process that leaves has written everything, as if its interpreter had been taken apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def left(tmp_path: Path, script: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A process that runs `script` and leaves with `code`. Its output is buffered."""
    text = f"from harness.probe.exit import exit_now\n{script}\nexit_now({code})"
    command = [sys.executable, "-c", text]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("code", [0, 3, 255])
def test_with_its_code(tmp_path: Path, code: int) -> None:
    assert left(tmp_path, "", code).returncode == code


def test_after_what_it_has_printed(tmp_path: Path) -> None:
    done = left(tmp_path, "import sys\nprint('out')\nprint('err', file=sys.stderr)")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


@pytest.mark.parametrize("mode", ["'w'", "'wb', 1 << 16", "'w+'", "'wb+', 1 << 16"])
def test_after_what_an_open_file_buffers(tmp_path: Path, mode: str) -> None:
    text = "b'kept'" if "b" in mode else "'kept'"
    left(tmp_path, f"held = [open('file', {mode})]\nheld[0].write({text})")
    assert (tmp_path / "file").read_text() == "kept"


def test_also_of_one_that_was_opened_before_a_fork_server_settled(tmp_path: Path) -> None:
    script = "from harness.probe.exit import freeze\nheld = [open('file', 'w')]\nfreeze()\n"
    left(tmp_path, f"{script}held[0].write('kept')")
    assert (tmp_path / "file").read_text() == "kept"


def test_after_its_exit_functions_the_last_one_first(tmp_path: Path) -> None:
    script = "import atexit\natexit.register(print, 'first')\natexit.register(print, 'last')"
    assert left(tmp_path, script).stdout == "last\nfirst\n"


def test_after_its_threads_but_for_daemons(tmp_path: Path) -> None:
    script = """
import threading, time
def work():
    time.sleep(0.3)
    print("worked")
threading.Thread(target=work).start()
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
"""
    assert left(tmp_path, script).stdout == "worked\n"


def test_after_what_an_exit_function_has_written(tmp_path: Path) -> None:
    script = "import atexit\nfile = open('file', 'w')\natexit.register(file.write, 'late')"
    left(tmp_path, script)
    assert (tmp_path / "file").read_text() == "late"


def test_with_pythons_own_code_where_nothing_can_be_printed(tmp_path: Path) -> None:
    script = "import os\nprint('lost')\nos.close(1)"
    assert left(tmp_path, script).returncode == 120


def test_a_file_that_cannot_be_flushed_keeps_no_other_from_it(tmp_path: Path) -> None:
    script = """
import os
files = [open(name, "w") for name in "abc"]
for file in files:
    file.write("kept")
os.close(files[1].fileno())
"""
    assert left(tmp_path, script).returncode == 0
    assert [(tmp_path / name).read_text() for name in "abc"] == ["kept", "", "kept"]


def test_without_taking_anything_apart(tmp_path: Path) -> None:
    script = "class Slow:\n    def __del__(self): print('apart')\nheld = Slow()"
    assert left(tmp_path, script).stdout == ""
