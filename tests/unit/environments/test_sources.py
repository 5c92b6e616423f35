"""Where the code of an engine comes from, and which code exactly it is."""

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from harness.base.errors import BadInput
from harness.base.secrets import redact
from harness.environments.folders import copy_code
from harness.environments.git import _words
from harness.environments.sources import (
    Checkout,
    GitSource,
    Package,
    PathSource,
    PypiSource,
    cached,
    default_cache_dir,
    parse_source,
    resolve,
)

HF = "https://github.com/huggingface/transformers"
TRANSFORMERS = Package("transformers", HF, on_pypi=True)
TORCHPRIME = Package("torchprime", "https://github.com/AI-Hypercomputer/torchprime")


def run_git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, content: str) -> str:
    (folder / "code.py").write_text(content)
    run_git(folder, "add", "--all")
    run_git(folder, "commit", "--quiet", "--message", content)
    return run_git(folder, "rev-parse", "HEAD")


@pytest.fixture(autouse=True)
def only_our_git_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with one commit on ``main``, tagged ``v1.0``."""
    folder = tmp_path / "origin"
    folder.mkdir()
    run_git(folder, "init", "--quiet", "--initial-branch", "main")
    (folder / ".gitignore").write_text("*.log\n")
    commit(folder, "one")
    run_git(folder, "tag", "v1.0")
    return folder


def source(origin: Path, ref: str) -> GitSource:
    return GitSource(f"file://{origin}", ref)


# --- parse_source -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4.57.6", PypiSource("transformers", "4.57.6")),
        (" 4.57.6 ", PypiSource("transformers", "4.57.6")),
        ("5.0.0rc1", PypiSource("transformers", "5.0.0rc1")),
        ("v4.57.6", GitSource(HF, "v4.57.6")),
        ("refs/tags/4.57.6", GitSource(HF, "refs/tags/4.57.6")),
        ("main", GitSource(HF, "main")),
        ("HEAD", GitSource(HF, "HEAD")),
        ("feature/rope", GitSource(HF, "feature/rope")),
        ("1234567", GitSource(HF, "1234567")),
        ("1b23456", GitSource(HF, "1b23456")),  # as a version: 1 beta 23456
        ("pr/1234", GitSource(HF, "refs/pull/1234/head")),
        ("refs/pull/1234/head", GitSource(HF, "refs/pull/1234/head")),
        ("refs/heads/pr/12", GitSource(HF, "refs/heads/pr/12")),
        ("https://host/org/repo@main", GitSource("https://host/org/repo", "main")),
        ("https://host/org/repo.git@a/b", GitSource("https://host/org/repo.git", "a/b")),
        ("https://host/org/repo@pr/7", GitSource("https://host/org/repo", "refs/pull/7/head")),
        ("http://host:8080/repo@v1", GitSource("http://host:8080/repo", "v1")),
        ("git@host:org/repo@main", GitSource("git@host:org/repo", "main")),
        ("ssh://git@host/org/repo@main", GitSource("ssh://git@host/org/repo", "main")),
        ("file:///folder/repo@main", GitSource("file:///folder/repo", "main")),
        ("org/repo@main", GitSource("https://github.com/org/repo", "main")),
        ("org/repo@a/b", GitSource("https://github.com/org/repo", "a/b")),
    ],
)
def test_forms(text: str, expected: object) -> None:
    assert parse_source(text, TRANSFORMERS) == expected


def test_a_ref_is_looked_up_in_the_packages_own_repository() -> None:
    assert parse_source("main", TORCHPRIME) == GitSource(TORCHPRIME.repository, "main")


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "some" / "checkout"
    checkout.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in (str(checkout), "some/checkout", "./some/checkout", "~/some/checkout"):
        assert parse_source(text, TORCHPRIME) == PathSource(checkout)
    assert parse_source("some/", TORCHPRIME) == PathSource(tmp_path / "some")
    assert parse_source(".", TORCHPRIME) == PathSource(tmp_path)


def test_a_folder_with_a_slash_wins_over_a_branch_and_over_the_github_shorthand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("feature/rope", "org/repo@main"):
        (tmp_path / name).mkdir(parents=True)
        assert parse_source(name, TRANSFORMERS) == PathSource(tmp_path / name)
    assert parse_source("refs/heads/feature/rope", TRANSFORMERS) == GitSource(
        HF, "refs/heads/feature/rope"
    )


def test_a_single_word_is_a_ref_even_where_a_folder_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main").mkdir()
    assert parse_source("main", TRANSFORMERS) == GitSource(HF, "main")
    assert parse_source("./main", TRANSFORMERS) == PathSource(tmp_path / "main")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "--upload-pack=touch",
        "two words",
        "a..b",
        "main~1",
        "main^{/fix}",
        "main:setup.py",
        "@",
        "main@{yesterday}",
        "/no/such/folder",
        "./no-such-folder",
        "~no-such-user/checkout",
        "https://host/org/repo",
        "https://host/org/repo@",
        "https://user@host/org/repo",
        "https://host/org/repo@--force",
        "https://host/org/repo?token=x@main",
        "ftp://host/repo@main",
        "git@host:org/repo",
        "host/org/repo@main",
        "ext::sh -c true@main",
    ],
)
def test_what_is_no_source_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(BadInput, match=r"A source of transformers is a release on PyPI") as caught:
        parse_source(text, TRANSFORMERS)
    assert text == "" or "token" in text or text in str(caught.value).replace("***@", "user@")
    assert "\n" not in str(caught.value)


def test_torchprime_has_no_release() -> None:
    with pytest.raises(BadInput, match="no releases on PyPI"):
        parse_source("0.1.0", TORCHPRIME)


# --- credentials ------------------------------------------------------------------------------


def test_credentials_are_kept_apart_and_not_shown() -> None:
    found = parse_source("https://me:s3cret@host/org/repo@main", TRANSFORMERS)
    assert isinstance(found, GitSource)
    assert found.url == "https://host/org/repo"
    assert found.credentials == "me:s3cret"
    assert "s3cret" not in repr(found) + str(found)


@pytest.mark.parametrize(
    "text",
    [
        "https://me:s3cret@host/org/repo",
        "https://me:s3cret@host/org/repo@a..b",
        "https://me:s3/cret@host/org/repo@main",
        "https://s3cret@host/org/repo@",
        "https://host/org/repo?token=s3cret@main",
        "ssh://me:s3cret@host/org/repo@main",
    ],
)
def test_credentials_are_not_in_an_error(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_source(text, TRANSFORMERS)
    assert "s3" not in str(caught.value)
    assert "cret" not in str(caught.value)


def test_redact_leaves_the_rest() -> None:
    text = (
        "fatal: unable to access 'https://me:s3cret@host/r/': ssh://git:p@h/r https://h/r?key=s x"
    )
    assert redact(text) == (
        "fatal: unable to access 'https://***@host/r/': ssh://git:***@h/r https://h/r?*** x"
    )
    assert redact("git@host:org/repo@main") == "git@host:org/repo@main"


def test_what_git_says_is_shortened_and_redacted() -> None:
    said = "Cloning...\nremote: Not found.\nfatal: unable to access 'https://me:s3cret@host/r/'\n"
    assert _words(said) == "remote: Not found. fatal: unable to access 'https://***@host/r/'"
    assert _words("Permission denied (publickey).\n") == "Permission denied (publickey)"
    assert _words("") == ""


@pytest.fixture
def refusing_server() -> Iterator[tuple[str, list[str | None]]]:
    """A server that asks for a password, refuses every one, and keeps what it was sent."""
    seen: list[str | None] = []

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="private"')
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refuse) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


def test_credentials_reach_the_server_and_nothing_else(
    refusing_server: tuple[str, list[str | None]], cache: Path, tmp_path: Path
) -> None:
    host, seen = refusing_server
    wanted = parse_source(f"http://me:s3%2Fcret@{host}/org/repo@main", TRANSFORMERS)
    with pytest.raises(BadInput, match="cannot be fetched") as caught:
        resolve(wanted, cache)
    assert f"Basic {base64.b64encode(b'me:s3/cret').decode()}" in seen
    assert "cret" not in str(caught.value)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"cret" in content for content in written)


def test_a_server_that_wants_a_password_is_an_error_and_not_a_question(
    refusing_server: tuple[str, list[str | None]], cache: Path
) -> None:
    host, seen = refusing_server
    with pytest.raises(BadInput, match=f"http://{host}/repo@main cannot be fetched"):
        resolve(GitSource(f"http://{host}/repo", "main"), cache)
    assert seen


# --- git repositories -------------------------------------------------------------------------


def test_a_branch_a_tag_a_commit_and_head_are_checked_out(origin: Path, cache: Path) -> None:
    first = run_git(origin, "rev-parse", "HEAD")
    second = commit(origin, "two")
    for ref, expected in {
        "v1.0": first,
        "refs/tags/v1.0": first,
        first: first,
        first[:8]: first,
        "main": second,
        "HEAD": second,
    }.items():
        found = resolve(source(origin, ref), cache)
        assert found.commit == expected
        assert found.path is not None
        assert (found.path / "code.py").read_text() == ("one" if expected == first else "two")
        assert found.dirty is None
        assert found.description == f"file://{origin}@{ref} ({expected[:12]})"
        assert found.path == cache / "checkouts" / f"origin-{expected[:12]}"


def test_a_branch_that_moved_is_fetched_and_the_old_checkout_stays(
    origin: Path, cache: Path
) -> None:
    first = resolve(source(origin, "main"), cache)
    commit(origin, "two")
    run_git(origin, "commit", "--quiet", "--amend", "--message", "rewritten")
    second = resolve(source(origin, "main"), cache)
    assert second.commit == run_git(origin, "rev-parse", "HEAD")
    assert first.path is not None
    assert second.path is not None
    assert (first.path / "code.py").read_text() == "one"
    assert (second.path / "code.py").read_text() == "two"


def test_a_branch_that_was_deleted_is_not_found_any_more(origin: Path, cache: Path) -> None:
    run_git(origin, "branch", "topic")
    resolve(source(origin, "topic"), cache)
    run_git(origin, "branch", "--delete", "topic")
    with pytest.raises(BadInput, match="no branch, tag or commit 'topic'"):
        resolve(source(origin, "topic"), cache)


def test_a_known_commit_needs_no_network_and_one_clone_serves_all(
    origin: Path, cache: Path
) -> None:
    lines: list[str] = []
    first = run_git(origin, "rev-parse", "HEAD")
    second = commit(origin, "two")
    resolve(source(origin, "main"), cache, lines.append)
    assert [line.split()[0] for line in lines] == ["cloning", "checking"]
    origin.rename(origin.with_name("gone"))
    assert resolve(source(origin, first), cache).commit == first
    assert resolve(source(origin, second), cache).commit == second
    assert len(list((cache / "mirrors").glob("*.git"))) == 1


def test_cached_is_what_is_there_without_the_network(origin: Path, cache: Path) -> None:
    assert cached(source(origin, "main"), cache) is None
    first = resolve(source(origin, "main"), cache)
    commit(origin, "two")
    assert cached(source(origin, "main"), cache) == first
    assert cached(source(origin, "no-such-branch"), cache) is None
    assert cached(PypiSource("transformers", "4.57.6"), cache) is not None


def test_with_and_without_dot_git_is_one_repository(origin: Path, cache: Path) -> None:
    resolve(source(origin, "main"), cache)
    assert cached(GitSource(f"file://{origin}.git/", "main"), cache) is not None


def test_a_pull_request_and_a_commit_that_is_on_no_branch(origin: Path, cache: Path) -> None:
    run_git(origin, "checkout", "--quiet", "--detach")
    proposed = commit(origin, "proposed")
    run_git(origin, "update-ref", "refs/pull/7/head", proposed)
    unnamed = commit(origin, "on no branch")
    run_git(origin, "checkout", "--quiet", "main")
    resolve(source(origin, "main"), cache)
    text = f"file://{origin}@pr/7"
    assert resolve(parse_source(text, TRANSFORMERS), cache).commit == proposed
    assert resolve(source(origin, unnamed), cache).commit == unnamed


def test_a_name_of_both_a_branch_and_a_tag_is_refused(origin: Path, cache: Path) -> None:
    second = commit(origin, "two")
    run_git(origin, "branch", "v1.0")
    with pytest.raises(BadInput, match=r"both a branch and a tag.*refs/heads/v1.0"):
        resolve(source(origin, "v1.0"), cache)
    assert resolve(source(origin, "refs/heads/v1.0"), cache).commit == second


@pytest.mark.parametrize("ref", ["no-such", "refs/pull/99/head", "0" * 40, "0" * 8])
def test_a_ref_that_does_not_exist(ref: str, origin: Path, cache: Path) -> None:
    with pytest.raises(BadInput, match=f"no branch, tag or commit '{ref}'") as caught:
        resolve(source(origin, ref), cache)
    assert f"file://{origin}" in str(caught.value)


def test_a_missing_ref_that_is_a_folder_is_told_so(
    origin: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(origin.parent)
    with pytest.raises(BadInput, match=r"folder of that name here is written \./origin"):
        resolve(source(origin, "origin"), cache)


def test_a_file_that_is_no_commit_is_no_ref(origin: Path, cache: Path) -> None:
    blob = run_git(origin, "rev-parse", "HEAD:code.py")
    with pytest.raises(BadInput, match="no branch, tag or commit"):
        resolve(source(origin, blob), cache)


def test_a_repository_that_is_not_there(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere@main cannot be fetched: .*name a local checkout"):
        resolve(source(tmp_path / "nowhere", "main"), cache)
    assert not list((cache / "mirrors").glob("*.git*/"))


def test_when_the_network_is_gone_the_error_names_the_commit_that_is_known(
    origin: Path, cache: Path
) -> None:
    known = resolve(source(origin, "main"), cache).commit
    origin.rename(origin.with_name("gone"))
    with pytest.raises(BadInput, match=f"it was {known}: name that commit"):
        resolve(source(origin, "main"), cache)


def test_without_git(origin: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadInput, match="git is not installed"):
        resolve(source(origin, "main"), cache)


def test_what_an_interrupted_clone_left_is_made_again(origin: Path, cache: Path) -> None:
    found = resolve(source(origin, "main"), cache)
    assert found.path is not None
    mirror = next((cache / "mirrors").glob("*.git"))
    for whole in (mirror, found.path):
        whole.rename(f"{whole}.partial")
        (whole.with_name(f"{whole.name}.partial") / "code.py").write_text("half")
    assert cached(source(origin, "main"), cache) is None
    assert resolve(source(origin, "main"), cache) == found
    assert (found.path / "code.py").read_text() == "one"
    assert not list(cache.glob("*/*.partial"))


def test_two_at_a_time(origin: Path, cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: resolve(source(origin, "main"), cache), range(4)))
    assert len(set(found)) == 1
    assert found[0].dirty is None


def test_git_variables_of_a_hook_do_not_turn_us_to_another_repository(
    origin: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    run_git(other, "init", "--quiet")
    commit(other, "other")
    expected = run_git(origin, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert resolve(source(origin, "main"), cache).commit == expected
    assert resolve(PathSource(origin), cache).commit == expected


def test_an_edited_cached_checkout_is_dirty_and_a_moved_one_refused(
    origin: Path, cache: Path
) -> None:
    first = run_git(origin, "rev-parse", "HEAD")
    commit(origin, "two")
    found = resolve(source(origin, "main"), cache)
    assert found.path is not None
    (found.path / "code.py").write_text("edited")
    assert resolve(source(origin, "main"), cache).dirty is not None
    run_git(found.path, "checkout", "--quiet", "--force", first)
    with pytest.raises(BadInput, match=r"no longer at commit .* delete that folder"):
        resolve(source(origin, "main"), cache)


def test_a_cache_that_cannot_be_written(origin: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="set PARITY_CACHE"):
        resolve(source(origin, "main"), tmp_path / "file" / "cache")


# --- folders ----------------------------------------------------------------------------------


def look(folder: Path) -> Checkout:
    return resolve(PathSource(folder), folder / "unused")


def test_a_clean_checkout(origin: Path) -> None:
    (origin / "trainer.log").write_text("ignored by .gitignore")
    head = run_git(origin, "rev-parse", "HEAD")
    assert look(origin) == Checkout(origin, head, None, f"{origin} ({head[:12]})")


def test_every_change_is_another_state(origin: Path) -> None:
    states = {look(origin).dirty}

    def changed() -> None:
        now = look(origin)
        assert now.dirty not in states
        assert now.dirty is not None
        assert f"with uncommitted content {now.dirty[:12]}" in now.description
        states.add(now.dirty)

    code = origin / "code.py"
    code.write_text("two")
    changed()
    code.write_text("owt")
    changed()
    code.chmod(0o755)
    changed()
    code.unlink()
    changed()
    code.symlink_to("one")
    changed()
    code.unlink()
    code.write_text("one")
    assert look(origin).dirty is None
    (origin / "new.py").write_text("a")
    changed()
    (origin / "new.py").rename(origin / "renamed.py")
    changed()
    nested = origin / "nested"
    nested.mkdir()
    run_git(nested, "init", "--quiet")
    (nested / "inside.py").write_text("a")
    changed()
    (nested / "inside.py").write_text("b")
    changed()


def test_staging_a_change_changes_nothing(origin: Path) -> None:
    (origin / "code.py").write_text("two")
    before = look(origin)
    run_git(origin, "add", "--all")
    assert look(origin) == before


def test_contents_are_not_confused_with_names(tmp_path: Path) -> None:
    for name, target in {"a": "linkb", "alink": "b"}.items():
        folder = tmp_path / f"of-{name}"
        folder.mkdir()
        (folder / name).symlink_to(target)
    assert look(tmp_path / "of-a").dirty != look(tmp_path / "of-alink").dirty


def test_the_users_git_settings_do_not_change_the_state(
    origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (origin / "code.py").rename(origin / "moved.py")
    before = look(origin)
    settings = tmp_path / "gitconfig"
    settings.write_text("[diff]\nnoprefix = true\nexternal = /bin/false\nrenames = copies\n")
    run_git(origin, "add", "--all")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    assert look(origin) == before


def test_a_folder_within_another_checkout_does_not_get_its_commit(origin: Path) -> None:
    inner = origin / "unpacked"
    inner.mkdir()
    (inner / "code.py").write_text("one")
    found = look(inner)
    assert found.commit is None
    assert found.dirty is not None
    assert "not a git checkout" in found.description
    (inner / "__pycache__").mkdir()
    (inner / "__pycache__" / "code.pyc").write_text("made by running it")
    assert look(inner) == found
    (inner / "code.py").write_text("two")
    assert look(inner).dirty != found.dirty


def test_a_worktree_is_a_checkout(origin: Path, tmp_path: Path) -> None:
    run_git(origin, "worktree", "add", "--quiet", "--detach", str(tmp_path / "tree"))
    assert look(tmp_path / "tree").commit == run_git(origin, "rev-parse", "HEAD")


def test_a_broken_checkout_and_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "broken" / ".git").mkdir(parents=True)
    with pytest.raises(BadInput, match="broken cannot be read"):
        look(tmp_path / "broken")
    with pytest.raises(BadInput, match="There is no folder"):
        look(tmp_path / "missing")


def test_a_release_is_its_number(cache: Path) -> None:
    found = resolve(PypiSource("transformers", "4.57.6"), cache)
    assert found == Checkout(None, None, None, "transformers 4.57.6 from PyPI", "4.57.6")


def test_copy_code_takes_what_git_knows_and_new_files(origin: Path, tmp_path: Path) -> None:
    (origin / "new.py").write_text("new")
    (origin / "trainer.log").write_text("ignored")
    (origin / "package").mkdir()
    (origin / "package" / "link").symlink_to("../code.py")
    run_git(origin, "add", "--all")
    (origin / ".gitignore").unlink()
    (origin / ".git" / "info" / "exclude").write_text("*.log\n")
    copy_code(origin, tmp_path / "copy")
    copied = {str(p.relative_to(tmp_path / "copy")) for p in (tmp_path / "copy").rglob("*")}
    assert copied == {"code.py", "new.py", "package", "package/link"}
    assert (tmp_path / "copy" / "package" / "link").is_symlink()
    (origin / "__pycache__").mkdir()
    (origin / ".git").rename(tmp_path / "git-data")
    copy_code(origin, tmp_path / "plain")
    assert {p.name for p in (tmp_path / "plain").iterdir()} == {
        "code.py",
        "new.py",
        "package",
        "trainer.log",
    }


# --- the cache --------------------------------------------------------------------------------


def test_default_cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PARITY_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == tmp_path / ".cache" / "parity-harness"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_dir() == Path("/xdg/parity-harness")
    monkeypatch.setenv("PARITY_CACHE", "~/mine")
    assert default_cache_dir() == tmp_path / "mine"
