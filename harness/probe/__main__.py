"""`python -m harness.probe --record DIR --spec FILE -- train.py ARGS…`

Runs the unmodified script in this process, watched. Meant for any interpreter that has torch and
torch_xla. The script sees the arguments behind `--` as its own, and its folder first on sys.path,
as if it had been started by itself.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> int:
    """Watch one script. Returns its exit code; a script that raises gets 1."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.probe", description="Watch a training script and write a Record."
    )
    parser.add_argument("--record", type=Path, required=True, help="folder to write to")
    parser.add_argument("--spec", type=Path, required=True, help="what to watch and to inject")
    parser.add_argument("script", nargs=argparse.REMAINDER, metavar="-- train.py ARGS…")
    options = parser.parse_args(arguments)
    script = options.script[1:] if options.script[:1] == ["--"] else options.script
    if not script:
        parser.error("name the script to run behind `--`")

    from harness.base.processes import die_with_parent
    from harness.probe.phases import RETURNED, Phases

    phases = Phases()
    phases.watch_imports()
    die_with_parent()
    from harness.probe import preimported
    from harness.probe.conditions import compute_like
    from harness.probe.faults import seeding
    from harness.probe.inject import inject
    from harness.probe.observer import Observer
    from harness.probe.runtime import EagerRuntime, Runtime, XlaRuntime
    from harness.probe.saved import load_saved
    from harness.probe.scopes import name_operations
    from harness.probe.slices import cut_into_slices
    from harness.probe.spec import Spec
    from harness.probe.staging import StagedRuntime, Staging
    from harness.probe.writer import Writer

    spec = Spec.read(options.spec)
    writer = Writer(options.record)
    runtime: Runtime
    if spec.stage is not None:
        runtime = StagedRuntime(spec.watch.boundary)
        staging = Staging(spec.stage, spec.steps - 1, writer)
        staging.install()
    elif spec.eager:
        runtime = EagerRuntime()
    else:
        runtime = XlaRuntime(spec.watch.boundary, spec.accelerator_type)
    observer = Observer(spec, writer, runtime, phases)
    runtime.set_precision(spec.precision)
    if spec.slices > 1:
        cut_into_slices(spec.slices)
    if spec.condition is not None:
        compute_like(spec.condition)
    if spec.scopes:
        name_operations()
    seeding.before_observing(spec)
    injection = inject(spec)
    observer.install()
    seeding.after_observing(spec)
    preimported.hooks_installed()

    sys.argv = script
    sys.path.insert(0, os.path.dirname(os.path.abspath(script[0])))
    ended: dict[str, Any] = {"returned": True}
    code = 0
    try:
        runpy.run_path(script[0], run_name="__main__")
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        ended = {"returned": code == 0, "exit": code}
        if exit_.code is not None and not isinstance(exit_.code, int):
            print(exit_.code, file=sys.stderr)  # as Python does with what it is told to exit by
    except BaseException as error:
        traceback.print_exc()
        code = 1
        ended = {"returned": False, "error": f"{type(error).__name__}: {error}"[:2000]}
    finally:
        phases.mark(RETURNED)
        try:
            observer.finish()
            if spec.stage is not None:
                staging.finish()
            if ended["returned"]:
                load_saved(spec, injection, writer)
        except Exception as error:  # the device may be gone with the trainer
            traceback.print_exc()
            ended.setdefault("error", f"after training: {type(error).__name__}: {error}"[:2000])
            ended["returned"] = False
            code = code or 1
        how = {"forked": preimported.forked(), "phases": phases.to_json(), "script": ended}
        writer.observed({**observer.observed(), **how})
    return code


if __name__ == "__main__":
    code = main(sys.argv[1:])
    from harness.probe.exit import exit_now

    exit_now(code)
