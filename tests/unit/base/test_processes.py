"""Whatever becomes of a run's processes, they are found by their mark, and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.base.processes import REAPER, RUN_VARIABLE, end_marked, marked

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def count(mark: str) -> int:
    found, _ = marked(mark)
    for descriptor in found:
        os.close(descriptor)
    return len(found)


def until(true: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def start(mark: str, script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, RUN_VARIABLE: mark},
        start_new_session=True,
    )


def test_marks_differ_and_are_of_one_length() -> None:
    marks = {REAPER.mark() for _ in range(100)}
    assert len(marks) == 100
    assert len({len(mark) for mark in marks}) == 1
    assert len({mark.partition(".")[0] for mark in marks}) == 1


def test_only_what_has_the_mark_is_ended() -> None:
    mark, other = REAPER.mark(), REAPER.mark()
    ours, theirs = start(mark, SLEEP[2]), start(other, SLEEP[2])
    try:
        assert until(lambda: count(mark) == count(other) == 1)
        assert end_marked(mark)
        assert ours.wait(10) == -signal.SIGKILL
        assert theirs.poll() is None
        assert count(mark) == 0
    finally:
        theirs.kill()
        theirs.wait()


DAEMON = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                         start_new_session=True)
        time.sleep(60)
    os._exit(0)
"""


def test_a_daemon_in_a_session_of_its_own_is_found() -> None:
    mark = REAPER.mark()
    assert start(mark, DAEMON).wait(10) == 0
    assert until(lambda: count(mark) == 2)
    assert end_marked(mark)
    assert count(mark) == 0


def test_what_starts_others_as_fast_as_it_can_is_ended() -> None:
    mark = REAPER.mark()
    script = (
        "import os, time\n"
        "end = time.monotonic() + 20\n"
        "while time.monotonic() < end:\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "    else:\n"
        "        time.sleep(0.02)\n"
        "        os._exit(0)\n"
    )
    assert start(mark, script).wait(10) == 0
    assert end_marked(mark)
    time.sleep(0.1)
    assert count(mark) == 0


def test_what_was_listed_and_gone_before_it_was_read_is_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A busy machine: of a chain of processes, the one that was listed ends before it is read."""
    mark = REAPER.mark()
    ours = start(mark, SLEEP[2])
    assert until(lambda: count(mark) == 1)
    listed = os.listdir

    def late(path: str) -> list[str]:
        monkeypatch.setattr(os, "listdir", listed)
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        return [*(name for name in listed(path) if name != str(ours.pid)), str(gone.pid)]

    monkeypatch.setattr(os, "listdir", late)
    assert end_marked(mark)
    assert ours.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_the_reaper_ends_what_a_session_leaves_however_it_ends(
    number: signal.Signals, tmp_path: Path
) -> None:
    script = f"""
import os, resource, subprocess, sys
from harness.base.processes import REAPER, RUN_VARIABLE
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
mark = REAPER.mark()
for _ in range(2):
    subprocess.Popen({SLEEP!r}, env={{**os.environ, RUN_VARIABLE: mark}}, start_new_session=True)
open("mark", "w").write(mark)
os.kill(os.getpid(), {int(number)})
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, timeout=30)
    assert done.returncode == -number
    mark = (tmp_path / "mark").read_text()
    assert until(lambda: count(mark) == 0)


def test_a_fork_has_a_reaper_of_its_own() -> None:
    """What ends with the fork does not end what its parent has started."""
    before = REAPER.mark()
    ours = start(before, SLEEP[2])
    pid = os.fork()
    if pid == 0:
        os._exit(int(REAPER.mark().partition(".")[0] == before.partition(".")[0]))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    time.sleep(0.2)
    try:
        assert ours.poll() is None
    finally:
        ours.kill()
        ours.wait()
