"""`parity command`: the command lines that a launcher would run."""

from __future__ import annotations

import shlex
from pathlib import Path

from harness.cli.options import Overrides


def command(overrides: Overrides = None) -> None:
    """Print the command line of each engine's run. Nothing is launched.

    parity command launcher=docker case=llama-tiny
    """

    from rich.console import Console

    from harness.config.compose import load
    from harness.launchers.registry import launcher_for
    from harness.report.progress import ConsoleReporter
    from harness.run import session
    from harness.run.execute import run_of, with_launcher_identity
    from harness.run.workspace import slot

    settings = load(list(overrides or []))
    reporter = ConsoleReporter(Console(stderr=True))
    launcher = launcher_for(settings.launcher, reporter.note)
    for subject in session.plan(settings, reporter).subjects:
        plan = with_launcher_identity(subject, launcher)
        place = slot(Path(settings.workspace), plan.case.name, plan.engine, plan.key)
        print(f"# {plan.label}")
        for argv in launcher.commands(run_of(plan, place)):
            print(shlex.join(argv))
