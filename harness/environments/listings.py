"""Pages that list the files of a package: an index's, a page of links, a bucket's."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.request
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit

ACCEPTED = "application/vnd.pypi.simple.v1+json, text/html;q=0.5, application/xml;q=0.4"
SECONDS = 60
"""How long one page may take to answer."""


class Unreadable(Exception):
    """A page that cannot be had, or is no list of files."""


def addresses(url: str, credentials: str = "") -> list[str]:
    """The addresses of all that the page at `url` lists.

    credentials: `user:password`, URL-quoted, of the page's own host
    Raises Unreadable.
    """
    try:
        request = urllib.request.Request(url, headers={"Accept": ACCEPTED})
        if credentials:
            # Not to whatever host the index may send us on to.
            request.add_unredirected_header("Authorization", _basic(credentials))
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            kind, body = response.headers.get_content_type(), response.read().decode()
        return listed(kind, body, url)
    except (OSError, ValueError, http.client.HTTPException, ET.ParseError) as error:
        raise Unreadable(str(error)) from None


def listed(kind: str, body: str, url: str) -> list[str]:
    """The addresses on a page of a media type (PEP 503, PEP 691, or a bucket's own XML).

    Raises ValueError or ParseError where it is no such page.
    """
    if kind.endswith("json"):
        return [urljoin(url, str(file["url"])) for file in json.loads(body).get("files", ())]
    if kind.endswith("xml") and not kind.endswith("xhtml+xml"):
        return _of_bucket(body, url)
    parser = _Links()
    parser.feed(body)
    return [urldefrag(urljoin(url, address)).url for address in parser.addresses]


def name_of(address: str) -> str:
    """The file's name at the end of an address.

    >>> name_of("https://host/torch-2.9.0%2Bcpu-cp311-cp311-linux_x86_64.whl#sha256=00")
    'torch-2.9.0+cpu-cp311-cp311-linux_x86_64.whl'
    """
    return unquote(urlsplit(address).path.rsplit("/", 1)[-1])


def _of_bucket(body: str, url: str) -> list[str]:
    """What Google Cloud Storage or S3 lists: keys, below the bucket's own address."""
    found: list[str] = []
    for element in ET.fromstring(body).iter():
        name, text = element.tag.rpartition("}")[2], element.text or ""
        if name == "IsTruncated" and text == "true":
            raise ValueError("the bucket lists no more than a part at a time: name a longer prefix")
        if name == "Key":
            found.append(f"{url.partition('?')[0].rstrip('/')}/{quote(text)}")
    return found


def _basic(credentials: str) -> str:
    user, _, password = credentials.partition(":")
    return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()


class _Links(HTMLParser):
    """The addresses of all links."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for each tag."""
        address = dict(attrs).get("href") if tag == "a" else None
        if address:
            self.addresses.append(address)
