"""Wheels that a user names: a file, of a folder, of a page; and what is refused."""

from __future__ import annotations

import functools
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from harness.base.errors import BadInput
from harness.environments.sources import Package, parse_source, resolve
from harness.environments.wheels import WheelSource, listed, parse_wheel, wheel_of
from harness.gate.refs import parse
from harness.gate.releases import of_one_list

PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
TRANSFORMERS = Package("transformers", "https://github.com/huggingface/transformers", on_pypi=True)


def name(version: str, package: str = "torch_xla", tag: str | None = None) -> str:
    return f"{package}-{version}-{tag or f'{PYTHON}-{PYTHON}-linux_x86_64'}.whl"


NIGHTLIES = [
    name("2.10.0.dev20251103"), name("2.10.0.dev20251101"), name("2.10.0.dev20251102%2Bcxx11"),
    name("2.10.0.dev20251102"), name("2.10.0.dev20251104", tag="cp27-cp27m-linux_x86_64"),
    name("2.10.0.dev20251105", package="torch"), "torch_xla-nightly.tar.gz", "notes.txt",
]  # fmt: skip


class Served(http.server.SimpleHTTPRequestHandler):
    """A folder; what has a query is a bucket's list."""

    def guess_type(self, path: object) -> str:
        return "application/xml" if "?" in self.path else super().guess_type(path)  # type: ignore[arg-type]

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a host with a page of nightlies, an index of them, and a bucket."""
    folder = tmp_path_factory.mktemp("host")
    links = "".join(f'<a href="wheels/{n}#sha256=0">{n}</a>' for n in NIGHTLIES)
    (folder / "nightly.html").write_text(f"<html>{links}</html>")
    (folder / "empty.html").write_text("<html></html>")
    simple = folder / "simple" / "torch-xla"
    simple.mkdir(parents=True)
    (simple / "index.html").write_text(f"<html>{links}</html>")
    keys = "".join(f"<Contents><Key>tpuvm/{unquote(n)}</Key></Contents>" for n in NIGHTLIES)
    for file, more in (("bucket", "false"), ("large", "true")):
        (folder / file).write_text(
            f'<ListBucketResult xmlns="http://doc.s3.amazonaws.com/2006-03-01">'
            f"<IsTruncated>{more}</IsTruncated>{keys}</ListBucketResult>"
        )
    handler = functools.partial(Served, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def found(text: str, package: str = "torch_xla") -> WheelSource:
    source = parse_wheel(text, package, in_git=package == "transformers")
    assert source is not None
    return source


class TestPages:
    def test_the_newest_that_this_python_can_install(self, host: str) -> None:
        wheel = wheel_of(found(f"{host}/nightly.html"))
        assert wheel.address == f"{host}/wheels/{name('2.10.0.dev20251103')}"
        assert str(wheel.version) == "2.10.0.dev20251103"

    @pytest.mark.parametrize("wanted", ["20251101", "2.10.0.dev20251101"])
    def test_one_by_its_day_or_its_version(self, host: str, wanted: str) -> None:
        wheel = wheel_of(found(f"{host}/nightly.html@{wanted}"))
        assert wheel.address.endswith(name("2.10.0.dev20251101"))

    def test_the_same_of_an_index_and_of_a_bucket(self, host: str) -> None:
        of_page = [w.version for w in listed(found(f"{host}/nightly.html"))]
        assert len(of_page) == 4
        assert [w.version for w in listed(found(f"{host}/simple/torch-xla/"))] == of_page
        bucket = listed(found(f"{host}/bucket?prefix=tpuvm/"))
        assert [w.version for w in bucket] == of_page
        assert bucket[0].address == f"{host}/bucket/tpuvm/{name('2.10.0.dev20251101')}"

    @pytest.mark.parametrize(
        ("page", "why"),
        [
            ("nightly.html@20251104", "no wheel of torch_xla there is of 20251104"),
            ("nightly.html@yesterday", r"or by its day, such as 20251101"),
            ("empty.html", "of this Python and machine"),
            ("none.html", "cannot be read: HTTP Error 404"),
            ("large?prefix=", "name a longer prefix"),
        ],
    )
    def test_refused(self, host: str, page: str, why: str) -> None:
        with pytest.raises(BadInput, match=why):
            wheel_of(found(f"{host}/{page}"))

    def test_a_search_by_day_walks_every_nightly_between(self, host: str) -> None:
        first, last = (found(f"{host}/nightly.html@2025110{day}") for day in (1, 3))
        days = [source.wanted for source in of_one_list(first, last)]
        assert days == [
            "2.10.0.dev20251101", "2.10.0.dev20251102", "2.10.0.dev20251102+cxx11",
            "2.10.0.dev20251103",
        ]  # fmt: skip
        assert [s.wanted for s in of_one_list(last, first)] == days[::-1]
        assert all(parse(f"torch_xla@{s}").parsed == s for s in of_one_list(first, last))
        with pytest.raises(BadInput, match="of one folder or page"):
            of_one_list(first, found(f"{host}/simple/torch-xla/@20251103"))


class TestFolders:
    def test_the_only_one(self, tmp_path: Path) -> None:
        (tmp_path / name("2.9.0")).write_bytes(b"x")
        (tmp_path / name("2.9.0", package="torch")).touch()
        wheel = wheel_of(found(str(tmp_path)))
        assert wheel.address == (tmp_path / name("2.9.0")).as_uri()
        assert wheel == wheel_of(found(str(tmp_path / name("2.9.0"))))

    def test_one_of_several_by_its_version(self, tmp_path: Path) -> None:
        for version in ("2.9.0", "2.9.1"):
            (tmp_path / name(version)).touch()
        with pytest.raises(BadInput, match=r"@VERSION: 2\.9\.0, 2\.9\.1"):
            wheel_of(found(str(tmp_path)))
        assert str(wheel_of(found(f"{tmp_path}@2.9.0")).version) == "2.9.0"

    def test_a_folder_without_any_is_none(self, tmp_path: Path) -> None:
        assert parse_wheel(str(tmp_path), "torch_xla", in_git=False) is None


class TestTransformers:
    """A package that is in git as well."""

    def test_a_wheel_is_a_source(self, tmp_path: Path) -> None:
        path = tmp_path / "transformers-5.0.0.dev0-py3-none-any.whl"
        path.write_bytes(b"one")
        checkout = resolve(parse_source(str(path), TRANSFORMERS), tmp_path)
        assert (checkout.version, checkout.wheel) == ("5.0.0.dev0", path.as_uri())
        path.write_bytes(b"two")
        again = resolve(parse_source(str(path), TRANSFORMERS), tmp_path)
        assert again.dirty != checkout.dirty  # another run, of the same version

    @pytest.mark.parametrize(
        "text",
        ["https://h.io/o/transformers@main", "https://h.io/o/transformers/@v1", "main"],
    )
    def test_an_address_of_a_repository_is_no_page(self, text: str) -> None:
        assert parse_wheel(text, "transformers", in_git=True) is None

    def test_a_page_is_one(self) -> None:
        source = found("https://h.io/simple/transformers/@5.0.0", "transformers")
        assert (source.place, source.wanted) == ("https://h.io/simple/transformers/", "5.0.0")
