"""Checks, before anything is launched, that a run can download what it needs from the hub.

The training script inherits HF_TOKEN, with which its libraries log in. It is tried here once, so
that a token that the hub refuses is reported at once. It goes into a request's header and nowhere
else.
huggingface_hub asks, as it does in the run: it follows to a repository's new name with the token,
and to another host without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.base.errors import BadInput
from harness.base.files import expanded
from harness.base.progress import Progress

if TYPE_CHECKING:  # it takes 0.5 s to import
    from huggingface_hub.errors import HfHubHTTPError

HUB_TIMEOUT = 15.0

HUGGING_FACE = "https://huggingface.co"

TINY = "workload=llama-3.0-8b-tiny trains without any"


@dataclass(frozen=True)
class HubReference:
    """A model or dataset that an argument names.

    argument: who names it
    kind:     "model" (also for a tokenizer or a configuration) or "dataset"
    name:     as the argument has it
    """

    argument: str
    kind: str
    name: str


def check(
    wanted: list[HubReference],
    environment: Mapping[str, str],
    caches: list[Path],
    progress: Progress,
) -> None:
    """Check that a run with these environment variables can load everything in `wanted`.

    caches: folders that were named to the script as its cache

    Raises:
        BadInput: something is neither here nor on the hub, or the hub does not hand it out, or
            HF_ENDPOINT is no address.
    """
    remote = [named for named in wanted if not expanded(named.name).exists()]
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
    from huggingface_hub import close_session

    try:
        if token:
            _log_in(endpoint, token, progress)
        for named in remote:
            _find(named, endpoint, token)
    finally:
        close_session()


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


def _log_in(endpoint: str, token: str, progress: Progress) -> None:
    if token != token.strip() or not token.isascii() or not token.isprintable():
        raise BadInput(
            "HF_TOKEN has blanks, line ends or other signs in it that no token has: set it again. "
            "(It is not shown.)"
        )
    refused = _refusal(f"{endpoint}/api/whoami-v2", token, endpoint, "HF_TOKEN has to log in")
    if refused is not None and refused.response.status_code in (401, 403):
        raise BadInput(
            f"HF_TOKEN is refused by {endpoint} (HTTP {refused.response.status_code}): make a new "
            "one on its page settings/tokens and set the variable, or unset it if nothing that "
            "needs it is trained."
        )
    progress(f"HF_TOKEN: {endpoint} accepts it")


def _find(named: HubReference, endpoint: str, token: str | None) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

    what = f"{named.argument}={named.name}"
    page = f"{endpoint}/{'datasets/' if named.kind == 'dataset' else ''}{named.name}"
    if named.kind == "dataset":
        url = f"{endpoint}/api/datasets/{named.name}"
    else:
        # Not the API: that describes also what is gated, this hands it out or refuses.
        url = hf_hub_url(named.name, "config.json", endpoint=endpoint)
    refused = _refusal(url, token, endpoint, f"{what} has to be fetched")
    if refused is None or isinstance(refused, EntryNotFoundError):
        return
    if isinstance(refused, GatedRepoError):
        raise BadInput(
            f"{what} is gated: accept its conditions on {page}, and set HF_TOKEN to a token of "
            f"that account. {TINY} token."
        )
    status = refused.response.status_code
    if status in (401, 403, 404):
        way = "" if token else ", or set HF_TOKEN if it is private or gated"
        raise BadInput(
            f"{what} is no folder here, and {endpoint} has no such {named.kind} to hand out (HTTP "
            f"{status}): correct the name or path{way}. {TINY} download."
        )


def _refusal(url: str, token: str | None, endpoint: str, why: str) -> HfHubHTTPError | None:
    """The hub's refusal of a GET; None where it answers."""
    from httpx import HTTPError
    from huggingface_hub import get_session, hf_raise_for_status
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    # False is no token at all: None would be the one that somebody logged in with on this machine.
    headers = build_hf_headers(token=token or False, library_name="parity-harness")
    try:
        hf_raise_for_status(get_session().get(url, headers=headers, timeout=HUB_TIMEOUT))
    except HfHubHTTPError as refused:
        return refused
    except (OSError, HTTPError) as error:
        raise BadInput(
            f"{why}, and {endpoint} cannot be reached ({error}): mend the network, or name local "
            f"folders. {TINY} network."
        ) from None
    return None


def _offline(named: HubReference, environment: Mapping[str, str]) -> str | None:
    """The variable that forbids downloading it; None if it may be downloaded."""
    names = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
    if named.kind == "dataset":
        names.append("HF_DATASETS_OFFLINE")
    on = [n for n in names if environment.get(n, "").upper() in ("1", "ON", "YES", "TRUE")]
    return on[0] if on else None


def _cached(named: HubReference, environment: Mapping[str, str], caches: list[Path]) -> bool:
    """Whether the hub's cache, or that of `datasets`, has something under this name."""
    home = expanded(environment.get("HF_HOME", "~/.cache/huggingface"))
    hub = expanded(environment.get("HF_HUB_CACHE", home / "hub"))
    from huggingface_hub.file_download import repo_folder_name

    flat = repo_folder_name(repo_id=named.name, repo_type=named.kind)
    if any((folder / flat).is_dir() for folder in (hub, *caches)):
        return True
    if named.kind != "dataset":
        return False
    built = expanded(environment.get("HF_DATASETS_CACHE", home / "datasets"))
    names = (named.name.replace("/", "___"), named.name.split("/")[-1], f"*___{named.name}")
    return any(any(folder.glob(name)) for folder in (built, *caches) for name in names)
