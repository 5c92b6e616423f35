"""Files are replaced whole; devices, pipes and links stay what they are."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from harness.base.files import expanded, is_stream, replacing, write_text


def test_a_home_is_found_and_an_unknown_user_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/x") == tmp_path / "x"
    assert expanded("~no-such-user/x") == Path("~no-such-user/x")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_text(path, "before")

    def broken() -> None:
        with replacing(path) as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert path.read_text() == "before"
    write_text(path, "é")
    assert path.read_text() == "é"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link, chain = tmp_path / "elsewhere" / "x", tmp_path / "link", tmp_path / "chain"
    link.symlink_to("elsewhere/x")
    chain.symlink_to(link)
    write_text(link, "through a link that names nothing yet")
    write_text(chain, "new")
    assert target.read_text() == "new"
    assert link.is_symlink()
    assert chain.is_symlink()
    assert [p.name for p in target.parent.iterdir()] == ["x"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as reader:
        write_text(path, "text")
        received, _ = reader.communicate(timeout=10)
    assert received == b"text"
    assert stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_device_is_written_to_and_a_full_one_is_named() -> None:
    assert is_stream(Path("/dev/full"))
    with pytest.raises(OSError, match="/dev/full") as caught:
        write_text(Path("/dev/full"), "text")
    assert caught.value.errno == errno.ENOSPC
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)
    write_text(Path(os.devnull), "text")


def test_an_open_file_is_written_to_under_its_names(tmp_path: Path) -> None:
    """A new file in its place would be written, and the open one be what the shell shows."""
    code = (
        "import os; from pathlib import Path; from harness.base.files import write_text\n"
        "print('before', flush=True)\n"
        "for name in ('/dev/stdout', '/dev/fd/1', '/proc/self/fd/1'):\n"
        "    write_text(Path(name), name + '\\n')\n"
    )
    with (tmp_path / "log").open("wb") as stream:
        subprocess.run([sys.executable, "-c", code], stdout=stream, check=True)
    assert (tmp_path / "log").read_text().split() == [
        "before", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1",
    ]  # fmt: skip
    assert not is_stream(Path("/dev/shm/x"))


def test_a_file_that_becomes_too_large_is_named_and_not_left_behind(tmp_path: Path) -> None:
    """As a full disk: the write fails, and knows no name."""
    path = tmp_path / "x"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_text(path, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
