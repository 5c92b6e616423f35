"""The local launcher: every way in which a process can end, and nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.devices.cpu import FAST_COMPILE
from harness.engines.command import Command
from harness.launchers import local
from harness.launchers.invocation import Invocation, Places, bare, make_scratch, watched
from harness.launchers.local import Limits, device_environment, launch
from harness.probe.spec import Spec
from harness.record import termination
from harness.record.reader import Event, ValuesEvent
from harness.record.termination import Termination

ENOUGH = Limits(time_limit=30.0, silence=30.0)
MARK = "PARITY_TEST_MARK"

EVENTS = """
import json, sys, time
stream = open({steps!r}, "w", buffering=1)
def event(step):
    fields = {{"event": "values", "step": step, "losses": [1.0], "gradient_norm": None}}
    stream.write(json.dumps(fields) + "\\n")
"""


def trained(step: int) -> ValuesEvent:
    """What `event(step)` in a script is read as."""
    return ValuesEvent("values", step, (1.0,), None)


def alive(mark: str) -> list[int]:
    """Processes of this machine that have the mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except (OSError, ProcessLookupError):
            continue
        if f"{MARK}={mark}".encode() in environment.split(b"\0") and state not in "ZX":
            found.append(int(entry.name))
    return found


def until_gone(mark: str) -> bool:
    """Whether nothing that is marked runs any more, within a moment."""
    deadline = time.monotonic() + 2
    while alive(mark) and time.monotonic() < deadline:
        time.sleep(0.02)  # a killed process is gone as soon as the kernel gets to it
    return alive(mark) == []


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Marks what is launched; after the test none of it may be running."""
    monkeypatch.setattr(local, "GRACE", 0.5)
    monkeypatch.setattr(local, "POLL", 0.02)
    yield tmp_path.name
    assert until_gone(tmp_path.name)


def run(
    tmp_path: Path,
    mark: str,
    script: str,
    limits: Limits = ENOUGH,
    on_event: Any = None,
    stop: threading.Event | None = None,
) -> Termination:
    text = EVENTS.format(steps=str(tmp_path / "steps.jsonl")) + script
    invocation = Invocation((sys.executable, "-u", "-c", text), {MARK: mark}, tmp_path)
    return launch(invocation, tmp_path, limits, on_event or (lambda event: None), stop)


def started(tmp_path: Path) -> None:
    """Wait until the script says that it runs."""
    deadline = time.monotonic() + 20
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


STARTED = 'open("started", "w").close()\n'


class TestEnds:
    def test_well(self, tmp_path: Path, mark: str) -> None:
        seen: list[Event] = []
        script = 'for i in range(5): event(step=i)\nprint("é trained")\nsys.stderr.write("warned")'
        found = run(tmp_path, mark, script, on_event=seen.append)
        assert (found.status, found.code) == (termination.OK, 0)
        assert seen == [trained(i) for i in range(5)]
        assert 0 < found.seconds < 30
        log = (tmp_path / "trainer.log").read_text()
        assert "é trained" in log
        assert "warned" in log

    def test_events_of_the_last_moment_are_seen(self, tmp_path: Path, mark: str) -> None:
        seen: list[Event] = []
        run(tmp_path, mark, "time.sleep(0.2)\nevent(step=9)", on_event=seen.append)
        assert seen == [trained(9)]

    def test_by_an_exception(self, tmp_path: Path, mark: str) -> None:
        found = run(tmp_path, mark, 'event(step=0)\nraise ValueError("no such key")')
        assert (found.status, found.code) == (termination.FAILED, 1)
        assert found.reason == "ValueError: no such key"
        assert found.log[-1] == "ValueError: no such key"

    def test_with_0_and_nothing_done(self, tmp_path: Path, mark: str) -> None:
        """The launcher cannot know; `harness.run.collect` counts the steps."""
        seen: list[Any] = []
        found = run(tmp_path, mark, "sys.exit(0)", on_event=seen.append)
        assert (found.status, seen) == (termination.OK, [])

    @pytest.mark.parametrize("number", [9, 11, 15])
    def test_by_a_signal(self, tmp_path: Path, mark: str, number: int) -> None:
        found = run(tmp_path, mark, f"import os\nos.kill(os.getpid(), {number})")
        assert (found.status, found.code) == (termination.KILLED, -number)

    def test_within_a_line(self, tmp_path: Path, mark: str) -> None:
        seen: list[Any] = []
        script = "event(step=0)\nstream.write('{\"st')\nstream.flush()\nimport os\nos._exit(3)"
        found = run(tmp_path, mark, script, on_event=seen.append)
        assert found.status == termination.FAILED
        assert seen == [trained(0)]

    def test_it_reads_nothing_from_us(self, tmp_path: Path, mark: str) -> None:
        assert run(tmp_path, mark, "assert sys.stdin.read() == ''").status == termination.OK

    def test_it_has_its_own_variables_on_top_of_ours(
        self, tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OURS", "1")
        script = f"import os\nassert os.environ['OURS'] == '1'\nassert os.environ['{MARK}']"
        assert run(tmp_path, mark, script).status == termination.OK

    def test_a_program_that_is_not_there(self, tmp_path: Path, mark: str) -> None:
        invocation = Invocation((str(tmp_path / "none"),), {}, tmp_path)
        with pytest.raises(FileNotFoundError):
            launch(invocation, tmp_path, ENOUGH, lambda event: None)


class TestIsGivenUp:
    def test_after_its_time(self, tmp_path: Path, mark: str) -> None:
        script = "while True:\n    print('x')\n    time.sleep(0.01)"
        found = run(tmp_path, mark, script, Limits(0.6, 30))
        assert found.status == termination.TIMED_OUT
        assert found.reason == "it ran for longer than its limit of 1 s"
        assert found.seconds < 10

    def test_after_silence(self, tmp_path: Path, mark: str) -> None:
        found = run(tmp_path, mark, "print('x')\ntime.sleep(60)", Limits(30, 0.6))
        assert found.status == termination.TIMED_OUT
        assert "no sign of life" in found.reason
        assert found.log == ("x",)

    @pytest.mark.parametrize("sign", ["print('x')", "event(step=0)"])
    def test_output_and_events_are_signs_of_life(
        self, tmp_path: Path, mark: str, sign: str
    ) -> None:
        script = f"for i in range(12):\n    {sign}\n    time.sleep(0.2)"
        assert run(tmp_path, mark, script, Limits(30, 1.6)).status == termination.OK

    def test_where_it_ignores_being_asked(self, tmp_path: Path, mark: str) -> None:
        script = "import signal\nsignal.signal(15, signal.SIG_IGN)\nprint('x')\ntime.sleep(60)"
        found = run(tmp_path, mark, script, Limits(30, 1.6))
        assert (found.status, found.code) == (termination.TIMED_OUT, -9)

    def test_where_it_catches_it_and_exits_with_0(self, tmp_path: Path, mark: str) -> None:
        script = (
            "import signal\nsignal.signal(15, lambda *_: sys.exit(0))\nprint('x')\ntime.sleep(60)"
        )
        found = run(tmp_path, mark, script, Limits(30, 1.6))
        assert (found.status, found.code) == (termination.TIMED_OUT, 0)

    def test_by_another_thread(self, tmp_path: Path, mark: str) -> None:
        stop = threading.Event()
        threading.Timer(0.5, stop.set).start()
        found = run(tmp_path, mark, "time.sleep(60)", stop=stop)
        assert found.status != termination.OK
        assert "beside it" in found.reason


CHILD = """
import os, signal, subprocess
code = "import signal, time; {ignoring}; open('started', 'w').close(); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", code])
while not os.path.exists("started"):
    time.sleep(0.01)
"""
OBEDIENT = CHILD.format(ignoring="pass")
STUBBORN = CHILD.format(ignoring="signal.signal(15, signal.SIG_IGN)")


class TestNothingIsLeftRunning:
    """The fixture looks for what is still alive after each of these."""

    @pytest.mark.parametrize("children", [OBEDIENT, STUBBORN])
    @pytest.mark.parametrize(
        ("last", "status"),
        [
            ("sys.exit(0)", termination.OK), ("sys.exit(4)", termination.FAILED),
            ("os.kill(os.getpid(), 9)", termination.KILLED),
            ("time.sleep(60)", termination.TIMED_OUT),
        ],
    )  # fmt: skip
    def test_of_its_children(
        self, tmp_path: Path, mark: str, children: str, last: str, status: str
    ) -> None:
        limits = Limits(30, 3.0) if status == termination.TIMED_OUT else ENOUGH
        found = run(tmp_path, mark, children + last, limits)
        assert found.status == status
        assert (tmp_path / "started").exists()

    def test_of_a_grandchild_whose_parent_is_gone(self, tmp_path: Path, mark: str) -> None:
        script = f"""
import os
if os.fork() == 0:
    if os.fork() == 0:
        {STARTED.strip()}
        time.sleep(60)
    os._exit(0)
while not os.path.exists("started"):
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""
        assert run(tmp_path, mark, script).status == termination.KILLED

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_after_ctrl_c(self, tmp_path: Path, mark: str, error: type[BaseException]) -> None:
        def interrupted(event: Event) -> None:
            raise error

        script = STUBBORN + "event(step=0)\ntime.sleep(60)"
        began = time.monotonic()
        with pytest.raises(error):
            run(tmp_path, mark, script, on_event=interrupted)
        assert time.monotonic() - began < 20

    def test_not_even_while_it_waits(self, tmp_path: Path, mark: str) -> None:
        """Ctrl-C comes to the main thread, wherever it is."""
        import _thread

        def interrupt() -> None:
            started(tmp_path)
            _thread.interrupt_main()

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, mark, STARTED + "time.sleep(60)")
        thread.join()

    @pytest.mark.parametrize("last", ["sys.exit(0)", "os.kill(os.getpid(), 9)", "time.sleep(60)"])
    def test_of_children_in_sessions_of_their_own(
        self, tmp_path: Path, mark: str, last: str
    ) -> None:
        script = STUBBORN.replace(", code])", ", code], start_new_session=True)") + last
        run(tmp_path, mark, script, Limits(30, 3.0))
        assert (tmp_path / "started").exists()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_after_a_second_signal_while_the_first_is_followed(
        self, tmp_path: Path, number: signal.Signals
    ) -> None:
        """Whoever asks twice does not want to wait."""
        script = STUBBORN + "signal.signal(15, signal.SIG_IGN)\nevent(step=0)\ntime.sleep(60)"
        session = f"""
import signal, sys
from pathlib import Path
from harness.cli.signals import signals_interrupt
from harness.launchers.invocation import Invocation
from harness.launchers.local import Limits, launch
signal.signal(signal.SIGINT, signal.default_int_handler)
text = {EVENTS.format(steps=str(tmp_path / "steps.jsonl")) + script!r}
invocation = Invocation((sys.executable, "-u", "-c", text), {{{MARK!r}: {tmp_path.name!r}}},
                        Path({str(tmp_path)!r}))
with signals_interrupt():
    launch(invocation, invocation.cwd, Limits(30, 30), lambda event: None)
"""
        process = subprocess.Popen([sys.executable, "-c", session], stderr=subprocess.DEVNULL)
        started(tmp_path)
        time.sleep(0.3)
        began = time.monotonic()
        for _ in range(2):
            process.send_signal(number)
            time.sleep(0.5)
        process.wait(20)
        assert time.monotonic() - began < 4  # less than the grace of the first
        assert until_gone(tmp_path.name)

    @pytest.mark.parametrize("forked", [False, True])
    def test_when_the_session_is_killed(self, tmp_path: Path, forked: bool) -> None:
        """No code of the session runs after SIGKILL."""
        script = STUBBORN.replace(", code])", ", code], start_new_session=True)") + (
            "event(step=0)\ntime.sleep(60)"
        )
        (tmp_path / "trainer.py").write_text(
            EVENTS.format(steps=str(tmp_path / "steps.jsonl")) + script
        )
        start = "lambda i, s: forked.start(i, s, Imports((), (), '', ('json',)), sys.exit)"
        session = f"""
import sys
from pathlib import Path
from harness.launchers import forked
from harness.launchers.forked import Imports
from harness.launchers.invocation import Invocation
from harness.launchers.local import Limits, launch
folder = Path({str(tmp_path)!r})
invocation = Invocation((sys.executable, "-m", "trainer"), {{{MARK!r}: {tmp_path.name!r}}}, folder)
launch(invocation, folder, Limits(30, 30), lambda event: None, start={start if forked else None})
"""
        process = subprocess.Popen([sys.executable, "-c", session])
        started(tmp_path)
        assert len(alive(tmp_path.name)) >= 2
        process.kill()
        process.wait()
        assert until_gone(tmp_path.name)

    def test_the_mark_finds_what_runs(self, tmp_path: Path, mark: str) -> None:
        """The fixture can fail."""
        seen: list[list[int]] = []

        def look(event: Event) -> None:
            seen.append(alive(mark))

        run(tmp_path, mark, OBEDIENT + "event(step=0)\ntime.sleep(0.5)", on_event=look)
        assert len(seen[0]) == 2


class TestBlame:
    """A run that failed while another process had its device says nothing of the trainer."""

    @pytest.mark.parametrize(
        "status", [termination.FAILED, termination.OUT_OF_MEMORY, termination.KILLED]
    )
    def test_another_process_has_the_device(self, status: str) -> None:
        taken = Limits(1.0, 1.0, busy=lambda: "process 4321 has /dev/accel0 open")
        found = local.blamed(Termination(status, "it ran out of memory", 1, 1.0, ("log",)), taken)
        assert (found.status, found.reason) == (
            termination.BUSY,
            "process 4321 has /dev/accel0 open",
        )
        assert found.log == ("log",)
        assert found.status in termination.OF_MACHINE

    @pytest.mark.parametrize(
        "status", [termination.FAILED, termination.OUT_OF_MEMORY, termination.KILLED]
    )
    def test_nobody_else_has_it(self, status: str) -> None:
        own = Termination(status, "its own doing", 1, 1.0)
        assert local.blamed(own, ENOUGH) == own

    @pytest.mark.parametrize(
        "status", [termination.OK, termination.TIMED_OUT, termination.GONE, termination.STARVED]
    )
    def test_other_endings_are_told_as_they_are(self, status: str) -> None:
        def ask() -> str:
            raise AssertionError("there is nothing to ask")

        outcome = Termination(status, "as it was", 0, 1.0)
        assert local.blamed(outcome, Limits(1.0, 1.0, busy=ask)) == outcome

    def test_a_run_that_dies_beside_it(self, tmp_path: Path) -> None:
        """As `launch` ends it: RESOURCE_EXHAUSTED while somebody else has the memory."""
        script = "import sys; sys.exit('RESOURCE_EXHAUSTED: Out of memory')"
        invocation = Invocation((sys.executable, "-c", script), {}, tmp_path)
        alone = launch(invocation, tmp_path, ENOUGH, lambda event: None)
        assert alone.status == termination.OUT_OF_MEMORY
        beside = Limits(30.0, 30.0, busy=lambda: "process 4321 has it")
        ended = launch(invocation, tmp_path, beside, lambda event: None)
        assert (ended.status, ended.reason) == (termination.BUSY, "process 4321 has it")


class TestDevices:
    def test_the_cpu_mesh(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _clear(monkeypatch)
        assert device_environment("cpu", 4, False) == {
            "PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "4", "JAX_PLATFORMS": "cpu",
        }  # fmt: skip
        assert device_environment("cpu", 8, True)["XLA_FLAGS"] == FAST_COMPILE

    def test_a_tpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _clear(monkeypatch)
        assert device_environment("tpu", 4, True) == {"PJRT_DEVICE": "TPU"}

    def test_what_is_inherited_is_part_of_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Else a Record made under other flags would be taken for this run's."""
        _clear(monkeypatch)
        monkeypatch.setenv("XLA_FLAGS", "--xla_x=1")
        monkeypatch.setenv("LIBTPU_INIT_ARGS", "--y=2")
        monkeypatch.setenv("PJRT_DEVICE", "CUDA")
        monkeypatch.setenv("HF_TOKEN", "secret")
        assert device_environment("cpu", 2, False) == {
            "PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "2", "XLA_FLAGS": "--xla_x=1",
            "LIBTPU_INIT_ARGS": "--y=2", "JAX_PLATFORMS": "cpu",
        }  # fmt: skip
        assert device_environment("cpu", 2, True)["XLA_FLAGS"] == f"--xla_x=1 {FAST_COMPILE}"
        assert device_environment("tpu", 2, False) == {
            "PJRT_DEVICE": "TPU", "XLA_FLAGS": "--xla_x=1", "LIBTPU_INIT_ARGS": "--y=2",
        }  # fmt: skip

    @pytest.mark.parametrize("device", ["cpu", "tpu"])
    @pytest.mark.parametrize(
        "name",
        ["TPU_MEGACORE", "TPU_LIBRARY_PATH", "MEGASCALE_NUM_SLICES", "ACCELERATE_MIXED_PRECISION"],
    )
    def test_so_is_what_the_tpu_and_accelerate_read(
        self, monkeypatch: pytest.MonkeyPatch, device: str, name: str
    ) -> None:
        _clear(monkeypatch)
        monkeypatch.setenv(name, "x")
        assert device_environment(device, 2, False)[name] == "x"

    def test_a_run_is_the_same_on_every_host_of_a_slice(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each host leaves a Record, under one key, and they are merged."""
        _clear(monkeypatch)
        for name in ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES", "MEGASCALE_SLICE_ID"):
            monkeypatch.setenv(name, "1")
        assert device_environment("tpu", 2, False) == {"PJRT_DEVICE": "TPU"}


def _clear(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(local.INHERITED):
            monkeypatch.delenv(name)


class TestInvocations:
    def command(self) -> Command:
        return Command(
            argv=("{harness}/train.py", "--in={inputs}/a", "--out={scratch}", "$(rm -rf /)"),
            spec=Spec(steps=3, micro_batch=4, rows="{inputs}/rows.npz"),
            environment={"CACHE": "{scratch}/cache"},
            pythonpath=("{source}",),
            files={"configs/a.json": '{"data": "{inputs}"}'},
        )

    def places(self, tmp_path: Path) -> Places:
        (tmp_path / "package").mkdir()
        return Places(
            record=tmp_path / "record", inputs=tmp_path / "in put", scratch=tmp_path / "scratch",
            package=tmp_path / "package", source=tmp_path / "source",
        )  # fmt: skip

    def test_every_placeholder_is_filled(self, tmp_path: Path) -> None:
        places = self.places(tmp_path)
        extra = (tmp_path / "more",)
        found = watched(self.command(), places, "/py", extra, {"PJRT_DEVICE": "CPU"})
        assert found.argv == (
            "/py", "-m", "harness.probe", "--record", str(tmp_path / "record"), "--spec",
            str(tmp_path / "scratch" / "spec.json"), "--", str(tmp_path / "package" / "train.py"),
            f"--in={tmp_path}/in put/a", f"--out={tmp_path}/scratch", "$(rm -rf /)",
        )  # fmt: skip
        assert found.cwd == tmp_path / "scratch"
        assert found.environment == {
            "CACHE": f"{tmp_path}/scratch/cache", "PJRT_DEVICE": "CPU", "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": f"{tmp_path}/scratch/path:{tmp_path}/source:{tmp_path}/more",
        }  # fmt: skip
        make_scratch(places)
        found.write_files()
        spec = Spec.read(tmp_path / "scratch" / "spec.json")
        assert spec.rows == f"{tmp_path}/in put/rows.npz"
        text = (tmp_path / "scratch" / "configs" / "a.json").read_text()
        assert json.loads(text) == {"data": f"{tmp_path}/in put"}

    def test_unwatched_it_is_the_same_but_for_the_probe(self, tmp_path: Path) -> None:
        places = self.places(tmp_path)
        with_probe = watched(self.command(), places, "/py")
        alone = bare(self.command(), places, "/py")
        assert alone.argv == ("/py", *with_probe.argv[8:])
        assert alone.environment == with_probe.environment
        assert alone.cwd == with_probe.cwd

    def test_scratch_is_made_anew_with_the_package_on_its_path(self, tmp_path: Path) -> None:
        places = self.places(tmp_path)
        (tmp_path / "scratch").mkdir()
        (tmp_path / "scratch" / "stale").write_text("x")
        make_scratch(places)
        assert os.listdir(tmp_path / "scratch") == ["path"]
        assert os.listdir(tmp_path / "scratch" / "path") == ["harness"]
        assert (tmp_path / "scratch" / "path" / "harness").resolve() == tmp_path / "package"
