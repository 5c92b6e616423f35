"""Real sessions that are killed at random moments, and what is left of them.

    .venv/bin/python benchmarks/soak.py --trials 20 [--seed 0] [OVERRIDE …]

Each trial is `parity run` of the Trainer and the reference without torch_xla
(launcher.device=cpu-native), which gets a signal, or one of whose processes does, or one bit of
whose Records is another afterwards. It has to leave no process and lose no Record, and the same
command again, without a fault, has to end with PASS. tests/unit/run/test_soak.py does the same with
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
from pathlib import Path

from harness.base.errors import BadInput
from harness.record.checksums import CHECKSUMS, check
from harness.record.layout import MANIFEST, PARAMETERS, STEPS
from harness.record.reader import READ, read_record

MARK = "PARITY_SOAK_TRIAL"
FAULTS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGKILL of a child", "SIGTERM of a child", "a bit")
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


def suffer(fault: str, session: Session, seconds: float, chance: random.Random) -> tuple[int, str]:
    """Do to a session what the fault says, within so many seconds, and wait for its end."""
    time.sleep(chance.uniform(0, seconds))
    number = signal.Signals[fault.split()[0]] if fault.startswith("SIG") else None
    victim = session.process.pid
    if fault.endswith("child"):
        victim = chance.choice(session.children() or [victim])
    if number is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, number)
    return session.end()


def soak(workspace: Path, trials: int, seed: int, words: list[str]) -> Counter[str]:
    """Every trial's fault and exit code, counted. Raises AssertionError for what is left of one."""
    chance, ends = random.Random(seed), Counter[str]()
    for _ in range(2):  # as in a trial, one run is launched by the second
        began = time.monotonic()
        code, printed = Session(workspace, -1, words).end()
        assert code == 0, printed
        seconds, number = time.monotonic() - began, len(records(workspace))
        shutil.rmtree(chance.choice([*records(workspace)]))
    print(f"a session takes {seconds:.0f} s, and there are {number} Records", flush=True)
    for trial in range(trials):
        fault, before = FAULTS[trial % len(FAULTS)], records(workspace)
        began = time.monotonic()
        session = Session(workspace, trial, words)
        if fault == "a bit":
            code, printed = session.end()
            folder = chance.choice([*records(workspace)])
            flip(folder / chance.choice([MANIFEST, STEPS, PARAMETERS]), chance)
            before.pop(folder, None)
        else:
            code, printed = suffer(fault, session, seconds, chance)
        ends[f"{fault}: {code}"] += 1
        if code == 0:  # nothing came of it: the machine has become quieter
            seconds = min(seconds, time.monotonic() - began)
        told = f"trial {trial} of seed {seed}, {fault}: {code}\n{printed}"
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
        print(f"{trial + 1}/{trials} {fault}: {code}", flush=True)
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workspace", type=Path, default=Path("workspace/soak"))
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    began = time.monotonic()
    ends = soak(given.workspace, given.trials, given.seed, given.overrides)
    print(f"{given.trials} trials in {time.monotonic() - began:.0f} s")
    print(json.dumps(dict(sorted(ends.items())), indent=1))


if __name__ == "__main__":
    main()
