"""What has to come from the hub is looked for before anything is launched."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.base.errors import BadInput
from harness.train import hub
from harness.train.hub import HubReference, check

TOKEN = "hf_abcdefgh1234"
MODEL = HubReference("tokenizer_name", "model", "org/model")


class Hub(ThreadingHTTPServer):
    """A hub that knows what a test puts on it, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("localhost", 0), Handler)
        self.pages: dict[str, tuple[int, dict[str, str]]] = {}
        self.requested: list[tuple[str, str | None]] = []
        self.url = f"http://localhost:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Hub)
        self.server.requested.append((self.path, self.headers.get("Authorization")))
        status, headers = self.server.pages.get(self.path, (404, {}))
        if headers.get("needs") and self.headers.get("Authorization") != headers["needs"]:
            status = 401
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def environment(server: Hub, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}


def ignore(_: str) -> None:
    pass


CONFIG = "/org/model/resolve/main/config.json"
WHOAMI = "/api/whoami-v2"


class TestHere:
    def test_a_folder_is_not_asked_for(self, server: Hub, environment: dict[str, str]) -> None:
        folder = environment["HF_HOME"]
        Path(folder).mkdir()
        check([HubReference("tokenizer_name", "model", folder)], environment, [], ignore)
        assert server.requested == []

    @pytest.mark.parametrize("where", ["home/hub", "named"])
    def test_nor_what_the_cache_has(
        self, server: Hub, environment: dict[str, str], tmp_path: Path, where: str
    ) -> None:
        (tmp_path / where / "models--org--model").mkdir(parents=True)
        check([MODEL], {**environment, "HF_HUB_OFFLINE": "1"}, [tmp_path / "named"], ignore)
        assert server.requested == []

    @pytest.mark.parametrize("built", ["org___text", "text", "datasets--org--text"])
    def test_nor_a_data_set_that_was_built(
        self, environment: dict[str, str], tmp_path: Path, built: str
    ) -> None:
        (tmp_path / "named" / built).mkdir(parents=True)
        named = HubReference("dataset_name", "dataset", "org/text")
        check([named], {**environment, "HF_DATASETS_OFFLINE": "1"}, [tmp_path / "named"], ignore)

    @pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
    def test_offline_and_not_here(self, environment: dict[str, str], variable: str) -> None:
        with pytest.raises(BadInput, match=f"tokenizer_name=org/model .*{variable} forbids"):
            check([MODEL], {**environment, variable: "1"}, [], ignore)

    def test_another_models_cache_is_not_this_ones(
        self, environment: dict[str, str], tmp_path: Path
    ) -> None:
        (tmp_path / "home/hub/models--org--model2").mkdir(parents=True)
        with pytest.raises(BadInput, match="org/model "):
            check([MODEL], {**environment, "HF_HUB_OFFLINE": "1"}, [], ignore)


class TestThere:
    def test_it_is_found(self, server: Hub, environment: dict[str, str]) -> None:
        server.pages[CONFIG] = (200, {})
        server.pages["/api/datasets/wikitext"] = (200, {})
        check([MODEL, HubReference("d", "dataset", "wikitext")], environment, [], ignore)
        assert [path for path, _ in server.requested] == [CONFIG, "/api/datasets/wikitext"]

    def test_a_repository_without_that_file_is_one(
        self, server: Hub, environment: dict[str, str]
    ) -> None:
        server.pages[CONFIG] = (404, {"X-Error-Code": "EntryNotFound"})
        check([MODEL], environment, [], ignore)

    @pytest.mark.parametrize("status", [401, 404])
    def test_it_is_not_there(self, server: Hub, environment: dict[str, str], status: int) -> None:
        server.pages[CONFIG] = (status, {"X-Error-Code": "RepoNotFound"})
        with pytest.raises(BadInput, match=r"org/model is no folder here.*correct the name"):
            check([MODEL], environment, [], ignore)

    def test_it_is_gated(self, server: Hub, environment: dict[str, str]) -> None:
        server.pages[CONFIG] = (403, {"X-Error-Code": "GatedRepo"})
        with pytest.raises(BadInput, match=r"org/model is gated: accept its conditions.*HF_TOKEN"):
            check([MODEL], environment, [], ignore)

    def test_a_hub_in_trouble_is_not_judged(self, server: Hub, environment: dict[str, str]) -> None:
        server.pages[CONFIG] = (503, {})
        check([MODEL], environment, [], ignore)

    def test_no_network(self, environment: dict[str, str]) -> None:
        # The port of a server that is closed: nobody listens.
        with Hub() as gone:
            url = gone.url
        with pytest.raises(BadInput, match=f"{url} cannot be reached"):
            check([MODEL], {**environment, "HF_ENDPOINT": url}, [], ignore)

    @pytest.mark.parametrize(
        "address", ["hf-mirror.com", "hf-mirror.com:443", "ftp://hf-mirror.com"]
    )
    def test_an_address_without_a_scheme(self, environment: dict[str, str], address: str) -> None:
        with pytest.raises(BadInput, match=r"HF_ENDPOINT=.* write HF_ENDPOINT=https://hf-mirror"):
            check([MODEL], {**environment, "HF_ENDPOINT": address}, [], ignore)

    @pytest.mark.parametrize(
        "address", ["https://me:s3cret@hub", "me:s3cret@hub", "http://s3cret@"]
    )
    def test_an_address_with_a_password(self, environment: dict[str, str], address: str) -> None:
        with pytest.raises(BadInput, match="set HF_TOKEN in place of it") as raised:
            check([MODEL], {**environment, "HF_ENDPOINT": address}, [], ignore)
        assert "s3cret" not in str(raised.value)

    def test_an_empty_address(self, environment: dict[str, str]) -> None:
        # huggingface_hub does not take its default then: the run would find no host.
        with pytest.raises(BadInput, match=r"HF_ENDPOINT is empty.*unset it"):
            check([MODEL], {**environment, "HF_ENDPOINT": ""}, [], ignore)


class TestToken:
    @pytest.fixture
    def environment(self, server: Hub, tmp_path: Path) -> dict[str, str]:
        server.pages[WHOAMI] = (200, {"needs": f"Bearer {TOKEN}"})
        server.pages[CONFIG] = (200, {"needs": f"Bearer {TOKEN}"})
        return {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}

    def test_it_logs_in(self, server: Hub, environment: dict[str, str]) -> None:
        notes: list[str] = []
        check([MODEL], environment, [], notes.append)
        assert server.requested == [(WHOAMI, f"Bearer {TOKEN}"), (CONFIG, f"Bearer {TOKEN}")]
        assert notes == [f"HF_TOKEN: {server.url} accepts it"]

    def test_it_is_refused_and_not_shown(self, environment: dict[str, str]) -> None:
        with pytest.raises(BadInput, match="HF_TOKEN is refused") as error:
            check([MODEL], {**environment, "HF_TOKEN": "hf_wrong"}, [], ignore)
        assert "hf_wrong" not in str(error.value)

    @pytest.mark.parametrize("token", ["hf_abc\n", " hf_abc", "hf_äbc", "hf\tabc"])
    def test_it_cannot_be_one(self, server: Hub, environment: dict[str, str], token: str) -> None:
        with pytest.raises(BadInput, match="HF_TOKEN has blanks"):
            check([MODEL], {**environment, "HF_TOKEN": token}, [], ignore)
        assert server.requested == []

    def test_it_is_not_used_where_nothing_is_fetched(
        self, server: Hub, environment: dict[str, str]
    ) -> None:
        check([], environment, [], ignore)
        assert server.requested == []

    def test_it_follows_to_a_new_name(self, server: Hub, environment: dict[str, str]) -> None:
        server.pages["/new/name/resolve/main/config.json"] = server.pages[CONFIG]
        server.pages[CONFIG] = (307, {"Location": "/new/name/resolve/main/config.json"})
        check([MODEL], environment, [], ignore)
        assert server.requested[-1] == ("/new/name/resolve/main/config.json", f"Bearer {TOKEN}")

    def test_it_does_not_follow_to_another_host(
        self, server: Hub, environment: dict[str, str]
    ) -> None:
        elsewhere = server.url.replace("localhost", "127.0.0.1")
        server.pages["/file"] = (200, {})
        server.pages[CONFIG] = (302, {"Location": f"{elsewhere}/file"})
        check([MODEL], environment, [], ignore)
        assert server.requested[-1] == ("/file", None)


def test_the_way_out_is_a_workload_that_is_there() -> None:
    from harness.config.folders import config_directory

    name = hub.TINY.partition("=")[2].split()[0]
    assert (config_directory() / "train" / "workload" / f"{name}.yaml").is_file()
