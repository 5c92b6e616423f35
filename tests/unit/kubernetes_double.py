"""Enough of a Kubernetes API server, on the loopback interface, for the real kubectl.

It keeps JobSets, and answers with the pods and logs that a test gives it. What Kubernetes itself
would make of a JobSet it does not know.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

GROUP = "jobset.x-k8s.io/v1alpha2"
JOBSETS = f"/apis/{GROUP}/namespaces/team/jobsets"
PODS = "/api/v1/namespaces/team/pods"
KIND = {"group": "jobset.x-k8s.io", "version": "v1alpha2", "kind": "JobSet"}


def _resource(name: str, kind: str) -> dict[str, Any]:
    verbs = ["create", "get", "list", "watch", "delete"]
    singular = kind.lower() if "/" not in name else ""
    return {
        "name": name, "singularName": singular, "namespaced": True, "kind": kind, "verbs": verbs,
    }  # fmt: skip


VERSION = {"groupVersion": GROUP, "version": "v1alpha2"}
KNOWN: dict[str, Any] = {
    "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [
            {"name": "jobset.x-k8s.io", "versions": [VERSION], "preferredVersion": VERSION}
        ],
    },
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            _resource("pods", "Pod"), _resource("pods/log", "Pod"), _resource("secrets", "Secret"),
        ],
    },
    f"/apis/{GROUP}": {
        "kind": "APIResourceList",
        "groupVersion": GROUP,
        "resources": [_resource("jobsets", "JobSet")],
    },
    # All that kubectl wants to know before it creates something: that the server validates it.
    "/openapi/v3": {"paths": {f"apis/{GROUP}": {"serverRelativeURL": f"/openapi/v3/apis/{GROUP}"}}},
    f"/openapi/v3/apis/{GROUP}": {
        "openapi": "3.0.0",
        "info": {"title": "", "version": ""},
        "paths": {
            "/": {
                "patch": {
                    "x-kubernetes-group-version-kind": KIND,
                    "parameters": [{"name": "fieldValidation", "in": "query"}],
                    "responses": {},
                }
            }
        },
    },
}  # fmt: skip


class Double:
    """What the server has, and what it was asked."""

    def __init__(self) -> None:
        self.jobsets: dict[str, dict[str, Any]] = {}
        self.pods: list[dict[str, Any]] = []
        self.logs: dict[str, bytes] = {}
        self.secrets: set[str] = set()
        self.refusal: str | None = None
        self.silent = False
        self.requested: list[str] = []
        self.look: Callable[[], object] = lambda: None
        """Called before each answer about a JobSet: the test may change what is there."""

    def get(self, path: str, query: dict[str, list[str]]) -> Any:
        """The answer to a GET; None for what is not there."""
        if path in KNOWN:
            return KNOWN[path]
        name = path.rsplit("/", 1)[-1]
        if path.startswith(JOBSETS):
            self.look()
            return self.jobsets.get(name)
        if path.endswith("/log"):
            return self.logs.get(path.split("/")[-2])
        if path == PODS:
            wanted = dict(item.split("=") for item in query["labelSelector"][0].split(","))
            items = [p for p in self.pods if wanted.items() <= p["metadata"]["labels"].items()]
            return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}
        if path.startswith(PODS):
            return next((p for p in self.pods if p["metadata"]["name"] == name), None)
        if path.startswith("/api/v1/namespaces/team/secrets/") and name in self.secrets:
            return {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": name}}
        return None


def pod(name: str, workload: str, index: int = 0, **state: Any) -> dict[str, Any]:
    """A pod of a workload, whose one container is in `state`."""
    labels = {
        "jobset.sigs.k8s.io/jobset-name": workload,
        "jobset.sigs.k8s.io/job-index": "0",
        "batch.kubernetes.io/job-completion-index": str(index),
    }
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "team", "labels": labels},
        "spec": {"containers": [{"name": "parity"}]},
        "status": {"containerStatuses": [{"name": "parity", "state": state}]},
    }


@contextmanager
def serving(double: Double, kubeconfig: Path) -> Iterator[None]:
    """Serve `double`, at the address that `kubeconfig` then has."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            double.requested.append(f"GET {self.path}")
            if double.silent:
                return self.answer(503, _status(503, "no answer"))
            found = double.get(url.path, parse_qs(url.query))
            if found is None:
                return self.answer(404, _status(404, "not found"))
            return self.answer(200, found)

        def do_POST(self) -> None:
            double.requested.append(f"POST {self.path}")
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if double.refusal is not None:
                return self.answer(403, _status(403, double.refusal))
            double.jobsets[sent["metadata"]["name"]] = sent
            return self.answer(201, sent)

        def do_DELETE(self) -> None:
            double.requested.append(f"DELETE {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = double.jobsets.pop(urlsplit(self.path).path.rsplit("/", 1)[-1], None)
            self.answer(200 if found else 404, _status(200 if found else 404, "deleted"))

        def answer(self, code: int, value: Any) -> None:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(code)
            kind = "text/plain" if isinstance(value, bytes) else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "double", "cluster": {"server": address}}],
                "contexts": [{"name": "double", "context": {"cluster": "double", "user": "u"}}],
                "current-context": "double",
                "users": [{"name": "u", "user": {}}],
            }
        )
    )
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _status(code: int, message: str) -> dict[str, Any]:
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "code": code, "message": message,
        "status": "Success" if code < 400 else "Failure",
        "reason": {403: "Forbidden", 404: "NotFound"}.get(code, ""),
    }  # fmt: skip
