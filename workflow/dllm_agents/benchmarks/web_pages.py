"""Pages of the web as plain text, for agents that follow links. The links are a model's: only public addresses are asked, within bounds."""

from __future__ import annotations

import ipaddress
import socket
import time
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import httpcore
import httpx

from dllm_agents import foreign

MAX_PAGE_BYTES = 5_000_000
MAX_REDIRECTS = 5
SECONDS = 20.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Without compression, of which a few bytes may stand for gigabytes.
_HEADERS = [(b"User-Agent", b"dllm-agents"), (b"Accept-Encoding", b"identity")]
_FAULTS = (
    *(httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, httpcore.UnsupportedProtocol),
    *(httpx.InvalidURL, foreign.TooMuch, ValueError, zlib.error),
)
# IPv6 networks that lead to an address of IPv4 which is not looked at, or into a site.
_TRANSLATED = [ipaddress.ip_network(name) for name in ("::/8", "2002::/16", "fec0::/10")]
_SKIPPED = frozenset({"script", "style", "noscript", "template", "svg", "head"})
_BREAKS = frozenset({"p", "br", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "table"})


def page_text(url: str, allow_private: bool = False) -> str | None:
    """The text of a page; None when it is not public, cannot be had within 20 seconds, is no text, or is over 5 MB.

    Pages are asked directly, whatever proxy the environment names. `allow_private` lets addresses of this machine and network be asked,
    for tests.
    """
    with httpcore.ConnectionPool(network_backend=_Network(allow_private)) as pool:
        try:
            address = httpx.URL(url)
            for _ in range(MAX_REDIRECTS + 1):
                status, kind, body = _get(pool, address)
                if status not in _REDIRECTS:
                    break
                address = address.join(body.decode("utf-8", "replace"))
        except _FAULTS:
            return None
    if status != 200:
        return None
    text = body.decode("utf-8", "replace")
    return _plain_text(text) if "html" in kind else text if kind.startswith("text/") else None


def _get(pool: httpcore.ConnectionPool, url: httpx.URL) -> tuple[int, str, bytes]:
    """(status, content type, body within its bound, or the target of a redirect)."""
    target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    with pool.stream("GET", target, headers=[*_HEADERS, (b"Host", url.netloc)]) as response:
        headers = {name.lower(): value for name, value in response.headers}
        if response.status in _REDIRECTS:
            return response.status, "", headers.get(b"location", b"")
        body = foreign.gather(response.iter_stream(), MAX_PAGE_BYTES, SECONDS)
        body = _unpacked(body, headers.get(b"content-encoding", b"").strip().lower())
        return response.status, headers.get(b"content-type", b"").decode("ascii", "replace").lower(), body


def _unpacked(body: bytes, encoding: bytes) -> bytes:
    """The body of a page that is stored compressed, and so sent compressed to whoever asks."""
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise foreign.TooMuch("compressed in another way")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS + 32)
    page = unpacker.decompress(body, MAX_PAGE_BYTES)
    if not unpacker.eof:
        raise foreign.TooMuch("too long, or cut off")
    return page


class _Network(httpcore.SyncBackend):
    """Connections of one page, to public addresses alone, which end with its time.

    A name is resolved once, here, and what was checked is what is connected to: asked twice, a name server may answer differently.
    """

    def __init__(self, allow_private: bool) -> None:
        self._allow_private, self._deadline = allow_private, time.monotonic() + SECONDS

    def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.NetworkStream:
        try:
            addresses = [str(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except OSError as error:
            raise httpcore.ConnectError(error) from None
        if not (self._allow_private or all(map(_is_public, addresses))):
            raise httpcore.ConnectError("not a public address")
        for number, address in enumerate(addresses, 1):
            try:
                share = self._left() / (len(addresses) - number + 1)  # one that is silent leaves the others their time
                return _Timed(super().connect_tcp(address, port, share), self._left)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise httpcore.ConnectError("no address")

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left


class _Timed(httpcore.NetworkStream):
    """A connection whose every wait ends with the page's time, of headers a byte at a time too."""

    def __init__(self, stream: httpcore.NetworkStream, left: Callable[[], float]) -> None:
        self._stream, self._left = stream, left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> httpcore.NetworkStream:
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, self._left()), self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _is_public(address: str) -> bool:
    """Whether an address is out in the internet: not of this machine, its network or a cloud's metadata service."""
    value = ipaddress.ip_address(address.partition("%")[0])
    return value.is_global and not value.is_multicast and not any(value in network for network in _TRANSLATED)


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
