"""Which seeded faults that only cost speed are seen in the step as libtpu compiles it.

    python benchmarks/compiled_faults.py [--engine hf] target=v6e:2x2 [WORDS…]

Each fault is staged in the trainer (nothing is executed), compiled, and held against the clean
trainer: as another version of it, where any difference counts, and as another trainer, where there
are tolerances. The words are Hydra overrides. Prints the table of docs/faults.md.
"""

from __future__ import annotations

import argparse
from typing import Any

from compiled_table import short
from overhead import QUIET

from harness.compiler.compiled import CompiledStep
from harness.config.compose import load
from harness.ladder.rungs.compiled import judge_pair
from harness.ladder.rungs.predicted_time import judge_times, ratio
from harness.run.compiling import compiled_for, flags_of, plan_compiling
from harness.run.plan import inputs_of, planner
from harness.run.timing import compiled_step_of

UP_PROJ = "model.layers.*.mlp.up_proj.weight"
FAULTS: dict[str, str] = {
    "a sync in each layer": "{name: sync_each_layer}",
    "logits to the host": "{name: logits_to_host}",
    "no rematerialisation": "{name: lost_recomputation}",
    "a replicated weight in each layer":
        f"{{name: sharding, arguments: {{{UP_PROJ}: [null, null]}}}}",
    "activations gathered in each layer": "{name: gathered_activations}",
    "an operation in each layer on the host": "{name: host_fallback}",
}  # fmt: skip


def compiled(engine: str, words: list[str], fault: str | None) -> CompiledStep:
    """The step of the trainer with a fault, for the first target."""
    seeded = [] if fault is None else [f"engine.{engine}.faults=[{fault}]"]
    settings = load([*words, "stage=true", *seeded])
    compiling = plan_compiling(settings, QUIET.note)
    assert compiling is not None, "stage=true demands a target"
    inputs, replan = inputs_of(settings), planner(engine, QUIET.note)
    traced = compiled_step_of(replan, settings, inputs, QUIET)
    flags, target = flags_of(replan(settings, inputs)), compiling.targets[0]
    return compiled_for(traced, traced, flags, compiling, target, QUIET.note)


def predicted(pair: tuple[CompiledStep, CompiledStep]) -> str:
    """What `predicted_time` says: the faulty step's time over the clean one's, and its interval."""
    a, b = (step.predicted for step in pair)
    verdict = judge_times(("clean", "faulty"), pair).result.name
    if a is None or b is None:
        return verdict
    found = ratio(a, b)
    return f"{verdict}: {found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def main(engine: str, words: list[str]) -> None:
    """Compile each, and print the table."""
    words = [*words, "compiler.depth=timed"]
    clean = compiled(engine, words, None)
    rows: list[tuple[Any, ...]] = []
    for what, fault in FAULTS.items():
        pair = (clean, compiled(engine, words, fault))
        version, trainer = (judge_pair(("clean", "faulty"), pair, one) for one in (True, False))
        said = version.findings[0].text if version.findings else version.explanation
        verdicts = (version.result.name, trainer.result.name, predicted(pair))
        rows.append((what, *verdicts, short(said, 300)))
        print(*rows[-1], sep=" | ", flush=True)
    columns = ("fault", "between versions", "between trainers", "predicted time", "what is said")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", default="hf")
    parser.add_argument("words", nargs="*", help="Hydra overrides, target=… among them")
    given = parser.parse_args()
    main(given.engine, given.words)
