"""Real sessions that are killed at random moments, and what is left of them.

    .venv/bin/python benchmarks/soak.py --trials 20 [--seed 0] [OVERRIDE …]

Each trial is `parity run` of the Trainer and the reference without torch_xla
(launcher.device=cpu-native), which gets a signal, or one of whose processes does, or one bit of
whose Records is another afterwards. Signals come at three moments: at any time of the session, at
any time of a trainer (it is waited for), and when a trainer has trained its first step. The session
has to leave no process and lose no Record, and the same command again, without a fault, has to end
with PASS. tests/unit/run/test_soak.py does the same with
a toy in the trainer's place, much faster, and with more faults.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput
from harness.record.checksums import CHECKSUMS, check
from harness.record.layout import MANIFEST, PARAMETERS, STEPS
from harness.record.reader import READ, read_record

MARK = "PARITY_SOAK_TRIAL"
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGKILL of a trainer", "SIGTERM of a child")
ANY, TRAINER, STEP = "at any time", "while a trainer runs", "after its first step"
TRIALS = (
    *((fault, moment) for moment in (TRAINER, STEP, ANY) for fault in SIGNALS),
    ("a bit", "afterwards"),
)
"""Faults and their moments, which come in turns."""
COMMAND = (
    "run", "engines=[hf,reference]", "launcher.device=cpu-native", "tolerance.noise_floor=table",
)  # fmt: skip


class Session:
    """`parity run` in a session of its own, as long as it is needed."""

    def __init__(self, workspace: Path, trial: int, words: list[str]) -> None:
        self.trial = trial
        self.process = subprocess.Popen(
            [sys.executable, "-m", "harness.cli.main", *COMMAND, f"workspace={workspace}", *words],
            env={**os.environ, MARK: str(trial)}, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def end(self) -> tuple[int, str]:
        """Its exit code, negative for a signal, and what it printed."""
        printed, _ = self.process.communicate()
        return self.process.returncode, printed

    def trainers(self) -> list[int]:
        """The processes of `children` that train, or are about to."""
        found = []
        for number in self.children():
            with contextlib.suppress(OSError):
                words = (Path("/proc") / str(number) / "cmdline").read_bytes()
                found += [number] if b"harness.probe" in words and b"--record" in words else []
        return found

    def children(self) -> list[int]:
        """The processes that it started, wherever they are."""
        wanted, found = f"{MARK}={self.trial}".encode(), []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.process.pid:
                continue
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found


def records(workspace: Path) -> dict[Path, bytes]:
    """The checksums of every complete Record that is what it was."""
    found = {}
    for path in workspace.glob(f"*/*/{MANIFEST}"):
        with contextlib.suppress(BadInput):
            check(path.parent, *READ)
            if not path.parent.name.startswith(".") and read_record(path.parent).complete:
                found[path.parent] = (path.parent / CHECKSUMS).read_bytes()
    return found


def flip(path: Path, chance: random.Random) -> None:
    """One bit of a file is another."""
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def steps_of_running(workspace: Path) -> bool:
    """Whether a trainer that runs has trained a step."""
    return any(path.stat().st_size for path in workspace.glob(f"*/.*.running/{STEPS}"))


def wait_for(session: Session, there: Callable[[], Any]) -> bool:
    """Whether it came while the session ran."""
    while session.process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            if there():
                return True
        time.sleep(0.01)
    return False


def timed(session: Session) -> tuple[float, float]:
    """Seconds that a session takes, and that its trainers are there. It has to end well."""
    began, trained = time.monotonic(), 0.0
    while wait_for(session, session.trainers):
        start = time.monotonic()
        while session.trainers():
            time.sleep(0.01)
        trained += time.monotonic() - start
    code, printed = session.end()
    assert code == 0, printed
    return time.monotonic() - began, trained


def suffer(
    fault: str, moment: str, session: Session, workspace: Path, seconds: tuple[float, float],
    chance: random.Random,
) -> tuple[int, str, bool]:  # fmt: skip
    """Do to a session what the fault says, and wait for its end.

    seconds: that a session takes, and its trainer
    Returns exit code, what it printed, and whether it was there when the signal was sent.
    """
    late = False
    if moment == ANY:
        time.sleep(chance.uniform(0, seconds[0]))
    elif moment == TRAINER:
        late = not wait_for(session, session.trainers)
        time.sleep(chance.uniform(0, seconds[1] / 2))
    else:
        late = not wait_for(session, lambda: steps_of_running(workspace))
    number, victim = signal.Signals[fault.split()[0]], session.process.pid
    if fault.endswith("trainer"):
        victim = chance.choice(session.trainers() or [victim])
    elif fault.endswith("child"):
        victim = chance.choice(session.children() or [victim])
    late = late or session.process.poll() is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, number)
    return *session.end(), not late


def soak(
    workspace: Path, trials: int, seed: int, first: int, words: list[str]
) -> Counter[str]:  # fmt: skip
    """Every trial's fault and exit code, counted. Raises AssertionError for what is left of one."""
    chance, ends = random.Random(seed), Counter[str]()
    for _ in range(2):  # as in a trial, one run is launched by the second
        seconds = timed(Session(workspace, -1, words))
        number = len(records(workspace))
        shutil.rmtree(chance.choice([*records(workspace)]))
    took = f"a session takes {seconds[0]:.0f} s, its trainer {seconds[1]:.1f} s of them"
    print(f"{took}, and there are {number} Records", flush=True)
    for trial in range(first, first + trials):
        (fault, moment), before = TRIALS[trial % len(TRIALS)], records(workspace)
        began, hit = time.monotonic(), True
        session = Session(workspace, trial, words)
        if fault == "a bit":
            code, printed = session.end()
            folder = chance.choice([*records(workspace)])
            flip(folder / chance.choice([MANIFEST, STEPS, PARAMETERS]), chance)
            before.pop(folder, None)
        else:
            code, printed, hit = suffer(fault, moment, session, workspace, seconds, chance)
        told = f"{fault} {moment}: " + (f"exit {code}" if hit else "too late")
        ends[told] += 1
        if code == 0:  # nothing came of it: the machine has become quieter
            seconds = min(seconds[0], time.monotonic() - began), seconds[1] / 2
        told = f"trial {trial} of seed {seed}, {told}\n{printed}"
        assert "report it" not in printed, told
        deadline = time.monotonic() + 10
        while session.children() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not session.children(), told
        assert before.items() <= records(workspace).items(), told
        again, printed = Session(workspace, -1, words).end()
        assert again == 0, f"{told}\nagain: {again}\n{printed}"
        assert len(records(workspace)) == number, told
        left = [path.name for path in workspace.glob("*/.*") if path.suffix != ".lock"]
        assert left == [], f"{told}\n{left}"
        shutil.rmtree(chance.choice([*records(workspace)]))
        print(told.splitlines()[0], flush=True)
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--workspace", type=Path, default=Path("workspace/soak"))
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    # In the background of a shell it is ignored, which whatever is started from here would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    ends = soak(given.workspace, given.trials, given.seed, given.first, given.overrides)
    print(f"{given.trials} trials in {time.monotonic() - began:.0f} s")
    print(json.dumps(dict(sorted(ends.items())), indent=1))


if __name__ == "__main__":
    main()
