"""Releases of an index: in both formats, in order, and never silently none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import BadInput
from harness.gate.releases import between, file_names, listed, versions

HTML = """<html><body>
<a href="https://files.example/a/my_pkg-1.10.0-py3-none-any.whl#sha256=1">x</a>
<a href="../../my_pkg-1.9.0.tar.gz">x</a>
<a href="my-pkg-1.9.1%2Blocal.tar.gz">x</a>
<a>no address</a> <a href="">empty</a> <b href="my_pkg-7.0.0.tar.gz">no link</b>
</body></html>"""
JSON = json.dumps(
    {"files": [{"filename": "my_pkg-2.0.0rc1.tar.gz"}, {"filename": "my_pkg-1.9.0.tar.gz"}]}
)


def test_both_formats() -> None:
    assert versions("my-pkg", file_names("text/html", HTML)) == ["1.9.0", "1.9.1+local", "1.10.0"]
    found = versions("my.pkg", file_names("application/vnd.pypi.simple.v1+json", JSON))
    assert found == ["1.9.0", "2.0.0rc1"]


def test_what_is_no_release_is_left_out() -> None:
    names = ["my_pkg-1.0-py2.7.egg", "other-1.0.tar.gz", "my_pkg-1.0.exe", "x", "my_pkg-2.0.zip"]
    assert versions("my_pkg", names) == ["2.0"]


def test_between() -> None:
    known = ["4.9.0", "4.10.0", "4.10.1", "4.11.0rc1", "4.11.0", "5.0.0", "4.10.0+x"]
    assert between("4.9.0", "4.11.0", known) == ["4.9.0", "4.10.0", "4.10.1", "4.11.0"]
    assert between("4.11.0", "4.9.0", known) == ["4.11.0", "4.10.1", "4.10.0", "4.9.0"]
    assert between("4.10.1", "4.11.0rc1", known) == ["4.10.1", "4.11.0rc1"]


def index(folder: Path, text: str) -> dict[str, str]:
    (folder / "my-pkg").mkdir()
    (folder / "my-pkg" / "index.html").write_text(text)
    return {"UV_INDEX_URL": folder.as_uri(), "PIP_INDEX_URL": "file:///nowhere"}


def test_an_index_that_cannot_be_read_is_named_without_its_password() -> None:
    with pytest.raises(BadInput, match="--releases") as raised:
        listed("my-pkg", {"UV_DEFAULT_INDEX": "https://me:secret@127.0.0.1:9/simple"})
    assert "secret" not in str(raised.value)


def test_an_empty_index_is_not_no_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    index(tmp_path, HTML)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "index.html").write_text("<html></html>")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = {"PIP_INDEX_URL": f"http://127.0.0.1:{server.server_port}/"}
            assert listed("my_pkg", address) == ["1.9.0", "1.9.1+local", "1.10.0"]
            with pytest.raises(BadInput, match="lists no release of empty"):
                listed("empty", address)
            with pytest.raises(BadInput, match="cannot be listed"):
                listed("missing", address)
        finally:
            server.shutdown()
            thread.join()
