"""The first bad commit of a git repository, by `git bisect` beside the cached mirror."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.base.errors import BadInput
from harness.environments.git import GitFailed, git
from harness.environments.mirror import Mirror
from harness.environments.sources import GitSource, default_cache_dir, parse_source, resolve
from harness.gate.bisect import FirstBad, Notebook, Question, finish, rung_of
from harness.gate.refs import Ref
from harness.run.reporter import Reporter

_FIRST_BAD = re.compile(r"^([0-9a-f]{40,64}) is the first bad commit", re.MULTILINE)
_ONLY_SKIPPED = "git ended with 2"
"""What `git bisect` does, without a word on stderr, when only skipped commits are left."""


def first_bad_commit(question: Question, good: Ref, bad: Ref, reporter: Reporter) -> FirstBad:
    """The first bad commit on the way from `good` to `bad`, two refs of one repository.

    Commits that cannot be installed, do not train, or cannot be judged are skipped, unless that is
    what is searched for. Raises BadInput where the refs are not of one repository, or where one is
    no ancestor of the other.
    """
    sources = [_source(ref) for ref in (good, bad)]
    if sources[0].url != sources[1].url:
        raise BadInput(f"{good} and {bad} are not in the same repository")
    commits = []
    for source in sources:
        checkout = resolve(source, default_cache_dir(), reporter.note)
        assert checkout.commit is not None
        commits.append(checkout.commit)
    rung = rung_of(question, bad, reporter)
    notebook = Notebook(question, rung, reporter)
    mirror = Mirror(sources[0].url, default_cache_dir())

    def ref(commit: str) -> Ref:
        return Ref(good.package, f"{sources[0].url}@{commit}")

    # A repository holds the state of one bisection. So each has its own, which costs a second:
    # the objects are the mirror's, and what is remembered is in the notebook.
    with tempfile.TemporaryDirectory(prefix="parity-bisect-") as folder:
        repository = Path(folder) / "repository.git"
        try:
            git("clone", "--quiet", "--bare", "--shared", "--", str(mirror.folder), str(repository))
        except GitFailed as error:
            raise BadInput(
                f"{mirror.folder} cannot be cloned into {folder}: {error}. Delete that mirror, and "
                "it will be fetched again"
            ) from None
        last, first, skipped = walk(
            repository, commits[0], commits[1], lambda commit: notebook.ask(ref(commit))
        )
    return finish(question, rung, ref(last), ref(first), skipped, reporter)


def _source(ref: Ref) -> GitSource:
    source = parse_source(str(ref.source), ref.trained_with)
    if not isinstance(source, GitSource):
        raise BadInput(
            f"{ref} is no ref of a git repository: bisect two releases, or two refs of one "
            "repository (a local one is named file:///folder@REF)"
        )
    return source


def walk(
    repository: Path, good: str, bad: str, ask: Callable[[str], str]
) -> tuple[str, str, tuple[str, ...]]:
    """Last good and first bad commit, and those between them that were skipped.

    Starts from the beginning each time: what `ask` knows already costs nothing.
    """
    run = ("--git-dir", str(repository))
    try:
        git(*run, "bisect", "reset")
        # git wants to come back to where it started; a mirror's HEAD may be on a branch that is
        # not.
        git(*run, "update-ref", "--no-deref", "HEAD", bad)
        printed = git(*run, "bisect", "start", "--no-checkout", bad, good)
        while _FIRST_BAD.search(printed) is None:
            commit = git(*run, "rev-parse", "--verify", "BISECT_HEAD").strip()
            printed = git(*run, "bisect", ask(commit), commit)
    except GitFailed as error:
        if str(error) != _ONLY_SKIPPED:
            raise BadInput(f"git bisect between {good} and {bad}: {error}") from None
    refs = git(*run, "for-each-ref", "--format=%(refname) %(objectname)", "refs/bisect")
    named = [line.split() for line in refs.splitlines()]
    first_bad = next(commit for name, commit in named if name.endswith("/bad"))
    goods = [commit for name, commit in named if "/good-" in name]
    ancestors = git(*run, "rev-list", "--topo-order", f"{first_bad}^@").split()
    last_good = next(commit for commit in ancestors if commit in goods)
    between = ancestors[: ancestors.index(last_good)]
    skips = {commit for name, commit in named if "/skip-" in name}
    return last_good, first_bad, tuple(commit for commit in between if commit in skips)
