"""verdict.json: a verdict for other programs, with how it was made and out of which runs.

docs/verdict.md describes it, and `SCHEMA_FILE` is its JSON schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.ladder.verdict import Verdict
from harness.record.evidence import Record
from harness.report.made import Made, run_list

SCHEMA_FILE = Path(__file__).with_name("verdict.schema.json")


def verdict_json(verdict: Verdict, records: Mapping[str, Record], made: Made) -> dict[str, Any]:
    """The whole file as plain values; `records` by folder, as the verdict's pairs name them."""
    return {**verdict.to_json(), "made": asdict(made), "runs": run_list(records)}
