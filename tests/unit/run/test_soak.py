"""Sessions that are killed, whose disk is full, whose clock jumps and whose files are damaged.

After each fault nothing runs any more, no Record is lost, and the same session again, without a
fault, ends well. The trainer is a script that writes a toy's Record, so that a trial takes about a
second; all else is what `parity run` launches and keeps runs by.

    PARITY_SOAK=200 pytest -m slow tests/unit/run/test_soak.py -s

PARITY_SOAK is the number of trials (200), PARITY_SOAK_SEED the seed (0).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import Trainer
from gate_samples import plan

from harness.base.crash import CRASHED
from harness.cli import main
from harness.cli.signals import signals_interrupt
from harness.config.settings import LauncherSettings
from harness.launchers import local
from harness.launchers.invocation import Invocation
from harness.launchers.launcher import OnEvent, Run
from harness.launchers.local import Limits
from harness.record import layout
from harness.record.reader import read_record
from harness.record.termination import Termination
from harness.record.writer import write_json
from harness.report import tensorboard
from harness.run import execute
from harness.run.plan import Plan

TRIALS = int(os.environ.get("PARITY_SOAK", "200"))
SEED = int(os.environ.get("PARITY_SOAK_SEED", "0"))
MARK = "PARITY_SOAK_TRIAL"
SECONDS = 0.5
"""About as long as a session takes, in which a fault comes."""

TRAINER = """
import os, shutil, subprocess, sys, time
record, made = sys.argv[1:3]
subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 60; sleep 60"], start_new_session=True)
with open(record + "/steps.jsonl", "w", buffering=1) as stream:
    for line in open(made + "/steps.jsonl"):
        stream.write(line)
        print("trained a step", flush=True)
        time.sleep(0.02)
for name in ("parameters.json", "observed.json"):
    shutil.copyfile(f"{made}/{name}", f"{record}/.{name}")  # in one piece, as the probe writes
    os.replace(f"{record}/.{name}", f"{record}/{name}")
"""


@dataclass(frozen=True)
class Quick:
    """A launcher of the toy trainer."""

    made: Path
    here = True
    identity: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """There is nothing to check."""

    def invocation(self, run: Run) -> Invocation:
        argv = (sys.executable, "-I", "-S", "-c", TRAINER, str(run.places.record), str(self.made))
        return Invocation(argv, {}, run.places.scratch)

    def launch(self, run: Run, on_event: OnEvent) -> Termination:
        limits = Limits(30, 30)
        return local.launch(self.invocation(run), run.places.record, limits, on_event)


class Quiet:
    """A reporter to which nobody listens."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@dataclass(frozen=True)
class Ground:
    """Where sessions are: a workspace, and the Record that the toy makes."""

    root: Path

    @property
    def workspace(self) -> Path:
        return self.root / "workspace"

    @property
    def made(self) -> Path:
        return self.root / "made"

    @property
    def records(self) -> dict[str, dict[str, bytes]]:
        """Every complete Record, as the bytes of its files."""
        found = {}
        for folder in sorted(self.workspace.glob("*/[!.]*-*")):
            try:
                complete = read_record(folder).complete
            except Exception:
                continue
            if complete:
                found[folder.name] = {
                    str(f.relative_to(folder)): f.read_bytes()
                    for f in folder.rglob("*") if f.is_file()
                }  # fmt: skip
        return found

    def session(self) -> int:
        """Train both plans, or find them: 0 where both trained to their end, else 3."""
        settings, toy = LauncherSettings(), read_record(self.made).case
        chosen: Any = SimpleNamespace(case=toy)
        plans: list[Plan] = [plan(label, chosen) for label in ("one", "two")]
        reporter: Any = Quiet()
        found = [execute.run_or_reuse(p, self.workspace, settings, reporter) for p in plans]
        return 0 if all(record.complete for record in found) else 3

    def start(self, trial: int, before: Callable[[], Any] = lambda: None) -> tuple[int, int]:
        """Fork a session. Returns its process, and the descriptor of what it says on stderr."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid:
            os.close(writing)
            return pid, reading
        code = 99
        try:
            os.setsid()
            os.dup2(writing, 2)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            os.environ[MARK] = str(trial)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            before()

            def run(arguments: list[str]) -> int:
                with signals_interrupt():
                    return self.session()

            setattr(main, "_run", run)  # noqa: B010
            code = main.exit_code([])
        finally:
            os._exit(code)

    def end(self, pid: int, reading: int) -> tuple[int, str]:
        """Wait for a session: its exit code, negative for a signal, and what it said."""
        with os.fdopen(reading, "rb") as stream:
            printed = stream.read().decode(errors="replace")
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), printed


def processes(trial: int) -> list[int]:
    """What runs of a trial, but for the session, whose own environment is older."""
    wanted, found = f"{MARK}={trial}".encode(), []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


Fault = Callable[[random.Random, Ground, int], tuple[int, str]]


def signalled(*numbers: int) -> Fault:
    """The session gets these signals, the first at any time, the others soon after."""

    def fault(chance: random.Random, ground: Ground, trial: int) -> tuple[int, str]:
        pid, reading = ground.start(trial)
        time.sleep(chance.uniform(0, SECONDS))
        for number in numbers:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                break
            time.sleep(chance.uniform(0, 0.2))
        return ground.end(pid, reading)

    return fault


def another_is_killed(chance: random.Random, ground: Ground, trial: int) -> tuple[int, str]:
    """Any process that a run has started gets any of two signals."""
    pid, reading = ground.start(trial)
    time.sleep(chance.uniform(0, SECONDS))
    if others := processes(trial):
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(others), chance.choice([signal.SIGKILL, signal.SIGTERM]))
    return ground.end(pid, reading)


def disk_is_full(chance: random.Random, ground: Ground, trial: int) -> tuple[int, str]:
    """No file becomes larger than so much; what is written fails within a write."""
    most = int(10 ** chance.uniform(0, 4.5))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return ground.end(*ground.start(trial, limit))


def clock_jumps(chance: random.Random, ground: Ground, trial: int) -> tuple[int, str]:
    """The clock jumps by up to a year, either way, whenever it is read."""
    real, own = time.time, random.Random(chance.random())

    def jump() -> None:
        setattr(time, "time", lambda: real() + own.uniform(-3e7, 3e7))  # noqa: B010

    return ground.end(*ground.start(trial, jump))


def files_are_damaged(chance: random.Random, ground: Ground, trial: int) -> tuple[int, str]:
    """Files of a session that ended well are cut, emptied, overwritten, gone, or other by a bit."""
    ended = ground.end(*ground.start(trial))
    files = [p for p in ground.workspace.rglob("*") if p.is_file() and p.suffix != ".lock"]
    for path in chance.sample(files, chance.randint(1, 3)):
        size = path.stat().st_size
        match chance.randrange(5):
            case 0:
                path.unlink()
            case 1:
                os.truncate(path, chance.randrange(size) if size else 0)
            case 2:
                path.write_bytes(b"\0" * size)
            case 3:
                path.write_bytes(chance.randbytes(size))
            case 4 if size:
                data = bytearray(path.read_bytes())
                data[chance.randrange(size)] ^= 1 << chance.randrange(8)
                path.write_bytes(data)
    return ended


FAULTS: dict[str, Fault] = {
    "SIGKILL": signalled(signal.SIGKILL),
    "SIGTERM": signalled(signal.SIGTERM),
    "Ctrl-C": signalled(signal.SIGINT),
    "Ctrl-C three times": signalled(signal.SIGINT, signal.SIGINT, signal.SIGINT),
    "SIGTERM and SIGKILL": signalled(signal.SIGTERM, signal.SIGKILL),
    "another process is killed": another_is_killed,
    "the disk is full": disk_is_full,
    "the clock jumps": clock_jumps,
    "files are damaged": files_are_damaged,
}
ENDS = {0, 3, CRASHED, 130, -signal.SIGKILL, -signal.SIGTERM}
"""How a session may end: well, with a Record of a run that failed, and by what was done to it.
SIGTERM itself ends one that has not begun to handle it."""


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    found = Ground(tmp_path)
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(execute, "launcher_for", lambda *_: Quick(found.made))
    monkeypatch.setattr(local, "POLL", 0.02)
    monkeypatch.setattr(local, "GRACE", 0.5)
    trainer = Trainer()
    trainer.write(found.made)
    write_json(found.made / layout.OBSERVED, trainer.manifest()["observed"])
    assert tensorboard.FILE  # imported here, and not by every session
    return found


@pytest.mark.slow
def test_it_recovers_from_everything(ground: Ground) -> None:
    chance, ends = random.Random(SEED), Counter[tuple[str, int]]()
    began = time.monotonic()
    for trial in range(TRIALS):
        name = list(FAULTS)[trial % len(FAULTS)]
        if chance.random() < 0.5:
            shutil.rmtree(ground.workspace, ignore_errors=True)
        elif records := sorted(ground.workspace.glob("*/[!.]*-*")):
            shutil.rmtree(chance.choice(records))
        before = ground.records
        code, printed = FAULTS[name](chance, ground, trial)
        ends[name, code] += 1
        where = f"trial {trial} of seed {SEED}, {name}: {code}, {printed}"
        assert code in ENDS, where
        assert "report it" not in printed, where
        assert "Traceback" not in printed, where
        deadline = time.monotonic() + 5
        while (left := processes(trial)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not left, where
        if name != "files are damaged":
            assert before.items() <= ground.records.items(), where
        assert ground.end(*ground.start(-1)) == (0, ""), where
        after = ground.records
        assert len(after) == 2, where
        for name in (layout.STEPS, layout.PARAMETERS):
            made = (ground.made / name).read_bytes()
            assert all(files[name] == made for files in after.values()), where
        hidden = [p.name for p in ground.workspace.glob("*/.*") if p.suffix != ".lock"]
        assert hidden == [], where
    seconds = time.monotonic() - began
    print(f"\n{TRIALS} trials of seed {SEED} in {seconds:.0f} s")
    print(json.dumps({f"{name}: {code}": n for (name, code), n in sorted(ends.items())}, indent=1))
