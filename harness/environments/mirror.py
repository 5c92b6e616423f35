"""A bare copy of a git repository in the cache: fetched when asked, checked out by commit."""

import base64
import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from harness.base.progress import Progress
from harness.environments.cache import exclusive, in_one_piece
from harness.environments.git import GitFailed, git

_FETCH_SECONDS = 3600  # a first fetch of a large repository over a slow line

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def is_commit(ref: str) -> bool:
    """Whether ``ref`` is a full commit id, which can never come to mean anything else."""
    return _COMMIT.fullmatch(ref) is not None


class AmbiguousRef(Exception):
    """The name is that of a branch and of a tag, which differ."""


@dataclass(frozen=True)
class Mirror:
    """The repository ``url`` as far as it is in ``cache_dir``.

    ``credentials`` (``user:password``, URL-quoted, for HTTP) are given to git and kept nowhere.
    """

    url: str
    cache_dir: Path
    credentials: str = field(default="", repr=False)

    @property
    def folder(self) -> Path:
        same = self.url.rstrip("/").removesuffix(".git")
        digest = hashlib.sha256(same.encode()).hexdigest()[:12]
        return self.cache_dir / "mirrors" / f"{self._name}-{digest}.git"

    def checkout_folder(self, commit: str) -> Path:
        return self.cache_dir / "checkouts" / f"{self._name}-{commit[:12]}"

    @property
    def _name(self) -> str:
        last = re.split(r"[/:]", self.url.rstrip("/"))[-1].removesuffix(".git")
        return re.sub(r"[^\w.-]", "_", last)

    def update(self, ref: str, progress: Progress) -> None:
        """Fetch all branches and tags, and ``ref``; make the mirror where there is none.

        Raises:
            GitFailed: with git's words.
        """
        with exclusive(self.folder, progress):
            if self.folder.exists():
                progress(f"fetching {self.url}")
                self._fetch(self.folder, ref)
                return
            progress(f"cloning {self.url} (once; a large repository takes minutes)")
            with in_one_piece(self.folder) as partial:
                git("init", "--quiet", "--bare", str(partial))
                # A commit whose branch is gone may still be in a Record.
                git("--git-dir", str(partial), "config", "gc.auto", "0")
                self._fetch(partial, ref)

    def commit_of(self, ref: str) -> str | None:
        """The commit that ``ref`` was when last fetched; None if it was none.

        Raises:
            AmbiguousRef
        """
        if not self.folder.exists():
            return None
        if ref == "HEAD":
            return _rev_parse(self.folder, "refs/remotes/HEAD")
        branch, tag = (_rev_parse(self.folder, f"refs/{kind}/{ref}") for kind in ("heads", "tags"))
        if branch and tag and branch != tag:
            raise AmbiguousRef
        return branch or tag or _rev_parse(self.folder, ref)

    def check_out(self, commit: str, progress: Progress) -> Path:
        """The folder that holds ``commit``, made where there is none.

        Raises:
            GitFailed: with git's words.
        """
        folder = self.checkout_folder(commit)
        if folder.exists():
            return folder
        # The lock of the mirror: nobody fetches into it while its files are linked.
        with exclusive(self.folder, progress):
            if not folder.exists():
                progress(f"checking out {commit[:12]} of {self.url}")
                folder.parent.mkdir(parents=True, exist_ok=True)
                with in_one_piece(folder) as partial:
                    # From a path, clone links all objects, also those that are on no branch.
                    clone = ("clone", "--quiet", "--no-checkout", "--")
                    git(*clone, str(self.folder), str(partial))
                    git("-C", str(partial), "checkout", "--quiet", "--detach", commit)
        return folder

    def _fetch(self, into: Path, ref: str) -> None:
        # Branches and tags are named, because all refs would bring every pull request.
        refs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
        if ref == "HEAD":
            refs.append("+HEAD:refs/remotes/HEAD")
        elif ref.startswith("refs/"):
            refs.append(f"+{ref}:{ref}")
        self._run_fetch(into, "--prune", "--", self.url, *refs)
        if is_commit(ref) and _rev_parse(into, ref) is None:
            # It is on no branch, as a commit of a pull request or of a rewritten branch.
            self._run_fetch(into, "--", self.url, ref)

    def _run_fetch(self, into: Path, *arguments: str) -> None:
        stalled = ("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60")
        fetch = ("--git-dir", str(into), "fetch", "--quiet", "--no-write-fetch-head")
        git(
            *(*stalled, *fetch, *arguments),
            environment=self._authorization(),
            seconds=_FETCH_SECONDS,
        )

    def _authorization(self) -> dict[str, str]:
        """Environment that gives git the credentials: it is in no file, log or command line."""
        if not self.credentials:
            return {}
        count = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
        user, _, password = self.credentials.partition(":")
        basic = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        return {
            "GIT_CONFIG_COUNT": str(count + 1),
            f"GIT_CONFIG_KEY_{count}": f"http.{self.url}.extraHeader",
            f"GIT_CONFIG_VALUE_{count}": f"Authorization: Basic {basic}",
        }


def _rev_parse(repository: Path, name: str) -> str | None:
    options = ("rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}")
    try:
        return git("--git-dir", str(repository), *options).strip()
    except GitFailed:
        return None
