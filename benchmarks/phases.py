"""Where the seconds of a verdict go, and what a verdict takes beside one trainer by itself.

`python benchmarks/phases.py [--rounds N] [KEY=VALUE]...` prints the phases of each run, and ratios
to a bare run of the first engine, which is launched by itself, without the probe, before and after
everything else of a round:

- verdict: wall time of `parity run` in an empty workspace, from the command's start to its end;
- fault:   a further fault in the first engine, in a session that has launched it before, with the
           other engine's runs at hand;
- cached:  seconds of `parity run` where nothing has to be launched.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
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


def bare_seconds(words: list[str], workspace: Path) -> float:
    """Wall seconds of the first engine's trainer, by itself."""
    settings = load([*words, f"workspace={workspace}"])
    inputs = prepare(settings.case, workspace / "inputs")
    plan = plan_run(settings.engines[0], settings, inputs, lambda line: None)
    return in_folder(lambda folder: run_once(plan, folder, False))[0]


def command_seconds(words: list[str], workspace: Path) -> float:
    """Wall seconds of `parity run`."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "harness.cli.main", "run", *words, f"workspace={workspace}"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise SystemExit(f"no verdict was reached: {done.stdout}{done.stderr}")
    return time.perf_counter() - start


def fault_seconds(words: list[str], workspace: Path) -> list[float]:
    """Wall seconds of planning, launching and judging one more fault, again and again."""
    settings = load([*words, f"workspace={workspace}", "float64=never"])
    first, second = settings.engines[:2]
    other_way = dataclasses.replace(settings, engines=[second, first])
    session.run(session.plan(other_way, QUIET), QUIET)
    seconds = []
    for arguments in FAULTS:
        fault = SeededFault(name="learning_rate", arguments=dict(arguments))
        options = dataclasses.replace(settings.engine[first], faults=[fault])
        faulty = dataclasses.replace(other_way, engine={**settings.engine, first: options})
        start = time.perf_counter()
        session.run(session.plan(faulty, QUIET), QUIET)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    words = options.overrides
    found: dict[str, list[float]] = {"verdict": [], "fault": [], "cached": []}
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            workspace, beside = Path(folder) / "verdict", Path(folder) / "bare"
            bare = [bare_seconds(words, beside)]
            verdict = command_seconds(words, workspace)
            records = [read_record(path.parent) for path in workspace.glob(f"*/*/{MANIFEST}")]
            cached = command_seconds(words, workspace)
            bare.append(bare_seconds(words, beside))
            print("\n".join(phase_lines(sorted(records, key=lambda r: r.manifest.started))))
            print(
                f"bare {bare[0]:.1f} s, verdict {verdict:.1f} s, cached {cached:.2f} s", flush=True
            )
            faults = fault_seconds(words, workspace)
            bare.append(bare_seconds(words, beside))
            # Each beside the bare runs right before and after it.
            found["verdict"].append(verdict / statistics.mean(bare[:2]))
            found["fault"].append(statistics.mean(faults) / statistics.mean(bare[1:]))
            found["cached"].append(cached)
        print(
            f"round {number + 1}: bare {', '.join(f'{s:.1f}' for s in bare)} s, "
            f"verdict {verdict:.1f} s, faults {', '.join(f'{s:.1f}' for s in faults)} s, "
            f"cached {cached:.2f} s; ratios: verdict {found['verdict'][-1]:.2f}, "
            f"fault {found['fault'][-1]:.2f}",
            flush=True,
        )
    medians = {name: statistics.median(values) for name, values in found.items()}
    print(
        f"medians: verdict {medians['verdict']:.2f} and fault {medians['fault']:.2f} × a bare run, "
        f"cached {medians['cached']:.2f} s"
    )


if __name__ == "__main__":
    main()
