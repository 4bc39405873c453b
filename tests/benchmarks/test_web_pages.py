"""Pages that a model asks for: public addresses alone, within bounds, as plain text."""

import threading
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
    ],
)
def test_no_address_inside_is_asked(url):
    assert page_text(url) is None


def test_this_machine_is_not_asked(site):
    assert page_text(f"{site}/page") is None
