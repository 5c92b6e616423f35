"""Releases of an index: in both formats, in order, and never silently none."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.base.errors import BadInput
from harness.environments import listings
from harness.environments.listings import name_of
from harness.gate.releases import between, listed, versions

HTML = """<html><body>
<a href="https://files.example/a/my_pkg-1.10.0-py3-none-any.whl#sha256=1">x</a>
<a href="../../my_pkg-1.9.0.tar.gz">x</a>
<a href="my-pkg-1.9.1%2Blocal.tar.gz">x</a>
<a>no address</a> <a href="">empty</a> <b href="my_pkg-7.0.0.tar.gz">no link</b>
</body></html>"""
JSON = json.dumps(
    {"files": [{"url": "my_pkg-2.0.0rc1.tar.gz"}, {"url": "https://x/my_pkg-1.9.0.tar.gz"}]}
)


def file_names(kind: str, body: str) -> list[str]:
    return [name_of(address) for address in listings.listed(kind, body, "https://x/my-pkg/")]


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


def test_an_item_that_is_no_release_is_named() -> None:
    with pytest.raises(BadInput, match=r"--releases: `4\.46\.x` is no release: write each one"):
        between("4.45.0", "4.47.0", ["4.46.0", "4.46.x"])


def test_an_empty_item_is_ignored() -> None:
    assert between("4.45.0", "4.47.0", ["4.46.0", "", " "]) == ["4.45.0", "4.46.0", "4.47.0"]


def index(folder: Path, text: str) -> dict[str, str]:
    (folder / "my-pkg").mkdir()
    (folder / "my-pkg" / "index.html").write_text(text)
    return {"UV_INDEX_URL": folder.as_uri(), "PIP_INDEX_URL": "file:///nowhere"}


@pytest.mark.parametrize(
    "address",
    [
        "https://me:secret@127.0.0.1:9/simple",
        "http://me:secret@127.0.0.1/simple",  # urllib takes the password for a port
        "mine=http://me:secret@127.0.0.1/simple",
        "ftp2://me:secret@127.0.0.1/simple",
        "https://127.0.0.1:9/simple?token=secret",
        "https://me:no/secret@127.0.0.1/simple",
        "https://me:secret@127.0.0.1:port/simple",
        "me:secret@127.0.0.1",
    ],
)
def test_an_index_that_cannot_be_read_is_named_without_its_password(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(BadInput, match=r"(--releases|UV_DEFAULT_INDEX is no address)") as raised:
        listed("my-pkg", {"UV_DEFAULT_INDEX": address})
    assert "secret" not in str(raised.value)


class LogsIn(http.server.BaseHTTPRequestHandler):
    """An index for one user; it sends on from /moved to another host."""

    wanted = "Basic " + base64.b64encode(b"me@home:s/cret").decode()
    seen: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        login = self.headers.get("Authorization")
        self.seen.append((self.path, login))
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/open/")  # type: ignore[attr-defined]
            self.end_headers()
            return
        self.send_response(200 if login == self.wanted or self.path == "/open/" else 401)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(HTML.encode())

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of an index that takes a login."""
    monkeypatch.setenv("no_proxy", "*")
    LogsIn.seen = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), LogsIn) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["", "mine="])
def test_an_index_that_takes_a_login(private: int, name: str) -> None:
    address = f"{name}http://me%40home:s%2Fcret@127.0.0.1:{private}/simple"
    assert listed("my_pkg", {"UV_DEFAULT_INDEX": address}) == ["1.9.0", "1.9.1+local", "1.10.0"]
    with pytest.raises(BadInput, match="401"):
        listed("my_pkg", {"UV_DEFAULT_INDEX": address.replace("s%2F", "S")})


def test_the_login_is_not_sent_on_to_another_host(private: int) -> None:
    listed("my_pkg", {"UV_DEFAULT_INDEX": f"http://me%40home:s%2Fcret@127.0.0.1:{private}/moved"})
    assert LogsIn.seen == [("/moved/my-pkg/", LogsIn.wanted), ("/open/", None)]


def test_an_empty_index_is_not_no_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
