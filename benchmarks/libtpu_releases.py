"""What each release of libtpu makes of both trainers' steps, each held against the one before it.

    python benchmarks/libtpu_releases.py --releases 0.0.20,0.0.21,… target=v6e:2x2 …

The steps are traced once, by a short run of each engine on the CPU mesh; all that follows are Hydra
overrides. A release that was not installed before is removed again. What was compiled is kept in
the Records of the workspace, and not compiled again. Prints the tables of
docs/findings/libtpu-releases.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from compiled_table import head, row, told
from overhead import QUIET

from harness.base.errors import BadInput
from harness.environments.compilers import forget, passing_releases
from harness.environments.sources import default_cache_dir
from harness.gate.libtpu import TracedCase, compiled_by, judge_release, trace_steps
from harness.run.compiling import kept_steps


def rows(
    traced: TracedCase, before: TracedCase | None, release: str, passing: Path
) -> dict[str, list[str]]:
    """The lines of a release by target: of each engine's step, and how it compares.

    Raises BadInput where it cannot be used.
    """
    verdict = judge_release([before or traced], release, QUIET, passing).verdict
    pairs, found = iter(verdict.pairs), dict[str, list[str]]()
    for record, _ in traced.steps:
        steps = {(step.libtpu, step.target): step for step in kept_steps(record)}
        for target in traced.compiling.targets:
            compared = told(next(pairs))
            line = row(
                release,
                record.engine,
                step=steps.get((release, target.name)),
                last="" if before is None else compared,
            )
            found.setdefault(target.name, []).append(line)
    return found


def main(releases: list[str], words: list[str]) -> None:
    """Judge each release by the last one before it that can be used, and print the tables."""
    with passing_releases(default_cache_dir()) as passing:
        traced = trace_steps(words, "llama-tiny", releases[0], QUIET, passing)
        tables = rows(traced, None, releases[0], passing)
        before = traced
        for release in releases[1:]:
            try:
                made = rows(traced, before, release, passing)
                before = compiled_by(release, traced, QUIET.note, passing)
            except BadInput as error:
                unused = row(release, "", step=None, last=f"cannot be used: {error}")
                made = {target: [unused] for target in tables}
            finally:
                forget(release, passing)
            for target, lines in made.items():
                tables[target] += lines
                print(target, *lines, sep="\n", flush=True)
    for target, lines in tables.items():
        print(f"\n## {target}\n", head("libtpu", "engine", last="against the one before"), sep="\n")
        print(*lines, sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--releases", required=True, help="oldest first, separated by commas")
    parser.add_argument("words", nargs="*", help="Hydra overrides, target=… among them")
    given = parser.parse_args()
    main(given.releases.split(","), given.words)
