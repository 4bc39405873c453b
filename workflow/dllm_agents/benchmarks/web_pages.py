"""Pages of the web as plain text, for agents that follow links. The links are a model's: only public addresses are asked, within bounds."""

from __future__ import annotations

import ipaddress
import socket
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx

from dllm_agents import foreign

MAX_PAGE_BYTES = 5_000_000
MAX_REDIRECTS = 5
SECONDS = 20.0
_SKIPPED = frozenset({"script", "style", "noscript", "template", "svg", "head"})
_BREAKS = frozenset({"p", "br", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "table"})


def page_text(url: str, allow_private: bool = False) -> str | None:
    """The text of a page; None when it is not public, cannot be had within 20 seconds, is no text, or is over 5 MB.

    `allow_private` lets addresses of this machine and network be asked, for tests.
    """
    for _ in range(MAX_REDIRECTS + 1):
        if not (allow_private or _is_public(url)):
            return None
        try:
            status, kind, body, target = _get(url)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            return None
        if target is not None:
            url = urljoin(url, target)
            continue
        if status != 200 or body is None:
            return None
        text = body.decode("utf-8", "replace")
        return _plain_text(text) if "html" in kind else text if kind.startswith("text/") else None
    return None


def _get(url: str) -> tuple[int, str, bytes | None, str | None]:
    """(status, content type, body within its bound, target of a redirect)."""
    with httpx.stream("GET", url, timeout=SECONDS, follow_redirects=False, headers={"User-Agent": "dllm-agents"}) as response:
        if response.is_redirect:
            return response.status_code, "", None, response.headers.get("location", "")
        try:
            body = foreign.gather(response.iter_bytes(), MAX_PAGE_BYTES, SECONDS)
        except foreign.TooMuch:
            return 413, "", None, None
        return response.status_code, response.headers.get("content-type", "").lower(), body, None


def _is_public(url: str) -> bool:
    """Whether a link leads to a public host over HTTP: not into this machine, its network or a cloud's metadata service."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return False
        addresses = {item[4][0] for item in socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)}
        return bool(addresses) and all(ipaddress.ip_address(address).is_global for address in addresses)
    except (ValueError, OSError):
        return False


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._skipped += tag in _SKIPPED
        if tag in _BREAKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._skipped = max(0, self._skipped - (tag in _SKIPPED))

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.parts.append(data)


def _plain_text(page: str) -> str:
    reader = _Text()
    reader.feed(page)
    lines = (" ".join(line.split()) for line in "".join(reader.parts).splitlines())
    return "\n".join(line for line in lines if line)
