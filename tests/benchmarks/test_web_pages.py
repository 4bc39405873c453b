"""Pages that a model asks for: public addresses alone, within bounds, as plain text."""

import gzip
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dllm_agents.benchmarks import web_pages
from dllm_agents.benchmarks.web_pages import page_text

PAGE = "<html><head><title>t</title></head><body><h1>Head</h1><script>evil()</script><p>One&nbsp;two <b>three</b></p><p>four</p></body>"


@pytest.fixture
def site():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            kind, status, headers = "text/html; charset=utf-8", 200, {}
            body = PAGE.encode()
            if self.path == "/moved":
                status, headers = 302, {"Location": "/page"}
            elif self.path == "/inside":
                status, headers = 302, {"Location": f"http://inside.test:{self.server.server_port}/page"}
            elif self.path == "/host":
                kind, body = "text/plain", self.headers["Host"].encode()
            elif self.path.startswith("/packed"):
                headers = {"Content-Encoding": self.path.partition("=")[2] or "gzip"}
                body = gzip.compress(b"x" * 6_000_000 if "long" in self.path else body)
                body = body[:-4] if "cut" in self.path else body
            elif self.path == "/chinese":
                status, headers = 302, {"Location": "/百科".encode().decode("latin-1")}
            elif self.path.startswith("/%"):
                kind, body = "text/plain", self.path.encode()
            elif self.path == "/loop":
                status, headers = 302, {"Location": "/loop"}
            elif self.path == "/plain":
                kind, body = "text/plain", b"a\nb"
            elif self.path == "/picture":
                kind = "image/png"
            elif self.path == "/gone":
                status = 404
            elif self.path == "/long":
                kind, body = "text/plain", b"x" * 300_000
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_is_read_of_a_page(site, monkeypatch):
    monkeypatch.setattr(web_pages, "MAX_PAGE_BYTES", 200_000)
    read = {name: page_text(f"{site}/{name}", allow_private=True) for name in ("page", "moved", "plain", "picture", "gone", "loop", "long")}
    assert read == {
        "page": "Head\nOne two three\nfour",
        "moved": "Head\nOne two three\nfour",
        "plain": "a\nb",
        "picture": None,
        "gone": None,
        "loop": None,
        "long": None,
    }


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/x",
        "http://[::1]/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest",
        "http://localhost/",
        "//x",
        "http://",
        "x" * 9,
        "http://[bad",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1%25lo]/",
        "http://224.0.0.1/",
        "http://0.0.0.0/",
        "http://x@127.0.0.1/",
        "http://127.0.0.1\\@example.com/",
        "http://example.com:99999999/",
        "http://a\x00b/",
        "http://\ud800/",
        "http://" + "a" * 70 + ".test/",
    ],
)
def test_no_address_inside_is_asked(url, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("connected"))
    assert page_text(url) is None


def test_a_redirect_may_be_written_in_chinese(site):
    assert page_text(f"{site}/chinese", allow_private=True) == "/%E7%99%BE%E7%A7%91"


def test_a_page_that_is_sent_compressed_unasked_is_unpacked_within_its_bound(site):
    assert page_text(f"{site}/packed", allow_private=True) == "Head\nOne two three\nfour"
    for refused in ("packed-long", "packed-cut", "packed=br", "packed=gzip,gzip", "packed=deflate,x"):
        assert page_text(f"{site}/{refused}", allow_private=True) is None


def test_this_machine_is_not_asked(site):
    assert page_text(f"{site}/page") is None


PUBLIC, INSIDE = "93.184.215.14", "127.0.0.1"


@pytest.fixture
def resolver(monkeypatch):
    """Names whose answers change from question to question, and who is connected to; every connection ends up at this machine."""
    answers, resolve, connected = {}, socket.getaddrinfo, []

    def getaddrinfo(host, port, *rest, **options):
        addresses = answers[host].pop(0) if host in answers else [host]
        return [item for address in addresses for item in resolve(address, port, type=socket.SOCK_STREAM)]

    def connect(address, timeout, **_):
        connected.append(address[0])
        connection = socket.socket()
        connection.settimeout(timeout)
        connection.connect((INSIDE, address[1]))
        return connection

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", connect)
    return answers, connected


def test_a_name_is_resolved_once_and_what_was_checked_is_asked(site, resolver):
    answers, connected = resolver
    answers["rebind.test"] = [[PUBLIC], [INSIDE], [INSIDE]]
    assert page_text(site.replace(INSIDE, "rebind.test") + "/host") == site.replace("http://" + INSIDE, "rebind.test")
    assert connected == [PUBLIC]


@pytest.mark.parametrize("addresses", [[INSIDE], [PUBLIC, INSIDE], [PUBLIC, "::ffff:10.0.0.1"], []])
def test_one_address_inside_is_enough_to_ask_none(site, resolver, addresses):
    answers, connected = resolver
    answers["mixed.test"] = [addresses] * 9
    assert page_text(site.replace(INSIDE, "mixed.test") + "/page") is None and connected == []


def test_the_target_of_a_redirect_is_checked_too(site, resolver):
    answers, connected = resolver
    answers |= {"a.test": [[PUBLIC]], "inside.test": [[INSIDE]] * 9}
    assert page_text(site.replace(INSIDE, "a.test") + "/inside") is None and connected == [PUBLIC]
    answers |= {"a.test": [[PUBLIC]], "inside.test": [[PUBLIC], [INSIDE]]}
    assert page_text(site.replace(INSIDE, "a.test") + "/inside") == "Head\nOne two three\nfour"


@pytest.mark.parametrize("fault", [ConnectionRefusedError, TimeoutError])
def test_the_next_address_is_tried_where_one_is_silent(site, resolver, monkeypatch, fault):
    answers, connected = resolver
    answers["two.test"] = [["93.184.215.15", PUBLIC]]
    connect = socket.create_connection

    def refuse_one(address, *rest, **options):
        if address[0] == "93.184.215.15":
            raise fault
        return connect(address, *rest, **options)

    monkeypatch.setattr(socket, "create_connection", refuse_one)
    assert page_text(site.replace(INSIDE, "two.test") + "/plain") == "a\nb"


def test_a_secure_server_is_asked_by_its_name(resolver):
    answers, _ = resolver
    answers["named.test"] = [[PUBLIC]]
    hellos = []
    with socket.create_server((INSIDE, 0)) as server:

        def answer():
            connection, _ = server.accept()
            hellos.append(connection.recv(4096))
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        assert page_text(f"https://named.test:{server.getsockname()[1]}/") is None
        thread.join()
    assert b"named.test" in hellos[0]


def test_headers_a_byte_at_a_time_end_with_the_pages_time(monkeypatch):
    monkeypatch.setattr(web_pages, "SECONDS", 0.5)
    with socket.create_server((INSIDE, 0)) as server:

        def trickle():
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
            try:
                for _ in range(400):
                    connection.sendall(b"x")
                    time.sleep(0.05)
            except OSError:
                pass

        threading.Thread(target=trickle, daemon=True).start()
        begun = time.monotonic()
        assert page_text(f"http://{INSIDE}:{server.getsockname()[1]}/", allow_private=True) is None
    assert time.monotonic() - begun < 10
