"""`parity calibrate`: what the compiler's estimates are worth on a real profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def calibrate(
    profile: Annotated[
        Path, typer.Argument(metavar="PROFILE", help="an .xplane.pb of a TPU, or .xplane.pb.gz")
    ],
    module: Annotated[
        str | None,
        typer.Option(
            "--module", metavar="NAME", show_default=False,
            help="module of the training step (default: that with most device time)",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Compare the cycles that the TPU's compiler estimates with the times that a TPU took.

    Prints a table in Markdown: for each kind of operation its share of the device's time, how much
    of that has an estimate, the correlation of both (of their logarithms), and estimated cycles a
    second, which would be the chip's clock if estimates were right.

    Example:

    parity calibrate plugins/profile/2026_11_27/t1v-n-1.xplane.pb
    """
    from harness.compiler.calibration import by_kind, read_operations
    from harness.devices.device import device
    from harness.devices.tpu import clock_of

    planes = device("tpu").planes
    assert planes is not None, "a TPU's profile shows its devices"
    found = read_operations(profile, planes, module)
    clock = clock_of(found.chip)
    against = "" if clock is None else f", whose matrix units run at {clock / 1e9:.2f} GHz"
    print(f"{found.module} on {found.chip or 'an unnamed chip'}{against}\n")
    print(
        "| operations | number | with an estimate | share of time | of it estimated | "
        "correlation | estimated GHz |"
    )
    print("|---|---|---|---|---|---|---|")
    for kind, seen in by_kind(found).items():
        covered = seen.estimated_share / seen.share if seen.share else 0.0
        numbers = (
            str(seen.operations), str(seen.estimated), f"{seen.share:.1%}", f"{covered:.1%}",
            _text(seen.correlation), _text(None if seen.hertz is None else seen.hertz / 1e9),
        )  # fmt: skip
        print(f"| {kind} | {' | '.join(numbers)} |")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
