"""What the gate judges: pairs of a candidate and what it has to train like, by case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import BadInput
from harness.config.compose import case_names, load
from harness.config.settings import Settings
from harness.engines.sources import named_source
from harness.engines.spec import TrainerOptions, engine
from harness.gate.refs import Ref
from harness.inputs.prepared import has_weights
from harness.run.preflight import ready

SMOKE = ("llama-tiny-every-label", "llama-tiny-accumulated", "llama-tiny-epochs")
"""Between versions of one engine nothing needs aligning: each counts what it counts by itself."""
SMOKE_OF_TRAINERS = "llama-tiny"


@dataclass(frozen=True)
class GatePair:
    """One thing that the gate judges.

    against: what the candidate is judged against; None is the stored baseline
    parity:  `against` is the other trainer, not a version of the candidate's own
    workarounds: what the candidate alone is trained with
    """

    settings: Settings
    candidate: Ref
    against: Ref | None
    parity: bool
    stored: Path
    workarounds: tuple[str, ...] = ()

    @property
    def case(self) -> str:
        """Name of the case."""
        return self.settings.case.name

    @property
    def id(self) -> str:
        """Part of a test's name."""
        against = "baseline" if self.against is None else str(self.against)
        return f"{self.case}-{self.candidate}-{against}"


@dataclass(frozen=True)
class Chosen:
    """Names of the cases in which versions of one trainer are compared, and the two trainers."""

    versions: tuple[str, ...]
    trainers: tuple[str, ...]


def chosen_cases(names: Sequence[str]) -> Chosen:
    """The cases by these names: `smoke` and `all` stand for several.

    `all` is, too, every aligned one whose model is small enough to be executed anywhere.
    """
    versions: list[str] = []
    trainers: list[str] = []
    for name in names:
        versions += SMOKE if name in ("smoke", "all") else [name]
        if name == "all":
            cases = (load([f"case={case}"]).case for case in case_names())
            trainers += [case.name for case in cases if case.aligned and has_weights(case)]
            versions += trainers
        else:
            trainers.append(SMOKE_OF_TRAINERS if name == "smoke" else name)
    return Chosen(tuple(dict.fromkeys(versions)), tuple(dict.fromkeys(trainers)))


def gate_pairs(
    overrides: Sequence[str],
    candidate: Ref,
    baseline: Ref | None,
    cases: Sequence[str],
    stored: Path = Path("baselines"),
) -> tuple[GatePair, ...]:
    """Everything that the gate judges, by case; nothing is launched or installed.

    The other trainer is the first of `engines` that is not the candidate's own. It is judged
    against where it is installed, or a source of it is named (a torchprime checkout by
    `--torchprime`, engine.torchprime.source or TORCHPRIME_DIR). Raises BadInput for what cannot be
    gated.
    """
    if baseline is not None and baseline.packages != candidate.packages:
        raise BadInput(f"{candidate} and {baseline} are not versions of the same packages")
    if baseline is None and candidate.in_environment:
        # With what the engine's environment has.
        baseline = Ref(str(candidate.trained_with))
    found = []
    chosen = chosen_cases(cases)
    for case in dict.fromkeys((*chosen.versions, *chosen.trainers)):
        settings = ready(load([f"case={case}", *overrides]))
        if case in chosen.versions:
            found.append(GatePair(settings, candidate, baseline, False, stored))
        # Another torch_xla is not in the other trainer's environment: they would differ by it.
        other = None if candidate.in_environment else _other(settings, candidate.engine)
        if other is not None and case in chosen.trainers:
            found.append(GatePair(settings, candidate, other, True, stored))
    return tuple(found)


def _other(settings: Settings, own: str) -> Ref | None:
    """The trainer whose parity with a candidate is judged too, where it is at hand."""
    names = (name.partition("@")[0] for name in settings.engines)
    name = next((name for name in names if name != own), None)
    source = None if name is None else engine(name).source
    if name is None or source is None:
        return None
    options = settings.engine[name]
    option = options.source if isinstance(options, TrainerOptions) else None
    at_hand = source.default is None or named_source(source, option)
    return Ref(str(source.package)) if at_hand else None
