"""What each release of transformers makes of the Trainer's step at full size, for a slice of TPUs.

    python benchmarks/compiled_releases.py --releases 4.46.0,4.46.3,… [--case llama-3-8b] WORDS…

Each release is staged (nothing is executed) and gated against the one before it, on the rung
`compiled` alone. One that trains only with a workaround gets it, and the line says so. The words
are Hydra overrides, `target=v6e:2x2` among them. What was compiled is kept in the workspace's
Records. Prints the table of docs/findings/compiled-releases.md.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

from compiled_table import head, row, short
from overhead import QUIET

from harness.base.errors import BadInput
from harness.gate.gate import judge_pair
from harness.gate.refs import Ref
from harness.gate.selection import gate_pairs
from harness.ladder.result import Result
from harness.ladder.verdict import PairVerdict
from harness.record.reader import read_record
from harness.run.compiling import kept_steps

QUIETLY = ("stage=true", "engines=[hf,reference]")
"""Nothing is executed, and no other trainer is beside it."""


def gated(release: str, before: str, case: str, words: list[str]) -> PairVerdict:
    """The verdict of a release against the one before it. Raises BadInput."""
    new, old = Ref("transformers", release), Ref("transformers", before)
    (pair,) = gate_pairs([*QUIETLY, *words], new, old, [case])
    return judge_pair(pair, QUIET).verdict.pairs[0]


def line(release: str, record: str, text: str) -> str:
    """The line of a release; `record` is the folder of its Record, "" where it has none."""
    steps = kept_steps(read_record(Path(record))) if record else []
    return row(release, step=next(iter(steps), None), last=short(text, 400))


def change(verdict: PairVerdict) -> str:
    """What a release changes."""
    result = verdict.rung("compiled")
    causes = "; ".join(finding.text for finding in result.findings[:3])
    if result.result is Result.PASS:
        return "nothing: the same step, instruction by instruction"
    if result.result is Result.FAIL and causes:
        return causes
    return f"{verdict.result.name}: {verdict.headline}"


def main(releases: list[str], case: str, words: list[str]) -> None:
    """Gate each release against the one before it, and print the table."""
    lines: list[str] = []
    for before, release in pairwise(releases):
        try:
            verdict = gated(release, before, case, words)
        except BadInput as error:
            lines.append(row(release, step=None, last=f"cannot be gated: {error}"))
        else:
            if not lines:
                lines.append(line(before, verdict.a_record, ""))
            lines.append(line(release, verdict.b_record, change(verdict)))
        print(lines[-1], flush=True)
    print(head("transformers", last="what changed"), *lines, sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--releases", required=True, help="oldest first, separated by commas")
    parser.add_argument("--case", default="llama-3-8b")
    parser.add_argument("words", nargs="*", help="Hydra overrides, target=… among them")
    given = parser.parse_args()
    main(given.releases.split(","), given.case, given.words)
