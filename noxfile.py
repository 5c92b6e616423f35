"""nox sessions: lint, tests, parity, faults, demo, gate."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "tests", "parity"]
nox.options.reuse_existing_virtualenvs = True


def _install(session: nox.Session) -> None:
    session.install("-e", ".[dev]")


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Lint, format, types, and the direction of imports."""
    _install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")


@nox.session(python="3.11")
def tests(session: nox.Session) -> None:
    """Unit tests: no trainer is launched."""
    _install(session)
    session.run("pytest", "tests/unit", *session.posargs)


@nox.session(python="3.11")
def parity(session: nox.Session) -> None:
    """The product on the CPU mesh; `-- -m tpu --parity-require tpu` on a TPU VM."""
    _install(session)
    session.run("pytest", "tests/parity", *session.posargs)


@nox.session(python="3.11")
def faults(session: nox.Session) -> None:
    """Every seeded fault, in both dtypes: each has to be caught at its own rung."""
    _install(session)
    session.run("pytest", "tests/parity/test_faults.py", "-m", "slow or not slow", *session.posargs)


@nox.session(python="3.11")
def gate(session: nox.Session) -> None:
    """The branch gate: `-- --candidate transformers@REF`."""
    _install(session)
    session.run("parity", "gate", *session.posargs)


@nox.session(python="3.11")
def demo(session: nox.Session) -> None:
    """A verdict on the default case, with an HTML report."""
    _install(session)
    session.run("parity", "run", "--html", "parity.html", *session.posargs)
