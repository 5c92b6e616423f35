"""What the harness costs: a session, a gate, and a watched step, each beside the trainer alone.

`python benchmarks/overhead.py [--rounds N] [KEY=VALUE]...` prints ratios, measured side by side:

- session: wall time of `parity run` (fresh workspace, no perturbed run) over the sum of the bare
  runs of both trainers, with the same flags and no probe;
- gate: wall time of `parity gate` against the stored baseline, from the command's start to its end,
  over the candidate's own run within it; the first round makes the case's inputs too;
- step: processor time, and wall time, of one steady step watched over one that is not: the
  difference of a long and a short run, so that imports and compilations cancel.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from harness.config.compose import load
from harness.config.settings import Settings
from harness.inputs.prepared import prepare
from harness.launchers.invocation import bare, make_scratch, watched
from harness.launchers.local import Limits, launch
from harness.record.layout import MANIFEST
from harness.report.progress import ConsoleReporter
from harness.run import session
from harness.run.device_lock import DeviceLock
from harness.run.execute import places_of
from harness.run.plan import Plan, plan_run

QUIET = ConsoleReporter(Console(quiet=True))
ROOT = Path(__file__).parents[1]
BLESSED = "transformers@4.57.6"
SHORT, LONG = 10, 310  # over 100 steps the difference scatters by 10 %


def run_once(plan: Plan, folder: Path, watch: bool) -> tuple[float, float]:
    """Wall and processor seconds of one run, watched or bare."""
    places = places_of(plan, folder, folder / "scratch")
    make_scratch(places)
    build = watched if watch else bare
    python, path = str(plan.interpreter.python), plan.interpreter.pythonpath
    invocation = build(plan.command, places, python, path, plan.environment)
    invocation.write_files()
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = launch(invocation, folder, Limits(3600, 3600), lambda event: None)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.status != "ok":
        raise SystemExit(f"{plan.label}: {ended.status}: {ended.reason}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def in_folder(measure: Callable[[Path], tuple[float, float]]) -> tuple[float, float]:
    """Call `measure` with a folder of its own, and with this machine's devices held."""
    with tempfile.TemporaryDirectory() as folder, DeviceLock("cpu", QUIET):
        return measure(Path(folder))


def session_ratio(settings: Settings, rounds: int) -> None:
    """Print the wall time of a session over that of its bare runs, round by round."""
    ratios = []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            fresh = dataclasses.replace(settings, workspace=folder)

            def whole(fresh: Settings = fresh) -> float:
                start = time.perf_counter()
                planned = session.plan(fresh, QUIET)
                session.run(planned, QUIET)
                return time.perf_counter() - start

            def alone(fresh: Settings = fresh) -> float:
                inputs = prepare(fresh.case, Path(fresh.workspace) / "inputs")
                plans = [plan_run(n, fresh, inputs, lambda line: None) for n in fresh.engines]
                return sum(
                    in_folder(lambda f, plan=plan: run_once(plan, f, False))[0]  # type: ignore[misc]
                    for plan in plans
                )

            parts = (whole, alone) if number % 2 == 0 else (alone, whole)
            times = {part.__name__: part() for part in parts}
        ratios.append(times["whole"] / times["alone"])
        print(
            f"round {number + 1}: session {times['whole']:.1f} s, bare {times['alone']:.1f} s, "
            f"ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(f"session: median ratio {statistics.median(ratios):.3f}", flush=True)


def gate_ratio(rounds: int, overrides: list[str]) -> None:
    """Print the wall time of a gate of one case over the candidate's own run in it."""
    ratios = []
    command = [sys.executable, "-m", "harness.cli.main", "gate", "--candidate", BLESSED, *overrides]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            start = time.perf_counter()
            done = subprocess.run(
                [*command, f"workspace={folder}"],
                cwd=ROOT, check=False, capture_output=True, text=True,
            )  # fmt: skip
            wall = time.perf_counter() - start
            if done.returncode != 0:
                raise SystemExit(f"the gate did not pass: {done.stdout}{done.stderr}")
            (manifest,) = Path(folder).glob(f"*/*/{MANIFEST}")
            own = json.loads(manifest.read_text())["ended"]["seconds"]
            shutil.rmtree(manifest.parent)  # or the next round would take its Record
            ratios.append(wall / own)
            print(
                f"round {number + 1}: gate {wall:.2f} s, the candidate's run {own:.2f} s, "
                f"ratio {ratios[-1]:.3f}",
                flush=True,
            )
    print(f"gate: median ratio {statistics.median(ratios):.3f}", flush=True)


def step_ratio(settings: Settings, rounds: int) -> None:
    """Print what a watched steady step takes over one that is not watched, for each engine."""
    for name in settings.engines:
        plans = {}
        for steps in (SHORT, LONG):
            data = dataclasses.replace(settings.case.data, stride=1)
            case = dataclasses.replace(settings.case, steps=steps, data=data)
            longer = dataclasses.replace(settings, case=case)
            inputs = prepare(case, Path(settings.workspace) / "inputs")
            plans[steps] = plan_run(name, longer, inputs, lambda line: None)
        ratios: dict[str, list[float]] = {"wall": [], "processor": []}
        for number in range(rounds):
            seconds = {}
            for watch in (True, False) if number % 2 == 0 else (False, True):
                long, short = (
                    in_folder(lambda f, p=plans[s], w=watch: run_once(p, f, w))  # type: ignore[misc]
                    for s in (LONG, SHORT)
                )
                seconds[watch] = [a - b for a, b in zip(long, short, strict=True)]
            for index, kind in enumerate(ratios):
                ratios[kind].append(seconds[True][index] / seconds[False][index])
        listed = ", ".join(f"{kind} {statistics.median(r):.3f}" for kind, r in ratios.items())
        print(f"step: {name}, {rounds} rounds, watched over unwatched: {listed}", flush=True)


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("session", "gate", "step"), default=None)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    # torchprime by itself trains in bfloat16 only, so that is what both are measured in.
    words = ["case=llama-tiny-bf16", "tolerance.noise_floor=table", "float64=never"]
    settings = load([*words, *options.overrides])
    if options.only in (None, "session"):
        session_ratio(settings, options.rounds)
    if options.only in (None, "gate"):
        gate_ratio(options.rounds, options.overrides)
    if options.only in (None, "step"):
        step_ratio(settings, options.rounds)


if __name__ == "__main__":
    main()
