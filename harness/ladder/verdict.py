"""What the ladder says of a pair of runs, and of a whole session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.base.errors import BadInput
from harness.ladder.ladder import names, rungs
from harness.ladder.result import Finding, Result, RungResult
from harness.record.writer import decode_number, encode

SCHEMA = 1
"""Version of the JSON that `Verdict.to_json` makes; docs/verdict.md describes it."""

EXIT_CODES = {
    Result.PASS: 0,
    Result.NOT_EXERCISED: 0,
    Result.FAIL: 1,
    Result.INVALID: 3,
    Result.INCONCLUSIVE: 3,
}
"""Exit code of a session by its overall result; 2 is bad input."""


NOT_COMPARED = "nothing that they compute was compared"
"""What a PASS by compiled steps alone leaves open."""


@dataclass(frozen=True)
class PairVerdict:
    """The ladder of one pair of runs.

    a, b:                     the runs' labels
    a_record, b_record:       their folders
    rungs:                    one result for each rung of the ladder, in order
    notes:                    what the reader has to know, such as which run deviates from float64
    assumed:                  rungs that a person takes to hold, of runs that were imported
    """

    a: str
    b: str
    a_record: str
    b_record: str
    rungs: tuple[RungResult, ...]
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    @property
    def headline_rung(self) -> RungResult | None:
        """The first rung that fails; where none does, the first that could not be judged."""
        for wanted in ((Result.FAIL,), (Result.INVALID, Result.INCONCLUSIVE)):
            for rung in self.rungs:
                if rung.result in wanted:
                    return rung
        return None

    @property
    def result(self) -> Result:
        """FAIL if any rung fails, else INVALID or INCONCLUSIVE if any is, else PASS.

        A rung that is not there is INVALID.
        """
        missing = set(names()) - {rung.rung for rung in self.rungs}
        return overall([rung.result for rung in self.rungs] + [Result.INVALID for _ in missing])

    @property
    def headline(self) -> str:
        """The verdict in one line, with what it rests on that nothing shows."""
        if not self.assumed:
            return self._headline
        return f"{self._headline} (assumed, not proven: {', '.join(self.assumed)})"

    @property
    def _headline(self) -> str:
        rung = self.headline_rung
        if rung is None and self.result is not Result.PASS:
            return f"{self.a} and {self.b}: nothing was judged"
        if rung is None:
            if self.only_traced:
                return f"the steps of {self.a} and {self.b} compile alike; {NOT_COMPARED}"
            judged = sum(r.result is Result.PASS for r in self.rungs)
            text = f"{self.a} and {self.b} train alike: {judged} rungs hold"
            return f"{text}; blind to {self.blind_to}" if self.blind_to else text
        return f"{rung.rung}: {rung.explanation}"

    @property
    def only_traced(self) -> bool:
        """Whether all that holds was judged by the steps as they are written, executed or not."""
        held = {r.rung for r in self.rungs if r.result is Result.PASS}
        return held <= {rung.name for rung in rungs() if rung.traced}

    @property
    def blind_to(self) -> str:
        """What a PASS cannot see, where the case is as noisy as bfloat16 is; "" where it is not."""
        limits = {r.rung: r.limit for r in self.rungs if r.metric and r.limit is not None}
        known = [rung for rung in rungs() if rung.compares and rung.name in limits]
        if not any(limits[rung.name] >= rung.noisy for rung in known):
            return ""
        parts = [f"{limits[rung.name]:.2g} of a {rung.compares}" for rung in known]
        return f"differences up to {', '.join(parts)}"

    def rung(self, name: str) -> RungResult:
        """The result of one rung by name."""
        return next(r for r in self.rungs if r.rung == name)


@dataclass(frozen=True)
class Verdict:
    """What a session found: every pair, and what was compared in its first line."""

    compared: str
    case: str
    pairs: tuple[PairVerdict, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def result(self) -> Result:
        """The worst result of all pairs."""
        return overall([pair.result for pair in self.pairs])

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 3 invalid or inconclusive."""
        return EXIT_CODES[self.result]

    def to_json(self) -> dict[str, Any]:
        """Plain values for other programs."""
        return {
            "schema": SCHEMA,
            "compared": self.compared,
            "case": self.case,
            "result": self.result.value,
            "notes": list(self.notes),
            "pairs": [
                {
                    "a": pair.a,
                    "b": pair.b,
                    "a_record": pair.a_record,
                    "b_record": pair.b_record,
                    "result": pair.result.value,
                    "headline": pair.headline,
                    "headline_rung": pair.headline_rung.rung if pair.headline_rung else None,
                    "notes": list(pair.notes),
                    "assumed": list(pair.assumed),
                    "rungs": [_plain(rung) for rung in pair.rungs],
                }
                for pair in self.pairs
            ],
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Verdict:
        """The verdict that `to_json` made these plain values of. Raises BadInput for others."""
        if value.get("schema") != SCHEMA:
            raise BadInput(f"a verdict of schema {value.get('schema')!r} is not {SCHEMA}, ours")
        pairs = tuple(
            PairVerdict(
                pair["a"],
                pair["b"],
                pair["a_record"],
                pair["b_record"],
                tuple(_rung(rung) for rung in pair["rungs"]),
                tuple(pair["notes"]),
                tuple(pair.get("assumed", ())),
            )
            for pair in value["pairs"]
        )
        return Verdict(value["compared"], value["case"], pairs, tuple(value["notes"]))


def merged(verdicts: Sequence[Verdict]) -> Verdict:
    """Several sessions as one, each pair labelled by its case where there is more than one."""
    cases = sorted({verdict.case for verdict in verdicts})
    return Verdict(
        "; ".join(verdict.compared for verdict in verdicts),
        ", ".join(cases),
        tuple(pair for verdict in verdicts for pair in verdict.pairs),
        tuple(note for verdict in verdicts for note in verdict.notes),
    )


def overall(results: list[Result]) -> Result:
    """The worst of several results. Nothing judged at all is INVALID, never PASS."""
    for worst in (Result.FAIL, Result.INVALID, Result.INCONCLUSIVE):
        if worst in results:
            return worst
    return Result.PASS if Result.PASS in results else Result.INVALID


def _plain(rung: RungResult) -> dict[str, Any]:
    value = asdict(rung)
    value["result"] = rung.result.value
    value["evidence"] = value.pop("findings")
    plain = encode(value)
    assert isinstance(plain, dict)
    return plain


def _rung(value: Mapping[str, Any]) -> RungResult:
    return RungResult(
        rung=value["rung"],
        result=Result(value["result"]),
        explanation=value["explanation"],
        value=decode_number(value["value"]),
        limit=decode_number(value["limit"]),
        limit_source=value["limit_source"],
        detects=value["detects"],
        findings=tuple(Finding(**finding) for finding in value["evidence"]),
        metric=value.get("metric", ""),
    )
