"""Refs that the gate judges: `PACKAGE@REF` of a package that an engine trains with, or
`torch_xla@VERSION`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from harness.base.errors import BadInput
from harness.base.progress import Progress
from harness.config.settings import Settings
from harness.engines.spec import engine, engines
from harness.environments.git import redact
from harness.environments.sources import Package, PypiSource, default_cache_dir, parse_source
from harness.gate.torch_xla import interpreter_with
from harness.inputs.prepared import Inputs
from harness.run.plan import Plan, Planner, plan_run

TORCH_XLA = "torch_xla"
"""No engine's own source: another release of it is another environment."""


def gated() -> dict[str, str]:
    """Package to the engine through which its versions are gated."""
    return {package: spec.name for spec in engines() for package in spec.gates}


@dataclass(frozen=True)
class Ref:
    """One version of a package that trains.

    package: a key of `gated`
    source:  a release, a git ref, a URL with a ref, or a folder; None for the one that the
             settings name
    """

    package: str
    source: str | None = None

    @property
    def engine(self) -> str:
        """The engine that trains with it."""
        return gated()[self.package]

    @property
    def trained_with(self) -> Package:
        """What the engine's own source is of."""
        source = engine(self.engine).source
        if source is None:
            raise BadInput(f"{self}: {self.engine} comes with its package, and has no versions")
        return source.package

    @property
    def entry(self) -> str:
        """It as an entry of `engines`, for those that are an engine's own source."""
        return self.engine if self.source is None else f"{self.engine}@{self.source}"

    def __str__(self) -> str:
        """As it may be shown and stored: without a token that its URL may have."""
        return self.package if self.source is None else redact(f"{self.package}@{self.source}")


def parse(text: str) -> Ref:
    """The Ref that `text` names. Raises BadInput for anything else."""
    package, _, source = text.partition("@")
    if package not in gated() or not source:
        own = [name for name in sorted(gated()) if name != TORCH_XLA]
        raise BadInput(
            f"`{redact(text)}` names nothing that can be gated: write "
            f"{' or '.join(f'{name}@REF' for name in own)}, where REF is a release on PyPI, a "
            "branch, tag, commit or pull request (pr/1234), https://host/org/repo@REF, or a "
            f"folder; or {TORCH_XLA}@VERSION"
        )
    ref = Ref(package, source)
    # A release is a release, whatever it is one of.
    parsed = parse_source(source, ref.trained_with)
    if package == TORCH_XLA and not isinstance(parsed, PypiSource):
        raise BadInput(f"`{redact(text)}`: torch_xla is built in no checkout here; name a release")
    return ref


def planner_of(ref: Ref, progress: Progress) -> Planner:
    """The Planner for `ref`."""
    return lambda settings, inputs: plan_ref(ref, settings, inputs, progress)


def plan_ref(ref: Ref, settings: Settings, inputs: Inputs, progress: Progress) -> Plan:
    """The Plan that trains the settings' case with `ref`.

    Raises BadInput for what cannot work, InstallFailed where `ref` cannot be installed.
    """
    if ref.package != TORCH_XLA:
        return plan_run(ref.entry, settings, inputs, progress)
    python = interpreter_with(str(ref.source), default_cache_dir(), progress)
    options = settings.engine[ref.engine]
    engine = {
        **settings.engine,
        ref.engine: dataclasses.replace(options, python=str(python)),
    }
    plan = plan_run(ref.engine, dataclasses.replace(settings, engine=engine), inputs, progress)
    return dataclasses.replace(plan, label=str(ref))
