"""What all tests share: one finished run at scale `test`, a local HTTP server with given answers, and a stand-in for a model."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pipeline import finished_run
from stand_in import said_by_prompt

__all__ = ["finished_run", "said_by_prompt", "server"]


@pytest.fixture
def server():
    """A local HTTP server that plays the given (status, body) answers in order, the last one for ever, and keeps the requests."""
    started = []

    def start(*answers):
        requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = answers[min(len(requests), len(answers) - 1)]
                requests.append((self.path, dict(self.headers), json.loads(body)))
                payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *arguments):
                pass

        httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        started.append(httpd)
        return f"http://127.0.0.1:{httpd.server_port}", requests

    yield start
    for httpd in started:
        httpd.shutdown()
        httpd.server_close()
