"""Refs that the gate judges: `PACKAGE@REF` of what an engine trains with, or of something that is
in its environment; or several of them at once, separated by commas.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from harness.base.errors import BadInput
from harness.base.progress import Progress
from harness.base.secrets import redact
from harness.config.settings import Settings
from harness.devices.device import device
from harness.engines.command import Course
from harness.engines.spec import engine, engines
from harness.environments.sources import Package, Source, default_cache_dir, parse_source
from harness.environments.stack import environment_package, interpreter_with, named, pin
from harness.inputs.prepared import Inputs
from harness.run.plan import Plan, Planner, labelled, plan_run, with_workarounds

_NEXT = re.compile(r",(?=[\w.-]+@)")
"""A comma between two refs, and not one within a folder's name."""


def gated() -> dict[str, str]:
    """Package to the engine through which its versions are gated."""
    return {package: spec.name for spec in engines() for package in spec.gates}


@dataclass(frozen=True)
class Ref:
    """One version of a package that trains, and of what it trains with.

    package: a key of `gated`
    source:  a release, a git ref, a URL with a ref, a folder or a wheel; None for the one that the
             settings name
    beside:  versions of other packages that come with it
    """

    package: str
    source: str | None = None
    beside: tuple[Ref, ...] = ()

    @property
    def engine(self) -> str:
        """The engine that trains with it."""
        return gated()[self.package]

    @property
    def trained_with(self) -> Package:
        """What the engine's own source is of. Raises BadInput for an engine that has none."""
        source = engine(self.engine).source
        if source is None:
            raise BadInput(f"{self}: {self.engine} comes with its package, and has no versions")
        return source.package

    @property
    def own(self) -> bool:
        """Whether it is a version of what the engine trains with, and not of its environment."""
        return self.package == str(self.trained_with)

    @property
    def in_environment(self) -> tuple[Ref, ...]:
        """What of it is in the engine's environment: torch_xla, accelerate, …"""
        return tuple(ref for ref in (self, *self.beside) if not ref.own)

    @property
    def parsed(self) -> Source | None:
        """What its source is; None for the one that the settings name. Raises BadInput."""
        if self.source is None:
            return None
        package = self.trained_with if self.own else environment_package(self.package)
        return parse_source(self.source, package)

    @property
    def packages(self) -> frozenset[str]:
        """Names of all that it is a version of."""
        return frozenset(ref.package for ref in (self, *self.beside))

    @property
    def entry(self) -> str:
        """It as an entry of `engines`: the version of what the engine trains with."""
        return (
            self.engine if not self.own or self.source is None else f"{self.engine}@{self.source}"
        )

    def __str__(self) -> str:
        """As it may be shown and stored: without a token that its URL may have."""
        own = self.package if self.source is None else redact(f"{self.package}@{self.source}")
        return ",".join([own, *map(str, self.beside)])


def parse(text: str) -> Ref:
    """The Ref that `text` names. Raises BadInput for anything else."""
    first, *others = (_one(part) for part in _NEXT.split(text))
    refs = sorted((first, *others), key=lambda ref: not ref.own)
    packages = [ref.package for ref in refs]
    if len({*packages}) < len(packages):
        raise BadInput(f"`{redact(text)}` names two versions of one package")
    if len({ref.engine for ref in refs}) > 1:
        raise BadInput(f"`{redact(text)}` is not trained by one engine: gate one after the other")
    return dataclasses.replace(refs[0], beside=tuple(refs[1:]))


def _one(text: str) -> Ref:
    package, _, source = text.partition("@")
    known = gated()
    if package not in known or not source:
        own = sorted(name for name in known if Ref(name).own)
        environment = sorted(known.keys() - {*own})
        raise BadInput(
            f"`{redact(text)}` names nothing that can be gated: write "
            f"{' or '.join(f'{name}@REF' for name in own)}, where REF is a release on PyPI, a "
            "branch, tag, commit or pull request (pr/1234), https://host/org/repo@REF, or a "
            f"folder; or a release of {', '.join(environment)}; or a wheel of any, a folder or a "
            "page with some (https://HOST/PAGE.html@20251101); or several of them, separated by "
            "commas"
        )
    ref = Ref(package, source)
    if ref.own:
        parse_source(source, ref.trained_with)
    else:
        named(package, source)
    return ref


def planner_of(ref: Ref, progress: Progress, workarounds: tuple[str, ...] = ()) -> Planner:
    """The Planner for `ref`, trained with `workarounds` besides those of the settings."""

    def plan(settings: Settings, inputs: Inputs, course: Course = Course.STRAIGHT) -> Plan:
        return plan_ref(ref, settings, inputs, progress, workarounds, course)

    return plan


def plan_ref(
    ref: Ref,
    settings: Settings,
    inputs: Inputs,
    progress: Progress,
    workarounds: tuple[str, ...] = (),
    course: Course = Course.STRAIGHT,
) -> Plan:
    """The Plan that trains the settings' case with `ref`.

    Raises BadInput for what cannot work, InstallFailed where `ref` cannot be installed.
    """
    settings = with_workarounds(settings, ref.engine, workarounds)
    if not ref.in_environment:
        return plan_run(ref.entry, settings, inputs, progress, course)
    cache = default_cache_dir()
    pins = [pin(r.package, str(r.source), cache, progress) for r in ref.in_environment]
    xla = device(settings.launcher.device).xla
    python = str(interpreter_with(pins, cache, progress, xla))
    options = dataclasses.replace(settings.engine[ref.engine], python=python)
    settings = dataclasses.replace(settings, engine={**settings.engine, ref.engine: options})
    plan = plan_run(ref.entry, settings, inputs, progress, course)
    return dataclasses.replace(plan, label=labelled(str(ref), options))
