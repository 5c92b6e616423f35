"""How strong each seeded fault has to be to be caught: real trainers, from weak to strong.

    python benchmarks/strengths.py [--dtype bfloat16] [--results FILE] [--seconds T]

A fault of docs/faults.md is seeded into the Hugging Face Trainer, which is compared with the clean
reference by the documented floors, until a strength is caught. FILE keeps a line of JSON for each
run, which the next call does not repeat. The last lines are a table in Markdown.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import resumable
from overhead import QUIET

from harness.config.compose import load
from harness.ladder.result import Result
from harness.run import session

COMMON = (
    "engines=[reference,hf]", "case=llama-tiny", "case.steps=12", "case.window=5",
    "tolerance.noise_floor=table", "float64=never",
)  # fmt: skip

FACTORS = tuple(f"{{factor: {1 + by}}}" for by in (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0))
FAULTS: dict[str, tuple[str, ...]] = {
    "perturb_weight": tuple(f"{{by: {by}}}" for by in (1e-3, 1e-2)),
    "attention_scale": FACTORS,
    "rope_theta": ("{factor: 1.1}", "{factor: 2.0}", "{factor: 10.0}", "{factor: 100.0}"),
    "rms_norm_eps": tuple(f"{{eps: {eps}}}" for eps in (1e-6, 1e-4, 1e-3, 1e-2, 0.1)),
    "loss_dtype": ("{dtype: bfloat16}",),
    "divided_loss": tuple(f"{{by: {1 + by}}}" for by in (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3)),
    "clip_threshold": ("{factor: 1.001}",),
    "unwatched_clipping": tuple(f"{{factor: {1 - by}}}" for by in (1e-6, 1e-4, 1e-3, 1e-2, 3e-2)),
    "hyper_parameter": ("{name: eps, value: 1.001e-8}",),
    "learning_rate": FACTORS,
    "frozen": ("{step: 11}", "{step: 10}", "{step: 8}", "{step: 4}"),
    "reset_state": ("{step: 11}", "{step: 10}", "{step: 8}", "{step: 4}"),
    "lost_update": ("{step: 11}", "{step: 10}", "{step: 8}", "{step: 4}"),
    "scaled_gradients": tuple(f"{{factor: {f}, step: 4}}" for f in (0.99, 0.9, 0.5, 0.1, 0.01)),
}
"""Arguments of each fault, from weak to strong."""


def tried(dtype: str, fault: str, arguments: str) -> dict[str, Any]:
    """What is said of one run, and the rungs that fail."""
    words = [*COMMON, f"case.dtype={dtype}"]
    words.append(f"engine.hf.faults=[{{name: {fault}, arguments: {arguments}}}]")
    pair = session.run(session.plan(load(words), QUIET), QUIET).verdict.pairs[0]
    failing = [result.rung for result in pair.rungs if result.result is Result.FAIL]
    return {"dtype": dtype, "fault": fault, "arguments": arguments,
            "result": pair.result.name, "failing": failing, "headline": pair.headline}  # fmt: skip


def main(dtype: str, results: Path, seconds: float) -> None:
    """Try what was not tried yet, for so long."""
    known = {(r["dtype"], r["fault"], r["arguments"]): r for r in resumable.read(results)}
    began, rows = time.monotonic(), []
    for fault, strengths in FAULTS.items():
        missed = []
        for arguments in strengths:
            if (dtype, fault, arguments) not in known:
                if time.monotonic() - began > seconds:
                    print("the same command goes on")
                    return
                row = tried(dtype, fault, arguments)
                known[dtype, fault, arguments] = row
                resumable.append(results, row)
                print(f"{fault} {arguments}: {row['headline']}", flush=True)
            row = known[dtype, fault, arguments]
            # A fault that begins in mid-run compiles a graph of its own there, however weak it is.
            seen = [rung for rung in row["failing"] if rung != "graph"]
            if seen:
                rows.append(f"| `{fault}` | {arguments} | {seen[0]} |")
                break
            missed.append(arguments)
        else:
            rows.append(f"| `{fault}` | not caught, up to {missed[-1]} | |")
    print("\n".join([f"| fault | {dtype}: caught from | rung |", "|---|---|---|", *rows]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--results", type=Path, default=Path("workspace/strengths.jsonl"))
    parser.add_argument("--seconds", type=float, default=3600.0)
    given = parser.parse_args()
    main(given.dtype, given.results, given.seconds)
