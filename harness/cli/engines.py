"""`parity engines`: what each engine trains with, and whether it can be used here."""

from __future__ import annotations

from harness.cli.options import Torchprime


def engines(torchprime: Torchprime = None) -> None:
    """List the engines, with what is missing and how to get it."""
    from rich.console import Console
    from rich.table import Table

    from harness.cli.doctor import environment_is_made, torchprime_finding
    from harness.environments.sources import default_cache_dir

    cache = default_cache_dir()
    made = environment_is_made(cache)
    environment = "environment is made" if made else "the first run makes its environment"
    checkout = torchprime_finding(torchprime, cache)
    table = Table("engine", "trains with", "state", box=None)
    table.add_row("hf", "transformers' Trainer, full_shard FSDPv2", environment)
    table.add_row(
        "torchprime",
        "train.py of a checkout",
        checkout.state if checkout.good else checkout.way_out,
    )
    table.add_row("reference", "plain PyTorch of this harness", environment)
    Console().print(table)
