"""Where the seconds of a verdict go, and what a verdict takes beside one trainer by itself.

`python benchmarks/phases.py [--rounds N] [KEY=VALUE]...` prints the phases of each run, and ratios
to a bare run of the first engine, which is launched by itself, without the probe, before and after
everything else of a round. Wall clock means little on a machine that does other things meanwhile:
processor time, of everything that is started, is told beside it.

- verdict: `parity run` in an empty workspace, from the command's start to its end;
- fault:   a further fault in the first engine, in a session that has launched it before, with the
           other engine's runs at hand;
- cached:  `parity run` where nothing has to be launched, in seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from overhead import QUIET, ROOT, in_folder, run_once

from harness.config.compose import load
from harness.config.settings import SeededFault
from harness.inputs.prepared import prepare
from harness.record.layout import MANIFEST
from harness.record.reader import read_record
from harness.report.phases import phase_lines
from harness.run import session
from harness.run.plan import plan_run

FAULTS = ({"factor": 1.01}, {"factor": 1.02}, {"factor": 1.03})
"""Of the learning rate; the first one makes the session ready, the others are timed."""


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock, and of all processors together."""

    wall: float
    processor: float

    def __str__(self) -> str:
        return f"{self.wall:.1f} ({self.processor:.1f})"


@contextmanager
def spending(into: list[Spent]) -> Iterator[None]:
    """Append what is spent within."""
    wall, processor = time.perf_counter(), processor_seconds()
    yield
    into.append(Spent(time.perf_counter() - wall, processor_seconds() - processor))


def processor_seconds() -> float:
    """Of this process and all that it has started, alive (as fork servers are) or not."""
    parents, seconds = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            pid = int(stat.parent.name)
            parents[pid] = int(fields[1])
            seconds[pid] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    total, wanted = 0.0, [os.getpid()]
    while wanted:
        pid = wanted.pop()
        total += seconds[pid]
        wanted += [child for child, parent in parents.items() if parent == pid]
    return total


def bare_run(words: list[str], workspace: Path) -> Spent:
    """The first engine's trainer, by itself."""
    settings = load([*words, f"workspace={workspace}"])
    inputs = prepare(settings.case, workspace / "inputs")
    plan = plan_run(settings.engines[0], settings, inputs, lambda line: None)
    return Spent(*in_folder(lambda folder: run_once(plan, folder, False)))


def command(words: list[str], workspace: Path) -> Spent:
    """`parity run`."""
    argv = [sys.executable, "-m", "harness.cli.main", "run", *words, f"workspace={workspace}"]
    spent: list[Spent] = []
    with spending(spent):
        done = subprocess.run(argv, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise SystemExit(f"no verdict was reached: {done.stdout}{done.stderr}")
    return spent[0]


def further_faults(words: list[str], workspace: Path) -> list[Spent]:
    """Planning, launching and judging one more fault, again and again."""
    settings = load([*words, f"workspace={workspace}", "float64=never"])
    first, second = settings.engines[:2]
    other_way = dataclasses.replace(settings, engines=[second, first])
    session.run(session.plan(other_way, QUIET), QUIET)
    spent: list[Spent] = []
    for arguments in FAULTS:
        fault = SeededFault(name="learning_rate", arguments=dict(arguments))
        options = dataclasses.replace(settings.engine[first], faults=[fault])
        faulty = dataclasses.replace(other_way, engine={**settings.engine, first: options})
        with spending(spent):
            session.run(session.plan(faulty, QUIET), QUIET)
    return spent[1:]


def ratio(of: list[Spent], to: list[Spent]) -> Spent:
    """Of the means, by the clock and of processor time."""
    walls = [statistics.mean(one.wall for one in each) for each in (of, to)]
    processors = [statistics.mean(one.processor for one in each) for each in (of, to)]
    return Spent(walls[0] / walls[1], processors[0] / processors[1])


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    words = options.overrides
    found: dict[str, list[Spent]] = {"verdict": [], "fault": [], "cached": []}
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            workspace, beside = Path(folder) / "verdict", Path(folder) / "bare"
            bare = [bare_run(words, beside)]
            verdict = command(words, workspace)
            records = [read_record(path.parent) for path in workspace.glob(f"*/*/{MANIFEST}")]
            found["cached"].append(command(words, workspace))
            bare.append(bare_run(words, beside))
            faults = further_faults(words, workspace)
            bare.append(bare_run(words, beside))
        # Each beside the bare runs right before and after it.
        found["verdict"].append(ratio([verdict], bare[:2]))
        found["fault"].append(ratio(faults, bare[1:]))
        print("\n".join(phase_lines(sorted(records, key=lambda r: r.manifest.started))))
        print(f"round {number + 1}, seconds (of processor time)")
        timings = {"bare": bare, "verdict": [verdict], "fault": faults}
        for name, spent in {**timings, "cached": found["cached"][-1:]}.items():
            print(f"  {name}: {', '.join(map(str, spent))}")
        for name in ("verdict", "fault"):
            last = found[name][-1]
            print(f"  {name} ÷ bare: {last.wall:.2f} ({last.processor:.2f})", flush=True)
    for name, values in found.items():
        wall = statistics.median(value.wall for value in values)
        processor = statistics.median(value.processor for value in values)
        print(f"median {name}: {wall:.2f} ({processor:.2f})")


if __name__ == "__main__":
    main()
