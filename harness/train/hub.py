"""What a run takes from the Hugging Face hub: looked for before anything is launched.

HF_TOKEN is how the libraries log in: the training script inherits it. Here it is tried once, so
that a token that is refused is said at once. It is put into a request's header and nowhere else.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput

SECONDS = 15.0

HUGGING_FACE = "https://huggingface.co"

TINY = "workload=llama-3.0-8b-tiny trains without any"


@dataclass(frozen=True)
class Named:
    """Something that is on the hub, unless it is here.

    argument: who names it
    kind:     "model" (also for a tokenizer or a configuration) or "dataset"
    name:     as the argument has it
    """

    argument: str
    kind: str
    name: str


def check(
    wanted: list[Named],
    environment: Mapping[str, str],
    caches: list[Path],
    note: Callable[[str], None],
) -> None:
    """See that everything in `wanted` can be had by a run with these variables.

    caches: folders that were named to the script as its cache

    Raises:
        BadInput: something is neither here nor on the hub, or the hub does not hand it out, or
            HF_ENDPOINT is no address.
    """
    remote = [named for named in wanted if not Path(named.name).expanduser().exists()]
    remote = [named for named in remote if not _cached(named, environment, caches)]
    if not remote:
        return
    for named in remote:
        if variable := _offline(named, environment):
            raise BadInput(
                f"{named.argument}={named.name} is neither a folder here nor in the hub's cache, "
                f"and {variable} forbids to fetch it: unset that, or name a local folder. {TINY} "
                "network."
            )
    endpoint = _endpoint(environment)
    token = environment.get("HF_TOKEN")
    if token:
        _log_in(endpoint, token, note)
    for named in remote:
        _find(named, endpoint, token)


def _endpoint(environment: Mapping[str, str]) -> str:
    endpoint = environment.get("HF_ENDPOINT", HUGGING_FACE).rstrip("/")
    if not endpoint:
        # The libraries in the run do not take their default: they would fetch from no host at all.
        raise BadInput(
            "HF_ENDPOINT is empty, which is no address of a hub: unset it, and it is "
            f"{HUGGING_FACE}, or set it to another one"
        )
    if "@" in endpoint:
        raise BadInput(
            "HF_ENDPOINT holds a user name or password, which errors and logs would show: set "
            "HF_TOKEN in place of it. (It is not shown.)"
        )
    if not endpoint.lower().startswith(("https://", "http://")):
        bare = endpoint.rpartition("://")[2]
        raise BadInput(
            f"HF_ENDPOINT={endpoint} is no address of a hub, which begins with https:// or "
            f"http://: write HF_ENDPOINT=https://{bare}"
        )
    return endpoint


def _log_in(endpoint: str, token: str, note: Callable[[str], None]) -> None:
    if token != token.strip() or not token.isascii() or not token.isprintable():
        raise BadInput(
            "HF_TOKEN has blanks, line ends or other signs in it that no token has: set it again. "
            "(It is not shown.)"
        )
    status, _ = _request(f"{endpoint}/api/whoami-v2", token, endpoint, "HF_TOKEN has to log in")
    if status in (401, 403):
        raise BadInput(
            f"HF_TOKEN is refused by {endpoint} (HTTP {status}): make a new one on its page "
            "settings/tokens and set the variable, or unset it if nothing that needs it is trained."
        )
    note(f"HF_TOKEN: {endpoint} accepts it")


def _find(named: Named, endpoint: str, token: str | None) -> None:
    what = f"{named.argument}={named.name}"
    page = f"{endpoint}/{'datasets/' if named.kind == 'dataset' else ''}{named.name}"
    if named.kind == "dataset":
        url = f"{endpoint}/api/datasets/{named.name}"
    else:
        # Not the API: that describes also what is gated, this hands it out or refuses.
        url = f"{endpoint}/{named.name}/resolve/main/config.json"
    status, refused = _request(url, token, endpoint, f"{what} has to be fetched")
    if status in (401, 403) and refused == "GatedRepo":
        raise BadInput(
            f"{what} is gated: accept its conditions on {page}, and set HF_TOKEN to a token of "
            f"that account. {TINY} token."
        )
    if status in (401, 403, 404) and refused != "EntryNotFound":
        way = "" if token else ", or set HF_TOKEN if it is private or gated"
        raise BadInput(
            f"{what} is no folder here, and {endpoint} has no such {named.kind} to hand out (HTTP "
            f"{status}): correct the name or path{way}. {TINY} download."
        )


def _request(url: str, token: str | None, endpoint: str, why: str) -> tuple[int, str | None]:
    """The status of a GET, and the hub's word for an error."""
    request = urllib.request.Request(url, headers={"User-Agent": "parity-harness"})
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.build_opener(_Redirects).open(request, timeout=SECONDS) as answer:
            return int(answer.status), None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("X-Error-Code")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise BadInput(
            f"{why}, and {endpoint} cannot be reached ({reason}): mend the network, or name local "
            f"folders. {TINY} network."
        ) from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to a repository's new name with the token, and to any other host without it."""

    def redirect_request(
        self, request: urllib.request.Request, *answer: Any
    ) -> urllib.request.Request | None:
        following = super().redirect_request(request, *answer)
        token = request.get_header("Authorization")
        if following is not None and token and following.host == request.host:
            following.add_unredirected_header("Authorization", token)
        return following


def _offline(named: Named, environment: Mapping[str, str]) -> str | None:
    """The variable that forbids to fetch it; None if none does."""
    names = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
    if named.kind == "dataset":
        names.append("HF_DATASETS_OFFLINE")
    on = [n for n in names if environment.get(n, "").upper() in ("1", "ON", "YES", "TRUE")]
    return on[0] if on else None


def _cached(named: Named, environment: Mapping[str, str], caches: list[Path]) -> bool:
    """Whether the hub's cache, or that of `datasets`, has something under this name."""
    home = Path(environment.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(environment.get("HF_HUB_CACHE", home / "hub")).expanduser()
    flat = named.name.replace("/", "--")
    if any((folder / f"{named.kind}s--{flat}").is_dir() for folder in (hub, *caches)):
        return True
    if named.kind != "dataset":
        return False
    built = Path(environment.get("HF_DATASETS_CACHE", home / "datasets")).expanduser()
    names = (named.name.replace("/", "___"), named.name.split("/")[-1], f"*___{named.name}")
    return any(any(folder.glob(name)) for folder in (built, *caches) for name in names)
